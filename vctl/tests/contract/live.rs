//! Pools with running apparatuses: starting and stopping them, changes that they apply at once, exit statuses 4, 5, 6 and 8.

use crate::support::{CommandOutput, Pool, finish, unmount};
use rustix::process::{Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::Child;

fn mounted(pool: &Pool, name: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == pool.path(name).to_str())
}

#[test]
fn an_apparatus_is_started_shown_and_stopped() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let shown = pool.json(["apparatus", "show", "a"]);
    assert_eq!(shown["apparatus"]["state"], "serving");
    assert_eq!(shown["apparatus"]["figures"]["name"], "a");
    assert_eq!(fs::metadata(mount.join("v")).unwrap().len(), 8 << 20);
    let listed = pool
        .run(["apparatus", "list", "--no-headings", "-o", "name,state"])
        .ok()
        .out;
    assert_eq!(listed, "a  serving\n");
    let again = pool
        .run(["apparatus", "start", "a", &pool.file("elsewhere")])
        .ended(1);
    again.complains(&["apparatus a", "runs already"]);
    pool.run(["apparatus", "start", "b", mount.to_str().unwrap()])
        .ended(1)
        .complains(&["apparatus b", "mount"]);
    assert_eq!(
        pool.json(["apparatus", "stop", "a", "--dry-run"])["dry_run"],
        true
    );
    assert_eq!(pool.json(["apparatus", "stop", "a"])["changed"], true);
    assert!(!mounted(&pool, "mount-a"));
    pool.run(["apparatus", "stop", "a"]).ended(3);
}

#[test]
fn an_apparatus_that_does_not_start_gives_the_reason() {
    let pool = Pool::with_volume();
    fs::write(pool.path("file"), "").unwrap();
    pool.run(["apparatus", "start", "a", &pool.file("file")])
        .ended(1)
        .complains(&["apparatus a", "did not start", "hint: "]);
    pool.run([
        "apparatus",
        "start",
        "a",
        &pool.file("m"),
        "--config",
        &pool.file("none.ron"),
    ])
    .ended(1)
    .complains(&["none.ron"]);
}

#[test]
fn changes_show_at_once_in_every_mount() {
    let pool = Pool::with_volume();
    let mounts = [pool.start("a"), pool.start("b")];
    let names = |mount: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(mount)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    pool.run(["volume", "create", "w", "1M"]).ok();
    pool.run(["volume", "resize", "v", "9M"]).ok();
    for mount in &mounts {
        assert_eq!(names(mount), ["v", "w"]);
        assert_eq!(fs::metadata(mount.join("v")).unwrap().len(), 9 << 20);
    }
    pool.run(["volume", "rename", "w", "x"]).ok();
    pool.run(["volume", "resize", "v", "1M", "--yes"]).ok();
    for mount in &mounts {
        assert_eq!(names(mount), ["v", "x"]);
        assert_eq!(fs::metadata(mount.join("v")).unwrap().len(), 1 << 20);
    }
    pool.run(["volume", "remove", "x", "--yes"]).ok();
    mounts.iter().for_each(|mount| assert_eq!(names(mount), ["v"]));
}

/// A host never reads data of another volume, nor data of the same volume beyond its former end.
#[test]
fn new_space_reads_as_zeroes() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let write = |name: &str, len: usize| {
        let file = OpenOptions::new().write(true).open(mount.join(name)).unwrap();
        file.write_all_at(&vec![0xaa; len], 0).unwrap();
        file.sync_all().unwrap();
    };
    let read = |name: &str| {
        let mut bytes = Vec::new();
        fs::File::open(mount.join(name))
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    };
    write("v", 8 << 20);
    pool.run(["volume", "remove", "v", "--yes", "--discard"]).ok();
    pool.run(["volume", "create", "w", "8M", "--on", "d1"]).ok();
    let map = pool.json(["volume", "map", "w"]);
    assert_eq!(
        map["segments"][0]["disk_offset"],
        1 << 20,
        "where the other one was"
    );
    assert!(read("w").iter().all(|byte| *byte == 0));
    write("w", 8 << 20);
    pool.run(["volume", "resize", "w", "1536", "--yes"]).ok();
    pool.run(["volume", "resize", "w", "2M"]).ok();
    let bytes = read("w");
    assert_eq!(bytes.len(), 2 << 20);
    assert!(bytes[..1536].iter().all(|byte| *byte == 0xaa));
    assert!(bytes[1536..].iter().all(|byte| *byte == 0));
}

