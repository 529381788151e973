//! A pool with one apparatus that has a supervisor, for tests.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a part of several tests, none of which uses all of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use crate::support::{Daemon, Random, TestPool};
use apparatus::model::member::Member;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const EXTENT: u64 = 64 << 10;
pub const EXTENTS: u64 = 64;
const BLOCK: usize = 4096;
/// Writers, each with one request in flight.
const WRITERS: usize = 16;

pub fn pool() -> TestPool {
    let pool = TestPool::new(EXTENT);
    let disk = pool.add_disk("d", EXTENTS + 4);
    pool.add_volume("v", EXTENTS * EXTENT, &[(disk.id, 1, EXTENTS)]);
    pool
}

pub fn start(pool: &TestPool) -> Daemon {
    pool.start_with("a1", &["--supervisor"])
}

pub fn member(pool: &TestPool) -> Member {
    let (_, members) = pool.store().members().unwrap();
    members
        .into_iter()
        .find(|member| member.name.as_str() == "a1")
        .unwrap()
}

pub fn soon<T>(what: &str, mut so: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = so() {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        thread::yield_now();
    }
}

/// Kills the server with a signal, and waits until another one has reported that it goes on.
pub fn crash(pool: &TestPool, daemon: &Daemon, signal: Signal) {
    let before = restarts(daemon).len();
    kill_process(server_of(pool), signal).unwrap();
    soon("another server", || {
        (restarts(daemon).len() > before).then_some(())
    });
}

/// Returns a copy of the program, which a test can replace.
pub fn own_program(pool: &TestPool) -> PathBuf {
    let (original, copy) = (env!("CARGO_BIN_EXE_apparatus"), pool.scratch().join("apparatus"));
    if fs::hard_link(original, &copy).is_err() {
        fs::copy(original, &copy).unwrap();
    }
    copy
}

/// Puts a script in the place of a program.
pub fn replace_by_script(program: &Path, script: &str) {
    let new = program.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, program).unwrap();
}

/// Starts an apparatus with a supervisor from this program.
pub fn start_from(pool: &TestPool, program: &Path) -> Daemon {
    let mut command = Command::new(program);
    let mount = pool.mount_point("a1");
    command.arg("--pool").arg(pool.dir.path());
    command
        .args(["--name", "a1", "--supervisor", "--mount"])
        .arg(&mount);
    Daemon::start(command, pool.scratch(), "a1", mount)
}

/// Returns the process of the server.
pub fn server_of(pool: &TestPool) -> Pid {
    Pid::from_raw(member(pool).pid.try_into().unwrap()).unwrap()
}

pub fn kill_server(pool: &TestPool) {
    kill_process(server_of(pool), Signal::KILL).unwrap();
}

/// Returns how long hosts waited in each restart so far, in milliseconds, as the log tells.
pub fn restarts(daemon: &Daemon) -> Vec<f64> {
    let text = daemon.log_text();
    // The event, which is not recorded for each of many restarts, is logged too.
    let lines = text.lines().filter(|line| !line.contains("apparatus a1: "));
    let each = lines.filter_map(|line| {
        let (_, waited) = line
            .split_once("this one goes on")?
            .1
            .split_once("hosts waited ")?;
        waited.strip_suffix(" ms")?.parse().ok()
    });
    each.collect()
}

/// Content of a block in a version of it.
fn content(block: u64, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK];
    }
    let words = (0..BLOCK as u64 / 8).map(|word| (block << 40) ^ (version << 10) ^ word);
    words.flat_map(u64::to_ne_bytes).collect()
}

/// Writes and reads blocks of its own until it is told to end, and compares. Returns the versions.
fn work(file: &File, seed: u64, rounds: &AtomicU64, is_over: &AtomicBool) -> Vec<u64> {
    let blocks = EXTENTS * EXTENT / BLOCK as u64 / WRITERS as u64;
    let mut versions = vec![0; usize::try_from(blocks).unwrap()];
    let mut random = Random::new(seed + 1);
    let mut bytes = vec![0; BLOCK];
    while !is_over.load(Ordering::Relaxed) {
        let slot = usize::try_from(random.below(blocks)).unwrap();
        let block = slot as u64 * WRITERS as u64 + seed;
        let at = block * BLOCK as u64;
        file.read_exact_at(&mut bytes, at)
            .unwrap_or_else(|error| panic!("read of block {block}: {error}"));
        assert!(
            bytes == content(block, versions[slot]),
            "block {block} is not what was acknowledged"
        );
        if random.below(3) > 0 {
            let version = versions[slot] + 1;
            let written = file.write_at(&content(block, version), at);
            assert_eq!(
                written.unwrap_or_else(|error| panic!("write of block {block}: {error}")),
                BLOCK
            );
            versions[slot] = version;
        }
        if random.below(64) == 0 {
            file.sync_data().unwrap_or_else(|error| panic!("flush: {error}"));
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    versions
}

fn open(path: &Path, seed: usize) -> File {
    let direct = if seed.is_multiple_of(2) { libc::O_DIRECT } else { 0 };
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(direct);
    options.open(path).unwrap()
}

pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a short list"
    )]
    let place = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[place]
}

/// Has writers verify what they have written while `act` runs `times` times, each time after some of their requests. Compares everything at the end.
pub fn under_load(daemon: &Daemon, times: u64, seed: u64, mut act: impl FnMut()) {
    let (rounds, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut random = Random::new(seed);
    let versions: Vec<Vec<u64>> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|seed| {
                let file = open(&daemon.path("v"), seed);
                let (rounds, is_over) = (&rounds, &is_over);
                scope.spawn(move || work(&file, seed as u64, rounds, is_over))
            })
            .collect();
        let has_failed = || writers.iter().any(thread::ScopedJoinHandle::is_finished);
        for _ in 0..times {
            // Somewhere within the requests of the next moments, after the server has recovered.
            let target = rounds.load(Ordering::Relaxed) + 200 + random.below(2000);
            soon("requests", || {
                (has_failed() || rounds.load(Ordering::Relaxed) > target).then_some(())
            });
            if has_failed() {
                break;
            }
            act();
        }
        is_over.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let file = daemon.open("v");
    for (seed, versions) in versions.iter().enumerate() {
        for (slot, version) in versions.iter().enumerate() {
            let block = (slot * WRITERS + seed) as u64;
            let mut bytes = vec![0; BLOCK];
            file.read_exact_at(&mut bytes, block * BLOCK as u64).unwrap();
            assert!(bytes == content(block, *version), "block {block}");
        }
    }
}
