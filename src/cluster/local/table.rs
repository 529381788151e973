//! The member table: opening and creating the file, and its entries.

use super::anchor::Anchor;
use super::flush_ledger::{DIRTY, DiskLedger, FAILED, LEDGERS, TELLING};
use super::flushers::Flushers;
use super::lock;
use super::place::{Placed, TablePlace};
use super::shared::Words;
use crate::cluster::{Membership, OwnEntry};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::member::{MemberEntry, SLOTS};
use crate::model::units::{CacheEpoch, DiskId, Generation, Incarnation, Slot};
use crate::sys;
use crate::sys::hold;
use rustix::thread::{MembarrierCommand, membarrier};
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"APPARMEM";
const FORMAT: u64 = 3;

/// Offset of the persisted generation, and so the length of the header's fixed part.
pub(super) const PERSISTED: usize = 48;
/// Length of the magic and format that every table of this format begins with.
pub(super) const BEGINNING: usize = 16;
const COMMITTED: usize = 56;
const LINES: usize = 128;
const LINE: usize = 128;
const DISKS: usize = LINES + SLOTS as usize * LINE;
const LEDGER: usize = 64;
pub(super) const SIZE: usize = DISKS + LEDGERS * LEDGER;

/// Returns the content of a new table. Earlier writes to the disks are unknown, so all count as dirty.
pub(super) fn blank(header: &[u8; PERSISTED]) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    bytes[..PERSISTED].copy_from_slice(header);
    for index in 0..LEDGERS {
        let at = ledger_of(index) + DIRTY;
        bytes[at..at + 8].copy_from_slice(&1_u64.to_ne_bytes());
    }
    bytes
}

/// Returns whether a table, given its whole content, holds a fact about a disk that a new one would lack: a failed flush, or one with an unknown result.
pub(super) fn remembers(bytes: &[u8]) -> bool {
    let word = |at: usize| {
        bytes
            .get(at..at + 8)
            .is_none_or(|word| word.iter().any(|&byte| byte != 0))
    };
    let mut fields = (0..LEDGERS).flat_map(|index| TELLING.map(|field| ledger_of(index) + field));
    fields.any(word)
}

const INCARNATION: usize = 0;
const GENERATION: usize = 8;
const OLDEST: usize = 16;
const HEARTBEAT: usize = 24;
const PID: usize = 32;
const FENCED: usize = 64;

/// Mapped member table.
pub struct MemberTable {
    words: Words,
    place: TablePlace,
    made: bool,
    /// For each ledger, a lock for one flush at a time in this process, so that waiting threads find it done. It holds the bits of the processes whose
    /// flushes are in doubt: those that had begun, with an unknown result, when this process opened the disk.
    pub(super) flushing: [Mutex<u128>; LEDGERS],
    /// Number of flushes that had failed when this process opened the table.
    pub(super) failed_before: [u64; LEDGERS],
    pub(super) flushers: Flushers,
}

/// Entry of an apparatus, for that apparatus.
pub struct OwnLine {
    table: Arc<MemberTable>,
    line: usize,
    /// Copy of the incarnation, which the data path reads without touching a cache line that is written all the time.
    life: AtomicU64,
    lease: LeaseEnd,
}

/// The time until which this process may acknowledge, in a cache line of its own: it is read with each request and seldom written.
#[repr(align(128))]
struct LeaseEnd(AtomicU64);

/// The end of a lease where there is none.
const NO_LEASE: u64 = u64::MAX;

