//! How long hosts wait when the server of an apparatus with a supervisor is killed or replaced.
//! `cargo bench --bench pause [-- TIMES] [kill] [spaced] [upgrade] [1000] [1000000]`.
//!
//! Hosts read and write 4 KiB at random places, one or sixteen at a time, and compare each block with what they have written. A pause is the longest
//! time that one of their requests took around a kill or an upgrade. `kill` kills 150 ms after each host goes on, `spaced` after a second (with a million
//! segments five seconds). The images are in `$TMPDIR`. `KEEP_LOG=FILE` keeps the log of the last apparatus, with the times of the steps of each start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "../tests/supervised/mod.rs"]
mod supervised;
#[path = "../tests/support/mod.rs"]
mod support;

use apparatus::admin::apparatus::upgrade;
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::records::{Area, Delta, Edit, Segment};
use apparatus::model::units::{DiskExtent, DiskId, Generation, VolumeExtent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use supervised::{PATIENCE, member, quantile};
use support::{Random, TestPool, name_of};

const EXTENT: u64 = 64 << 10;
const BLOCK: u64 = 4096;
/// Blocks of each host, anywhere in the volume.
const BLOCKS: u64 = 4096;
/// Times of one apparatus: it lives no longer than the tests allow.
const BATCH: u64 = 50;
/// Requests of each host after which it counts as going on.
const GOES_ON: u64 = 3;

/// What is done to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Kill,
    Spaced,
    Upgrade,
}

