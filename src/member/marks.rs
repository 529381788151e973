//! Which disks were written since they were last flushed, by whatever process, and which have lost what was written.

use super::table::MemberTable;
use crate::error::{Error, Result};
use crate::units::DiskId;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, MutexGuard, PoisonError};

/// Marks in the member table. Disks whose numbers are equal modulo this meet at one, and the first has it.
pub(super) const MARKS: usize = 256;

const DIRTY: usize = 0;
const STARTED: usize = 8;
const DONE: usize = 16;
pub(super) const FAILED: usize = 24;
const OWNER: usize = 32;
const TRUSTED: usize = 40;
const FLUSHING: [usize; 2] = [48, 56];

/// Whether a disk was written since it was last flushed, by whatever process, and whether it has lost something.
///
/// # Skipped flushes
///
/// A writer, after its write and before its acknowledgement, raises `dirty` to `started + 1`. A flusher reads `dirty`; if
/// `done` is not lower, somebody's flush began after every such write and has finished: nothing to do. Otherwise it takes the next
/// number of `started`, flushes, and raises `done` to that number.
///
/// Why that skips no flush wrongly: the writer that raised `dirty` to `d` found `started` at `d - 1`, so a flush numbered `d` or
/// higher took its number after that, and therefore began after the write. `done` at `d` or higher says that such a flush has
/// succeeded. The barriers on both sides keep the hardware to it: either the writer sees the flush's number, or the flush sees
/// the written pages. A failed flush raises nothing, so the disk stays dirty for the next one.
///
/// # Lost writes
///
/// The kernel tells each open file description once that something written could not be brought to the disk, then forgets it; and a
/// description that is opened after somebody was told is not told at all. The page may be gone from memory by then. So a flush that
/// succeeds vouches only for what its own description could have been told of, and failures have to be remembered here:
///
/// - Each failed flush raises `failed`. `trusted` is the value of `failed` at a time when no data that has an old home elsewhere was on the disk;
///   from then on, as long as the two are equal, nobody was told that such data was lost. See [`DiskMarks::has_lost`].
/// - Who dies in the middle of a flush may have been told, and cannot say so. It leaves its bit in `flushing`. A process that opens the
///   disk later finds the bit and is in *doubt*: its own flushes vouch for nothing that was written before, unless that is written again. One that
///   had the disk open before is told by the kernel itself, has no doubt, and takes the bit away by its next flush. A bit of a flush that merely lasts
///   goes away, and the doubt with it.
///
/// A mark belongs to one disk for as long as the file lives. A disk that finds its mark taken by another is always flushed, and shares the
/// other's failures.
pub struct DiskMarks {
    table: Arc<MemberTable>,
    disk: DiskId,
    index: usize,
    /// Whether the mark is this disk's.
    owned: bool,
}

impl DiskMarks {
    pub(super) fn new(table: Arc<MemberTable>, disk: DiskId) -> Self {
        let (index, owner) = (index(disk), u64::from(disk.0) + 1);
        let claimed = table
            .mark(index, OWNER)
            .compare_exchange(0, owner, SeqCst, SeqCst);
        let owned = claimed.is_ok() || claimed == Err(owner);
        Self {
            table,
            disk,
            index,
            owned,
        }
    }

    /// Whose they are.
    #[must_use]
    pub fn disk(&self) -> DiskId {
        self.disk
    }

    fn word(&self, field: usize) -> &AtomicU64 {
        self.table.mark(self.index, field)
    }

    /// After a write, before the fence word is looked at and the write is acknowledged. A full barrier; writes to shared memory
    /// only for the first write after a flush began.
    pub fn written(&self) {
        fence(SeqCst);
        if !self.owned {
            return;
        }
        let mark = self.word(STARTED).load(SeqCst) + 1;
        if self.word(DIRTY).load(SeqCst) < mark {
            self.word(DIRTY).fetch_max(mark, SeqCst);
        }
    }

