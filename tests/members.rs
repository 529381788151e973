//! Members as real processes: a life lock and the controller lock end with the process that had them, however it ends; a fence word set
//! by one process is seen by another; and writes that were acknowledged before a fence are found when the fence call returns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use apparatus::cluster::{self, Cluster, Role, SharedState, WaitLimit};
use apparatus::model::dir::PoolDir;
use apparatus::model::units::{DiskId, Generation, Incarnation, Slot};
use std::env;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

const DIR: &str = "APPARATUS_TEST_POOL";
const LONG: Duration = Duration::from_secs(100);

fn cluster(dir: &Path) -> Arc<dyn Cluster> {
    cluster::open(&PoolDir::new(dir)).unwrap()
}

fn shared(dir: &Path) -> SharedState {
    cluster(dir).share(Uuid::from_u128(1)).unwrap()
}

/// Not a test of its own: the other process of the tests below, which run this file's binary again.
#[test]
fn the_other_process() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let cluster = cluster(&dir);
    let _claim = cluster.claim("other").unwrap().unwrap();
    let _leadership = cluster.lead(Role::Command, "job 7", WaitLimit::No).unwrap();
    let mine = shared(&dir).members.own(Slot(3));
    mine.begin(Incarnation(4), Generation(5));
    println!("\nready");
    let start = Instant::now();
    while !mine.is_fenced() && start.elapsed() < LONG {
        thread::yield_now();
    }
    println!("\nfenced {}", mine.is_fenced());
    thread::park_timeout(LONG);
}

/// The other process, killed on drop.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--nocapture"])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut other = Self { child, lines };
        other.says("ready");
        other
    }

    fn says(&mut self, expected: &str) {
        let found = self.lines.any(|line| line.unwrap() == expected);
        assert!(found, "it ended without saying {expected:?}");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn locks_end_with_their_process() {
    let dir = tempfile::tempdir().unwrap();
    let pool = &cluster(dir.path());
    let mut other = Other::start(dir.path());
    assert!(pool.is_claimed("other").unwrap());
    assert!(pool.claim("other").unwrap().is_none());
    let holder = pool.leader().unwrap().unwrap();
    assert!(
        holder.starts_with(&format!("job 7 by pid {} since ", other.child.id())),
        "{holder}"
    );
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            pool.lead(Role::Command, "next", WaitLimit::For(Some(LONG)))
                .map(drop)
        });
        let watching = scope.spawn(|| pool.await_end("other", LONG));
        assert!(!pool.await_end("other", Duration::from_millis(20)).unwrap());
        other.kill();
        waiting.join().unwrap().unwrap();
        assert!(watching.join().unwrap().unwrap());
    });
    assert!(!pool.is_claimed("other").unwrap());
    assert!(pool.claim("other").unwrap().is_some());
    assert_eq!(pool.leader().unwrap(), None);
}

#[test]
fn a_fence_reaches_another_process_and_its_line_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Other::start(dir.path());
    let members = shared(dir.path()).members;
    let line = members.entry(Slot(3));
    assert_eq!(
        (line.incarnation, line.generation, line.pid),
        (Incarnation(4), Generation(5), other.child.id())
    );
    members.fence(Slot(3), Incarnation(4));
    other.says("fenced true");
    other.kill();
    assert_eq!(members.entry(Slot(3)).fenced, Incarnation(4));
}

/// Waits for another thread's next few instructions by spinning: on this side of a barrier a system call would hide the race.
fn spin_until(reached: impl Fn() -> bool) {
    let start = Instant::now();
    for turn in 1_u64.. {
        if reached() {
            return;
        }
        std::hint::spin_loop();
        if turn.is_multiple_of(10_000) {
            assert!(start.elapsed() < LONG, "the other thread stands still");
            thread::yield_now();
        }
    }
}

/// Words that are written by different threads, each in a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Word(AtomicU64);

/// One side writes, reads the word, acknowledges; the other sets the word and then reads. The order is that of the data path, and
/// without its barriers about one fence in a hundred finds an acknowledged write missing.
#[test]
fn what_was_acknowledged_is_there_when_the_fence_returns() {
    let dir = tempfile::tempdir().unwrap();
    let SharedState { members, ledgers } = shared(dir.path());
    let (mine, ledger) = (members.own(Slot(0)), ledgers.ledger(DiskId(1)));
    let words: [Word; 4] = Default::default();
    let [data, begun, acknowledged, ended] = words.each_ref().map(|word| &word.0);
    let lives = 500;
    thread::scope(|scope| {
        scope.spawn(|| {
            for life in 1..=lives {
                spin_until(|| begun.load(SeqCst) == life);
                let mut last = data.load(Relaxed);
                while !mine.is_fenced() {
                    data.store(last + 1, Relaxed);
                    ledger.written();
                    last += u64::from(!mine.is_fenced());
                }
                acknowledged.store(last, SeqCst);
                ended.store(life, SeqCst);
            }
        });
        for life in 1..=lives {
            let until = data.load(Relaxed) + life % 64;
            mine.begin(Incarnation(life), Generation(1));
            begun.store(life, SeqCst);
            spin_until(|| data.load(Relaxed) >= until);
            members.fence(Slot(0), Incarnation(life));
            let seen = data.load(Relaxed);
            spin_until(|| ended.load(SeqCst) == life);
            let acknowledged = acknowledged.load(SeqCst);
            assert!(
                seen >= acknowledged,
                "life {life}: {acknowledged} was acknowledged, {seen} is there"
            );
        }
    });
}
