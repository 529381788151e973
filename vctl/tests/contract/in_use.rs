//! Objects in use are not removed: the command is refused with status 4 and names the users, in rehearsals too, through any apparatus,
//! unless the operator overrides that. Loop devices are identified by their backing files.

use crate::support::{CommandOutput, Pool, finish, unmount, write};
use rustix::process::{Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

const OVERRIDE: &str = "--cut-off-users";

fn open(path: &Path, write: bool) -> File {
    OpenOptions::new().read(true).write(write).open(path).unwrap()
}

/// Asserts that a command and its rehearsal are refused with these words.
#[track_caller]
fn refused(pool: &Pool, words: &[&str], users: &[&str]) {
    for extra in [&[][..], &["--dry-run"]] {
        pool.run(words.iter().chain(extra))
            .ended(4)
            .complains(users)
            .complains(&[OVERRIDE]);
    }
}

#[test]
fn a_volume_that_is_open_is_neither_removed_nor_cut_nor_write_protected() {
    let pool = Pool::with_volume();
    pool.start("a");
    let mount = pool.start("b");
    let me = format!("process {}", std::process::id());
    let user = [me.as_str(), "through b"];
    let file = open(&mount.join("v"), true);
    refused(&pool, &["volume", "remove", "v", "--yes"], &user);
    refused(&pool, &["volume", "resize", "v", "4M", "--yes"], &user);
    refused(&pool, &["volume", "set", "v", "--read-only"], &user);
    pool.run(["volume", "rename", "v", "w"]).ok();
    refused(&pool, &["volume", "remove", "w", "--yes"], &user);
    pool.run(["volume", "resize", "w", "+1M"]).ok();

    let shown = pool.json(["volume", "show", "w"]);
    assert_eq!(shown["volume"]["open"], 1, "{shown}");
    assert_eq!(shown["volume"]["users"][0]["pid"], std::process::id(), "{shown}");
    assert_eq!(shown["volume"]["users"][0]["apparatus"], "b", "{shown}");
    assert!(pool.run(["volume", "list", "-o", "USERS"]).ok().out.contains(&me));

    drop(file);
    let reader = open(&mount.join("w"), false);
    pool.run(["volume", "set", "w", "--read-only"]).ok();
    refused(&pool, &["volume", "remove", "w", "--yes"], &user);
    drop(reader);
    pool.run(["volume", "remove", "w", "--yes"]).ok();
}

#[test]
fn users_are_cut_off_only_by_name_of_that() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let file = open(&mount.join("v"), true);
    pool.run(["volume", "resize", "v", "4M", "--yes", OVERRIDE]).ok();
    pool.run(["volume", "remove", "v", "--yes", OVERRIDE]).ok();
    drop(file);
    pool.run(["volume", "create", "w", "1M"]).ok();
    let file = open(&mount.join("w"), true);
    pool.run(["apparatus", "stop", "a", OVERRIDE]).ok();
    drop(file);
}

#[test]
fn an_unused_apparatus_stops() {
    let pool = Pool::with_volume();
    let (mount, _) = (pool.start("a"), pool.start("b"));
    let file = open(&mount.join("v"), false);
    let me = format!("process {}", std::process::id());
    refused(&pool, &["apparatus", "stop", "a"], &[&me, "through a"]);
    assert!(mount.join("v").exists(), "it goes on");
    drop(open(&mount.join("v"), true));
    pool.run(["apparatus", "stop", "b"]).ok();
    drop(file);
    pool.run(["apparatus", "stop", "a"]).ok();
}

#[test]
fn an_apparatus_that_serves_hosts_is_fenced_only_by_name_of_that() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let file = open(&mount.join("v"), true);
    let me = format!("process {}", std::process::id());
    refused(
        &pool,
        &["apparatus", "fence", "a"],
        &["apparatus a", &me, "through a"],
    );
    assert!(mount.join("v").exists(), "it goes on");
    pool.run(["apparatus", "fence", "a", "--dry-run", OVERRIDE]).ok();
    pool.run(["apparatus", "fence", "a", OVERRIDE]).ok();
    drop(file);
    crate::support::unmount(&mount);

    // In an emergency an apparatus that does not answer is ended, although it is in use.
    let mount = pool.start("b");
    let file = open(&mount.join("v"), true);
    kill_process(pool.pid_of("b"), Signal::STOP).unwrap();
    pool.run(["apparatus", "fence", "b"]).ok();
    drop(file);
}

