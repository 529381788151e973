//! An apparatus with a supervisor whose server crashes is a pause for its hosts: the server is killed again and again under writers that verify
//! every block, and no request fails, nothing is lost and nothing is stale. Open files and locks go on. A server that does not come up leaves
//! the mount held, and hosts go on once it does. Stopping and fencing end both processes. Where the kernel cannot send requests again, a crash is
//! what it is without a supervisor.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use apparatus::admin::apparatus::{Fenced, fence, stop};
use apparatus::model::error::ErrorKind;
use apparatus::model::member::{Member, MemberState};
use apparatus::supervisor::supervisor_of;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::{Daemon, Random, TestPool, is_mount_point, name_of};

const PATIENCE: Duration = Duration::from_secs(60);
const EXTENT: u64 = 64 << 10;
const EXTENTS: u64 = 64;
const BLOCK: usize = 4096;
/// Writers, each with one request in flight.
const WRITERS: usize = 16;
/// Kills of a run, unless the environment says how many (`KILLS`).
const KILLS: u64 = 25;

fn pool() -> TestPool {
    let pool = TestPool::new(EXTENT);
    let disk = pool.add_disk("d", EXTENTS + 2);
    pool.add_volume("v", EXTENTS * EXTENT, &[(disk.id, 1, EXTENTS)]);
    pool
}

fn start(pool: &TestPool) -> Daemon {
    pool.start_with("a1", &["--supervisor"])
}

fn member(pool: &TestPool) -> Member {
    let (_, members) = pool.store().members().unwrap();
    members
        .into_iter()
        .find(|member| member.name.as_str() == "a1")
        .unwrap()
}

fn soon<T>(what: &str, mut so: impl FnMut() -> Option<T>) -> T {
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
fn crash(pool: &TestPool, daemon: &Daemon, signal: Signal) {
    let before = restarts(daemon).len();
    let server = Pid::from_raw(member(pool).pid.try_into().unwrap()).unwrap();
    kill_process(server, signal).unwrap();
    soon("another server", || {
        (restarts(daemon).len() > before).then_some(())
    });
}

/// Returns how long hosts waited in each restart so far, in milliseconds, as the log tells.
fn restarts(daemon: &Daemon) -> Vec<f64> {
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

fn quantile(sorted: &[f64], part: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a short list"
    )]
    let place = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[place]
}

/// Kills the server under writers that verify. Returns how long hosts waited each time, in milliseconds.
fn kill_under_load(kills: u64, seed: u64) -> Vec<f64> {
    let pool = pool();
    let daemon = start(&pool);
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
        for _ in 0..kills {
            // Somewhere within the requests of the next moments, after the server has recovered.
            let target = rounds.load(Ordering::Relaxed) + 200 + random.below(2000);
            soon("requests", || {
                (has_failed() || rounds.load(Ordering::Relaxed) > target).then_some(())
            });
            if has_failed() {
                break;
            }
            crash(&pool, &daemon, Signal::KILL);
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
    drop(file);
    assert_eq!(member(&pool).state, MemberState::Joined);
    let pauses = restarts(&daemon);
    assert_eq!(pauses.len() as u64, kills);
    daemon.stop();
    pauses
}

#[test]
fn a_server_that_is_killed_again_and_again_is_a_pause_for_hosts() {
    let kills: u64 = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut pauses = Vec::new();
    // An apparatus of a test lives no longer than its watchdog allows.
    for done in (0..kills).step_by(100) {
        pauses.extend(kill_under_load((kills - done).min(100), done + 7));
    }
    pauses.sort_by(f64::total_cmp);
    println!(
        "{kills} kills: hosts waited {:.1} ms in the middle, {:.1} ms at 99 %, {:.1} ms at most",
        quantile(&pauses, 0.5),
        quantile(&pauses, 0.99),
        quantile(&pauses, 1.0)
    );
}

#[test]
fn every_way_of_crashing_is_a_restart() {
    let pool = pool();
    let daemon = start(&pool);
    let file = daemon.open("v");
    for signal in [Signal::ABORT, Signal::ILL, Signal::QUIT, Signal::KILL] {
        file.write_all_at(b"before", 5000).unwrap();
        crash(&pool, &daemon, signal);
        let mut bytes = [0; 6];
        file.read_exact_at(&mut bytes, 5000).unwrap();
        assert_eq!(&bytes, b"before");
    }
    assert_eq!(
        supervisor_of(
            &apparatus::model::dir::PoolDir::new(pool.dir.path()),
            &name_of("a1")
        )
        .unwrap(),
        Some(daemon.pid())
    );
    drop(file);
    daemon.stop();
}

#[test]
fn locks_of_hosts_go_on_and_end_with_their_file() {
    let pool = pool();
    let (daemon, other) = (start(&pool), pool.start("a2"));
    let (mine, theirs) = (daemon.open("v"), other.open("v"));
    flock(&mine, FlockOperation::LockExclusive).unwrap();
    let is_refused = || flock(&theirs, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN);
    assert!(is_refused());
    for _ in 0..2 {
        crash(&pool, &daemon, Signal::KILL);
        assert!(is_refused(), "it is kept while no server runs, and after");
    }
    flock(&mine, FlockOperation::Unlock).unwrap();
    flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
    flock(&theirs, FlockOperation::Unlock).unwrap();
    flock(&mine, FlockOperation::LockExclusive).unwrap();
    crash(&pool, &daemon, Signal::KILL);
    drop(mine);
    soon("the end of the file's lock", || (!is_refused()).then_some(()));
    drop(theirs);
    other.stop();
    daemon.stop();
}

#[test]
fn a_server_that_does_not_come_up_leaves_the_mount_and_hosts_go_on_once_it_does() {
    let pool = pool();
    let daemon = start(&pool);
    let file = daemon.open("v");
    file.write_all_at(b"kept", 0).unwrap();
    let (database, away) = (pool.dir.path().join("pool.db"), pool.dir.path().join("away"));
    let dir = apparatus::model::dir::PoolDir::new(pool.dir.path());
    let mut store = pool.store();
    let server = Pid::from_raw(member(&pool).pid.try_into().unwrap()).unwrap();
    fs::rename(&database, &away).unwrap();
    kill_process(server, Signal::KILL).unwrap();
    soon("a loop of crashes", || {
        daemon.log_text().contains("The mount is held").then_some(())
    });
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        });
        let refused = stop(&dir, &mut *store, "a1", false, PATIENCE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert!(!waiting.is_finished() && daemon.is_alive());
        fs::rename(&away, &database).unwrap();
        assert_eq!(&waiting.join().unwrap().unwrap(), b"kept");
    });
    drop((file, store));
    daemon.stop();
}

