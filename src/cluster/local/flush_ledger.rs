//! The ledger of flushes: which disks any process has written since their last flush, and which have lost writes.

use super::table::MemberTable;
use crate::cluster::{FlushLedger, FlushLedgers};
use crate::model::error::{Error, Result};
use crate::model::units::{DiskId, Generation};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, MutexGuard, PoisonError};

/// Number of ledgers in the member table. Of the disks whose numbers are equal modulo this, the first one owns the ledger.
pub(super) const LEDGERS: usize = 256;

pub(super) const DIRTY: usize = 0;
const STARTED: usize = 8;
const DONE: usize = 16;
pub(super) const FAILED: usize = 24;
const OWNER: usize = 32;
const TRUSTED: usize = 40;
const FLUSHING: [usize; 2] = [48, 56];
/// Words that hold facts which only this file has, unless they are 0.
pub(super) const TELLING: [usize; 3] = [FAILED, FLUSHING[0], FLUSHING[1]];

/// Ledger of one disk: whether any process has written it since its last flush, and whether it has lost writes.
///
/// # Skipped flushes
///
/// A writer, after its write and before its acknowledgement, raises `dirty` to `started + 1`. A flusher reads `dirty`; if `done` is not lower, a
/// flush began after every such write and has finished, so there is nothing to do. Otherwise it takes the next number of `started`, flushes, and
/// raises `done` to that number.
///
/// No flush is skipped wrongly: the writer that raised `dirty` to `d` found `started` at `d - 1`, so a flush numbered `d` or higher took its
/// number after that, and therefore began after the write. `done` at `d` or higher means that such a flush has succeeded. Barriers on both
/// sides make the hardware keep this order: either the writer sees the flush's number, or the flush sees the written pages. A failed flush
/// raises nothing, so the disk stays dirty for the next one.
///
/// # Lost writes
///
/// The kernel reports a failed write-back once to each open file description, and then forgets it; a description that is opened after the first
/// report gets none. The page may be gone from memory by then. So a flush that succeeds proves only that there was no failure since its own
/// description was opened, and failures have to be recorded here:
///
/// - Each failed flush raises `failed`. `trusted` is the value of `failed` at a time when no data with an old placement elsewhere was on the disk.
///   As long as the two are equal after that, no loss of such data has been reported. See [`DiskLedger::has_lost`].
/// - A process that dies in the middle of a flush may have got a report that it could not record. It leaves its bit in `flushing`. A process that
///   opens the disk later finds the bit and is in *doubt*: its own flushes do not cover earlier writes, unless these are written again. A
///   process that had the disk open before gets the report from the kernel itself, so it is not in doubt, and clears the bit by its next flush.
///   The bit of a flush that is only slow is cleared at its end, and the doubt ends with it.
///
/// A ledger belongs to one disk for as long as the file exists. A disk whose ledger belongs to another one is always flushed, and shares the
/// failures of the other.
pub struct DiskLedger {
    table: Arc<MemberTable>,
    disk: DiskId,
    index: usize,
    /// Whether the ledger belongs to this disk.
    owned: bool,
}

impl DiskLedger {
    pub(super) fn new(table: Arc<MemberTable>, disk: DiskId) -> Self {
        let (index, owner) = (index(disk), u64::from(disk.0) + 1);
        let claimed = table
            .ledger_word(index, OWNER)
            .compare_exchange(0, owner, SeqCst, SeqCst);
        let owned = claimed.is_ok() || claimed == Err(owner);
        Self {
            table,
            disk,
            index,
            owned,
        }
    }

    fn word(&self, field: usize) -> &AtomicU64 {
        self.table.ledger_word(self.index, field)
    }

    fn run(&self, doubts: &mut u128, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let number = self.word(STARTED).fetch_add(1, SeqCst) + 1;
        fence(SeqCst);
        // The kernel reports to this flush what it has reported to processes that died before it.
        let settled = self.table.flushers.ended(self.flushing() & !*doubts)?;
        let flushed = self.recording(flush);
        self.clear(settled);
        flushed?;
        *doubts &= self.flushing();
        if *doubts == 0 {
            self.word(DONE).fetch_max(number, SeqCst);
        }
        Ok(())
    }

    fn recording(&self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let mine = self.table.flushers.mine(|| self.table.all_flushing())?;
        let [low, high] = halves(mine);
        self.word(FLUSHING[0]).fetch_or(low, SeqCst);
        self.word(FLUSHING[1]).fetch_or(high, SeqCst);
        let done = work();
        if done.is_err() {
            self.note_failure();
        }
        self.clear(mine);
        done
    }