impl Act {
    const ALL: [(&'static str, Self); 3] = [
        ("kill", Self::Kill),
        ("spaced", Self::Spaced),
        ("upgrade", Self::Upgrade),
    ];

    fn gap(self, segments: u64) -> Duration {
        match (self, segments) {
            (Self::Spaced, 0..100_000) => Duration::from_secs(1),
            (Self::Spaced, _) => Duration::from_secs(5),
            // A server that served no longer than a moment has not recovered, and the next one is started later and later.
            (Self::Kill, _) => Duration::from_millis(150),
            (Self::Upgrade, _) => Duration::ZERO,
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let sizes: Vec<u64> = [1000, 1_000_000]
        .into_iter()
        .filter(|size| numbers.contains(size) || !numbers.iter().any(|number| *number >= 1000))
        .collect();
    let times = numbers
        .iter()
        .copied()
        .find(|number| *number < 1000)
        .unwrap_or(100);
    let chosen = |name: &str| words.iter().any(|word| word == name);
    let any = Act::ALL.iter().any(|(name, _)| chosen(name));
    println!(
        "| what | segments | hosts | times | median | p99 | longest | requests | errors | stale or lost |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for segments in sizes {
        let pool = scattered(segments);
        for hosts in [1, 16] {
            for (name, act) in Act::ALL.iter().filter(|(name, _)| !any || chosen(name)) {
                let times = if *act == Act::Spaced && segments > 100_000 {
                    times.min(20)
                } else {
                    times
                };
                let seen = measure(&pool, *act, (segments, hosts, times));
                seen.print(name, (segments, hosts));
            }
        }
    }
}

/// Makes a volume of this many segments, which alternate between two disks.
fn scattered(segments: u64) -> TestPool {
    let pool = TestPool::new(EXTENT);
    let disks = ["odd", "even"].map(|name| pool.add_disk(name, segments / 2 + 2).id);
    let record = pool.volume_record("v", segments * EXTENT);
    let map = Edit::Map {
        volume: record.id,
        segments: (0..segments).map(|at| segment(at, disks)).collect(),
    };
    let change = NewChange {
        title: "bench".into(),
        job: None,
        delta: Delta {
            from: Generation(0),
            edits: vec![Edit::AddVolume(record), map],
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    };
    let mut controller = pool.controller();
    controller.run_whole(change, &mut || Ok(())).unwrap();
    controller.persist().unwrap();
    drop(controller);
    pool
}

fn segment(at: u64, disks: [DiskId; 2]) -> Segment {
    Segment {
        start: VolumeExtent(at),
        placement: Area {
            disk: disks[usize::from(at.is_multiple_of(2))],
            start: DiskExtent(1 + at / 2),
            len: 1,
        },
    }
}

/// What hosts saw.
#[derive(Default)]
struct Seen {
    /// In milliseconds.
    pauses: Vec<f64>,
    requests: u64,
    errors: u64,
    wrong: u64,
}

impl Seen {
    fn print(mut self, what: &str, (segments, hosts): (u64, u64)) {
        self.pauses.sort_by(f64::total_cmp);
        let [median, most, longest] = [0.5, 0.99, 1.0].map(|part| quantile(&self.pauses, part));
        println!(
            "| {what} | {segments} | {hosts} | {} | {median:.1} ms | {most:.1} ms | {longest:.1} ms | {} | {} | {} |",
            self.pauses.len(),
            self.requests,
            self.errors,
            self.wrong
        );
    }
}

/// A host with one request in flight, as others see it.
#[derive(Default)]
struct Host {
    requests: AtomicU64,
    /// Longest request since this was set to zero, in microseconds.
    longest_us: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
}

impl Host {
    /// Writes and reads blocks of its own until it is told to end, then reads all of them.
    fn work(&self, file: &File, (seed, hosts, bytes): (u64, u64, u64), is_over: &AtomicBool) {
        let blocks = BLOCKS.min(bytes / BLOCK / hosts);
        let stride = bytes / BLOCK / hosts / blocks * BLOCK;
        let at = |slot: usize| (slot as u64 * hosts + seed) * stride;
        let mut versions = vec![0_u64; usize::try_from(blocks).unwrap()];
        for slot in 0..versions.len() {
            // What an earlier host has left.
            self.write(file, at(slot), 0);
        }
        let mut random = Random::new(seed + 1);
        while !is_over.load(Ordering::Relaxed) {
            let slot = usize::try_from(random.below(blocks)).unwrap();
            if random.below(2) == 0 {
                self.read(file, at(slot), versions[slot]);
            } else if self.write(file, at(slot), versions[slot] + 1) {
                versions[slot] += 1;
            }
        }
        for (slot, version) in versions.iter().enumerate() {
            self.read(file, at(slot), *version);
        }
    }

    fn read(&self, file: &File, at: u64, version: u64) {
        let mut bytes = vec![1; usize::try_from(BLOCK).unwrap()];
        if self.timed(|| file.read_exact_at(&mut bytes, at)) && bytes != content(at, version) {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(&self, file: &File, at: u64, version: u64) -> bool {
        let bytes = content(at, version);
        self.timed(|| file.write_all_at(&bytes, at))
    }

    fn timed(&self, request: impl FnOnce() -> std::io::Result<()>) -> bool {
        let begun = Instant::now();
        let done = request();
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap();
        self.longest_us.fetch_max(took, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &done {
            eprintln!("a request failed: {error}");
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        done.is_ok()
    }
}

/// Content of a block in a version of it; nothing was written before the first.
fn content(at: u64, version: u64) -> Vec<u8> {
    let words = (0..BLOCK / 8).map(|word| {
        if version == 0 {
            0
        } else {
            at << 20 ^ version << 10 ^ word
        }
    });
    words.flat_map(u64::to_ne_bytes).collect()
}

fn measure(pool: &TestPool, act: Act, (segments, hosts, times): (u64, u64, u64)) -> Seen {
    let mut seen = Seen::default();
    for done in (0..times).step_by(usize::try_from(BATCH).unwrap()) {
        batch(pool, act, (segments, hosts, (times - done).min(BATCH)), &mut seen);
    }
    seen
}

fn batch(pool: &TestPool, act: Act, (segments, hosts, times): (u64, u64, u64), seen: &mut Seen) {
    let keep = std::env::var_os("KEEP_LOG");
    let level = if keep.is_some() { "debug" } else { "info" };
    let daemon = pool.start_with("a1", &["--supervisor", "--log-level", level]);
    let is_over = AtomicBool::new(false);
    let all: Vec<Host> = (0..hosts).map(|_| Host::default()).collect();
    thread::scope(|scope| {
        for (seed, host) in (0..).zip(&all) {
            let (file, is_over) = (daemon.open("v"), &is_over);
            scope.spawn(move || host.work(&file, (seed, hosts, segments * EXTENT), is_over));
        }
        let mut random = Random::new(times);
        await_requests(&all, 200);
        for _ in 0..times {
            await_requests(&all, 20 + random.below(200));
            thread::park_timeout(act.gap(segments));
            all.iter()
                .for_each(|host| host.longest_us.store(0, Ordering::Relaxed));
            match act {
                Act::Upgrade => {
                    let done = upgrade(&pool.dir, &mut *pool.store(), &name_of("a1"), None, &[], PATIENCE);
                    if let Err(error) = done {
                        println!("not replaced: {error}");
                        continue;
                    }
                }
                Act::Kill | Act::Spaced => kill(pool),
            }
            await_requests(&all, GOES_ON);
            let longest = all
                .iter()
                .map(|host| host.longest_us.load(Ordering::Relaxed))
                .max();
            seen.pauses
                .push(f64::from(u32::try_from(longest.unwrap()).unwrap()) / 1e3);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let sum = |of: fn(&Host) -> &AtomicU64| {
        all.iter()
            .map(|host| of(host).load(Ordering::Relaxed))
            .sum::<u64>()
    };
    seen.requests += sum(|host| &host.requests);
    seen.errors += sum(|host| &host.errors);
    seen.wrong += sum(|host| &host.wrong);
    if let Some(to) = keep {
        std::fs::write(to, daemon.log_text()).unwrap();
    }
    daemon.stop();
}

/// Kills the server, and waits for its end.
fn kill(pool: &TestPool) {
    let server = Pid::from_raw(member(pool).pid.try_into().unwrap()).unwrap();
    let server = pidfd_open(server, PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&server, Signal::KILL).unwrap();
    let patience = Timespec::try_from(PATIENCE).unwrap();
    poll(&mut [PollFd::new(&server, PollFlags::IN)], Some(&patience)).unwrap();
}

/// Waits until each host has completed this many requests more.
fn await_requests(all: &[Host], more: u64) {
    let until = Instant::now() + PATIENCE;
    let before: Vec<u64> = all
        .iter()
        .map(|host| host.requests.load(Ordering::Relaxed))
        .collect();
    let go_on = || {
        let mut each = all.iter().zip(&before);
        each.all(|(host, before)| host.requests.load(Ordering::Relaxed) >= before + more)
    };
    while !go_on() {
        assert!(Instant::now() < until, "hosts do not go on");
        thread::park_timeout(Duration::from_millis(1));
    }
}
