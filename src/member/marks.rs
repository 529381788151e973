//! Which disks were written since they were last flushed, by whatever process.

use super::table::MemberTable;
use crate::units::DiskId;
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, PoisonError};

/// Marks in the member table. Disks whose numbers are equal modulo this meet at one, and the first has it.
pub(super) const MARKS: usize = 256;

const DIRTY: usize = 0;
const STARTED: usize = 8;
const DONE: usize = 16;
const FAILED: usize = 24;
const OWNER: usize = 32;

/// Whether a disk was written since it was last flushed, by whatever process.
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
/// A mark belongs to one disk for as long as the file lives. A disk that finds its mark taken by another is always flushed.
pub struct DiskMarks {
    table: Arc<MemberTable>,
    index: usize,
    /// Whether the mark is this disk's.
    owned: bool,
}

impl DiskMarks {
    pub(super) fn new(table: Arc<MemberTable>, disk: DiskId) -> Self {
        let (index, owner) = (disk.0 as usize % MARKS, u64::from(disk.0) + 1);
        let claimed = table
            .mark(index, OWNER)
            .compare_exchange(0, owner, SeqCst, SeqCst);
        let owned = claimed.is_ok() || claimed == Err(owner);
        Self { table, index, owned }
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
        if !self.owned {
            return flush().inspect_err(|_| self.failed());
        }
        let dirty = self.word(DIRTY).load(SeqCst);
        if self.word(DONE).load(SeqCst) >= dirty {
            return Ok(());
        }
        let _alone = self.table.flushing[self.index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.word(DONE).load(SeqCst) >= dirty {
            return Ok(());
        }
        let number = self.word(STARTED).fetch_add(1, SeqCst) + 1;
        fence(SeqCst);
        flush().inspect_err(|_| self.failed())?;
        self.word(DONE).fetch_max(number, SeqCst);
        Ok(())
    }

    fn failed(&self) {
        self.word(FAILED).fetch_add(1, SeqCst);
    }

    /// Whether anything was written that no finished flush covers.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.owned || self.word(DONE).load(SeqCst) < self.word(DIRTY).load(SeqCst)
    }

    /// Flushes that failed in this boot. The kernel reports a lost write once and forgets it: after a failure a later flush can
    /// succeed though data is lost. So nothing may be hardened, and no old home freed, on the word of a disk with failures.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.word(FAILED).load(SeqCst)
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
        [(); 2].map(|()| MemberTable::open(run, Uuid::from_u128(1), BootId(Uuid::from_u128(1))).unwrap())
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
}