    fn clear(&self, flushers: u128) {
        for (field, bits) in FLUSHING.into_iter().zip(halves(flushers)) {
            self.word(field).fetch_and(!bits, SeqCst);
        }
    }

    fn alone(&self) -> MutexGuard<'_, u128> {
        let flushing = &self.table.flushing[self.index];
        flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bits of the processes that are flushing, or have died doing so.
    fn flushing(&self) -> u128 {
        self.table.flushing_at(self.index)
    }
}

impl FlushLedger for DiskLedger {
    fn disk(&self) -> DiskId {
        self.disk
    }

    /// Stores to shared memory only for the first write after a flush began.
    fn written(&self) {
        fence(SeqCst);
        if !self.owned {
            return;
        }
        let needed = self.word(STARTED).load(SeqCst) + 1;
        if self.word(DIRTY).load(SeqCst) < needed {
            self.word(DIRTY).fetch_max(needed, SeqCst);
        }
    }

    fn flush(&self, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let dirty = self.word(DIRTY).load(SeqCst);
        let covered = || self.owned && self.word(DONE).load(SeqCst) >= dirty;
        if covered() {
            return Ok(());
        }
        let mut alone = self.alone();
        if covered() {
            return Ok(());
        }
        self.run(&mut alone, flush)
    }

    fn flush_here(&self, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        self.run(&mut self.alone(), flush)
    }

    fn watch(&self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let _alone = self.alone();
        self.recording(work)
    }

    fn note_failure(&self) {
        self.word(FAILED).fetch_add(1, SeqCst);
    }

    fn doubt_others(&self) {
        let mut doubts = self.alone();
        *doubts |= self.flushing();
    }

    fn is_in_doubt(&self) -> bool {
        let mut doubts = self.alone();
        *doubts &= self.flushing();
        *doubts != 0
    }

    fn is_dirty(&self) -> bool {
        !self.owned || self.word(DONE).load(SeqCst) < self.word(DIRTY).load(SeqCst)
    }

    fn failures(&self) -> u64 {
        self.word(FAILED).load(SeqCst)
    }

    fn failures_here(&self) -> u64 {
        self.failures() - self.table.failed_before[self.index]
    }

    fn has_lost(&self) -> bool {
        self.failures() != self.word(TRUSTED).load(SeqCst)
    }
}

