//! Jobs whose controller was killed, and jobs that should not exist: no process works on them, which every view reports; the next command
//! for the same range replaces them; they can be cancelled in any state of the pool, and their reservations are free afterwards. A refused
//! command leaves no job behind.

use crate::support::{Pool, finish, hold_volume, write};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Creates a pool whose volume, 24 MiB on `d1`, is full of data.
fn full() -> Pool {
    let pool = Pool::with_volume();
    pool.run(["volume", "resize", "v", "24M"]).ok();
    let image = OpenOptions::new().write(true).open(pool.path("d1.img")).unwrap();
    image.write_all_at(&vec![0x5a; 24 * MIB], MIB as u64).unwrap();
    pool
}

fn jobs(pool: &Pool) -> Vec<Value> {
    pool.json(["job", "list"])["jobs"].as_array().unwrap().clone()
}

/// Returns the free bytes of `d2`.
fn free(pool: &Pool) -> u64 {
    pool.json(["disk", "show", "d2"])["disk"]["free"]
        .as_u64()
        .unwrap()
}

/// Kills a move of `v` to `d2` while it is running. Returns the number of its job.
fn killed_move(pool: &Pool) -> String {
    let (mut mover, id) = slow_move(pool);
    mover.kill().unwrap();
    mover.wait().unwrap();
    id
}

/// Moves `v` to `d2` so slowly that the move is still running when this returns. Returns its process and the number of its job.
fn slow_move(pool: &Pool) -> (Child, String) {
    let before = jobs(pool).len();
    let mover = pool
        .command(["volume", "move", "v", "--to", "d2", "--rate", "100K"])
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(150);
    let id = loop {
        let running = jobs(pool)
            .into_iter()
            .skip(before)
            .find(|job| job["state"] == "running" && job["abandoned"] == false);
        if let Some(job) = running.filter(|job| job["done"].as_u64() > Some(0)) {
            break job["id"].to_string();
        }
        assert!(Instant::now() < end, "nothing is moved: {:?}", jobs(pool));
        thread::sleep(Duration::from_millis(5));
    };
    (mover, id)
}

/// SIGHUP pauses a move as Ctrl-C does, however often it is sent.
#[test]
fn a_move_whose_terminal_is_closed_is_paused() {
    let pool = full();
    let (mover, id) = slow_move(&pool);
    let process = rustix::process::Pid::from_child(&mover);
    for _ in 0..2 {
        rustix::process::kill_process(process, rustix::process::Signal::HUP).unwrap();
    }
    finish(mover).ended(8).complains(&["paused", "vctl job resume"]);
    assert_eq!(pool.json(["job", "show", &id])["job"]["state"], "paused");
}

#[test]
fn a_killed_move_is_named_and_the_next_one_takes_its_place() {
    let pool = full();
    let mut killed = Vec::new();
    // Each would reserve 24 MiB of the 63 MiB that are free.
    for _ in 0..4 {
        let id = killed_move(&pool);
        let last = jobs(&pool).pop().unwrap();
        assert_eq!(last["abandoned"], true);
        let listed = pool.run(["job", "list", "-o", "state", "--no-headings", "--sort", "-id"]);
        assert!(listed.ok().out.starts_with("abandoned\n"));
        for text in [
            last["why"].as_str().unwrap().to_owned(),
            pool.run(["status"]).out,
            pool.run(["pool", "check"]).out,
            pool.run(["job", "show", &id]).ok().out,
        ] {
            assert!(text.contains("no process works on it"), "{text}");
        }
        killed.push(id);
        let would = pool.json(["volume", "move", "v", "--to", "d2", "--dry-run"]);
        assert_eq!(would["ends_jobs"].as_array().unwrap().len(), 1);
    }
    let moved = pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    assert!(moved.err.contains(&format!("job {}", killed[3])), "{moved:?}");
    let states: Vec<_> = jobs(&pool).iter().map(|job| job["state"].clone()).collect();
    assert_eq!(
        states,
        ["cancelled", "cancelled", "cancelled", "cancelled", "done"]
    );
    assert_eq!(free(&pool), (63 - 24) * MIB as u64);
    pool.run(["pool", "check"]).ok();
}

