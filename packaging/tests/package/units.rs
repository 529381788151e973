//! The system's unit under systemd itself, as the first process of the copy: sandboxed and serving all users, restarted by the watchdog and
//! after a kill, stopped and started as at a reboot.

use crate::support::{in_a_copy, package};
use std::fs;
use std::path::{Path, PathBuf};

const SYSTEMD: &str = "/lib/systemd/systemd";

/// Installs the package, and becomes systemd with only a script to start, without the units of the system itself.
const BOOT: &str = r#"
    dpkg -i package.deb
    cd /etc/systemd/system
    mkdir apparatus@.service.d
    printf '[Unit]\nDefaultDependencies=no\n[Service]\nWatchdogSec=2\n' > apparatus@.service.d/test.conf
    printf '[Unit]\nDefaultDependencies=no\nWants=script.service\n' > test.target
    printf '[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nStandardOutput=append:/log\nStandardError=append:/log\n' > script.service
    printf 'ExecStart=/bin/sh -ex /script\nExecStopPost=/bin/systemctl --force --force exit\n' >> script.service
    exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
        --system --unit=test.target --log-target=null --show-status=no
"#;

const SCRIPT: &str = r#"
unit=apparatus@a1.service
show() { systemctl show --property "$1" --value "$unit"; }
mounted() { grep ' /run/apparatus/a1 .* fuse.apparatus ' /proc/1/mountinfo; }
has_started_again() {
    for _ in $(seq 200); do
        if [ "$(show NRestarts)" = "$1" ] && [ "$(show ActiveState)" = active ]; then return 0; fi
        sleep 0.1
    done
    return 1
}
vctl pool create
vctl disk add /var/lib/apparatus/d1.img --create 64M
vctl volume create v 8M
systemctl enable --now $unit
mounted
grep 'NoNewPrivs:.1' /proc/$(show MainPID)/status
grep 'Seccomp:.2' /proc/$(show MainPID)/status
echo data | dd of=/run/apparatus/a1/v conv=notrunc,fsync status=none
vctl disk add /var/lib/apparatus/d2.img --create 64M
vctl volume move v --to d2
kill -STOP $(show MainPID)
has_started_again 1
test "$(head -c 4 /run/apparatus/a1/v)" = data
kill -KILL $(show MainPID)
has_started_again 2
test "$(head -c 4 /run/apparatus/a1/v)" = data
vctl status
systemctl stop $unit
test "$(mounted)" = ''
systemctl start $unit
test "$(head -c 4 /run/apparatus/a1/v)" = data
systemctl stop $unit
printf 'MOUNT=/mnt/a b/c\nOPTIONS=--allow-other --metrics 127.0.0.1:0\n' > /etc/apparatus/c.env
systemctl start apparatus@c.service
test -e '/mnt/a b/c/v'
systemctl stop apparatus@c.service
printf 'OPTIONS=--supervisor\n' > /etc/apparatus/s.env
unit=apparatus@s.service
systemctl start $unit
exec 3<> /run/apparatus/s/v
test "$(head -c 4 <&3)" = data
server() { vctl apparatus list -o pid,name --no-headings | awk '$2 == "s" { print $1 }'; }
main=$(show MainPID)
old=$(server)
kill -KILL $old
head -c 4096 <&3 > /dev/null
systemctl reload $unit
head -c 4096 <&3 > /dev/null
test "$(server)" != $old
test "$(show MainPID) $(show NRestarts)" = "$main 0"
test "$(show NFileDescriptorStore)" -gt 3
kill -KILL $main
head -c 4096 <&3 > /dev/null
has_started_again 1
kill -KILL $(server)
head -c 4096 <&3 > /dev/null
kill -STOP $(show MainPID)
kill -STOP $(server)
head -c 4096 <&3 > /dev/null
has_started_again 2
exec 3<&-
vctl status
systemctl stop $unit
if grep ' /run/apparatus/s ' /proc/1/mountinfo; then exit 1; fi
unit=apparatus@a1.service
printf 'VCTL_POOL=/nowhere\n' > /etc/apparatus/a1.env
if systemctl start $unit; then exit 1; fi
test "$(show ExecMainStatus) $(show NRestarts)" = '3 0'
echo all of it was done
"#;

/// A control group for systemd, of the kind that it can divide further.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut places = mounts.lines().map(|line| line.split(' '));
        let place = places.find_map(|mut fields| {
            Some((fields.nth(1)?, fields.next()?)).filter(|mount| mount.1 == "cgroup2")
        });
        let group = Path::new(place?.0).join(format!("apparatus-test-{}", std::process::id()));
        fs::create_dir(&group).ok().map(|()| Self(group))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes control groups, which are removed like directories, the innermost first, without their files.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

#[test]
fn systemd_starts_watches_restarts_and_stops_it() {
    let Some(deb) = package() else { return };
    if !Path::new(SYSTEMD).exists() {
        return eprintln!("skipped: systemd is not installed");
    }
    let Some(group) = Group::new() else {
        return eprintln!("skipped: no control group can be made here");
    };
    let boot = format!("cat > /script <<'END'\n{SCRIPT}\nEND\n{BOOT}");
    let Some(log) = in_a_copy(deb, &boot, Some(&group.0)) else {
        return;
    };
    assert!(log.trim_end().ends_with("all of it was done"), "{log}");
}
