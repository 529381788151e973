//! Scheduling of controllers: while jobs run, commands and other jobs act in their gaps; two jobs never move the same range; fencing waits
//! for no controller.

use crate::support::{CommandOutput, Pool, finish, hold_volume};
use apparatus::jobs;
use apparatus::model::dir::PoolDir;
use apparatus::model::units::JobId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Creates a pool with the volumes `v` and `w`, 20 MiB each and full of data, on `d1`.
fn full() -> Pool {
    let pool = Pool::with_volume();
    pool.run(["volume", "resize", "v", "20M"]).ok();
    pool.run(["volume", "create", "w", "20M", "--on", "d1"]).ok();
    let image = OpenOptions::new().write(true).open(pool.path("d1.img")).unwrap();
    image.write_all_at(&vec![0x5a; 40 * MIB], MIB as u64).unwrap();
    pool
}

fn job(pool: &Pool, id: usize) -> Value {
    pool.json(["job", "show", &id.to_string()])["job"].clone()
}

fn done(pool: &Pool, id: usize) -> u64 {
    job(pool, id)["done"].as_u64().unwrap()
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(150);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a move of a volume to `d2` at a rate. The job has this number, and has moved something when this returns.
fn mover(pool: &Pool, volume: &str, rate: &str, id: usize) -> Child {
    let mover = pool
        .command(["volume", "move", volume, "--to", "d2", "--rate", rate])
        .spawn()
        .unwrap();
    let listed = || pool.json(["job", "list"])["jobs"].as_array().unwrap().len();
    wait_until("there is a job", || listed() >= id);
    wait_until("something is moved", || done(pool, id) > 0);
    mover
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Ends the move: nothing delays it any more.
#[track_caller]
fn end(pool: &Pool, mover: Child, id: usize) -> CommandOutput {
    pool.run(["job", "set", &id.to_string(), "--rate", "none"]).ok();
    finish(mover)
}

#[test]
fn other_commands_run_while_a_move_runs() {
    let pool = full();
    pool.start("a");
    let mover = mover(&pool, "v", "1M", 1);
    for words in [
        "volume create n 1M --on d1",
        "volume resize n 2M",
        "volume set n --read-only",
        "volume set n --read-write",
        "volume rename n m",
        "volume hold v --for 10ms",
        "disk set d2 --tag slow",
        "volume move m --to d2",
        "volume remove m --yes",
        "pool set --policy order",
        "disk add D3 --create 16M --name d3",
        "volume create x 4M --on d3",
        "disk evacuate d3 --to d1",
        "disk remove d3",
        "disk add D3 --name d4",
        "disk remove d4",
    ] {
        let image = pool.file("d3.img");
        let words: Vec<&str> = words
            .split(' ')
            .map(|word| if word == "D3" { &image } else { word })
            .collect();
        let output = pool.run(&words);
        assert_eq!(output.status, 0, "{words:?}: {output:?}");
    }
    assert_eq!(job(&pool, 1)["state"], "running");
    end(&pool, mover, 1).ok();
    pool.run(["pool", "check"]).ok();
}

#[test]
fn two_moves_share_the_controller_lock() {
    let pool = full();
    pool.start("a");
    let first = mover(&pool, "v", "2M", 1);
    let second = mover(&pool, "w", "2M", 2);
    for _ in 0..3 {
        for id in [1, 2] {
            let before = done(&pool, id);
            wait_until("both go on", || done(&pool, id) > before);
        }
    }
    assert_eq!(
        [1, 2].map(|id| job(&pool, id)["state"].clone()),
        ["running", "running"]
    );
    // Without a rate limit.
    pool.run(["job", "set", "1", "--rate", "none"]).ok();
    end(&pool, second, 2).ok();
    finish(first).ok();
    pool.run(["pool", "check"]).ok();
    assert!(pool.run(["status"]).ok().out.contains("healthy"));
}

#[test]
fn a_second_job_over_the_same_range_is_refused_and_names_the_first() {
    let pool = full();
    let mover = mover(&pool, "v", "1M", 1);
    let before = pool.json(["disk", "list"]);
    for words in [
        &["volume", "move", "v", "--to", "d2"][..],
        &["volume", "move", "v", "--to", "d2", "--range", "19M..20M"],
        &["disk", "evacuate", "d1"],
        &["job", "resume", "1", "--background"],
    ] {
        if words[0] != "job" {
            pool.run(words)
                .ended(4)
                .complains(&["volume v", "job 1 by pid", "vctl job wait 1"]);
        }
    }
    let allocate = |list: &Value| list["disks"][0]["allocate"].clone();
    assert_eq!(
        allocate(&pool.json(["disk", "list"])),
        allocate(&before),
        "nothing has changed"
    );
    assert_eq!(pool.json(["job", "list"])["jobs"].as_array().unwrap().len(), 1);
    // A range that has been moved already is free for other jobs.
    pool.run(["volume", "move", "v", "--to", "d1", "--range", "0..1M"])
        .ok();
    end(&pool, mover, 1).ok();
    pool.run(["pool", "check"]).ok();
}

#[test]
fn a_job_is_worked_on_by_one() {
    let pool = full();
    pool.start("a");
    let mover = mover(&pool, "v", "1M", 1);
    pool.run(["job", "resume", "1"]).ok();
    assert_eq!(job(&pool, 1)["abandoned"], false);
    pool.run(["pool", "backup", &pool.file("backup")]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
    pool.run([
        "pool",
        "restore",
        &pool.file("backup"),
        "--yes",
        "--accept-older-layout",
    ])
    .ended(4)
    .complains(&["a process works on a job of this pool"]);
    end(&pool, mover, 1).ok();
}

#[test]
fn a_job_that_waits_for_the_lock_can_be_paused_and_continues() {
    let pool = full();
    let mover = mover(&pool, "v", "1M", 1);
    let (holder, input) = hold_volume(&pool, "v");
    // A command that finds another command is refused.
    pool.run(["volume", "create", "n", "1M"])
        .ended(4)
        .complains(&["busy", "volume hold"]);
    pool.run(["job", "pause", "1"]).ok();
    finish(mover).ended(8);
    assert_eq!(job(&pool, 1)["state"], "paused");
    drop(input);
    finish(holder).ok();
    pool.run(["job", "set", "1", "--rate", "none"]).ok();
    pool.run(["job", "resume", "1"]).ok();
    pool.run(["pool", "check"]).ok();
}

/// A process that leaves a paused job needs the controller lock, to persist what it moved: who resumes the job waits for it without that lock.
#[test]
fn who_resumes_a_job_waits_for_the_process_that_leaves_it_and_keeps_no_other_command_waiting() {
    let pool = full();
    let mover = mover(&pool, "v", "1M", 1);
    pool.run(["job", "pause", "1"]).ok();
    finish(mover).ended(8);
    let dir = PoolDir::new(pool.pool_dir());
    let claim = jobs::take_on(
        &*apparatus::cluster::open(&dir).unwrap(),
        JobId(1),
        jobs::RELEASE_TIMEOUT,
    )
    .unwrap();
    pool.run(["job", "set", "1", "--rate", "none"]).ok();
    let mut resumed = pool
        .command(["job", "resume", "1", "--wait=150s"])
        .spawn()
        .unwrap();
    for number in 1..=20 {
        let name = format!("n{number}");
        pool.run(["volume", "create", &name, "1M", "--wait=0s"]).ok();
    }
    assert_eq!(resumed.try_wait().unwrap(), None, "it waits for the job");
    assert_eq!(job(&pool, 1)["state"], "paused");
    drop(claim);
    finish(resumed).ok();
    assert_eq!(job(&pool, 1)["state"], "done");
    pool.run(["pool", "check"]).ok();
}

#[test]
fn one_of_two_movers_is_killed_and_the_other_continues() {
    let pool = full();
    let mut first = mover(&pool, "v", "2M", 1);
    let second = mover(&pool, "w", "1M", 2);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(job(&pool, 1)["abandoned"], true);
    let before = done(&pool, 2);
    wait_until("the other goes on", || done(&pool, 2) > before);
    assert_eq!(job(&pool, 2)["abandoned"], false);
    pool.run(["job", "cancel", "1"]).ok();
    assert_eq!(job(&pool, 1)["state"], "cancelled");
    end(&pool, second, 2).ok();
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    pool.run(["pool", "check"]).ok();
}

#[test]
fn a_range_that_is_cut_off_or_removed_under_a_move_is_not_moved() {
    let pool = full();
    let (first, second) = (mover(&pool, "v", "1M", 1), mover(&pool, "w", "1M", 2));
    pool.run(["volume", "resize", "v", "8M", "--yes", "--cut-off-users"])
        .ok();
    pool.run(["volume", "remove", "w", "--yes", "--cut-off-users"])
        .ok();
    finish(second).ended(8);
    assert_eq!(job(&pool, 2)["state"], "cancelled");
    end(&pool, first, 1).ok();
    assert_eq!(done(&pool, 1), 8 * MIB as u64);
    let used = pool.json(["disk", "show", "d1"]);
    assert_eq!(used["disk"]["free"], 63 * MIB as u64);
    pool.run(["pool", "check"]).ok();
}

#[test]
fn to_fence_waits_for_no_controller() {
    let pool = full();
    pool.start("a");
    pool.start("b");
    let mover = mover(&pool, "v", "1M", 1);
    let (mut holder, _input) = hold_volume(&pool, "w");
    signal(&holder, Signal::STOP);
    signal(&mover, Signal::STOP);
    pool.run(["apparatus", "fence", "a"]).ok();
    let left = pool.json(["apparatus", "list"]);
    assert_eq!(left["apparatuses"].as_array().unwrap().len(), 1, "{left}");
    signal(&mover, Signal::CONT);
    holder.kill().unwrap();
    holder.wait().unwrap();
    end(&pool, mover, 1).ok();
    pool.run(["pool", "check"]).ok();
}