/// Starts a hold whose command waits for the end of its input, and returns when the hold has begun.
fn hold(pool: &Pool, words: &[&str]) -> (Child, std::process::ChildStdin) {
    let mut command = pool.command(["volume", "hold", "v"].iter().chain(words));
    command.args(["--", "sh", "-c", "echo held >&2; read line"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut begun = [0; 5];
    child.stderr.as_mut().unwrap().read_exact(&mut begun).unwrap();
    let letting_go = child.stdin.take().unwrap();
    (child, letting_go)
}

#[test]
fn a_second_controller_names_the_holder_or_waits() {
    let pool = Pool::with_volume();
    let (holding, mut go) = hold(&pool, &["--for", "50s"]);
    let pid = holding.id().to_string();
    pool.run(["volume", "create", "w", "1M"])
        .ended(4)
        .complains(&["busy", "volume hold", &pid, "--wait"]);
    pool.run(["volume", "create", "w", "1M", "--wait=50ms"]).ended(4);
    let error = pool
        .run(["volume", "create", "w", "1M", "--json"])
        .ended(4)
        .json();
    assert_eq!(error["error"]["kind"], "busy");
    pool.run(["volume", "list"]).ok();
    pool.run(["volume", "create", "w", "1M", "--dry-run"]).ok();
    let waiting = pool
        .command(["volume", "create", "w", "1M", "--wait"])
        .spawn()
        .unwrap();
    go.write_all(b"go\n").unwrap();
    finish(holding).ok();
    finish(waiting).ok();
}

#[test]
fn a_hold_holds_its_range_and_nothing_else() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.join("v"))
        .unwrap();
    let (holding, mut go) = hold(&pool, &["--range", "1M..2M", "--for", "50s"]);
    file.write_all_at(b"before", 0).unwrap();
    file.write_all_at(b"after", 2 << 20).unwrap();
    let (sender, output) = std::sync::mpsc::channel();
    let held = file.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        held.write_all_at(b"within", 1 << 20).unwrap();
        sender.send(()).unwrap();
    });
    crate::support::until("the write is held", || {
        let shown = pool.json(["apparatus", "show", "a"]);
        let figures = &shown["apparatus"]["figures"];
        figures["parked"] == 1 && figures["holds"] == 1
    });
    output.try_recv().unwrap_err();
    go.write_all(b"go\n").unwrap();
    finish(holding).ok();
    output.recv_timeout(std::time::Duration::from_secs(100)).unwrap();
    writer.join().unwrap();
}

#[test]
fn a_holds_command_ends_with_its_own_status_or_in_time() {
    let pool = Pool::with_volume();
    pool.start("a");
    let run = |words: &[&str]| pool.run(["volume", "hold", "v"].iter().chain(words));
    run(&["--flush", "--", "true"]).ok();
    run(&["--", "sh", "-c", "exit 42"]).ended(42);
    run(&["--", "no-such-program-anywhere"])
        .ended(1)
        .complains(&["no-such-program-anywhere"]);
    run(&["--for", "200ms", "--", "sleep", "50"])
        .ended(6)
        .complains(&["sleep", "--for"]);
    let output = run(&["--json", "--", "echo", "words"]).ok();
    assert_eq!(output.json()["command_status"], 0);
    assert_eq!(output.err, "words\n");
    assert_eq!(pool.json(["status"])["healthy"], true);
}

#[test]
fn ctrl_c_leaves_nothing_held() {
    let pool = Pool::with_volume();
    pool.start("a");
    let (holding, _go) = hold(&pool, &["--for", "50s"]);
    let pid = rustix::process::Pid::from_child(&holding);
    kill_process(pid, Signal::INT).unwrap();
    finish(holding).ended(8);
    let shown = pool.json(["apparatus", "show", "a"]);
    assert_eq!(shown["apparatus"]["figures"]["holds"], 0);
}

#[test]
fn an_apparatus_that_does_not_answer_is_fenced_and_rejoins() {
    let pool = Pool::with_volume();
    pool.start("a");
    let mount = pool.start("b");
    let pid = pool.pid_of("a");
    kill_process(pid, Signal::STOP).unwrap();
    let output = pool.run(["volume", "rename", "v", "w"]);
    let rejoin_in_vain = pool.run(["apparatus", "rejoin", "a", "--timeout", "300ms"]);
    kill_process(pid, Signal::CONT).unwrap();
    let output = output.ended(5);
    assert!(output.err.contains("apparatus a: fenced"), "{output:?}");
    assert!(output.out.contains("renamed"), "{output:?}");
    rejoin_in_vain.ended(6).complains(&["stopped", "kill -CONT"]);
    pool.run(["apparatus", "rejoin", "a"]).ok();
    assert!(mount.join("w").exists());
    assert!(pool.path("mount-a").join("w").exists());
    assert_eq!(
        pool.json(["volume", "rename", "w", "v"])["change"]["fenced"],
        serde_json::json!([])
    );
}

