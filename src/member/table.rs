//! The member table: how the file is made and found again, and its lines.

use super::anchor::Anchor;
use super::flushers::Flushers;
use super::marks::{DiskMarks, FAILED, MARKS};
use super::place::{Place, Placed};
use super::shared::Words;
use super::{SLOTS, lock};
use crate::error::{Error, Result};
use crate::pool::dir::PoolDir;
use crate::sys;
use crate::units::{BootId, DiskId, Generation, Incarnation, Slot};
use rustix::thread::{MembarrierCommand, membarrier};
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"APPARMEM";
const FORMAT: u64 = 2;

/// Its length is what a header has before the words that change.
pub(super) const HARDENED: usize = 48;
const COMMITTED: usize = 56;
const LINES: usize = 128;
const LINE: usize = 128;
const DISKS: usize = LINES + SLOTS as usize * LINE;
const MARK: usize = 64;
pub(super) const SIZE: usize = DISKS + MARKS * MARK;

const INCARNATION: usize = 0;
const GENERATION: usize = 8;
const OLDEST: usize = 16;
const HEARTBEAT: usize = 24;
const PID: usize = 32;
const FENCED: usize = 64;

/// The mapped table.
pub struct MemberTable {
    words: Words,
    place: Place,
    made: bool,
    /// One flush of a disk at a time in this process, so that those who wait find it done; and whose flushes of it are in doubt: those
    /// that had begun, and had not told how they ended, when this process opened the disk.
    pub(super) flushing: [Mutex<u128>; MARKS],
    /// Flushes that had failed when this process came.
    pub(super) failed_before: [u64; MARKS],
    pub(super) flushers: Flushers,
}

/// An apparatus's own line.
pub struct MyLine {
    table: Arc<MemberTable>,
    line: usize,
    /// The incarnation, here where the data path finds it without touching a line that is written all the time.
    life: AtomicU64,
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
    /// Maps the pool's table, and makes it (anew, if it is of another boot or pool). Makes the run directory too. While somebody has it
    /// open, nobody can make another one: all who live look at the same words, whatever is deleted.
    ///
    /// # Errors
    /// When the file cannot be made, mapped or understood; when others have a table open that this process cannot find.
    pub fn open(pool: &PoolDir, uuid: Uuid, boot: BootId) -> Result<Arc<Self>> {
        lock::make_run_dir(&pool.run())?;
        let Placed { file, place, made } = Place::find_or_make(pool, Anchor::of(pool)?, &header(uuid, boot))?;
        let failed = |why: io::Error| Error::because(format!("member table {}", place.path().display()), why);
        let words = Words::new(&file, SIZE / 8).map_err(failed)?;
        let failures = |index| words.at(mark_of(index) + FAILED).load(Acquire);
        Ok(Arc::new(Self {
            failed_before: std::array::from_fn(failures),
            words,
            place,
            made,
            flushing: std::array::from_fn(|_| Mutex::new(0)),
            flushers: Flushers::new(file),
        }))
    }

    /// Whether this opening made the file.
    #[must_use]
    pub fn made_anew(&self) -> bool {
        self.made
    }

    /// Sees to it that others find the table: puts the link to it back, if that was deleted or leads elsewhere. Whether it had to.
    ///
    /// # Errors
    /// When it cannot, or the table itself was deleted: nobody else can open it then, so nothing can be changed any more.
    pub fn restore(&self) -> Result<bool> {
        self.place.restore()
    }

    /// Reads a line.
    #[must_use]
    pub fn line(&self, slot: Slot) -> Line {
        let at = line_of(slot);
        let word = |field: usize| self.words.at(at + field).load(Acquire);
        Line {
            incarnation: Incarnation(word(INCARNATION)),
            generation: Generation(word(GENERATION)),
            oldest: Generation(word(OLDEST)),
            heartbeat_us: word(HEARTBEAT),
            pid: u32::try_from(word(PID)).unwrap_or(0),
            fenced: Incarnation(word(FENCED)),
        }
    }

    /// Takes a line for this process's life.
    #[must_use]
    pub fn mine(self: &Arc<Self>, slot: Slot) -> MyLine {
        // Lets `fence` reach this process quickly. Where it is refused, `DiskMarks::written` is barrier enough.
        let _ = membarrier(MembarrierCommand::RegisterGlobalExpedited);
        MyLine {
            table: Arc::clone(self),
            line: line_of(slot),
            life: AtomicU64::new(0),
        }
    }

    /// Sets the fence word: what that life acknowledges from now on was on its disk before this returns (see the module).
    /// Lives are numbered upwards, so a late fence of an earlier life changes nothing.
    pub fn fence(&self, slot: Slot, incarnation: Incarnation) {
        self.words
            .at(line_of(slot) + FENCED)
            .fetch_max(incarnation.0, SeqCst);
        fence(SeqCst);
        // Where it is refused, `DiskMarks::written` is barrier enough.
        let _ = membarrier(MembarrierCommand::GlobalExpedited);
    }

