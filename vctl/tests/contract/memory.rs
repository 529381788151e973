//! Apparatuses beside hosts that write more than a memory cgroup holds: the apparatus can still write it back.
//!
//! These tests need root, loop devices and a writable hierarchy of memory cgroups; without them they say so and pass.

use crate::support::{Pool, write};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The limit of the cgroup. The hosts write three times as much.
const LIMIT: u64 = 64 << 20;
const WRITTEN_MIB: u64 = 192;
/// The longest wait for a host.
const PATIENCE: Duration = Duration::from_secs(150);

/// A memory cgroup, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Returns `None` where no cgroup can be created.
    fn new(pool: &Pool) -> Option<Self> {
        let root = rustix::process::geteuid().is_root() && fs::exists("/dev/loop-control").unwrap();
        let (first, second) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (top, limit) = match first.is_dir() {
            true => (first, "memory.limit_in_bytes"),
            false => (second, "memory.max"),
        };
        let pool_dir = pool.pool_dir();
        let name = pool_dir.parent().and_then(Path::file_name);
        let dir = top.join(format!("vctl-test-{}", name.unwrap().display()));
        let made = root
            && fs::create_dir(&dir).is_ok()
            && fs::write(dir.join(limit), LIMIT.to_string())
                .inspect_err(|_| fs::remove_dir(&dir).unwrap())
                .is_ok();
        if made {
            return Some(Self(dir));
        }
        println!("passed over: needs root, loop devices and memory cgroups");
        None
    }

    /// Returns a command that runs in the cgroup.
    fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new("sh");
        let enter = format!("echo 0 > {}/cgroup.procs && exec \"$@\"", self.0.display());
        command
            .args(["-c", &enter, "sh"])
            .args(words)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

/// Ends the mount by force when dropped without [`Mount::went_well`]: nothing else ends the processes that wait in it.
struct Mount<'a>(&'a Pool, PathBuf, bool);

impl Mount<'_> {
    fn went_well(mut self) {
        self.2 = true;
    }

    fn abort(&self) -> Option<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let place = self.1.to_str()?;
        let mine = mounts
            .lines()
            .find(|line| line.split(' ').nth(4) == Some(place))?;
        let connection = mine.split(' ').nth(2)?.split(':').nth(1)?;
        let control = self.0.path("connections");
        fs::create_dir(&control).ok()?;
        let mount = |words: &[&str]| Command::new(words[0]).args(&words[1..]).arg(&control).status();
        mount(&["mount", "-t", "fusectl", "none"]).ok()?;
        let aborted = fs::write(control.join(connection).join("abort"), "1");
        mount(&["umount"]).ok()?;
        aborted.ok()
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        if !self.2 {
            self.abort();
            self.0.run(["volume", "detach", "v"]);
            let _ = Command::new("umount").arg("-l").arg(&self.1).status();
        }
    }
}

#[track_caller]
fn await_end(mut children: Vec<Child>) {
    let end = Instant::now() + PATIENCE;
    while let Some(child) = children.last_mut() {
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "{status}");
                children.pop();
            }
            None => {
                assert!(Instant::now() < end, "a host waits for ever");
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }
}

fn pool() -> Pool {
    let pool = Pool::empty();
    pool.run(["disk", "add", &pool.file("d1.img"), "--create", "1G"])
        .ok();
    pool.run(["volume", "create", "v", "400M"]).ok();
    pool
}

/// Two hosts in the cgroup write to a loop device on the volume. Returns how much of the device may be unwritten, if that is bounded.
#[track_caller]
fn write_from(cgroup: &Cgroup, pool: &Pool) -> Option<u64> {
    let attached = pool.json(["volume", "attach", "v"]);
    let device = attached["device"].as_str().unwrap();
    let bounds = Path::new("/sys/block")
        .join(device.trim_start_matches("/dev/"))
        .join("bdi");
    let read = |name: &str| fs::read_to_string(bounds.join(name)).unwrap_or_default();
    let bounded = read("strict_limit").trim() == "1";
    let host = |number: u64| {
        let (to, seek) = (format!("of={device}"), format!("seek={}", number * WRITTEN_MIB));
        let count = format!("count={WRITTEN_MIB}");
        let words = [
            "dd",
            "if=/dev/zero",
            &to,
            "bs=1M",
            &count,
            &seek,
            "conv=notrunc,fsync",
            "status=none",
        ];
        cgroup.command(words).spawn().unwrap()
    };
    await_end((0..2).map(host).collect());
    let bound = read("max_bytes").trim().parse().ok().filter(|_| bounded);
    pool.run(["volume", "detach", "v"]).ok();
    assert_ne!(
        read("strict_limit").trim(),
        "1",
        "the device's next user finds no bound"
    );
    bound
}

