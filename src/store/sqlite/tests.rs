use super::*;
use crate::pool::model::{Difference, Edit};
use crate::store::audit::Entry;
use crate::store::{ChangeState, HoldMode};
use crate::units::{DiskExtent, Timestamp};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use uuid::Uuid;

pub(super) fn pool() -> (TempDir, PoolDir, SqliteStore) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = PoolDir::new(scratch.path().join("a/pool"));
    let store = SqliteStore::create(&dir, ExtentSize::DEFAULT).unwrap();
    (scratch, dir, store)
}

pub(super) fn disk(id: u32, extents: u64) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: Uuid::new_v4(),
        path: format!("/disks/{id}").into(),
        extents,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 0,
    }
}

pub(super) fn volume(id: u64, extents: u64) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        name: Name::new("volume", &format!("v{id}")).unwrap(),
        size: ByteCount(extents << 20),
        mode: 0o600,
        uid: 0,
        gid: 0,
        read_only: false,
    }
}

pub(super) fn segment(start: u64, disk: u32, home: u64, len: u64) -> Segment {
    let home = Area {
        disk: DiskId(disk),
        start: DiskExtent(home),
        len,
    };
    Segment {
        start: VolumeExtent(start),
        home,
    }
}

pub(super) fn map(volume: u64, segments: &[Segment]) -> Edit {
    Edit::Map {
        volume: VolumeId(volume),
        segments: segments.to_vec(),
    }
}

pub(super) fn new_change(store: &mut SqliteStore, edits: Vec<Edit>) -> NewChange {
    NewChange {
        title: "test".into(),
        job: None,
        difference: Difference {
            from: store.header().unwrap().generation,
            edits,
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    }
}

pub(super) fn change(store: &mut SqliteStore, edits: Vec<Edit>) -> ChangeId {
    let change = new_change(store, edits);
    let header = store.header().unwrap();
    let id = store.prepare(header.term, &change).unwrap();
    let answer = store.commit(header.term, id, header.membership).unwrap();
    assert_eq!(answer, Commit::Committed(header.generation.next()));
    id
}

#[test]
fn a_pool_is_made_private_and_is_there_when_opened_again() {
    let (_scratch, dir, mut store) = pool();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path()), 0o700);
    assert_eq!(mode(&dir.run()), 0o700);
    for file in std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        assert!(file.is_dir() || mode(&file) == 0o600, "{file:?}");
    }
    change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let before = store.snapshot().unwrap();
    drop(store);
    let mut again = SqliteStore::open(&dir).unwrap();
    assert_eq!(again.snapshot().unwrap(), before);
    assert_eq!(before.disks.len(), 1);
    let refused = SqliteStore::create(&dir, ExtentSize::DEFAULT).err().unwrap();
    assert!(refused.to_string().contains("pool here already"), "{refused}");
}