    /// The highest generation known to be hardened.
    #[must_use]
    pub fn hardened(&self) -> Generation {
        Generation(self.words.at(HARDENED).load(Acquire))
    }

    /// Raises it. Never sets it higher than what is durable.
    pub fn set_hardened(&self, generation: Generation) {
        self.words.at(HARDENED).fetch_max(generation.0, SeqCst);
    }

    /// The highest generation known to be committed.
    #[must_use]
    pub fn committed(&self) -> Generation {
        Generation(self.words.at(COMMITTED).load(Acquire))
    }

    /// Raises it, after the commit.
    pub fn set_committed(&self, generation: Generation) {
        self.words.at(COMMITTED).fetch_max(generation.0, SeqCst);
    }

    /// The flush marks of a disk, shared by all processes.
    #[must_use]
    pub fn marks(self: &Arc<Self>, disk: DiskId) -> DiskMarks {
        DiskMarks::new(Arc::clone(self), disk)
    }

    /// A word of a disk's mark.
    pub(super) fn mark(&self, index: usize, field: usize) -> &AtomicU64 {
        self.words.at(mark_of(index) + field)
    }
}

fn mark_of(index: usize) -> usize {
    DISKS + index * MARK
}

/// Slots come from the store, which knows their number; a damaged one takes the last line instead of leaving the file.
fn line_of(slot: Slot) -> usize {
    LINES + slot.0.min(SLOTS - 1) as usize * LINE
}

impl MyLine {
    fn word(&self, field: usize) -> &AtomicU64 {
        self.table.words.at(self.line + field)
    }

    /// Begins a life.
    pub fn begin(&self, incarnation: Incarnation, generation: Generation) {
        self.word(PID).store(std::process::id().into(), Relaxed);
        self.word(GENERATION).store(generation.0, Relaxed);
        self.word(OLDEST).store(generation.0, Relaxed);
        self.beat();
        self.word(INCARNATION).store(incarnation.0, SeqCst);
        self.life.store(incarnation.0, SeqCst);
    }

    /// Ends it: the slot shows nobody, and nothing may be acknowledged.
    pub fn end(&self) {
        self.life.store(0, SeqCst);
        self.word(INCARNATION).store(0, SeqCst);
    }

    /// Whether this life is fenced, or none has begun. One load of a line that only fencing writes. For a write: after [`DiskMarks::written`].
    #[must_use]
    pub fn fenced(&self) -> bool {
        self.word(FENCED).load(Acquire) >= self.life.load(Relaxed)
    }

    /// After a switch.
    pub fn set_generation(&self, generation: Generation) {
        self.word(GENERATION).store(generation.0, Release);
    }

    /// From the gate.
    pub fn set_oldest(&self, oldest: Generation) {
        self.word(OLDEST).store(oldest.0, Release);
    }

    /// Shows life.
    pub fn beat(&self) {
        self.word(HEARTBEAT).store(sys::monotonic_us(), Release);
    }
}