fn kinds(status: &Value) -> Vec<&str> {
    let findings = status["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| finding["kind"].as_str().unwrap())
        .collect()
}

#[test]
fn an_apparatus_that_is_started_from_a_limited_cgroup_gets_one_of_its_own() {
    let pool = pool();
    let Some(cgroup) = Cgroup::new(&pool) else { return };
    if !cgroup.0.starts_with("/sys/fs/cgroup/memory") && fs::exists("/run/systemd/system").unwrap() {
        return println!("passed over: the service manager has the cgroups");
    }
    let place = pool.path("a");
    let vctl = env!("CARGO_BIN_EXE_vctl");
    let start = [vctl, "apparatus", "start", "a", place.to_str().unwrap()];
    let mut start = cgroup.command(start);
    assert!(
        start
            .env("VCTL_POOL", pool.pool_dir())
            .status()
            .unwrap()
            .success()
    );
    let mount = Mount(&pool, place, false);
    let shown = pool.json(["apparatus", "show", "a"]);
    let pid = shown["apparatus"]["pid"].as_u64().unwrap();
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = membership.lines().find_map(|line| {
        let name = line.rsplit('/').next()?;
        (name.starts_with("apparatus-") && name.ends_with("-a")).then(|| cgroup.0.with_file_name(name))
    });
    let own = own.expect("a cgroup of its own");
    assert!(own.is_dir());
    assert_eq!(kinds(&pool.json(["status"])), Vec::<&str>::new());
    assert_eq!(write_from(&cgroup, &pool), None);
    mount.went_well();
    pool.run(["apparatus", "stop", "a"]).ok();
    crate::support::until("its cgroup is removed", || !own.exists());
}

#[test]
fn hosts_do_not_fill_the_cgroup_of_an_apparatus_with_unwritten_data() {
    let pool = pool();
    let Some(cgroup) = Cgroup::new(&pool) else { return };
    write(&pool.path("c.ron"), b"(threads: 2)");
    let place = pool.path("a");
    let words = [
        "apparatus",
        "start",
        "a",
        place.to_str().unwrap(),
        "--config",
        &pool.file("c.ron"),
        "--dry-run",
    ];
    let planned = pool.json(words);
    let planned: Vec<&str> = planned["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    // This is what the start of a container does.
    let mut apparatus = cgroup.command(planned).stderr(Stdio::null()).spawn().unwrap();
    let mount = Mount(&pool, place.clone(), false);
    let end = Instant::now() + PATIENCE;
    while !place.join("v").exists() {
        assert!(Instant::now() < end, "does not serve");
    }
    // Another process in the cgroup.
    let mut host = cgroup.command(["sleep", "600"]).spawn().unwrap();
    let members = || {
        fs::read_to_string(cgroup.0.join("cgroup.procs"))
            .unwrap()
            .lines()
            .count()
    };
    while members() < 2 {
        assert!(Instant::now() < end, "nobody else is in there");
    }
    let status = pool.run(["status", "--json"]);
    let _ = (host.kill(), host.wait());
    assert_eq!(kinds(&status.json()), ["memory-shared-with-hosts"]);
    let bound = write_from(&cgroup, &pool).expect("a bound");
    // The kernel keeps the bound as a share of the limit of all devices, and rounds.
    assert!(bound <= LIMIT / 7, "{bound}");
    mount.went_well();
    pool.run(["apparatus", "stop", "a"]).ok();
    assert!(apparatus.wait().unwrap().success());
}
