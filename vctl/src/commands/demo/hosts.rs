//! Hosts that write and verify a volume through two apparatuses while it is moved.
//!
//! Each block has one writer, so its numbers only grow. A reader notes the last acknowledged number before it reads and the last begun
//! number afterwards: every word that it reads must be between the two. An older word was lost or reverted; a word of another block is
//! misplaced.

use apparatus::model::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const WORD: usize = 8;

/// The results of the hosts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostReport {
    pub(super) requests: u64,
    pub(super) longest: Duration,
    pub(super) errors: u64,
    pub(super) lost: u64,
}

impl HostReport {
    fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            longest: self.longest.max(other.longest),
            errors: self.errors + other.errors,
            lost: self.lost + other.lost,
        }
    }
}

/// The acknowledged and begun write of every block.
struct Ledger {
    begun: Vec<AtomicU64>,
    acknowledged: Vec<AtomicU64>,
    requests: AtomicU64,
    over: AtomicBool,
}

/// Two writers and two readers, one of each on each apparatus.
pub(super) struct Hosts {
    ledger: Arc<Ledger>,
    threads: Vec<JoinHandle<HostReport>>,
    files: Vec<PathBuf>,
}

fn open(path: &Path) -> Result<File> {
    let opened = File::options().read(true).write(true).open(path);
    opened.map_err(|error| Error::because(path.display().to_string(), error))
}

/// Returns a block in which every word names the block and the number of its write.
fn stamp(block: usize, number: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let word = ((block as u64) << 32 | number).to_le_bytes();
    bytes
        .chunks_exact_mut(WORD)
        .for_each(|place| place.copy_from_slice(&word));
    bytes
}

/// Returns whether every word belongs to this block and to a write in the range.
fn is_right(bytes: &[u8], block: usize, from: u64, to: u64) -> bool {
    bytes.chunks_exact(WORD).all(|word| {
        let word = word
            .iter()
            .rev()
            .fold(0, |value: u64, &byte| value << 8 | u64::from(byte));
        word >> 32 == block as u64 && (from..=to).contains(&(word & u64::from(u32::MAX)))
    })
}

