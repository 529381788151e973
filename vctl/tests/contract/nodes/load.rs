//! Hosts that write and read a volume through several mounts at once, and know what each sector may read as.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope};

/// A host writes whole blocks; a disk keeps whole sectors.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// The blocks of a volume, with the numbers of the writes to each.
pub struct Load {
    volumes: Vec<PathBuf>,
    blocks: Vec<Block>,
    over: AtomicBool,
    requests: AtomicU64,
}

#[derive(Default)]
struct Block {
    /// The number of the write that is under way, or was the last one. One host at a time writes a block.
    begun: AtomicU64,
    /// The number of the last write that was acknowledged.
    done: AtomicU64,
    writes: Mutex<()>,
}

/// Ends the hosts when it is dropped, also when the test fails.
pub struct End<'l>(&'l Load);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn content(at: usize, number: u64) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[..8].copy_from_slice(&number.to_le_bytes());
    sector[8..].fill(u8::try_from((at as u64 ^ number) & 0xff).unwrap());
    sector
}

impl Load {
    /// Makes the load of a volume that is new and has this many bytes, as it is seen at these paths.
    pub fn new(volumes: Vec<PathBuf>, bytes: usize) -> Self {
        Self {
            volumes,
            blocks: (0..bytes / BLOCK).map(|_| Block::default()).collect(),
            over: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        }
    }

    /// Starts a writer and a reader on each path.
    pub fn start<'s>(&'s self, scope: &'s Scope<'s, '_>) -> End<'s> {
        for (seed, path) in (1..).zip(&self.volumes) {
            let open = || OpenOptions::new().read(true).write(true).open(path).unwrap();
            let (one, other) = (open(), open());
            scope.spawn(move || self.run(seed, |at| self.write(&one, at)));
            scope.spawn(move || self.run(seed + 100, |at| self.read(&other, at)));
        }
        End(self)
    }

    fn run(&self, seed: u64, request: impl Fn(usize)) {
        let mut state = seed;
        while !self.over.load(Ordering::Relaxed) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(state >> 33).unwrap() % self.blocks.len();
            request(at);
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of requests that have been answered.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn write(&self, file: &File, at: usize) {
        let block = &self.blocks[at];
        let _writes = block.writes.lock().unwrap();
        let number = block.begun.load(Ordering::SeqCst) + 1;
        block.begun.store(number, Ordering::SeqCst);
        let bytes = content(at, number).repeat(BLOCK / SECTOR);
        file.write_all_at(&bytes, (at * BLOCK) as u64).unwrap();
        block.done.store(number, Ordering::SeqCst);
    }

    /// Reads a block: each sector has a write that was acknowledged before, or one that came later.
    fn read(&self, file: &File, at: usize) {
        let block = &self.blocks[at];
        let least = block.done.load(Ordering::SeqCst);
        let mut bytes = [0; BLOCK];
        file.read_exact_at(&mut bytes, (at * BLOCK) as u64).unwrap();
        let most = block.begun.load(Ordering::SeqCst);
        for sector in bytes.chunks(SECTOR) {
            let number = u64::from_le_bytes(sector[..8].try_into().unwrap());
            assert!(
                (least..=most).contains(&number),
                "block {at} reads as write {number}, and has to be one of {least} to {most}"
            );
            let expected = if number == 0 {
                [0; SECTOR]
            } else {
                content(at, number)
            };
            assert_eq!(sector, expected, "block {at}, write {number}");
        }
    }

    /// Checks all blocks on all paths, once nobody writes any more.
    pub fn check(&self) {
        for path in &self.volumes {
            let file = File::open(path).unwrap();
            (0..self.blocks.len()).for_each(|at| self.read(&file, at));
        }
    }

    /// Runs `work` while hosts write and read, and checks everything after it.
    pub fn during(&self, work: impl FnOnce()) {
        thread::scope(|scope| {
            let _end = self.start(scope);
            work();
        });
        self.check();
    }
}