impl MemberTable {
    /// Maps the pool's table. Creates it, and the run directory, if it does not exist, and replaces one of another boot or pool. While a process has it
    /// open, no process can create another one: all living processes use the same words, whatever files are deleted.
    ///
    /// # Errors
    /// Fails when the file cannot be created, mapped or understood, or when other processes have a table open that this one cannot find.
    pub fn open(pool: &PoolDir, uuid: Uuid, boot: CacheEpoch) -> Result<Arc<Self>> {
        let pool = &hold(pool)?;
        lock::make_run_dir(pool)?;
        let Placed { file, place, made } =
            TablePlace::find_or_make(pool, Anchor::of(pool)?, &header(uuid, boot))?;
        let failed = |why: io::Error| Error::because(format!("member table {}", place.name().display()), why);
        let words = Words::new(&file, SIZE / 8).map_err(failed)?;
        let failures = |index| words.at(ledger_of(index) + FAILED).load(Acquire);
        Ok(Arc::new(Self {
            failed_before: std::array::from_fn(failures),
            words,
            place,
            made,
            flushing: std::array::from_fn(|_| Mutex::new(0)),
            flushers: Flushers::new(file),
        }))
    }

    /// Returns whether this opening created the file.
    #[must_use]
    pub fn made_anew(&self) -> bool {
        self.made
    }

    /// Restores the link to the table, so that other processes find it, if that was deleted or leads elsewhere. Returns whether it did.
    ///
    /// # Errors
    /// Fails when the link cannot be restored, or the table itself was deleted: no other process can open it then, so the pool cannot be changed any
    /// more.
    pub fn restore(&self) -> Result<bool> {
        self.place.restore()
    }

    /// Removes the table if no other process uses it and it holds no fact that a new one would lack. Called by a process that no longer uses it.
    pub fn leave(&self) {
        match self.place.leave(self.flushers.file()) {
            Ok(true) => log::debug!("removed the member table, which is no longer in use"),
            Ok(false) => {}
            Err(why) => log::debug!("the member table stays: {why}"),
        }
    }

    /// Reads an entry.
    #[must_use]
    pub fn line(&self, slot: Slot) -> MemberEntry {
        let at = line_of(slot);
        let word = |field: usize| self.words.at(at + field).load(Acquire);
        MemberEntry {
            incarnation: Incarnation(word(INCARNATION)),
            generation: Generation(word(GENERATION)),
            oldest: Generation(word(OLDEST)),
            heartbeat_us: word(HEARTBEAT),
            pid: u32::try_from(word(PID)).unwrap_or(0),
            fenced: Incarnation(word(FENCED)),
        }
    }

    /// Returns the entry of this apparatus, for writing.
    #[must_use]
    pub fn mine(self: &Arc<Self>, slot: Slot) -> OwnLine {
        // This lets `fence` reach this process quickly. Where the kernel refuses it, the barrier in `DiskLedger::written` suffices.
        let _ = membarrier(MembarrierCommand::RegisterGlobalExpedited);
        OwnLine {
            table: Arc::clone(self),
            line: line_of(slot),
            life: AtomicU64::new(0),
            lease: LeaseEnd(AtomicU64::new(NO_LEASE)),
        }
    }

    /// Sets the fence word: what that incarnation acknowledges from now on was on its disk before this returns (see the module). Incarnations increase, so a
    /// late fence of an earlier one changes nothing.
    pub fn fence(&self, slot: Slot, incarnation: Incarnation) {
        self.words
            .at(line_of(slot) + FENCED)
            .fetch_max(incarnation.0, SeqCst);
        fence(SeqCst);
        // Where the kernel refuses it, the barrier in `DiskLedger::written` suffices.
        let _ = membarrier(MembarrierCommand::GlobalExpedited);
    }

    /// Returns the highest generation that is known to be persisted.
    #[must_use]
    pub fn persisted(&self) -> Generation {
        Generation(self.words.at(PERSISTED).load(Acquire))
    }

    /// Raises the persisted generation. The caller never sets it higher than what is durable.
    pub fn set_persisted(&self, generation: Generation) {
        self.words.at(PERSISTED).fetch_max(generation.0, SeqCst);
    }

    /// Returns the highest generation that is known to be committed.
    #[must_use]
    pub fn committed(&self) -> Generation {
        Generation(self.words.at(COMMITTED).load(Acquire))
    }

    /// Raises the committed generation, after the commit.
    pub fn set_committed(&self, generation: Generation) {
        self.words.at(COMMITTED).fetch_max(generation.0, SeqCst);
    }

