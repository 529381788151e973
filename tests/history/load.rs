//! Hosts that read and write a volume through several mounts and record what they saw.

use super::{Action, Op, Value, WORDS};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a block.
pub const BLOCK: usize = 4096;
pub const BLOCK_BYTES: u64 = 4096;
/// A value is its number shifted left by this, and the block to which it was written.
pub const BLOCK_BITS: u32 = 24;
const FOLLOWED: [usize; WORDS] = [0, 255, 511];
/// An odd factor, so that multiplication can be inverted.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
const UNMIX: u64 = inverse(MIX);

/// Its inverse, by Newton's iteration modulo 2^64.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut i = 0;
    while i < 6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        i += 1;
    }
    x
}

fn encode(value: Value, word: usize) -> u64 {
    if value == 0 {
        0
    } else {
        value.wrapping_add(word as u64).wrapping_mul(MIX)
    }
}

fn decode(bits: u64, word: usize) -> Value {
    if bits == 0 {
        0
    } else {
        bits.wrapping_mul(UNMIX).wrapping_sub(word as u64)
    }
}

pub fn fill(block: &mut [u8], value: Value) {
    for (word, bytes) in block.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&encode(value, word).to_le_bytes());
    }
}

/// Returns the values in a block's words; an error when a word is not of a write to this block.
pub fn values(bytes: &[u8], block: u64) -> Result<[Value; WORDS], String> {
    let mut seen = [0; WORDS];
    for (word, bits) in bytes.chunks_exact(8).enumerate() {
        let value = decode(u64::from_le_bytes(bits.try_into().unwrap()), word);
        if value != 0 && value & ((1 << BLOCK_BITS) - 1) != block {
            return Err(format!(
                "block {block}, word {word} holds {value:#x}, which was never written there"
            ));
        }
        if let Some(at) = FOLLOWED.iter().position(|&followed| followed == word) {
            seen[at] = value;
        }
    }
    Ok(seen)
}

/// The plan of the hosts' work.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The volume's file in each mount.
    pub files: Vec<PathBuf>,
    /// The volume's size in blocks.
    pub blocks: u64,
    /// Host threads on each mount.
    pub threads: usize,
    /// Operations out of ten that write.
    pub writes: u64,
    /// Whether hosts go on after errors and open the file anew, because an apparatus is killed. Otherwise an error ends the host.
    pub survive: bool,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Report {
    /// All operations.
    pub history: Vec<Op>,
    /// Errors, and values that should not have been read.
    pub errors: Vec<String>,
    /// The longest duration of an answered request.
    pub longest: Duration,
    /// Number of requests.
    pub requests: u64,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.history.extend(other.history);
        self.errors.extend(other.errors);
        self.longest = self.longest.max(other.longest);
        self.requests += other.requests;
    }
}

/// Hosts at work. Dropping it asks them to stop and does not wait.
pub struct Load {
    shared: Arc<Shared>,
    reports: Receiver<Report>,
    hosts: usize,
}

struct Shared {
    plan: Plan,
    stop: AtomicBool,
    flushes: AtomicBool,
    next: AtomicU64,
    requests: AtomicU64,
    start: Instant,
}

impl Load {
    /// Starts the hosts.
    pub fn start(plan: Plan) -> Self {
        let hosts = plan.files.len() * plan.threads;
        let shared = Arc::new(Shared {
            plan,
            stop: AtomicBool::new(false),
            flushes: AtomicBool::new(true),
            next: AtomicU64::new(1),
            requests: AtomicU64::new(0),
            start: Instant::now(),
        });
        let (sender, reports) = channel();
        for number in 0..hosts {
            let (shared, sender): (_, Sender<Report>) = (Arc::clone(&shared), sender.clone());
            thread::spawn(move || sender.send(Host::new(shared, number).work()));
        }
        Self {
            shared,
            reports,
            hosts,
        }
    }