impl Hosts {
    /// Fills the volume through the first file, and starts the threads.
    pub(super) fn start(files: &[PathBuf], bytes: u64) -> Result<Self> {
        let blocks = usize::try_from(bytes).map_or(0, |bytes| bytes / BLOCK);
        let ones = || (0..blocks).map(|_| AtomicU64::new(1)).collect();
        let ledger = Arc::new(Ledger {
            begun: ones(),
            acknowledged: ones(),
            requests: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        fill(&open(&files[0])?, blocks).map_err(|error| Error::because("filling the volume", error))?;
        let mut hosts = Self {
            ledger,
            threads: Vec::new(),
            files: files.to_vec(),
        };
        for (at, path) in files.iter().enumerate() {
            let (writer, reader) = (open(path)?, open(path)?);
            let (ours, theirs) = (Arc::clone(&hosts.ledger), Arc::clone(&hosts.ledger));
            let share = files.len();
            hosts.spawn(move || write(&ours, &writer, at, share))?;
            hosts.spawn(move || read(&theirs, &reader, at as u64 + 1))?;
        }
        Ok(hosts)
    }

    fn spawn(&mut self, work: impl FnOnce() -> HostReport + Send + 'static) -> Result<()> {
        let thread = Builder::new().name("host".into()).spawn(work);
        self.threads
            .push(thread.map_err(|error| Error::because("demo", error))?);
        Ok(())
    }

    /// Returns the number of requests answered so far.
    pub(super) fn requests(&self) -> u64 {
        self.ledger.requests.load(Ordering::Relaxed)
    }

    /// Stops the threads, compares every block through every file, and returns the results.
    pub(super) fn finish(mut self) -> Result<HostReport> {
        let mut report = self.end();
        for path in &self.files {
            report = report.and(self.compare(&open(path)?));
        }
        Ok(report)
    }

    fn end(&mut self) -> HostReport {
        self.ledger.over.store(true, Ordering::Relaxed);
        let broken = HostReport {
            errors: 1,
            ..HostReport::default()
        };
        let ended = self
            .threads
            .drain(..)
            .map(|thread| thread.join().unwrap_or(broken));
        ended.fold(HostReport::default(), HostReport::and)
    }

    fn compare(&self, file: &File) -> HostReport {
        let mut report = HostReport::default();
        let mut bytes = [0; BLOCK];
        for (block, acknowledged) in self.ledger.acknowledged.iter().enumerate() {
            let last = acknowledged.load(Ordering::Acquire);
            match file.read_exact_at(&mut bytes, (block * BLOCK) as u64) {
                Err(_) => report.errors += 1,
                Ok(()) if !is_right(&bytes, block, last, last) => report.lost += 1,
                Ok(()) => {}
            }
        }
        report
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.end();
    }
}

fn fill(file: &File, blocks: usize) -> std::io::Result<()> {
    const AT_ONCE: usize = 256;
    for first in (0..blocks).step_by(AT_ONCE) {
        let bytes: Vec<u8> = (first..(first + AT_ONCE).min(blocks))
            .flat_map(|block| stamp(block, 1))
            .collect();
        file.write_all_at(&bytes, (first * BLOCK) as u64)?;
    }
    file.sync_data()
}

/// Writes the blocks `at`, `at + share`, … in a pseudo-random order.
fn write(ledger: &Ledger, file: &File, at: usize, share: usize) -> HostReport {
    let mut report = HostReport::default();
    let mut random = at as u64 + 7;
    let own = ledger.begun.len() / share;
    while !ledger.over.load(Ordering::Relaxed) {
        let block = pick(&mut random, own) * share + at;
        let number = ledger.begun[block].fetch_add(1, Ordering::AcqRel) + 1;
        let began = Instant::now();
        match file.write_all_at(&stamp(block, number), (block * BLOCK) as u64) {
            Ok(()) => ledger.acknowledged[block].store(number, Ordering::Release),
            Err(_) => report.errors += 1,
        }
        answered(ledger, &mut report, began);
    }
    report
}

fn read(ledger: &Ledger, file: &File, seed: u64) -> HostReport {
    let mut report = HostReport::default();
    let mut random = seed;
    let mut bytes = [0; BLOCK];
    while !ledger.over.load(Ordering::Relaxed) {
        let block = pick(&mut random, ledger.begun.len());
        let from = ledger.acknowledged[block].load(Ordering::Acquire);
        let began = Instant::now();
        let done = file.read_exact_at(&mut bytes, (block * BLOCK) as u64);
        answered(ledger, &mut report, began);
        let to = ledger.begun[block].load(Ordering::Acquire);
        match done {
            Err(_) => report.errors += 1,
            Ok(()) if !is_right(&bytes, block, from, to) => report.lost += 1,
            Ok(()) => {}
        }
    }
    report
}

fn answered(ledger: &Ledger, report: &mut HostReport, began: Instant) {
    report.requests += 1;
    report.longest = report.longest.max(began.elapsed());
    ledger.requests.fetch_add(1, Ordering::Relaxed);
}

/// Returns a number below `bound` (xorshift64).
fn pick(random: &mut u64, bound: usize) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    usize::try_from(*random % bound.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_a_foreign_and_a_torn_block_are_detected() {
        let mut bytes = stamp(3, 7);
        assert!(is_right(&bytes, 3, 7, 7));
        assert!(is_right(&bytes, 3, 6, 9));
        assert!(!is_right(&bytes, 3, 8, 9), "older than what was acknowledged");
        assert!(!is_right(&bytes, 4, 7, 7), "of another block");
        bytes[..WORD].copy_from_slice(&stamp(3, 5)[..WORD]);
        assert!(!is_right(&bytes, 3, 7, 7), "one word is older");
    }

    #[test]
    fn a_write_that_did_not_arrive_is_found() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        File::create(&path).unwrap().set_len(64 * BLOCK as u64).unwrap();
        let hosts = Hosts::start(&[path.clone(), path.clone()], 64 * BLOCK as u64).unwrap();
        let ledger = Arc::clone(&hosts.ledger);
        while ledger.requests.load(Ordering::Relaxed) < 1000 {
            std::thread::yield_now();
        }
        let report = hosts.finish().unwrap();
        assert_eq!((report.errors, report.lost), (0, 0));
        let hosts = Hosts {
            ledger,
            threads: Vec::new(),
            files: vec![path.clone()],
        };
        open(&path)
            .unwrap()
            .write_all_at(&stamp(5, 1), 6 * BLOCK as u64)
            .unwrap();
        assert_eq!(hosts.finish().unwrap().lost, 1);
    }
}