/// Whether it is in use is asked of itself alone, so that no other apparatus delays it.
#[test]
fn to_fence_an_apparatus_asks_no_other_one() {
    let pool = Pool::with_volume();
    pool.start("a");
    pool.start("b");
    let other = pool.pid_of("b");
    kill_process(other, Signal::STOP).unwrap();
    let socket = pool.pool_dir().join("run/b.sock");
    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    pool.run(["apparatus", "fence", "a", "--dry-run"]).ok();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    kill_process(other, Signal::KILL).unwrap();
}

/// SIGTERM cannot be refused; the log names the users that are cut off.
#[test]
fn an_apparatus_that_ends_on_sigterm_logs_its_users() {
    let pool = Pool::with_volume();
    write(&pool.path("patient.ron"), b"(stop_grace_s: 600)");
    let mount = pool.path("mount-a");
    let start = [
        "apparatus",
        "start",
        "a",
        mount.to_str().unwrap(),
        "--config",
        &pool.file("patient.ron"),
    ];
    pool.run(start).ok();
    let file = open(&mount.join("v"), true);
    let pid = pool.pid_of("a");
    std::fs::remove_file(pool.path("d1.img")).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let log = pool.pool_dir().join("run/a.log");
    let who = format!("volume v: process {} (", std::process::id());
    let lost = "disk d1: its file";
    crate::support::until("the log names who uses it, and what is lost", || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.contains(&who) && log.contains(lost)
    });
    crate::support::until("status says that it stops, and events what is lost", || {
        let (status, events) = (pool.run(["status"]), pool.run(["events"]));
        status.out.contains("apparatus a: was asked to stop") && events.out.contains("had the only open copy")
    });
    let status = pool.run(["status", "--json"]).json();
    assert_eq!(
        (&status["serving"], &status["apparatuses"]),
        (&0.into(), &1.into()),
        "{status}"
    );
    assert_eq!(
        pool.json(["apparatus", "show", "a"])["apparatus"]["state"],
        "ending"
    );
    drop(file);
}

#[test]
fn an_apparatus_whose_mount_was_detached_does_not_count_as_serving() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let file = open(&mount.join("v"), true);
    unmount(&mount);
    crate::support::until("status says so", || {
        pool.run(["status"])
            .out
            .contains("apparatus a: its mount was detached")
    });
    let status = pool.run(["status", "--json"]).json();
    assert_eq!(
        (&status["serving"], &status["apparatuses"]),
        (&0.into(), &1.into()),
        "{status}"
    );
    pool.run(["apparatus", "stop", "a"]).ended(4);
    drop(file);
    crate::support::until("it has ended", || {
        pool.run(["status"]).out.contains("apparatuses: none runs")
    });
}

#[test]
fn an_apparatus_that_does_not_answer_counts_as_a_user() {
    let pool = Pool::with_volume();
    pool.start("a");
    let pid = pool.pid_of("a");
    kill_process(pid, Signal::STOP).unwrap();
    let removed = pool.run(["volume", "remove", "v", "--yes"]);
    let listed = pool.run(["volume", "list", "--json"]);
    kill_process(pid, Signal::CONT).unwrap();
    removed
        .ended(4)
        .complains(&["may be in use", "apparatus a does not answer", OVERRIDE]);
    assert_eq!(listed.ok().json()["volumes"][0]["unknown"][0], "a");
    pool.run(["volume", "remove", "v", "--yes"]).ok();
}

#[test]
fn a_job_that_has_not_ended_uses_its_volume() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    // Holes would be moved at once, so write data.
    open(&mount.join("v"), true)
        .write_all_at(&[7; 8 << 20], 0)
        .unwrap();
    pool.run([
        "volume",
        "move",
        "v",
        "--to",
        "d2",
        "--rate",
        "64K",
        "--background",
    ])
    .ok();
    pool.run(["job", "pause", "1"]).ok();
    // The apparatus releases the controller lock a moment after its job is stopped.
    let remove = ["volume", "remove", "v", "--yes", "--wait=100s"];
    refused(&pool, &remove, &["job 1 (paused)"]);
    pool.run(["job", "cancel", "1"]).ok();
    pool.run(remove).ok();
}

#[test]
fn a_description_removes_no_object_in_use() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let dump = pool.run(["pool", "dump"]).ok().out;
    let file = open(&mount.join("v"), true);
    write(&pool.path("FILE.ron"), dump.replace("8MiB", "4MiB").as_bytes());
    let description = pool.file("FILE.ron");
    let me = format!("process {}", std::process::id());
    refused(
        &pool,
        &["pool", "apply", &description, "--yes"],
        &["volume v", &me],
    );
    drop(file);
    pool.run(["pool", "apply", &description, "--yes"]).ok();
}