    /// Runs `flush` unless a flush that began after every acknowledged write has finished. One at a time per process: who
    /// waited for another's flush to end often finds that a third one's covers it.
    ///
    /// # Errors
    /// Those of `flush`; the disk stays marked then.
    pub fn flush(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
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

    /// Runs `flush` whatever others have flushed: for what their word is not enough for.
    ///
    /// # Errors
    /// Those of `flush`.
    pub fn flush_here(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.run(&mut self.alone(), flush)
    }

    fn run(&self, doubts: &mut u128, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let number = self.word(STARTED).fetch_add(1, SeqCst) + 1;
        fence(SeqCst);
        // What those were told who died before this flush, this process is told by it.
        let settled = self.table.flushers.ended(self.flushing() & !*doubts)?;
        let flushed = self.remembering(flush);
        self.clear(settled);
        flushed?;
        *doubts &= self.flushing();
        if *doubts == 0 {
            self.word(DONE).fetch_max(number, SeqCst);
        }
        Ok(())
    }

    /// Runs something that the kernel may answer with an error of earlier writing, and remembers such an error, whatever becomes of
    /// this process.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn watch<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _alone = self.alone();
        self.remembering(work)
    }

    fn remembering<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
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

    /// Remembers that the disk has lost something that was written.
    pub fn note_failure(&self) {
        self.word(FAILED).fetch_add(1, SeqCst);
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

    /// Who is flushing, or died doing so.
    fn flushing(&self) -> u128 {
        self.table.flushing_at(self.index)
    }

    /// To be called after the disk was opened, before the first flush through that opening: what others are flushing may be news that
    /// this opening will not get.
    pub fn doubt_others(&self) {
        let mut doubts = self.alone();
        *doubts |= self.flushing();
    }

    /// Whether a flush that began before this process opened the disk has not told how it ended. What was written before then is
    /// vouched for by a flush only if it is written again first.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        let mut doubts = self.alone();
        *doubts &= self.flushing();
        *doubts != 0
    }

    /// Whether anything was written that no finished flush covers.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.owned || self.word(DONE).load(SeqCst) < self.word(DIRTY).load(SeqCst)
    }

    /// Flushes that failed in this boot.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.word(FAILED).load(SeqCst)
    }

    /// Those of them that failed since this process came.
    #[must_use]
    pub fn failures_here(&self) -> u64 {
        self.failures() - self.table.failed_before[self.index]
    }

    /// Whether the disk may have lost data that still has an old home elsewhere. No flush that succeeds makes up for it, so nothing
    /// that rests on this disk may be hardened, and no such old home given away.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.failures() != self.word(TRUSTED).load(SeqCst)
    }
}

fn index(disk: DiskId) -> usize {
    disk.0 as usize % MARKS
}

#[expect(clippy::cast_possible_truncation, reason = "halves are meant")]
fn halves(bits: u128) -> [u64; 2] {
    [bits as u64, (bits >> 64) as u64]
}

impl MemberTable {
    fn flushing_at(&self, index: usize) -> u128 {
        let [low, high] = FLUSHING.map(|field| u128::from(self.mark(index, field).load(SeqCst)));
        low | high << 64
    }

    fn all_flushing(&self) -> u128 {
        (0..MARKS).fold(0, |all, index| all | self.flushing_at(index))
    }

