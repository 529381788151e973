//! Tests of the member table.

use super::*;
use crate::cluster::FlushLedger;
use std::fs;
use std::path::Path;

fn open(dir: &Path, pool: u128, boot: u128) -> Arc<MemberTable> {
    try_open(dir, pool, boot).unwrap()
}

fn try_open(dir: &Path, pool: u128, boot: u128) -> Result<Arc<MemberTable>> {
    let (pool, boot) = (Uuid::from_u128(pool), CacheEpoch(Uuid::from_u128(boot)));
    MemberTable::open(&PoolDir::new(dir), pool, boot)
}

#[test]
fn two_openings_see_the_same_words() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (open(dir.path(), 1, 1), open(dir.path(), 1, 1));
    assert!(one.made_anew() && !other.made_anew());
    let mine = one.mine(Slot(63));
    assert!(mine.is_fenced(), "no incarnation has begun");
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
    other.set_persisted(Generation(7));
    other.set_persisted(Generation(6));
    assert_eq!(one.persisted(), Generation(7));
    one.set_committed(Generation(8));
    assert_eq!(
        (other.committed(), other.persisted()),
        (Generation(8), Generation(7))
    );
}

#[test]
fn a_fence_is_for_one_incarnation_and_a_late_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (apparatus, controller) = (open(dir.path(), 1, 1), open(dir.path(), 1, 1));
    let mine = apparatus.mine(Slot(0));
    mine.begin(Incarnation(5), Generation(1));
    assert!(!mine.is_fenced());
    controller.fence(Slot(1), Incarnation(5));
    assert!(!mine.is_fenced());
    controller.fence(Slot(0), Incarnation(5));
    assert!(mine.is_fenced());
    mine.begin(Incarnation(6), Generation(1));
    assert!(!mine.is_fenced());
    controller.fence(Slot(0), Incarnation(5));
    assert!(!mine.is_fenced());
    assert_eq!(controller.line(Slot(0)).fenced, Incarnation(5));
    mine.end();
    assert!(mine.is_fenced());
    assert_eq!(controller.line(Slot(0)).incarnation, Incarnation(0));
}

/// Leaves a table that stays although no process uses it, because a flush has failed.
fn leave_table_with_failure(dir: &Path) {
    let table = open(dir, 1, 1);
    table.fence(Slot(3), Incarnation(4));
    table.ledger(DiskId(0)).note_failure();
}

#[test]
fn the_last_user_removes_a_table_without_failures() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (open(dir.path(), 1, 1), open(dir.path(), 1, 1));
    let file = fs::canonicalize(dir.path().join("run/members")).unwrap();
    one.ledger(DiskId(3)).written();
    drop(one);
    assert!(file.exists(), "it is in use");
    drop(other);
    assert!(!file.exists());
    let next = open(dir.path(), 1, 1);
    let flushed = std::cell::Cell::new(0);
    let flush = || {
        flushed.set(flushed.get() + 1);
        Ok(())
    };
    next.ledger(DiskId(3)).flush(&mut { flush }).unwrap();
    assert_eq!(flushed.get(), 1, "earlier writes are still dirty");
    next.ledger(DiskId(3)).note_failure();
    drop(next);
    assert!(open(dir.path(), 1, 1).ledger(DiskId(3)).has_lost());
}

/// Such tables are left by killed processes, whose pools may be gone.
#[test]
fn creating_a_table_removes_unused_ones_without_failures() {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let shm = tempfile::Builder::new()
        .prefix("apparatus-0-0-")
        .tempfile_in("/dev/shm");
    let Ok(shm) = shm else { return };
    let left = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = shm.path().with_extension(name);
        let mut bytes = blank(&header(Uuid::from_u128(9), CacheEpoch(Uuid::from_u128(9))));
        change(&mut bytes);
        let mut options = fs::OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        file.unwrap().write_all_at(&bytes, 0).unwrap();
        path
    };
    let idle = left("idle", &|_| ());
    let failed = left("failed", &|bytes| bytes[ledger_of(7) + FAILED] = 1);
    let other = left("other", &|bytes| bytes[8] = 2);
    let used = left("used", &|_| ());
    let user = fs::File::open(&used).unwrap();
    sys::share_byte(std::os::fd::AsFd::as_fd(&user), 1 << 40).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _table = open(dir.path(), 1, 1);
    let present: Vec<bool> = [&idle, &failed, &other, &used].map(|path| path.exists()).into();
    for path in [&failed, &other, &used] {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(present, [false, true, true, true]);
}