    /// Returns the number of requests answered so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Returns the time since the start, to tell what was under way when.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Waits until `more` further requests were answered.
    pub fn wait_for(&self, more: u64, patience: Duration) {
        let (goal, end) = (self.requests() + more, Instant::now() + patience);
        while self.requests() < goal {
            assert!(
                Instant::now() < end,
                "the hosts make no progress: {} of {goal} requests",
                self.requests()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Makes hosts stop flushing, so that no flush persists what a controller has committed.
    pub fn without_flushes(&self) {
        self.shared.flushes.store(false, Ordering::SeqCst);
    }

    /// Asks the hosts to stop; [`Load::finish`] waits for them.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }

    /// Stops the hosts, then reads every block once through every file, so that lost writes are found.
    pub fn finish(self) -> Report {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut report = Report::default();
        for left in (1..=self.hosts).rev() {
            match self.reports.recv_timeout(Duration::from_secs(60)) {
                Ok(part) => report.add(part),
                Err(_) => panic!("{left} hosts hang"),
            }
        }
        for through in 0..self.shared.plan.files.len() {
            report.add(read_all(&self.shared, through));
        }
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    /// Returns a new value, never 0, which is the initial content.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap() + 1
    }

    fn value(&self, block: u64) -> Value {
        self.next.fetch_add(1, Ordering::Relaxed) << BLOCK_BITS | block
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn read_all(shared: &Arc<Shared>, through: usize) -> Report {
    let mut host = Host::new(Arc::clone(shared), through);
    let file = open(&host.path).unwrap();
    for first in (0..shared.plan.blocks).step_by(64) {
        let count = 64.min(shared.plan.blocks - first);
        host.read(&file, first, count).unwrap();
    }
    host.report
}

struct Host {
    shared: Arc<Shared>,
    path: PathBuf,
    through: usize,
    random: u64,
    buffer: Vec<u8>,
    report: Report,
}

impl Host {
    fn new(shared: Arc<Shared>, number: usize) -> Self {
        let through = number % shared.plan.files.len();
        let path = shared.plan.files[through].clone();
        let random = (number as u64 + 1).wrapping_mul(MIX);
        Self {
            shared,
            path,
            through,
            random,
            buffer: Vec::new(),
            report: Report::default(),
        }
    }

    fn work(mut self) -> Report {
        let mut file = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let done = match file.take().map_or_else(|| open(&self.path), Ok) {
                Ok(open) => self.request(&open).map(|()| open),
                Err(error) => Err(error),
            };
            match done {
                Ok(open) => file = Some(open),
                Err(error) => {
                    self.report
                        .errors
                        .push(format!("{}: {error}", self.path.display()));
                    if !self.shared.plan.survive {
                        break;
                    }
                    // The mount is gone until its apparatus is started again.
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
        self.report
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    /// Half of the requests go to a few blocks that all hosts share; some go across the borders of extents.
    fn request(&mut self, file: &File) -> io::Result<()> {
        if self.below(100) == 0 && self.shared.flushes.load(Ordering::Relaxed) {
            // Makes the apparatus persist what a move has committed.
            file.sync_data()?;
        }
        let blocks = self.shared.plan.blocks;
        let count = [1, 1, 1, 2, 16][usize::try_from(self.below(5)).unwrap()].min(blocks);
        let hot = self.below(16) * (blocks / 16);
        let first = if self.below(2) == 0 {
            hot
        } else {
            self.below(blocks)
        }
        .min(blocks - count);
        if self.below(10) < self.shared.plan.writes {
            self.write(file, first, count)
        } else {
            self.read(file, first, count)
        }
    }

    fn write(&mut self, file: &File, first: u64, count: u64) -> io::Result<()> {
        self.buffer.resize(usize::try_from(count).unwrap() * BLOCK, 0);
        let numbers: Vec<Value> = (first..first + count)
            .map(|block| self.shared.value(block))
            .collect();
        self.buffer
            .chunks_exact_mut(BLOCK)
            .zip(&numbers)
            .for_each(|(block, &value)| fill(block, value));
        let start = self.shared.now();
        let done = file.write_all_at(&self.buffer, first * BLOCK_BYTES);
        let end = self.answered(start, done.is_ok());
        for (block, value) in (first..).zip(numbers) {
            self.report.history.push(Op {
                block,
                action: Action::Write(value),
                start,
                end,
                through: self.through,
                twice: false,
            });
        }
        done
    }

    fn read(&mut self, file: &File, first: u64, count: u64) -> io::Result<()> {
        self.buffer.resize(usize::try_from(count).unwrap() * BLOCK, 0);
        let start = self.shared.now();
        file.read_exact_at(&mut self.buffer, first * BLOCK_BYTES)?;
        let end = self.answered(start, true);
        for (block, bytes) in (first..).zip(self.buffer.chunks_exact(BLOCK)) {
            match values(bytes, block) {
                Ok(seen) => self.report.history.push(Op {
                    block,
                    action: Action::Read(seen),
                    start,
                    end,
                    through: self.through,
                    twice: false,
                }),
                Err(what) => self.report.errors.push(what),
            }
        }
        Ok(())
    }

    fn answered(&mut self, start: u64, ok: bool) -> Option<u64> {
        let end = self.shared.now();
        self.report.requests += 1;
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        if ok {
            self.report.longest = self.report.longest.max(Duration::from_nanos(end - start));
        }
        ok.then_some(end)
    }
}
