//! Membership and fencing on one host: the shared member table, life locks, the arbitration lock.
//!
//! `POOL/run/members` is mapped by every process of the pool. One 128-byte line per apparatus (two, so that what its owner
//! writes and what others write do not share a line), after a header:
//!
//! ```text
//! header  0 magic  8 format  16 boot id (16)  32 pool uuid (16)  48 hardened generation  56 committed generation
//! line    owner's half:  0 incarnation  8 generation in use  16 oldest generation in use  24 heartbeat (µs, CLOCK_MONOTONIC)  32 pid
//!         others' half: 64 fenced incarnation
//! disks   per disk id modulo 256: 0 dirty  8 flushes started  16 flushes done  (see `DiskMarks`)
//! ```
//!
//! All words are 64-bit atomics in native order: the file never leaves the machine, and a file of another boot is made anew.

use crate::error::Result;
use crate::units::{BootId, DiskId, Generation, Incarnation, Slot};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Apparatuses per pool.
pub const SLOTS: u32 = 64;

/// The mapped table.
pub struct MemberTable {
    _private: (),
}

/// An apparatus's own line.
pub struct MyLine {
    _private: (),
}

/// A line as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Life that writes it.
    pub incarnation: Incarnation,
    /// Table it serves by.
    pub generation: Generation,
    /// No request in flight uses an older one.
    pub oldest: Generation,
    /// When it last showed life, in microseconds of `CLOCK_MONOTONIC`.
    pub heartbeat_us: u64,
    /// Its process.
    pub pid: u32,
    /// The life that must not acknowledge any more; 0 for none.
    pub fenced: Incarnation,
}

impl MemberTable {
    /// Maps the table in `run`, and makes it (anew, if it is of another boot or pool).
    ///
    /// # Errors
    /// When the file cannot be made, mapped or understood.
    pub fn open(_run: &Path, _pool: Uuid, _boot: BootId) -> Result<Arc<Self>> {
        todo!()
    }

    /// Reads a line.
    #[must_use]
    pub fn line(&self, _slot: Slot) -> Line {
        todo!()
    }

    /// Takes a line for this process's life.
    #[must_use]
    pub fn mine(self: &Arc<Self>, _slot: Slot) -> MyLine {
        todo!()
    }

    /// Sets the fence word: when this returns, that life acknowledges nothing more.
    pub fn fence(&self, _slot: Slot, _incarnation: Incarnation) {
        todo!()
    }

    /// The highest generation known to be hardened.
    #[must_use]
    pub fn hardened(&self) -> Generation {
        todo!()
    }

    /// Raises it. Never sets it higher than what is durable.
    pub fn set_hardened(&self, _generation: Generation) {
        todo!()
    }

    /// The flush marks of a disk, shared by all processes.
    #[must_use]
    pub fn marks(self: &Arc<Self>, _disk: DiskId) -> DiskMarks {
        todo!()
    }
}

impl MyLine {
    /// Begins a life.
    pub fn begin(&self, _incarnation: Incarnation, _generation: Generation) {
        todo!()
    }

    /// Whether this life is fenced. One load of a line that only fencing writes.
    #[must_use]
    pub fn fenced(&self) -> bool {
        todo!()
    }

    /// After a switch.
    pub fn set_generation(&self, _generation: Generation) {
        todo!()
    }

    /// From the gate.
    pub fn set_oldest(&self, _oldest: Generation) {
        todo!()
    }

    /// Shows life.
    pub fn beat(&self) {
        todo!()
    }
}

/// Whether a disk was written since it was last flushed, by whatever process.
///
/// A writer, after its write and before its acknowledgement, raises `dirty` to `started + 1`. A flusher reads `dirty`; if
/// `done` is not lower, somebody's flush began after every such write and has finished: nothing to do. Otherwise it takes the next
/// number of `started`, flushes, and raises `done` to that number.
pub struct DiskMarks {
    _private: (),
}

impl DiskMarks {
    /// After a write, before its acknowledgement.
    pub fn written(&self) {
        todo!()
    }

    /// Runs `flush` unless a flush that began after every acknowledged write has finished.
    ///
    /// # Errors
    /// Those of `flush`; the disk stays marked then.
    pub fn flush(&self, _flush: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        todo!()
    }
}

/// Held by a process for as long as it lives, on `run/NAME.life`: `flock`, released by the kernel when the last thread of the
/// process has ended, so that nothing of it can reach a disk any more.
pub struct LifeLock {
    _private: (),
}

impl LifeLock {
    /// Takes it, or `None` when a living process has it.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub fn take(_run: &Path, _name: &str) -> Result<Option<Self>> {
        todo!()
    }

    /// Whether a living process has it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn alive(_run: &Path, _name: &str) -> Result<bool> {
        todo!()
    }
}
