//! The content of the package, and its life from installing to purging.

use crate::support::{in_a_copy, package, stdout_of};
use std::path::Path;
use std::process::Command;

#[test]
fn the_package_is_complete_and_is_installed_used_and_taken_away() {
    let Some(deb) = package() else { return };
    has_everything_in_its_place(deb);
    let Some(log) = in_a_copy(deb, LIFE, None) else {
        return;
    };
    assert!(
        !log.contains("Unknown key") && !log.contains("Failed to"),
        "{log}"
    );
}

fn has_everything_in_its_place(deb: &Path) {
    let listed = stdout_of(
        &Command::new("dpkg-deb")
            .arg("--contents")
            .arg(deb)
            .output()
            .unwrap(),
    );
    for (mode, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/apparatus"),
        ("-rwxr-xr-x root/root", "./usr/bin/vctl"),
        (
            "lrwxrwxrwx root/root",
            "./usr/sbin/mount.apparatus -> ../bin/apparatus",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/lib/systemd/system/apparatus@.service",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/lib/systemd/user/apparatus@.service",
        ),
        ("-rw-r--r-- root/root", "./usr/lib/tmpfiles.d/apparatus.conf"),
        (
            "-rw-r--r-- root/root",
            "./usr/share/bash-completion/completions/vctl",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/share/bash-completion/completions/apparatus",
        ),
        ("-rw-r--r-- root/root", "./usr/share/zsh/vendor-completions/_vctl"),
        (
            "-rw-r--r-- root/root",
            "./usr/share/fish/vendor_completions.d/vctl.fish",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/share/man/man1/vctl-volume-move.1.gz",
        ),
        ("-rw-r--r-- root/root", "./usr/share/man/man8/apparatus.8.gz"),
        (
            "-rw-r--r-- root/root",
            "./usr/share/man/man8/mount.apparatus.8.gz",
        ),
        ("-rw-r--r-- root/root", "./usr/share/doc/apparatus/docs/SYSTEM.md"),
        ("drwxr-xr-x root/root", "./etc/apparatus/"),
    ] {
        let found = listed
            .lines()
            .any(|line| line.starts_with(mode) && line.ends_with(path));
        assert!(found, "{mode} {path}\n{listed}");
    }
    let control = stdout_of(
        &Command::new("dpkg-deb")
            .args(["--field"])
            .arg(deb)
            .output()
            .unwrap(),
    );
    let depends = control
        .lines()
        .find(|line| line.starts_with("Depends: "))
        .unwrap();
    assert!(
        depends.contains("libc6 (>= ") && depends.contains("fuse3"),
        "{depends}"
    );
}

/// The commands of an administrator, from installing the package to removing it.
const LIFE: &str = r#"
    dpkg -i package.deb
    test "$(stat -c %a /var/lib/apparatus)" = 700
    vctl --version
    vctl pool create
    vctl disk add /var/lib/apparatus/d1.img --create 64M
    vctl volume create v 8M
    echo ':a1 /run/apparatus/a1 apparatus allow_other,noauto 0 0' | sed 's|^|/var/lib/apparatus/pool|' > /tmp/fstab
    mount --fstab /tmp/fstab /run/apparatus/a1
    echo data | dd of=/run/apparatus/a1/v conv=notrunc status=none
    vctl status
    umount /run/apparatus/a1
    if command -v systemd-analyze; then
        systemd-analyze verify --man=no apparatus@a1.service
        mkdir -p /tmp/user
        XDG_RUNTIME_DIR=/tmp/user systemd-analyze verify --man=no --user apparatus@a1.service
    fi
    bash -n /usr/share/bash-completion/completions/vctl
    dpkg -r apparatus
    dpkg -P apparatus
    test ! -e /usr/bin/vctl && test ! -e /usr/sbin/mount.apparatus && test ! -e /usr/share/doc/apparatus
    test -e /var/lib/apparatus/pool/pool.db
"#;