#[test]
fn an_apparatus_is_fenced_by_force() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let pid = pool.pid_of("a");
    kill_process(pid, Signal::STOP).unwrap();
    assert_eq!(pool.json(["apparatus", "fence", "a"])["changed"], true);
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    pool.run(["apparatus", "show", "a"]).ended(3);
    // It mounts again over its own stale mount.
    pool.run(["apparatus", "start", "a", mount.to_str().unwrap()])
        .ok();
    assert_eq!(fs::metadata(mount.join("v")).unwrap().len(), 8 << 20);
}

#[test]
fn the_dead_are_found_and_forgotten() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let pid = pool.pid_of("a");
    kill_process(pid, Signal::KILL).unwrap();
    pool.run(["apparatus", "fence", "a"]).ok();
    unmount(&mount);
    let mount = pool.start("b");
    let pid = pool.pid_of("b");
    kill_process(pid, Signal::KILL).unwrap();
    let ended = wait_for_state(&pool, "b", "dead");
    assert!(ended.out.contains("dead"), "{ended:?}");
    let status = pool.run(["status", "--json"]).ended(7).json();
    assert_eq!(status["healthy"], false);
    assert!(
        status["findings"][0]["next"]
            .as_str()
            .unwrap()
            .starts_with("vctl apparatus start b "),
        "{status}"
    );
    pool.run(["pool", "check"]).ended(7);
    pool.run(["pool", "check", "--repair"]).ok();
    pool.run(["apparatus", "show", "b"]).ended(3);
    unmount(&mount);
}

/// Waits until the kernel has finished ending the process.
fn wait_for_state(pool: &Pool, name: &str, state: &str) -> CommandOutput {
    for _ in 0..500 {
        let shown = pool
            .run(["apparatus", "list", "--no-headings", "-o", "name,state"])
            .ok();
        if shown.out.contains(&format!("{name}  {state}")) {
            return shown;
        }
    }
    panic!("{name} is not {state}");
}

#[test]
fn jobs_in_the_background_are_waited_for_paused_and_cancelled() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let data: Vec<u8> = (0..8_u32 << 20).map(|i| (i % 251) as u8).collect();
    fs::OpenOptions::new()
        .write(true)
        .open(mount.join("v"))
        .unwrap()
        .write_all_at(&data, 0)
        .unwrap();
    let begun = pool.json([
        "volume",
        "move",
        "v",
        "--to",
        "d2",
        "--background",
        "--rate",
        "512K",
    ]);
    assert_eq!(
        (&begun["apparatus"], &begun["job"]["state"]),
        (&"a".into(), &"running".into())
    );
    pool.run(["job", "wait", "1", "--timeout", "50ms"]).ended(6);
    pool.run(["job", "pause", "1"]).ok();
    pool.run(["job", "wait", "1"])
        .ended(8)
        .complains(&["paused", "resume"]);
    let mut resumed = pool.command(["job", "resume", "1", "--background", "--wait=100s"]);
    finish(resumed.spawn().unwrap()).ok();
    // A batch begins before the rate is read again, so small volumes may have been moved by now.
    pool.run(["job", "set", "1", "--rate", "none"]);
    pool.run(["job", "wait", "1"]).ok();
    assert_eq!(fs::read(mount.join("v")).unwrap(), data);
    assert_eq!(
        pool.json(["volume", "show", "v"])["volume"]["disks"][0]["disk"],
        "d2"
    );

    pool.run([
        "volume",
        "move",
        "v",
        "--to",
        "d1",
        "--background=a",
        // The process that ended the last job may still be releasing the controller lock.
        "--wait=100s",
        "--rate",
        "512K",
    ])
    .ok();
    pool.run(["job", "cancel", "2", "--roll-back"]).ok();
    pool.run(["job", "set", "2", "--rate", "none"]);
    pool.run(["job", "wait", "2"])
        .ended(8)
        .complains(&["what it had moved was moved back"]);
    let shown = pool.run(["job", "show", "2"]).ok().out;
    assert!(
        shown.contains("moved back") && !shown.contains("stays where it is"),
        "{shown}"
    );
    assert_eq!(
        pool.json(["volume", "show", "v"])["volume"]["disks"][0]["disk"],
        "d2"
    );
    assert_eq!(fs::read(mount.join("v")).unwrap(), data);
    a_stop_names_the_job_that_it_pauses(&pool);
}

fn a_stop_names_the_job_that_it_pauses(pool: &Pool) {
    let words = "volume move v --to d1 --background --rate 64K --wait=100s";
    pool.run(words.split(' ')).ok();
    let stopped = pool.run(["apparatus", "stop", "a"]).ok().out;
    assert!(
        stopped.contains("job 3: paused") && stopped.contains("vctl job resume 3"),
        "{stopped}"
    );
}