fn can_loop() -> bool {
    let can = rustix::process::geteuid().is_root() && std::fs::exists("/dev/loop-control").unwrap();
    if !can {
        println!("passed over: loop devices need root");
    }
    can
}

/// Detaches the device when dropped, also when the test fails.
struct Detached<'a>(&'a Pool, &'a str);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        self.0.run(["volume", "detach", self.1]);
    }
}

#[test]
fn a_loop_device_is_known_by_its_volume_under_every_name_and_through_every_mount() {
    let pool = Pool::with_volume();
    pool.start("a");
    pool.start("b");
    if !can_loop() {
        return;
    }
    let attached = pool.json(["volume", "attach", "v", "--apparatus", "a"]);
    let _detached = Detached(&pool, "w");
    let device = attached["device"].as_str().unwrap().to_owned();
    assert_eq!(attached["changed"], true);
    pool.run(["volume", "rename", "v", "w"]).ok();

    let again = pool.json(["volume", "attach", "w"]);
    assert_eq!(
        (&again["device"], &again["changed"]),
        (&attached["device"], &false.into())
    );
    assert_eq!(again["apparatus"], "a");
    for otherwise in [&["--apparatus", "b"][..], &["--read-only"], &["--partitions"]] {
        pool.run(["volume", "attach", "w"].iter().chain(otherwise))
            .ended(4)
            .complains(&[&device, "apparatus a", "vctl volume detach w"]);
    }
    refused(
        &pool,
        &["volume", "remove", "w", "--yes"],
        &[&device, "through a"],
    );
    refused(&pool, &["apparatus", "stop", "a"], &[&device]);
    pool.run(["apparatus", "stop", "b"]).ok();
    let held = open(Path::new(&device), false);
    let shown = pool.run(["volume", "show", "w"]).ok().out;
    assert!(
        shown.contains(&format!("open in process {}", std::process::id())),
        "{shown}"
    );
    drop(held);
    assert_eq!(
        pool.json(["volume", "detach", "w"])["devices"][0],
        device.as_str()
    );
    pool.run(["volume", "detach", "w"]).ended(3);
    pool.run(["volume", "remove", "w", "--yes"]).ok();
}

/// The mount of a killed apparatus is taken away when it is started again, and its loop devices stay.
#[test]
fn a_loop_device_of_a_killed_apparatus_is_known_after_the_next_start() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    if !can_loop() {
        return;
    }
    let device = pool.json(["volume", "attach", "v"])["device"].clone();
    let device = device.as_str().unwrap();
    let _detached = Detached(&pool, "v");
    let pid = pool.pid_of("a");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    crate::support::until("it has ended", || {
        rustix::process::test_kill_process(pid).is_err()
            || pool.json(["apparatus", "show", "a"])["apparatus"]["state"] == "dead"
    });
    pool.run(["apparatus", "start", "a", mount.to_str().unwrap()])
        .ok();

    let users = pool.run(["volume", "show", "v"]).ok().out;
    assert!(users.contains(device), "{users}");
    // A volume of the same name and number in another pool has nothing to do with it.
    let other = Pool::with_volume();
    let users = other.run(["volume", "show", "v"]).ok().out;
    assert!(!users.contains(device), "{users}");
    pool.run(["volume", "rename", "v", "w"]).ok();
    pool.run(["volume", "rename", "w", "v"]).ok();
    let remove = ["volume", "remove", "v", "--yes"];
    refused(&pool, &remove, &[device, "through a mount that is gone"]);
    pool.run(["volume", "attach", "v"])
        .ended(4)
        .complains(&[device, "vctl volume detach v"]);
    let detached = pool.json(["volume", "detach", "v"]);
    assert_eq!(detached["devices"][0], device, "{detached}");
    pool.run(remove).ok();
}

#[test]
fn those_who_attach_at_once_get_the_same_device() {
    let pool = Pool::with_volume();
    pool.start("a");
    pool.start("b");
    if !can_loop() {
        return;
    }
    let _detached = Detached(&pool, "v");
    let attach = || pool.command(["volume", "attach", "v"]).spawn().unwrap();
    let all: Vec<_> = (0..6).map(|_| attach()).collect();
    let output: Vec<String> = all
        .into_iter()
        .map(|child| finish(child).ok())
        .map(|output: CommandOutput| output.out)
        .collect();
    assert!(output.iter().all(|device| *device == output[0]), "{output:?}");
}