#[test]
fn a_change_lives_from_prepared_to_hardened() {
    let (_scratch, _dir, mut store) = pool();
    change(
        &mut store,
        vec![
            Edit::AddDisk(disk(1, 100)),
            Edit::AddVolume(volume(1, 10)),
            map(1, &[segment(0, 1, 1, 4), segment(4, 1, 5, 6)]),
        ],
    );
    let id = change(&mut store, vec![map(1, &[segment(2, 1, 50, 3)])]);
    let segments = store
        .segments(VolumeId(1), VolumeExtent(0), VolumeExtent(u64::MAX))
        .unwrap();
    assert_eq!(
        segments,
        [segment(0, 1, 1, 2), segment(2, 1, 50, 3), segment(5, 1, 6, 5)]
    );
    let ids: Vec<_> = store
        .unfinished()
        .unwrap()
        .iter()
        .map(|change| change.id)
        .collect();
    store.harden(&ids).unwrap();
    assert_eq!(store.change(id).unwrap().unwrap().state, ChangeState::Hardened);
    assert_eq!(store.header().unwrap().layout, 2);
    assert_eq!(
        store.free_quarantine(Generation(2)).unwrap(),
        [segment(0, 1, 3, 3).home]
    );
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn power_loss_takes_back_what_was_not_hardened() {
    let (_scratch, dir, mut store) = pool();
    let first = change(
        &mut store,
        vec![
            Edit::AddDisk(disk(1, 100)),
            Edit::AddVolume(volume(1, 10)),
            map(1, &[segment(0, 1, 1, 10)]),
        ],
    );
    store.harden(&[first]).unwrap();
    let before = store.snapshot().unwrap();
    let second = change(&mut store, vec![map(1, &[segment(0, 1, 20, 10)])]);
    let third = change(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    drop(store);
    let boot = BootId(Uuid::new_v4());
    let mut store = SqliteStore::open_in_boot(&dir, boot).unwrap();
    assert_eq!(store.recover_boot(boot).unwrap(), [third, second]);
    let after = store.snapshot().unwrap();
    assert_eq!((after.segments, after.volumes), (before.segments, before.volumes));
    assert_eq!(after.header.generation, Generation(5));
    assert_eq!(store.uses(DiskId(1)).unwrap().len(), 1);
    assert_eq!(store.events(0, 9).unwrap().len(), 1);
    assert!(Timestamp::now() >= store.events(0, 9).unwrap()[0].at);
}

fn assert_refused<T>(answer: Result<T>, words: &[&str]) {
    let error = answer.err().unwrap();
    let text = format!("{error} {}", error.way_out().unwrap_or("(no hint)"));
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn what_is_no_pool_is_named_with_the_way_out() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = PoolDir::new(scratch.path());
    let path = scratch.path().to_str().unwrap();
    assert_refused(
        SqliteStore::open(&dir),
        &[path, "no pool here", "vctl pool create"],
    );
    for (content, word) in [(&b""[..], "not a pool's database"), (&[7; 9000][..], "damaged")] {
        std::fs::write(dir.database(), content).unwrap();
        assert_refused(SqliteStore::open(&dir), &[path, word]);
    }
    std::fs::remove_file(dir.database()).unwrap();
    let foreign = Connection::open(dir.database()).unwrap();
    foreign.execute_batch("CREATE TABLE x (y)").unwrap();
    assert_refused(SqliteStore::open(&dir), &[path, "not a pool's database"]);
    let mode: String = foreign
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "delete", "a foreign database is left as it is");
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let (_scratch, dir, store) = pool();
    drop(store);
    let newer = Connection::open(dir.database()).unwrap();
    newer.pragma_update(None, "user_version", 77).unwrap();
    drop(newer);
    assert_refused(SqliteStore::open(&dir), &["format 77", "newer version"]);
}

#[test]
fn a_backup_puts_the_pool_back_and_keeps_what_was_there() {
    let (scratch, dir, mut store) = pool();
    change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let backup = scratch.path().join("backup");
    store.backup_to(&backup).unwrap();
    let mode = std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_refused(store.backup_to(&backup), &["backup", "there already"]);
    let before = store.snapshot().unwrap();
    change(&mut store, vec![Edit::AddDisk(disk(2, 100))]);
    drop(store);
    SqliteStore::restore(&dir, &backup).unwrap();
    let mut restored = SqliteStore::open(&dir).unwrap();
    assert_eq!(restored.snapshot().unwrap(), before);
    restored.raise_layout_to(40).unwrap();
    restored.raise_layout_to(3).unwrap();
    assert_eq!(restored.header().unwrap().layout, 40);
    assert!(dir.path().join("pool.db.old").exists());
    drop(restored);

    std::fs::write(dir.database(), [7; 9000]).unwrap();
    SqliteStore::restore(&dir, &backup).unwrap();
    assert_eq!(SqliteStore::open(&dir).unwrap().snapshot().unwrap(), before);
    let garbage = scratch.path().join("garbage");
    std::fs::write(&garbage, [7; 9000]).unwrap();
    assert_refused(
        SqliteStore::restore(&dir, &garbage),
        &["garbage", "vctl pool backup"],
    );
    assert_refused(
        SqliteStore::restore(&dir, &scratch.path().join("none")),
        &["none"],
    );
    assert_eq!(SqliteStore::open(&dir).unwrap().snapshot().unwrap(), before);
}

#[test]
fn an_interrupted_restore_says_so_and_runs_again() {
    let (scratch, dir, mut store) = pool();
    let before = store.snapshot().unwrap();
    let backup = scratch.path().join("backup");
    store.backup_to(&backup).unwrap();
    drop(store);
    std::fs::rename(dir.database(), dir.path().join("pool.db.old")).unwrap();
    std::fs::write(files::log_of(&dir.database()), "another database's").unwrap();
    assert_refused(SqliteStore::open(&dir), &["restore was interrupted"]);
    SqliteStore::restore(&dir, &backup).unwrap();
    assert_eq!(SqliteStore::open(&dir).unwrap().snapshot().unwrap(), before);
    assert!(dir.path().join("pool.db.old").exists());
}

#[test]
fn contradictions_are_found() {
    let (_scratch, _dir, mut store) = pool();
    let edits = vec![
        Edit::AddDisk(disk(1, 100)),
        Edit::AddVolume(volume(1, 10)),
        map(1, &[segment(0, 1, 1, 4), segment(4, 1, 20, 6)]),
    ];
    change(&mut store, edits);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    for (damage, words) in [
        (
            "UPDATE segments SET len = 5 WHERE start = 0",
            "extent 4 has two homes",
        ),
        (
            "UPDATE segments SET len = 3 WHERE start = 0",
            "extents 3 to 4 have no home",
        ),
        (
            "UPDATE segments SET home = 3 WHERE start = 4",
            "extent 3 has two owners",
        ),
        (
            "UPDATE segments SET home = 98 WHERE start = 4",
            "the disk ends at 100",
        ),
        (
            "DELETE FROM segments WHERE start = 4",
            "extents 4 to 10 have no home",
        ),
        ("UPDATE volumes SET size = size + 1", "no multiple of 512"),
        ("UPDATE volumes SET size = 1048576", "ends at 1"),
        ("DELETE FROM volumes", "volume number 1: has segments"),
        ("DELETE FROM disks", "disk number 1: has extents in use"),
        (
            "INSERT INTO claims VALUES (1, 50, 1, 'job', 9)",
            "job 9: is not there",
        ),
        (
            "INSERT INTO claims VALUES (1, 50, 1, 'change', 1)",
            "change 1: is not prepared",
        ),
        (
            "INSERT INTO claims VALUES (1, 2, 1, 'job', 9)",
            "extent 2 has two owners",
        ),
        (
            "INSERT INTO quarantine VALUES (1, 50, 1, 9, 9)",
            "later than the current one",
        ),
        ("UPDATE changes SET generation = 9", "later than the current one"),
    ] {
        store
            .connection
            .execute_batch(&format!("BEGIN; {damage}"))
            .unwrap();
        let found = check::problems(&store.connection, store.boot).unwrap();
        assert!(
            found.iter().any(|line| line.contains(words)),
            "{damage}: {found:?}"
        );
        store.connection.execute_batch("ROLLBACK").unwrap();
    }
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn finished_changes_and_events_are_forgotten_in_the_end() {
    let (_scratch, _dir, mut store) = pool();
    let rows = |store: &SqliteStore, table: &str| -> u64 {
        store
            .connection
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .unwrap()
    };
    store.connection.execute_batch("BEGIN").unwrap();
    for n in 0..1100 {
        let new = empty(n);
        let id = change::prepare(&store.connection, Term(0), &new, store.boot).unwrap();
        change::cancel(&store.connection, id).unwrap();
    }
    for _ in 0..10_050 {
        events::log(&store.connection, Severity::Info, "pool", "x").unwrap();
    }
    for n in 0..10_050 {
        let entry = Entry {
            id: Uuid::from_u128(n),
            by: String::new(),
            uid: 0,
            user: String::new(),
            pid: 1,
            process: None,
            command: Vec::new(),
            began: Timestamp(0),
            end: None,
        };
        audit::record(&store.connection, &entry).unwrap();
    }
    store.connection.execute_batch("COMMIT").unwrap();
    assert_eq!(rows(&store, "audit"), 10_000);
    assert_eq!((rows(&store, "history"), rows(&store, "events")), (1000, 10_000));
    assert_eq!(
        store.change(ChangeId(1100)).unwrap().unwrap().state,
        ChangeState::Cancelled
    );
    assert_eq!(store.events(0, 1).unwrap()[0].seq, 51);
}

fn empty(from: u64) -> NewChange {
    NewChange {
        title: "test".into(),
        job: None,
        difference: Difference {
            from: Generation(from),
            edits: Vec::new(),
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    }
}

#[test]
fn a_long_log_goes_back_into_the_database() {
    let (_scratch, _dir, mut store) = pool();
    let left = |store: &SqliteStore| {
        let (frames, copied) = store.log_frames("noop").unwrap();
        frames - copied
    };
    store.log(Severity::Info, "pool", "short").unwrap();
    let short = left(&store);
    store.checkpoint().unwrap();
    assert_eq!(left(&store), short, "not worth it");
    while left(&store) <= CHECKPOINT_FRAMES {
        store.log(Severity::Info, "pool", &"long".repeat(9000)).unwrap();
    }
    store.checkpoint().unwrap();
    let (frames, _) = store.log_frames("noop").unwrap();
    assert!(frames < 10, "the log has begun anew: {frames}");
}

#[test]
fn another_processs_transaction_is_waited_for_and_named_when_it_lasts() {
    let (_scratch, dir, store) = pool();
    let mut other = SqliteStore::open(&dir).unwrap();
    store.connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = std::thread::spawn(move || (other.raise_term().map(|_| ()), other));
    let (answer, mut other) = waiting.join().unwrap();
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::TimedOut);
    assert!(error.to_string().contains("locked"), "{error}");
    assert!(other.header().is_ok(), "reading goes on");
    let waiting = std::thread::spawn(move || other.raise_term().unwrap());
    store.connection.execute_batch("COMMIT").unwrap();
    assert_eq!(waiting.join().unwrap(), Term(1));
}

/// The kernel tells of a lost page once. Whoever comes later hears that all is well, and must not believe it.
#[test]
fn a_failed_sync_of_the_log_is_known_to_all_until_the_database_is_written_anew() {
    let (scratch, dir, mut store) = pool();
    let mut other = SqliteStore::open(&dir).unwrap();
    store.checkpoint().unwrap();
    // Cannot be synced, as a log on a failing disk.
    store.log.file = std::fs::File::open("/dev/null").unwrap();
    let change = new_change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let id = store.prepare(Term(0), &change).unwrap();
    store.commit(Term(0), id, MembershipVersion(0)).unwrap();
    let told = store.harden(&[id]).unwrap_err();
    assert!(told.to_string().contains("cannot be made durable"), "{told}");
    drop(store);

    let mut later = SqliteStore::open(&dir).unwrap();
    for store in [&mut other, &mut later] {
        let refused = store.harden(&[id]).unwrap_err();
        assert!(
            refused.to_string().contains("could not be made durable before"),
            "{refused}"
        );
        assert!(
            refused.way_out().unwrap().contains("vctl pool restore"),
            "{refused}"
        );
        let state = store.change(id).unwrap().unwrap().state;
        assert_ne!(state, ChangeState::Hardened);
    }
    assert!(SqliteStore::sync_failed(&dir).unwrap().is_some());
    let next_boot = BootId(Uuid::new_v4());
    assert_eq!(
        Mark::of(&dir, next_boot).why().unwrap(),
        None,
        "another boot reads what is on the disk"
    );

    let backup = scratch.path().join("backup");
    later.backup_to(&backup).unwrap();
    drop((other, later));
    SqliteStore::restore(&dir, &backup).unwrap();
    let mut anew = SqliteStore::open(&dir).unwrap();
    assert_eq!(SqliteStore::sync_failed(&dir).unwrap(), None);
    anew.harden(&[id]).unwrap();
    assert_eq!(anew.change(id).unwrap().unwrap().state, ChangeState::Hardened);
}