    /// Returns the flush ledger of a disk, which all processes share.
    #[must_use]
    pub fn ledger(self: &Arc<Self>, disk: DiskId) -> DiskLedger {
        DiskLedger::new(Arc::clone(self), disk)
    }

    /// Returns a word of a ledger.
    pub(super) fn ledger_word(&self, index: usize, field: usize) -> &AtomicU64 {
        self.words.at(ledger_of(index) + field)
    }
}

fn ledger_of(index: usize) -> usize {
    DISKS + index * LEDGER
}

/// Returns the offset of a slot's entry. Slots come from the store, which knows their number; a damaged one yields the last entry, inside the file.
fn line_of(slot: Slot) -> usize {
    LINES + slot.0.min(SLOTS - 1) as usize * LINE
}

impl Membership for Arc<MemberTable> {
    fn own(&self, slot: Slot) -> Arc<dyn OwnEntry> {
        Arc::new(self.mine(slot))
    }

    fn entry(&self, slot: Slot) -> MemberEntry {
        self.line(slot)
    }

    fn fence(&self, slot: Slot, incarnation: Incarnation) {
        MemberTable::fence(self, slot, incarnation);
    }

    fn committed(&self) -> Generation {
        MemberTable::committed(self)
    }

    fn set_committed(&self, generation: Generation) {
        MemberTable::set_committed(self, generation);
    }

    fn restore(&self) -> Result<bool> {
        MemberTable::restore(self)
    }

    fn leave(&self) {
        MemberTable::leave(self);
    }
}

impl OwnLine {
    fn word(&self, field: usize) -> &AtomicU64 {
        self.table.words.at(self.line + field)
    }
}

impl OwnEntry for OwnLine {
    fn begin(&self, incarnation: Incarnation, generation: Generation) {
        self.word(PID).store(std::process::id().into(), Relaxed);
        self.word(GENERATION).store(generation.0, Relaxed);
        self.word(OLDEST).store(generation.0, Relaxed);
        self.beat();
        self.word(INCARNATION).store(incarnation.0, SeqCst);
        self.life.store(incarnation.0, SeqCst);
    }

    fn end(&self) {
        self.life.store(0, SeqCst);
        self.word(INCARNATION).store(0, SeqCst);
    }

    /// Loads one cache line that only fencing writes.
    fn is_fenced(&self) -> bool {
        self.word(FENCED).load(Acquire) >= self.life.load(Relaxed)
    }

    fn has_lapsed(&self) -> bool {
        let until = self.lease.0.load(Acquire);
        until != NO_LEASE && sys::boottime_us() >= until
    }

    fn set_lease(&self, until_us: u64) {
        let until_us = until_us.min(NO_LEASE - 1);
        let raise = |now: u64| match now {
            NO_LEASE => Some(until_us),
            now => Some(now.max(until_us)),
        };
        // It cannot fail: there is always a next value.
        let _ = self.lease.0.fetch_update(SeqCst, SeqCst, raise);
    }

    fn lease_clock_us(&self) -> u64 {
        sys::boottime_us()
    }

    fn set_generation(&self, generation: Generation) {
        self.word(GENERATION).store(generation.0, Release);
    }

    fn set_oldest(&self, oldest: Generation) {
        self.word(OLDEST).store(oldest.0, Release);
    }

    fn beat(&self) {
        self.word(HEARTBEAT).store(sys::monotonic_us(), Release);
    }
}

impl Drop for MemberTable {
    fn drop(&mut self) {
        self.leave();
    }
}

fn header(pool: Uuid, boot: CacheEpoch) -> [u8; PERSISTED] {
    let mut header = [0; PERSISTED];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&FORMAT.to_ne_bytes());
    header[16..32].copy_from_slice(boot.0.as_bytes());
    header[32..].copy_from_slice(pool.as_bytes());
    header
}

#[cfg(test)]
mod tests;