#[test]
fn a_job_of_a_dead_controller_is_cancelled_while_another_acts_and_one_that_needs_work_stays_as_it_is() {
    let pool = full();
    let id = killed_move(&pool);
    let before = free(&pool);
    let (holder, input) = hold_volume(&pool, "v");
    assert!(
        pool.run(["job", "show", &id])
            .ok()
            .out
            .contains("no process works on it")
    );
    assert!(pool.run(["status"]).out.contains("no process works on it"));
    pool.run(["job", "cancel", &id, "--roll-back"])
        .ended(4)
        .complains(&["busy"]);
    pool.run(["job", "resume", &id]).ended(4).complains(&["busy"]);
    assert_eq!(jobs(&pool)[0]["state"], "running");
    pool.run(["job", "cancel", &id]).ok();
    assert_eq!(jobs(&pool)[0]["state"], "cancelled");
    assert!(free(&pool) > before, "what it had reserved is free");
    drop(input);
    finish(holder).ok();
    pool.run(["volume", "move", "v", "--to", "d1"]).ok();
    assert_eq!(free(&pool), 63 * MIB as u64);
    pool.run(["pool", "check"]).ok();
}

#[test]
fn a_removed_volume_takes_its_jobs_along() {
    let pool = full();
    killed_move(&pool);
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    assert_eq!(jobs(&pool)[0]["state"], "cancelled");
    assert_eq!(free(&pool), 63 * MIB as u64);
    pool.run(["pool", "check"]).ok();
    assert!(pool.run(["status"]).ok().out.contains("healthy"));
}

#[test]
fn a_refused_or_needless_move_makes_no_job() {
    let pool = full();
    let moved = |more: &[&str]| pool.run(["volume", "move", "v", "--to", "d2"].iter().chain(more));
    moved(&["--rate", "0"]).ended(2);
    pool.run(["job", "set", "1", "--rate", "0"]).ended(2);
    for dry in [&[][..], &["--dry-run"]] {
        let with = |more: &[&'static str]| moved(&[more, dry].concat());
        with(&["--background=nope"])
            .ended(3)
            .complains(&["apparatus nope"]);
        with(&["--background"]).ended(1).complains(&["no apparatus runs"]);
        with(&["--range", "20M..30M"]).ended(2);
    }
    assert!(
        pool.run(["volume", "move", "v", "--to", "d1"])
            .ok()
            .out
            .contains("nothing to move")
    );
    assert_eq!(
        pool.json(["volume", "move", "v", "--to", "d1"])["job"],
        Value::Null
    );
    pool.json(["disk", "evacuate", "d2"]);
    assert_eq!(jobs(&pool), Vec::<Value>::new());
    assert_eq!(pool.json(["disk", "show", "d2"])["disk"]["allocate"], false);
    assert_eq!(free(&pool), 63 * MIB as u64);
}

#[test]
fn a_job_that_no_apparatus_accepts_keeps_its_state() {
    let pool = full();
    let id = killed_move(&pool);
    pool.run(["job", "pause", &id]).ok();
    pool.run(["job", "resume", &id, "--background=nope"]).ended(3);
    pool.run(["job", "resume", &id, "--background"]).ended(1);
    assert_eq!(jobs(&pool)[0]["state"], "paused");
}

/// The command waits for its hold and ignores its input: the wait of hosts ends first, and the command ends afterwards.
#[test]
fn a_hold_ends_in_time_though_its_command_waits_for_it() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    write(
        &pool.path("script"),
        b"trap '' TERM; head -c 4096 \"$1\" > \"$2\"; echo read > \"$3\"",
    );
    let [script, file, copy, marker] = ["script", "", "copy", "marker"].map(|name| match name {
        "" => mount.join("v").to_str().unwrap().to_owned(),
        name => pool.file(name),
    });
    pool.run([
        "volume", "hold", "v", "--for", "100ms", "--", "sh", &script, &file, &copy, &marker,
    ])
    .ended(6)
    .complains(&["command sh", "did not end"]);
    assert!(
        pool.path("marker").exists(),
        "the command was killed while it waited for the hold"
    );
    assert_eq!(std::fs::metadata(pool.path("copy")).unwrap().len(), 4096);
}

#[test]
fn a_move_reports_the_durations_of_its_holds() {
    let pool = full();
    let moved = pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    let line = moved.out.lines().last().unwrap_or_default();
    assert!(
        line.contains("holds: median ") && line.contains(", p99 ") && line.contains(", longest "),
        "{line}"
    );
    let job = &jobs(&pool)[0];
    let us = |name: &str| job[name].as_u64().unwrap();
    assert!(
        us("median_hold_us") <= us("p99_hold_us") && us("p99_hold_us") <= us("longest_hold_us"),
        "{job}"
    );
}
