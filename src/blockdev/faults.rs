//! Counts failed operations of a disk, for the operator's status.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

/// Kind of operation on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reading.
    Read,
    /// Writing, punching holes, zeroing.
    Write,
    /// Flushing.
    Flush,
}

/// Number of failures since the disk was opened, or since the operator cleared them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Failed reads.
    pub reads: u64,
    /// Failed writes, punched holes and zeroings.
    pub writes: u64,
    /// Failed flushes.
    pub flushes: u64,
    /// The last errno; 0 if there was none.
    pub last: i32,
}

impl FaultCounts {
    /// Returns the number of failures of all kinds.
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
    /// Returns the result, and counts it if it is a failure.
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