fn index(disk: DiskId) -> usize {
    disk.0 as usize % LEDGERS
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are intended")]
fn halves(bits: u128) -> [u64; 2] {
    [bits as u64, (bits >> 64) as u64]
}

impl MemberTable {
    fn flushing_at(&self, index: usize) -> u128 {
        let [low, high] = FLUSHING.map(|field| u128::from(self.ledger_word(index, field).load(SeqCst)));
        low | high << 64
    }

    fn all_flushing(&self) -> u128 {
        (0..LEDGERS).fold(0, |all, index| all | self.flushing_at(index))
    }
}

impl FlushLedgers for Arc<MemberTable> {
    fn ledger(&self, disk: DiskId) -> Arc<dyn FlushLedger> {
        Arc::new(DiskLedger::new(Arc::clone(self), disk))
    }

    fn trust_disks(&self, at_risk: &mut dyn FnMut() -> Result<BTreeSet<DiskId>>) -> Result<()> {
        let before: Vec<(u64, u128)> = (0..LEDGERS)
            .map(|index| {
                (
                    self.ledger_word(index, FAILED).load(SeqCst),
                    self.flushing_at(index),
                )
            })
            .collect();
        let at_risk: BTreeSet<usize> = at_risk()?.into_iter().map(index).collect();
        let trusted = before.iter().enumerate();
        for (index, &(failed, flushing)) in trusted.filter(|(index, _)| !at_risk.contains(index)) {
            self.ledger_word(index, TRUSTED).fetch_max(failed, SeqCst);
            let ended = self.flushers.ended(flushing);
            let ended = halves(ended.map_err(|why| Error::because("member table", why))?);
            for (field, bits) in FLUSHING.into_iter().zip(ended) {
                self.ledger_word(index, field).fetch_and(!bits, SeqCst);
            }
        }
        Ok(())
    }

    fn persisted(&self) -> Generation {
        MemberTable::persisted(self)
    }

    fn set_persisted(&self, generation: Generation) {
        MemberTable::set_persisted(self, generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::units::CacheEpoch;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use uuid::Uuid;

    /// Opens the table twice, as two processes do: two mappings of one file.
    fn tables(run: &std::path::Path) -> [Arc<MemberTable>; 2] {
        [(); 2].map(|()| {
            MemberTable::open(
                &crate::model::dir::PoolDir::new(run),
                Uuid::from_u128(1),
                CacheEpoch(Uuid::from_u128(1)),
            )
            .unwrap()
        })
    }

    #[test]
    fn flushes_a_disk_only_after_a_write_of_any_process() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = tables(dir.path()).map(|table| table.ledger(DiskId(3)));
        let flushes = AtomicU64::new(0);
        let flush = |ledger: &DiskLedger| {
            let before = flushes.load(SeqCst);
            let counted = || {
                flushes.fetch_add(1, SeqCst);
                Ok(())
            };
            ledger.flush(&mut { counted }).unwrap();
            flushes.load(SeqCst) - before
        };
        assert_eq!(
            (flush(&one), flush(&one)),
            (1, 0),
            "in a new table each disk is dirty"
        );
        other.written();
        other.written();
        assert!(one.is_dirty());
        assert_eq!((flush(&one), flush(&one), flush(&other)), (1, 0, 0));
        one.written();
        assert_eq!((flush(&one), flush(&other)), (1, 0));
    }

    #[test]
    fn a_write_during_a_flush_needs_the_next_one_and_a_failure_leaves_it_dirty() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = tables(dir.path()).map(|table| table.ledger(DiskId(0)));
        one.written();
        let during = || {
            other.written();
            Ok(())
        };
        one.flush(&mut { during }).unwrap();
        assert!(other.is_dirty());
        let failed = other.flush(&mut || Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(one.is_dirty());
        assert_eq!(one.failures(), 1);
        other.flush(&mut || Ok(())).unwrap();
        assert!(!one.is_dirty());
    }

    #[test]
    fn a_disk_whose_ledger_belongs_to_another_is_always_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let [here, there] = tables(dir.path());
        let (first, second) = (here.ledger(DiskId(3)), there.ledger(DiskId(3 + 256)));
        second.written();
        first.written();
        first.flush(&mut || Ok(())).unwrap();
        for ledger in [&second, &here.ledger(DiskId(3 + 256))] {
            let mut flushed = 0;
            for _ in 0..2 {
                let counted = || {
                    flushed += 1;
                    Ok(())
                };
                ledger.flush(&mut { counted }).unwrap();
            }
            assert_eq!(flushed, 2);
        }
        assert!(!there.ledger(DiskId(3)).is_dirty());
        assert!(second.flush(&mut || Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(second.failures(), 1);
    }

    const WRITTEN: usize = 0;
    const ACKNOWLEDGED: usize = 1;
    const DURABLE: usize = 2;

    /// The flush of this disk makes all writes durable that were done when it began. Writers and flushers of two processes race; whenever a flush
    /// returns, all writes that the flusher saw acknowledged before it have to be durable.
    #[test]
    fn no_needed_flush_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let tables = tables(dir.path());
        let blocks: [[AtomicU64; 3]; 2] = Default::default();
        let (calls, flushes, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let together = Barrier::new(4);
        let flush_often = |ledger: DiskLedger| {
            together.wait();
            for call in 0..4_000_u64 {
                thread::yield_now();
                let seen = blocks.each_ref().map(|block| block[ACKNOWLEDGED].load(SeqCst));
                calls.fetch_add(1, SeqCst);
                let flushed = ledger.flush(&mut || {
                    flushes.fetch_add(1, SeqCst);
                    let now = blocks.each_ref().map(|block| block[WRITTEN].load(SeqCst));
                    thread::yield_now();
                    if call.is_multiple_of(5) {
                        return Err(io::ErrorKind::Other.into());
                    }
                    for (block, version) in blocks.iter().zip(now) {
                        block[DURABLE].fetch_max(version, SeqCst);
                    }
                    Ok(())
                });
                for (block, version) in blocks.iter().zip(seen).filter(|_| flushed.is_ok()) {
                    assert!(block[DURABLE].load(SeqCst) >= version, "flush {call}");
                }
            }
        };
        thread::scope(|scope| {
            for (table, block) in tables.iter().zip(&blocks) {
                let (ledger, over, calls, together) = (table.ledger(DiskId(7)), &over, &calls, &together);
                scope.spawn(move || {
                    together.wait();
                    while !over.load(SeqCst) {
                        let version = block[WRITTEN].fetch_add(1, SeqCst) + 1;
                        ledger.written();
                        block[ACKNOWLEDGED].store(version, SeqCst);
                        let next = calls.load(SeqCst) + version % 7;
                        while calls.load(SeqCst) < next && !over.load(SeqCst) {
                            thread::yield_now();
                        }
                    }
                });
            }
            let flushers = tables.each_ref().map(|table| {
                let (ledger, flush_often) = (table.ledger(DiskId(7)), &flush_often);
                scope.spawn(move || flush_often(ledger))
            });
            let ended = flushers.map(thread::ScopedJoinHandle::join);
            over.store(true, SeqCst);
            ended.into_iter().for_each(|ended| ended.unwrap());
        });
        let (calls, flushes) = (calls.into_inner(), flushes.into_inner());
        assert!(
            flushes > 0 && flushes < calls,
            "{flushes} of {calls}: the test covers nothing"
        );
    }

    fn fails(ledger: &DiskLedger) {
        assert!(
            ledger
                .flush_here(&mut || Err(io::ErrorKind::Other.into()))
                .is_err()
        );
    }

    #[test]
    fn a_failure_is_recorded_until_no_data_is_at_risk() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = tables(dir.path());
        let (here, there) = (one.ledger(DiskId(3)), other.ledger(DiskId(3)));
        fails(&here);
        for _ in 0..2 {
            there.written();
            there.flush(&mut || Ok(())).unwrap();
            assert!(here.has_lost() && there.has_lost());
        }
        assert!(!one.ledger(DiskId(4)).has_lost());
        other
            .trust_disks(&mut || Ok(BTreeSet::from([DiskId(3)])))
            .unwrap();
        assert!(here.has_lost());
        // A flush that fails while the data at risk is determined counts.
        let during = || {
            fails(&here);
            Ok(BTreeSet::new())
        };
        other.trust_disks(&mut { during }).unwrap();
        assert!(here.has_lost());
        one.trust_disks(&mut || Ok(BTreeSet::new())).unwrap();
        assert!(!here.has_lost() && !there.has_lost());
        assert_eq!((here.failures(), there.failures_here()), (2, 2));
        assert_eq!(tables(dir.path())[0].ledger(DiskId(3)).failures_here(), 0);
    }

    /// Ends in the middle of a flush, as a killed process does.
    fn die_flushing(table: Arc<MemberTable>, disk: DiskId) {
        let ledger = table.ledger(disk);
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ledger.flush_here(&mut || panic!("killed")).unwrap();
        }));
        assert!(died.is_err());
    }

    #[test]
    fn a_flush_with_an_unknown_result_leaves_later_processes_in_doubt() {
        let dir = tempfile::tempdir().unwrap();
        let [before, dying] = tables(dir.path());
        let disk = DiskId(3);
        let before = before.ledger(disk);
        before.doubt_others();
        die_flushing(dying, disk);
        let [later, _] = tables(dir.path());
        let ledger = later.ledger(disk);
        ledger.doubt_others();
        assert!(ledger.is_in_doubt() && !before.is_in_doubt());
        // Its flushes do not cover the writes of others; those of the earlier process do.
        ledger.written();
        ledger.flush(&mut || Ok(())).unwrap();
        assert!(before.is_dirty() && ledger.is_in_doubt());
        // The bit is cleared when no data is at risk.
        later.trust_disks(&mut || Ok(BTreeSet::from([disk]))).unwrap();
        assert!(ledger.is_in_doubt());
        later.trust_disks(&mut || Ok(BTreeSet::new())).unwrap();
        assert!(!ledger.is_in_doubt() && !ledger.has_lost());
        // A flush of a process that had the disk open before clears it too.
        let [dying, _] = tables(dir.path());
        die_flushing(dying, disk);
        ledger.doubt_others();
        assert!(ledger.is_in_doubt());
        before.flush(&mut || Ok(())).unwrap();
        assert!(!ledger.is_dirty() && !ledger.is_in_doubt());
        assert_eq!(ledger.flushing(), 0);
    }

    #[test]
    fn a_slow_flush_is_in_doubt_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = tables(dir.path());
        let (slow, ledger) = (one.ledger(DiskId(3)), other.ledger(DiskId(3)));
        let during = || {
            ledger.doubt_others();
            assert!(ledger.is_in_doubt());
            other.trust_disks(&mut || Ok(BTreeSet::new())).unwrap();
            assert!(ledger.is_in_doubt(), "it lives");
            Ok(())
        };
        slow.flush_here(&mut { during }).unwrap();
        assert!(!ledger.is_in_doubt());
    }
}