/// A script sends the next change right after it, without `--wait`.
#[test]
fn after_a_job_has_been_waited_for_the_leadership_is_free() {
    let pool = Pool::with_volume();
    pool.start("a");
    for round in 1..=6_u64 {
        let (job, to) = (round.to_string(), if round % 2 == 0 { "d1" } else { "d2" });
        pool.run(["volume", "move", "v", "--to", to, "--background"]).ok();
        pool.run(["job", "wait", &job]).ok();
        pool.run(["volume", "create", &format!("w{round}"), "1M"]).ok();
    }
}

#[test]
fn ctrl_c_pauses_a_move_that_can_be_resumed() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    fs::OpenOptions::new()
        .write(true)
        .open(mount.join("v"))
        .unwrap()
        .write_all_at(&vec![7; 8 << 20], 0)
        .unwrap();
    let mut command = pool.command([
        "volume",
        "move",
        "v",
        "--to",
        "d2",
        "--rate",
        "64K",
        "--progress",
        "plain",
        "--json",
    ]);
    let mut moving = command.spawn().unwrap();
    let mut first = [0; 1];
    moving.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
    kill_process(rustix::process::Pid::from_child(&moving), Signal::INT).unwrap();
    let output = finish(moving).ended(8);
    assert_eq!(output.json()["job"]["state"], "paused");
    let shown = pool.json(["job", "show", "1"]);
    assert!(
        shown["phase"].as_str().unwrap().contains("vctl job resume 1"),
        "{shown}"
    );
    pool.run(["job", "set", "1", "--rate", "none"]).ok();
    pool.run(["job", "resume", "1"]).ok();
    assert_eq!(fs::read(mount.join("v")).unwrap(), vec![7; 8 << 20]);
}

#[test]
fn loop_devices() {
    let pool = Pool::with_volume();
    pool.run(["volume", "attach", "v"])
        .ended(1)
        .complains(&["no apparatus serves it", "vctl apparatus start"]);
    pool.start("a");
    if !rustix::process::geteuid().is_root() || !fs::exists("/dev/loop-control").unwrap() {
        pool.run(["volume", "attach", "v"]).ended(1).complains(&["root"]);
        return;
    }
    let attached = pool.json(["volume", "attach", "v", "--apparatus", "a"]);
    let device = attached["device"].as_str().unwrap().to_owned();
    let detached = scopeguard(&pool, &device);
    assert!(device.starts_with("/dev/loop"), "{attached}");
    assert_eq!(attached["direct_io"], true);
    let mut bytes = [0_u8; 512];
    fs::File::open(&device).unwrap().read_exact(&mut bytes).unwrap();
    pool.run(["volume", "remove", "v", "--yes"]).ended(4).complains(&[
        &device,
        "through a",
        "vctl volume detach v",
    ]);
    drop(detached);
    pool.run(["volume", "detach", "v"]).ended(3);
}

/// Detaches the device when dropped, also when the test fails.
fn scopeguard<'a>(pool: &'a Pool, device: &str) -> impl Drop + 'a {
    struct Guard<'a>(&'a Pool, String);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            let output = self.0.run(["volume", "detach", "v"]);
            assert!(
                std::thread::panicking() || output.out.contains(&self.1),
                "{output:?}"
            );
        }
    }
    Guard(pool, device.to_owned())
}

#[test]
fn a_job_keeps_the_name_of_a_disk_and_a_volume_that_were_removed() {
    let pool = Pool::with_volume();
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    pool.run(["disk", "evacuate", "d2"]).ok();
    pool.run(["disk", "remove", "d2"]).ok();
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    let list = pool.run(["job", "list"]).ok().out;
    assert!(
        list.contains("volume v (removed)") && list.contains("disk d2 (removed)"),
        "{list}"
    );
}

/// Returns the pool's row in the list of all pools, as seen with another pool named.
fn in_list(named: &Pool, pool: &Pool) -> Option<serde_json::Value> {
    let path = serde_json::json!(pool.pool_dir());
    let list = named.json(["pool", "list"]);
    let mut rows = list["pools"].as_array().unwrap().iter();
    rows.find(|row| row["path"] == path).cloned()
}

#[test]
fn pools_that_are_in_use_are_listed_and_the_named_one() {
    let (pool, other) = (Pool::with_volume(), Pool::absent());
    assert_eq!(in_list(&other, &pool), None);
    pool.start("a");
    let row = in_list(&other, &pool).unwrap();
    assert_eq!(row["apparatuses"], serde_json::json!(["a"]));
    assert_eq!(
        (row["disks"].as_u64(), row["volumes"].as_u64()),
        (Some(2), Some(1))
    );
    assert_eq!(in_list(&other, &other), None);
    other.run(["pool", "create"]).ok();
    assert!(in_list(&other, &other).is_some());
    pool.run(["apparatus", "stop", "a"]).ok();
    assert_eq!(in_list(&other, &pool), None);
    assert!(in_list(&pool, &pool).is_some());
}