    /// Forgets the failures of all disks but those that `at_risk` answers: the disks with data that has an old home elsewhere. Only the holder of
    /// the arbitration, before it writes to any disk: everything that anybody was told of until now was written by those before it.
    ///
    /// # Errors
    /// Those of `at_risk`; or when it cannot be told who still lives.
    pub fn trust_disks(&self, at_risk: impl FnOnce() -> Result<BTreeSet<DiskId>>) -> Result<()> {
        let before: Vec<(u64, u128)> = (0..MARKS)
            .map(|index| (self.mark(index, FAILED).load(SeqCst), self.flushing_at(index)))
            .collect();
        let at_risk: BTreeSet<usize> = at_risk()?.into_iter().map(index).collect();
        let trusted = before.iter().enumerate();
        for (index, &(failed, flushing)) in trusted.filter(|(index, _)| !at_risk.contains(index)) {
            self.mark(index, TRUSTED).fetch_max(failed, SeqCst);
            let ended = self.flushers.ended(flushing);
            let ended = halves(ended.map_err(|why| Error::because("member table", why))?);
            for (field, bits) in FLUSHING.into_iter().zip(ended) {
                self.mark(index, field).fetch_and(!bits, SeqCst);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BootId;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use uuid::Uuid;

    /// As two processes have it: two mappings of one file.
    fn tables(run: &std::path::Path) -> [Arc<MemberTable>; 2] {
        [(); 2].map(|()| {
            MemberTable::open(
                &crate::pool::dir::PoolDir::new(run),
                Uuid::from_u128(1),
                BootId(Uuid::from_u128(1)),
            )
            .unwrap()
        })
    }

    #[test]
    fn flushes_only_what_was_written_and_whoever_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = tables(dir.path()).map(|table| table.marks(DiskId(3)));
        let flushes = AtomicU64::new(0);
        let flush = |marks: &DiskMarks| {
            let before = flushes.load(SeqCst);
            let counted = || {
                flushes.fetch_add(1, SeqCst);
                Ok(())
            };
            marks.flush(counted).unwrap();
            flushes.load(SeqCst) - before
        };
        assert_eq!(flush(&one), 0);
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
        let [one, other] = tables(dir.path()).map(|table| table.marks(DiskId(0)));
        one.written();
        let during = || {
            other.written();
            Ok(())
        };
        one.flush(during).unwrap();
        assert!(other.is_dirty());
        let failed = other.flush(|| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(one.is_dirty());
        assert_eq!(one.failures(), 1);
        other.flush(|| Ok(())).unwrap();
        assert!(!one.is_dirty());
    }

    #[test]
    fn a_disk_whose_mark_is_anothers_is_always_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let [here, there] = tables(dir.path());
        let (first, second) = (here.marks(DiskId(3)), there.marks(DiskId(3 + 256)));
        second.written();
        first.written();
        first.flush(|| Ok(())).unwrap();
        for marks in [&second, &here.marks(DiskId(3 + 256))] {
            let mut flushed = 0;
            for _ in 0..2 {
                let counted = || {
                    flushed += 1;
                    Ok(())
                };
                marks.flush(counted).unwrap();
            }
            assert_eq!(flushed, 2);
        }
        assert!(!there.marks(DiskId(3)).is_dirty());
        assert!(second.flush(|| Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(second.failures(), 1);
    }

    const WRITTEN: usize = 0;
    const ACKNOWLEDGED: usize = 1;
    const DURABLE: usize = 2;

    /// A disk whose flush makes durable what had been written when it began. Writers and flushers of two processes race; whenever
    /// a flush returns, what the flusher saw acknowledged before it has to be durable.
    #[test]
    fn no_flush_is_skipped_that_was_needed() {
        let dir = tempfile::tempdir().unwrap();
        let tables = tables(dir.path());
        let blocks: [[AtomicU64; 3]; 2] = Default::default();
        let (calls, flushes, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let together = Barrier::new(4);
        let flush_often = |marks: DiskMarks| {
            together.wait();
            for call in 0..4_000_u64 {
                thread::yield_now();
                let seen = blocks.each_ref().map(|block| block[ACKNOWLEDGED].load(SeqCst));
                calls.fetch_add(1, SeqCst);
                let flushed = marks.flush(|| {
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
                let (marks, over, calls, together) = (table.marks(DiskId(7)), &over, &calls, &together);
                scope.spawn(move || {
                    together.wait();
                    while !over.load(SeqCst) {
                        let version = block[WRITTEN].fetch_add(1, SeqCst) + 1;
                        marks.written();
                        block[ACKNOWLEDGED].store(version, SeqCst);
                        let next = calls.load(SeqCst) + version % 7;
                        while calls.load(SeqCst) < next && !over.load(SeqCst) {
                            thread::yield_now();
                        }
                    }
                });
            }
            let flushers = tables.each_ref().map(|table| {
                let (marks, flush_often) = (table.marks(DiskId(7)), &flush_often);
                scope.spawn(move || flush_often(marks))
            });
            let ended = flushers.map(thread::ScopedJoinHandle::join);
            over.store(true, SeqCst);
            ended.into_iter().for_each(|ended| ended.unwrap());
        });
        let (calls, flushes) = (calls.into_inner(), flushes.into_inner());
        assert!(
            flushes > 0 && flushes < calls,
            "{flushes} of {calls}: nothing was decided"
        );
    }

    fn fails(marks: &DiskMarks) {
        assert!(marks.flush_here(|| Err(io::ErrorKind::Other.into())).is_err());
    }

    #[test]
    fn a_failure_is_remembered_until_nothing_is_at_risk() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = tables(dir.path());
        let (here, there) = (one.marks(DiskId(3)), other.marks(DiskId(3)));
        fails(&here);
        for _ in 0..2 {
            there.written();
            there.flush(|| Ok(())).unwrap();
            assert!(here.has_lost() && there.has_lost());
        }
        assert!(!one.marks(DiskId(4)).has_lost());
        other.trust_disks(|| Ok(BTreeSet::from([DiskId(3)]))).unwrap();
        assert!(here.has_lost());
        // What fails while somebody looks for what is at risk counts.
        let during = || {
            fails(&here);
            Ok(BTreeSet::new())
        };
        other.trust_disks(during).unwrap();
        assert!(here.has_lost());
        one.trust_disks(|| Ok(BTreeSet::new())).unwrap();
        assert!(!here.has_lost() && !there.has_lost());
        assert_eq!((here.failures(), there.failures_here()), (2, 2));
        assert_eq!(tables(dir.path())[0].marks(DiskId(3)).failures_here(), 0);
    }

    /// Ends in the middle of a flush, as a process that is killed does.
    fn die_flushing(table: Arc<MemberTable>, disk: DiskId) {
        let marks = table.marks(disk);
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            marks.flush_here(|| panic!("killed")).unwrap();
        }));
        assert!(died.is_err());
    }

    #[test]
    fn a_flush_whose_end_nobody_told_leaves_those_in_doubt_who_come_later() {
        let dir = tempfile::tempdir().unwrap();
        let [before, dying] = tables(dir.path());
        let disk = DiskId(3);
        let before = before.marks(disk);
        before.doubt_others();
        die_flushing(dying, disk);
        let [later, _] = tables(dir.path());
        let marks = later.marks(disk);
        marks.doubt_others();
        assert!(marks.is_in_doubt() && !before.is_in_doubt());
        // Its flushes cover nobody else's; those of the other do.
        marks.written();
        marks.flush(|| Ok(())).unwrap();
        assert!(before.is_dirty() && marks.is_in_doubt());
        // The bit goes when nothing is at risk.
        later.trust_disks(|| Ok(BTreeSet::from([disk]))).unwrap();
        assert!(marks.is_in_doubt());
        later.trust_disks(|| Ok(BTreeSet::new())).unwrap();
        assert!(!marks.is_in_doubt() && !marks.has_lost());
        // Or by the word of one who had it open before.
        let [dying, _] = tables(dir.path());
        die_flushing(dying, disk);
        marks.doubt_others();
        assert!(marks.is_in_doubt());
        before.flush(|| Ok(())).unwrap();
        assert!(!marks.is_dirty() && !marks.is_in_doubt());
        assert_eq!(marks.flushing(), 0);
    }

    #[test]
    fn a_flush_that_lasts_is_in_doubt_no_longer_than_it_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = tables(dir.path());
        let (slow, marks) = (one.marks(DiskId(3)), other.marks(DiskId(3)));
        let during = || {
            marks.doubt_others();
            assert!(marks.is_in_doubt());
            other.trust_disks(|| Ok(BTreeSet::new())).unwrap();
            assert!(marks.is_in_doubt(), "it lives");
            Ok(())
        };
        slow.flush_here(during).unwrap();
        assert!(!marks.is_in_doubt());
    }
}