#[test]
fn a_fence_ends_both_processes() {
    let pool = pool();
    let mut daemon = start(&pool);
    let member = member(&pool);
    let server = Pid::from_raw(member.pid.try_into().unwrap()).unwrap();
    let server = pidfd_open(server, PidfdFlags::empty()).unwrap();
    let dir = apparatus::model::dir::PoolDir::new(pool.dir.path());
    assert_eq!(
        fence(&dir, &mut *pool.store(), &member, PATIENCE).unwrap(),
        Fenced::Ended
    );
    assert!(!daemon.wait().success());
    let mut ended = [PollFd::new(&server, PollFlags::IN)];
    assert_eq!(
        poll(&mut ended, Some(&Timespec::try_from(PATIENCE).unwrap())),
        Ok(1)
    );
    assert_eq!(supervisor_of(&dir, &name_of("a1")).unwrap(), None);
}

#[test]
fn an_apparatus_with_a_supervisor_is_not_started_twice() {
    let pool = pool();
    let daemon = start(&pool);
    for arguments in [&["--supervisor"][..], &[]] {
        let mut command = pool.command("a1", &pool.mount_point("a1"));
        assert!(pool.refused(command.args(arguments)).contains("runs already"));
    }
    daemon.stop();
}

#[test]
fn without_a_kernel_that_sends_requests_again_a_crash_is_the_end() {
    let pool = pool();
    let mut daemon = pool.start_with("a1", &["--supervisor", "--hide-resend"]);
    // The log comes through a thread of the supervisor.
    soon("the warning is in the log", || {
        daemon
            .log_text()
            .contains("cannot send requests again")
            .then_some(())
    });
    let file = daemon.open("v");
    let server = Pid::from_raw(member(&pool).pid.try_into().unwrap()).unwrap();
    kill_process(server, Signal::KILL).unwrap();
    assert!(!daemon.wait().success());
    let error = file.read_exact_at(&mut [0; 4], 0).unwrap_err();
    assert!(
        [Errno::NOTCONN, Errno::CONNABORTED].contains(&Errno::from_io_error(&error).unwrap()),
        "{error}"
    );
}

#[test]
fn a_file_system_on_a_loop_device_survives_crashes() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: loop devices need root");
    }
    let pool = pool();
    let daemon = start(&pool);
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let volume = daemon.path("v");
    let device = run(
        "losetup",
        &["--find", "--show", "--direct-io=on", volume.to_str().unwrap()],
    );
    run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0", &device]);
    let place = pool.scratch().join("ext4");
    fs::create_dir(&place).unwrap();
    run("mount", &[&device, place.to_str().unwrap()]);
    let mut random = Random::new(3);
    for number in 0..8 {
        let bytes = random.bytes(200_000);
        let path = place.join(number.to_string());
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let file = File::create(&path).unwrap();
                for part in bytes.chunks(8192) {
                    std::io::Write::write_all(&mut &file, part).unwrap();
                    file.sync_all().unwrap();
                }
            });
            crash(&pool, &daemon, Signal::KILL);
            writer.join().unwrap();
        });
        assert!(fs::read(&path).unwrap() == bytes, "file {number}");
    }
    run("umount", &[place.to_str().unwrap()]);
    run("fsck.ext4", &["-fn", &device]);
    run("losetup", &["--detach", &device]);
    assert!(is_mount_point(daemon.mount()));
    daemon.stop();
}