#[test]
fn a_table_of_another_boot_pool_or_format_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    leave_table_with_failure(dir.path());
    assert_eq!(open(dir.path(), 1, 1).line(Slot(3)).fenced, Incarnation(4));
    for (pool, boot) in [(1, 2), (2, 2)] {
        let next = open(dir.path(), pool, boot);
        assert!(next.made_anew());
        assert_eq!(next.line(Slot(3)).fenced, Incarnation(0));
        next.ledger(DiskId(0)).note_failure();
    }
    let path = dir.path().join("run/members");
    for damage in [&b"short"[..], &[0xff; SIZE]] {
        fs::write(&path, damage).unwrap();
        assert!(open(dir.path(), 2, 2).made_anew());
    }
}

#[test]
fn no_second_table_is_created_while_the_first_is_in_use() {
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
    // A copy has the same words now, but not later.
    copied(&first);
    let refused = try_open(dir.path(), 2, 1).err().unwrap();
    assert!(refused.why().contains("in use"), "{refused}");
    first.ledger(DiskId(0)).note_failure();
    drop(first);
    assert!(!open(dir.path(), 1, 1).made_anew());
}

#[test]
fn a_table_whose_link_was_deleted_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    leave_table_with_failure(dir.path());
    fs::remove_dir_all(dir.path().join("run")).unwrap();
    let again = open(dir.path(), 1, 1);
    assert!(!again.made_anew());
    assert_eq!(again.line(Slot(3)).fenced, Incarnation(4));
}

#[test]
fn a_deleted_table_cannot_be_restored_and_that_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 1, 1);
    fs::remove_file(fs::canonicalize(dir.path().join("run/members")).unwrap()).unwrap();
    let refused = first.restore().unwrap_err();
    assert!(refused.why().contains("deleted"), "{refused}");
    drop(first);
    assert!(open(dir.path(), 1, 1).made_anew());
}

#[test]
fn many_openings_at_once_make_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let made = std::thread::scope(|scope| {
        let path = dir.path();
        let all: Vec<_> = (0..16).map(|_| scope.spawn(move || open(path, 1, 1))).collect();
        // All stay open until the last one is: the last user removes the file.
        let open: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
        open.iter().filter(|one| one.made_anew()).count()
    });
    assert_eq!(made, 1);
}

#[test]
fn entries_and_ledgers_are_where_the_module_says() {
    assert_eq!((LINES, DISKS, SIZE), (128, 8320, 24704));
    let dir = tempfile::tempdir().unwrap();
    let table = open(dir.path(), 0x11, 0x22);
    table.mine(Slot(2)).begin(Incarnation(3), Generation(4));
    table.fence(Slot(2), Incarnation(5));
    table.set_persisted(Generation(6));
    table.ledger(DiskId(257)).written();
    let bytes = fs::read(dir.path().join("run/members")).unwrap();
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..8], b"APPARMEM");
    assert_eq!((word(8), word(48)), (3, 6));
    assert_eq!(bytes[16..32], *Uuid::from_u128(0x22).as_bytes());
    assert_eq!(bytes[32..48], *Uuid::from_u128(0x11).as_bytes());
    assert_eq!((word(384), word(384 + 8), word(384 + 64)), (3, 4, 5));
    assert_eq!((word(8320), word(8320 + 64)), (1, 1));
}

#[test]
fn a_lease_lapses_and_is_only_raised() {
    let dir = tempfile::tempdir().unwrap();
    let table = open(dir.path(), 1, 1);
    let mine = table.mine(Slot(0));
    mine.begin(Incarnation(5), Generation(1));
    assert!(!mine.has_lapsed(), "without a lease nothing runs out");
    mine.set_lease(0);
    assert!(mine.has_lapsed());
    let far = mine.lease_clock_us() + 3_600_000_000;
    mine.set_lease(far);
    assert!(!mine.has_lapsed());
    mine.set_lease(1);
    assert!(!mine.has_lapsed(), "a late answer does not shorten it");
    // Another process of the machine has its own lease, and a next life has that of its process.
    assert!(!table.mine(Slot(0)).has_lapsed());
    mine.begin(Incarnation(6), Generation(1));
    assert!(!mine.has_lapsed());
    mine.set_lease(u64::MAX);
    assert!(!mine.has_lapsed(), "it stays a lease");
}
