//! What went wrong on a disk, counted, for whoever tells the operator.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reading.
    Read,
    /// Writing, punching, zeroing.
    Write,
    /// Making writes durable.
    Flush,
}

/// Failures since the disk was opened, or since the operator had them cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Of reads.
    pub reads: u64,
    /// Of writes, punches and zeroings.
    pub writes: u64,
    /// Of flushes.
    pub flushes: u64,
    /// The last errno; 0 when there was none.
    pub last: i32,
}

impl FaultCounts {
    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.reads + self.writes + self.flushes
    }
}

#[derive(Default)]
pub(super) struct Faults {
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    last: AtomicI32,
}

impl Faults {
    /// Passes the result on, and counts it if it is a failure.
    pub(super) fn noted<T>(&self, operation: Operation, result: io::Result<T>) -> io::Result<T> {
        if let Err(why) = &result {
            self.note(operation, why.raw_os_error().unwrap_or(libc::EIO));
        }
        result
    }

    pub(super) fn note(&self, operation: Operation, errno: i32) {
        let counter = match operation {
            Operation::Read => &self.reads,
            Operation::Write => &self.writes,
            Operation::Flush => &self.flushes,
        };
        counter.fetch_add(1, Relaxed);
        self.last.store(errno, Relaxed);
    }

    pub(super) fn clear(&self) {
        for counter in [&self.reads, &self.writes, &self.flushes] {
            counter.store(0, Relaxed);
        }
        self.last.store(0, Relaxed);
    }

    pub(super) fn counts(&self) -> FaultCounts {
        FaultCounts {
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
            last: self.last.load(Relaxed),
        }
    }
}