fn header(pool: Uuid, boot: BootId) -> [u8; HARDENED] {
    let mut header = [0; HARDENED];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&FORMAT.to_ne_bytes());
    header[16..32].copy_from_slice(boot.0.as_bytes());
    header[32..].copy_from_slice(pool.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn open(dir: &Path, pool: u128, boot: u128) -> Arc<MemberTable> {
        try_open(dir, pool, boot).unwrap()
    }

    fn try_open(dir: &Path, pool: u128, boot: u128) -> Result<Arc<MemberTable>> {
        let (pool, boot) = (Uuid::from_u128(pool), BootId(Uuid::from_u128(boot)));
        MemberTable::open(&PoolDir::new(dir), pool, boot)
    }

    #[test]
    fn two_openings_see_the_same_words() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (open(dir.path(), 1, 1), open(dir.path(), 1, 1));
        assert!(one.made_anew() && !other.made_anew());
        let mine = one.mine(Slot(63));
        assert!(mine.fenced(), "no life has begun");
        mine.begin(Incarnation(5), Generation(9));
        mine.set_generation(Generation(10));
        let line = other.line(Slot(63));
        assert_eq!(
            (line.incarnation, line.generation, line.oldest),
            (Incarnation(5), Generation(10), Generation(9))
        );
        assert_eq!(line.pid, std::process::id());
        assert!(line.heartbeat_us > 0);
        assert_eq!(other.line(Slot(62)).incarnation, Incarnation(0));
        other.set_hardened(Generation(7));
        other.set_hardened(Generation(6));
        assert_eq!(one.hardened(), Generation(7));
        one.set_committed(Generation(8));
        assert_eq!(
            (other.committed(), other.hardened()),
            (Generation(8), Generation(7))
        );
    }

    #[test]
    fn a_fence_is_for_one_life_and_a_late_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (apparatus, controller) = (open(dir.path(), 1, 1), open(dir.path(), 1, 1));
        let mine = apparatus.mine(Slot(0));
        mine.begin(Incarnation(5), Generation(1));
        assert!(!mine.fenced());
        controller.fence(Slot(1), Incarnation(5));
        assert!(!mine.fenced());
        controller.fence(Slot(0), Incarnation(5));
        assert!(mine.fenced());
        mine.begin(Incarnation(6), Generation(1));
        assert!(!mine.fenced());
        controller.fence(Slot(0), Incarnation(5));
        assert!(!mine.fenced());
        assert_eq!(controller.line(Slot(0)).fenced, Incarnation(5));
        mine.end();
        assert!(mine.fenced());
        assert_eq!(controller.line(Slot(0)).incarnation, Incarnation(0));
    }

    #[test]
    fn another_boot_pool_or_format_makes_it_anew() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 1, 1).fence(Slot(3), Incarnation(4));
        assert_eq!(open(dir.path(), 1, 1).line(Slot(3)).fenced, Incarnation(4));
        for (pool, boot) in [(1, 2), (2, 2)] {
            let next = open(dir.path(), pool, boot);
            assert!(next.made_anew());
            assert_eq!(next.line(Slot(3)).fenced, Incarnation(0));
        }
        let path = dir.path().join("run/members");
        for damage in [&b"short"[..], &[0xff; SIZE]] {
            fs::write(&path, damage).unwrap();
            assert!(open(dir.path(), 2, 2).made_anew());
        }
    }

    #[test]
    fn no_second_table_is_made_while_the_first_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), 1, 1);
        first.fence(Slot(3), Incarnation(4));
        let link = dir.path().join("run/members");
        let copied = |first: &MemberTable| {
            let bytes = fs::read(&link).unwrap();
            fs::remove_file(&link).unwrap();
            fs::write(&link, bytes).unwrap();
            assert!(first.restore().unwrap());
        };
        for damage in [|| {}, || {}] {
            damage();
            fs::remove_dir_all(dir.path().join("run")).unwrap();
            let refused = try_open(dir.path(), 1, 1).err().unwrap();
            assert!(refused.why().contains("in use"), "{refused}");
            assert!(first.restore().unwrap() && !first.restore().unwrap());
            let other = open(dir.path(), 1, 1);
            assert!(!other.made_anew());
            assert_eq!(other.line(Slot(3)).fenced, Incarnation(4));
        }
        // A copy has the same words now and other ones later.
        copied(&first);
        let refused = try_open(dir.path(), 2, 1).err().unwrap();
        assert!(refused.why().contains("in use"), "{refused}");
        drop(first);
        assert!(!open(dir.path(), 1, 1).made_anew());
    }

    #[test]
    fn a_table_whose_link_was_deleted_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 1, 1).fence(Slot(3), Incarnation(4));
        fs::remove_dir_all(dir.path().join("run")).unwrap();
        let again = open(dir.path(), 1, 1);
        assert!(!again.made_anew());
        assert_eq!(again.line(Slot(3)).fenced, Incarnation(4));
    }

    #[test]
    fn what_was_deleted_itself_cannot_be_put_back_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), 1, 1);
        fs::remove_file(fs::canonicalize(dir.path().join("run/members")).unwrap()).unwrap();
        let told = first.restore().unwrap_err();
        assert!(told.why().contains("deleted"), "{told}");
        drop(first);
        assert!(open(dir.path(), 1, 1).made_anew());
    }

    #[test]
    fn many_openings_at_once_make_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let made = std::thread::scope(|scope| {
            let path = dir.path();
            let all: Vec<_> = (0..16).map(|_| scope.spawn(move || open(path, 1, 1))).collect();
            all.into_iter()
                .map(|one| one.join().unwrap())
                .filter(|one| one.made_anew())
                .count()
        });
        assert_eq!(made, 1);
    }

    #[test]
    fn lines_and_marks_lie_where_the_module_says() {
        assert_eq!((LINES, DISKS, SIZE), (128, 8320, 24704));
        let dir = tempfile::tempdir().unwrap();
        let table = open(dir.path(), 0x11, 0x22);
        table.mine(Slot(2)).begin(Incarnation(3), Generation(4));
        table.fence(Slot(2), Incarnation(5));
        table.set_hardened(Generation(6));
        table.marks(DiskId(257)).written();
        let bytes = fs::read(dir.path().join("run/members")).unwrap();
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(&bytes[..8], b"APPARMEM");
        assert_eq!((word(8), word(48)), (2, 6));
        assert_eq!(bytes[16..32], *Uuid::from_u128(0x22).as_bytes());
        assert_eq!(bytes[32..48], *Uuid::from_u128(0x11).as_bytes());
        assert_eq!((word(384), word(384 + 8), word(384 + 64)), (3, 4, 5));
        assert_eq!(word(8320 + 64), 1);
    }
}
