//! File locks of hosts apply through all mounts of a pool: flock, POSIX and open-file-description locks. They end with their owner and
//! with the apparatus through which they were taken, a waiter gets the lock or can be killed, and requests for bytes do not wait for them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use apparatus::sys::{RangeLock, range_lock_conflict, set_range_lock};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use support::{Daemon, TestPool};

const PATIENCE: Duration = Duration::from_secs(100);
const EXTENT: u64 = 64 << 10;

fn pool() -> TestPool {
    let pool = TestPool::new(EXTENT);
    let disk = pool.add_disk("d", 16);
    pool.add_volume("v", 4 * EXTENT, &[(disk.id, 1, 4)]);
    pool
}

fn range(start: u64, end: u64, exclusive: Option<bool>) -> RangeLock {
    RangeLock {
        start,
        end,
        exclusive,
    }
}

fn try_range(file: &File, lock: RangeLock) -> bool {
    set_range_lock(file.as_fd(), lock).unwrap()
}

/// Tries until the condition holds: the kernel reports a close to an apparatus after the call has returned.
fn soon(mut so: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !so() {
        assert!(std::time::Instant::now() < until, "not in time");
        thread::yield_now();
    }
}

/// A process that has locked the whole file by flock, and reports when.
struct Locker(Child);

impl Locker {
    fn of(path: &Path) -> Self {
        let mut child = Command::new("flock")
            .arg(path)
            .args(["sh", "-c", "echo locked; exec sleep 200"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "locked\n");
        Self(child)
    }

    /// Ends flock and what it runs, which has the file open, too.
    fn kill(mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let mut text = String::new();
        File::open(children).unwrap().read_to_string(&mut text).unwrap();
        for pid in text.split_whitespace() {
            kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        }
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

fn refused(answer: rustix::io::Result<()>) -> bool {
    match answer {
        Ok(()) => false,
        Err(Errno::WOULDBLOCK | Errno::ACCESS) => true,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_kind_of_lock_excludes_others_through_both_mounts_until_it_is_given_back() {
    let pool = pool();
    let (a, b) = (pool.start("a"), pool.start("b"));
    let (mine, same, other) = (a.open("v"), a.open("v"), b.open("v"));
    flock(&mine, FlockOperation::NonBlockingLockExclusive).unwrap();
    for file in [&same, &other] {
        assert!(refused(flock(file, FlockOperation::NonBlockingLockShared)));
        assert!(!try_range(file, range(7, 7, Some(true))), "as on NFS");
    }
    flock(&mine, FlockOperation::NonBlockingLockShared).unwrap();
    flock(&other, FlockOperation::NonBlockingLockShared).unwrap();
    assert!(refused(flock(&mine, FlockOperation::NonBlockingLockExclusive)));
    flock(&mine, FlockOperation::Unlock).unwrap();
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(other);

    let other = b.open("v");
    soon(|| fcntl_lock(&mine, FlockOperation::NonBlockingLockExclusive).is_ok());
    assert!(refused(fcntl_lock(&other, FlockOperation::NonBlockingLockShared)));
    fcntl_lock(&mine, FlockOperation::Unlock).unwrap();

    // As QEMU does: shared locks on bytes from 100 on, and a check whether others have them.
    assert!(try_range(&mine, range(100, 110, Some(false))));
    assert!(try_range(&other, range(105, 120, Some(false))));
    let found = range_lock_conflict(other.as_fd(), range(0, 104, Some(true))).unwrap();
    assert_eq!(found, Some(range(100, 110, Some(false))));
    assert!(try_range(&mine, range(100, 104, None)), "split");
    let found = range_lock_conflict(other.as_fd(), range(0, 200, Some(true))).unwrap();
    assert_eq!(found, Some(range(105, 110, Some(false))));
    drop(mine);
    soon(|| try_range(&other, range(0, 200, Some(true))));
}

#[test]
fn locks_end_with_their_process_and_with_their_apparatus() {
    let pool = pool();
    let (a, b) = (pool.start("a"), pool.start("b"));
    let other = b.open("v");
    let locker = Locker::of(&a.path("v"));
    assert!(refused(flock(&other, FlockOperation::NonBlockingLockExclusive)));
    locker.kill();
    soon(|| flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok());
    flock(&other, FlockOperation::Unlock).unwrap();

    let mine = a.open("v");
    assert!(try_range(&mine, range(0, 9, Some(true))));
    assert!(!try_range(&other, range(0, 9, Some(true))));
    a.kill();
    assert!(
        try_range(&other, range(0, 9, Some(true))),
        "nobody serves the first"
    );
}

/// Waits in a thread for an exclusive flock.
fn waiting(daemon: &Daemon) -> std::sync::mpsc::Receiver<File> {
    let (file, (sender, receiver)) = (daemon.open("v"), channel());
    thread::spawn(move || {
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let _ = sender.send(file);
    });
    receiver
}

#[test]
fn a_waiter_occupies_no_reader_and_gets_the_lock_when_it_is_free() {
    let pool = pool();
    let a = pool.start_with("a", &["--threads", "1"]);
    let b = pool.start("b");
    let mine = a.open("v");
    flock(&mine, FlockOperation::NonBlockingLockExclusive).unwrap();
    let waits: Vec<_> = [&a, &a, &b, &b].map(waiting).into();
    // All reach their apparatus; whenever they do, these requests are served.
    for round in 0..50 {
        for daemon in [&a, &b] {
            let file = daemon.open("v");
            file.write_all_at(&[round; 512], 0).unwrap();
            let mut found = [0; 512];
            file.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(found, [round; 512]);
        }
    }
    assert!(waits.iter().all(|receiver| receiver.try_recv().is_err()));
    drop(mine);
    // Each gets the lock in turn, as the one before closes its file.
    let mut left = waits;
    while !left.is_empty() {
        let mut got = None;
        soon(|| {
            got = left
                .iter()
                .enumerate()
                .find_map(|(at, receiver)| Some((at, receiver.try_recv().ok()?)));
            got.is_some()
        });
        let (at, file) = got.unwrap();
        left.remove(at);
        assert!(left.iter().all(|receiver| receiver.try_recv().is_err()));
        drop(file);
    }
}

#[test]
fn a_waiter_for_a_lock_can_be_killed() {
    let pool = pool();
    let (a, b) = (pool.start("a"), pool.start("b"));
    let mine = b.open("v");
    flock(&mine, FlockOperation::NonBlockingLockExclusive).unwrap();
    for signal in [Signal::TERM, Signal::KILL] {
        let mut child = Command::new("flock")
            .arg(a.path("v"))
            .arg("true")
            .spawn()
            .unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        // It waits in the system call.
        soon(|| {
            let at = std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default();
            at.starts_with(&format!("{} ", libc_flock()))
        });
        rustix::process::pidfd_send_signal(&process, signal).unwrap();
        soon(|| child.try_wait().unwrap().is_some());
        assert!(!child.wait().unwrap().success());
    }
    assert!(refused(flock(
        a.open("v"),
        FlockOperation::NonBlockingLockExclusive
    )));
}

/// The number of the system call.
fn libc_flock() -> i64 {
    if cfg!(target_arch = "x86_64") { 73 } else { 32 }
}
