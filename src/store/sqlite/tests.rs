use super::roles::upkeep::{CHECKPOINT_FRAMES, LONG_LOG};
use super::*;
use crate::model::audit::Entry;
use crate::model::build;
pub(super) use crate::model::build::{disk, map, segment};
use crate::model::change::{ChangeState, Commit, HoldMode, NewChange};
use crate::model::event::Severity;
use crate::model::job::Step;
use crate::model::records::{Delta, Edit, VolumeRecord};
use crate::model::units::ExtentSize;
use crate::model::units::{
    ChangeId, DiskId, Generation, MembershipVersion, Term, Timestamp, VolumeExtent, VolumeId,
};
use crate::store::roles::*;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use uuid::Uuid;

/// The epoch of stores for which a test names no other.
pub(super) const EPOCH: CacheEpoch = CacheEpoch(Uuid::from_u128(1));

pub(super) fn pool() -> (TempDir, PoolDir, SqliteStore) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = PoolDir::new(scratch.path().join("a/pool"));
    SqliteStore::create(&dir, ExtentSize::DEFAULT).unwrap();
    let store = SqliteStore::open(&dir, EPOCH).unwrap();
    (scratch, dir, store)
}

pub(super) fn volume(id: u64, extents: u64) -> VolumeRecord {
    build::volume(id, extents << 20)
}

pub(super) fn new_change(store: &mut SqliteStore, edits: Vec<Edit>) -> NewChange {
    NewChange {
        title: "test".into(),
        job: None,
        delta: Delta {
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
fn a_pool_is_created_private_and_can_be_opened_again() {
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
    let mut again = SqliteStore::open(&dir, EPOCH).unwrap();
    assert_eq!(again.snapshot().unwrap(), before);
    assert_eq!(before.disks.len(), 1);
    let refused = SqliteStore::create(&dir, ExtentSize::DEFAULT).err().unwrap();
    assert!(refused.to_string().contains("pool here already"), "{refused}");
}

#[test]
fn a_change_lives_from_prepared_to_persisted() {
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
    store.persist(&ids).unwrap();
    assert_eq!(store.change(id).unwrap().unwrap().state, ChangeState::Persisted);
    assert_eq!(store.header().unwrap().layout, 2);
    assert_eq!(
        store.free_quarantine(Generation(2)).unwrap(),
        [segment(0, 1, 3, 3).placement]
    );
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn power_loss_takes_back_what_was_not_persisted() {
    let (_scratch, dir, mut store) = pool();
    let first = change(
        &mut store,
        vec![
            Edit::AddDisk(disk(1, 100)),
            Edit::AddVolume(volume(1, 10)),
            map(1, &[segment(0, 1, 1, 10)]),
        ],
    );
    store.persist(&[first]).unwrap();
    let before = store.snapshot().unwrap();
    let second = change(&mut store, vec![map(1, &[segment(0, 1, 20, 10)])]);
    let third = change(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    drop(store);
    let boot = CacheEpoch(Uuid::new_v4());
    let mut store = SqliteStore::open(&dir, boot).unwrap();
    assert_eq!(store.recover_epoch(boot).unwrap(), [third, second]);
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
fn a_missing_or_foreign_database_is_named_with_the_way_out() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = PoolDir::new(scratch.path());
    let path = scratch.path().to_str().unwrap();
    assert_refused(
        SqliteStore::open(&dir, EPOCH),
        &[path, "no pool here", "vctl pool create"],
    );
    for (content, word) in [(&b""[..], "not a pool's database"), (&[7; 9000][..], "damaged")] {
        std::fs::write(dir.database(), content).unwrap();
        assert_refused(SqliteStore::open(&dir, EPOCH), &[path, word]);
    }
    std::fs::remove_file(dir.database()).unwrap();
    let foreign = Connection::open(dir.database()).unwrap();
    foreign.execute_batch("CREATE TABLE x (y)").unwrap();
    assert_refused(SqliteStore::open(&dir, EPOCH), &[path, "not a pool's database"]);
    let mode: String = foreign
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "delete", "a foreign database is not changed");
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let (_scratch, dir, store) = pool();
    drop(store);
    let newer = Connection::open(dir.database()).unwrap();
    newer.pragma_update(None, "user_version", 77).unwrap();
    drop(newer);
    assert_refused(SqliteStore::open(&dir, EPOCH), &["format 77", "newer version"]);
}

#[test]
fn a_restore_brings_the_pool_back_and_keeps_the_replaced_database() {
    let (scratch, dir, mut store) = pool();
    change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let backup = scratch.path().join("backup");
    store.back_up(&backup).unwrap();
    let mode = std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_refused(store.back_up(&backup), &["backup", "there already"]);
    let before = store.snapshot().unwrap();
    change(&mut store, vec![Edit::AddDisk(disk(2, 100))]);
    drop(store);
    SqliteStore::restore(&dir, &backup, Some(0)).unwrap();
    let mut restored = SqliteStore::open(&dir, EPOCH).unwrap();
    assert_eq!(restored.snapshot().unwrap(), before);
    assert!(dir.path().join("pool.db.old").exists());
    drop(restored);
    SqliteStore::restore(&dir, &backup, Some(40)).unwrap();
    let mut restored = SqliteStore::open(&dir, EPOCH).unwrap();
    // Above it, so that what a disk has seen at 40 is not taken for this.
    assert_eq!(restored.header().unwrap().layout, 41);
    drop(restored);

    std::fs::write(dir.database(), [7; 9000]).unwrap();
    SqliteStore::restore(&dir, &backup, None).unwrap();
    assert_eq!(
        SqliteStore::open(&dir, EPOCH).unwrap().snapshot().unwrap(),
        before
    );
    let garbage = scratch.path().join("garbage");
    std::fs::write(&garbage, [7; 9000]).unwrap();
    assert_refused(
        SqliteStore::restore(&dir, &garbage, None),
        &["garbage", "vctl pool backup"],
    );
    assert_refused(
        SqliteStore::restore(&dir, &scratch.path().join("none"), None),
        &["none"],
    );
    assert_eq!(
        SqliteStore::open(&dir, EPOCH).unwrap().snapshot().unwrap(),
        before
    );
}

#[test]
fn an_interrupted_restore_is_reported_and_runs_again() {
    let (scratch, dir, mut store) = pool();
    let before = store.snapshot().unwrap();
    let backup = scratch.path().join("backup");
    store.back_up(&backup).unwrap();
    drop(store);
    std::fs::rename(dir.database(), dir.path().join("pool.db.old")).unwrap();
    std::fs::write(files::log_of(&dir.database()), "another database's").unwrap();
    assert_refused(SqliteStore::open(&dir, EPOCH), &["restore was interrupted"]);
    SqliteStore::restore(&dir, &backup, None).unwrap();
    assert_eq!(
        SqliteStore::open(&dir, EPOCH).unwrap().snapshot().unwrap(),
        before
    );
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
            "extent 4 has two placements",
        ),
        (
            "UPDATE segments SET len = 3 WHERE start = 0",
            "extents 3 to 4 have no placement",
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
            "extents 4 to 10 have no placement",
        ),
        ("UPDATE volumes SET size = size + 1", "not a multiple of 512"),
        ("UPDATE volumes SET size = 1048576", "ends at 1"),
        ("DELETE FROM volumes", "volume number 1: has segments"),
        ("DELETE FROM disks", "disk number 1: has extents in use"),
        (
            "INSERT INTO claims VALUES (1, 50, 1, 'job', 9)",
            "job 9: does not exist",
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
        let found = check::problems(&store.connection, (store.epoch, &store.dir)).unwrap();
        assert!(
            found.iter().any(|line| line.contains(words)),
            "{damage}: {found:?}"
        );
        store.connection.execute_batch("ROLLBACK").unwrap();
    }
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn old_finished_changes_and_events_are_deleted() {
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
        let id = change::prepare(&store.connection, Term(0), &new, store.epoch).unwrap();
        change::cancel(&store.connection, id).unwrap();
    }
    for _ in 0..10_050 {
        events::log(&store.connection, Severity::Info, "pool", "x").unwrap();
    }
    for n in 0..10_050 {
        let entry = Entry {
            id: Uuid::from_u128(n),
            by: String::new(),
            node: None,
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
        delta: Delta {
            from: Generation(from),
            edits: Vec::new(),
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    }
}

#[test]
fn a_long_log_is_copied_into_the_database() {
    let (_scratch, _dir, mut store) = pool();
    let left = |store: &SqliteStore| {
        let (frames, copied) = store.log_frames("noop").unwrap();
        frames - copied
    };
    store.log(Severity::Info, "pool", "short").unwrap();
    let short = left(&store);
    store.checkpoint().unwrap();
    assert_eq!(left(&store), short, "too short for a checkpoint");
    while left(&store) <= CHECKPOINT_FRAMES {
        store.log(Severity::Info, "pool", &"long".repeat(9000)).unwrap();
    }
    store.checkpoint().unwrap();
    let (frames, _) = store.log_frames("noop").unwrap();
    assert!(frames < 10, "the log has restarted: {frames}");
}

/// SQLite does not report a sync that fails when it copies the log into the database as the last connection closes.
#[test]
fn the_last_connection_to_close_does_not_checkpoint() {
    let (_scratch, dir, mut store) = pool();
    store.log(Severity::Info, "pool", "something").unwrap();
    let (frames, _) = store.log_frames("noop").unwrap();
    drop(store);
    let mut store = SqliteStore::open(&dir, EPOCH).unwrap();
    assert_eq!(store.log_frames("noop").unwrap().0, frames);
    assert_eq!(store.events(0, 10).unwrap().len(), 1);
}

#[test]
fn a_transaction_waits_for_that_of_another_process_and_names_it_after_the_limit() {
    let (_scratch, dir, store) = pool();
    let mut other = SqliteStore::open(&dir, EPOCH).unwrap();
    store.connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = std::thread::spawn(move || (other.raise_term().map(|_| ()), other));
    let (answer, mut other) = waiting.join().unwrap();
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), crate::model::error::ErrorKind::TimedOut);
    assert!(error.to_string().contains("locked"), "{error}");
    assert!(other.header().is_ok(), "reading goes on");
    let waiting = std::thread::spawn(move || other.raise_term().unwrap());
    store.connection.execute_batch("COMMIT").unwrap();
    assert_eq!(waiting.join().unwrap(), Term(1));
}

/// The kernel reports a lost page once. A process that comes later sees no error, and must not trust that.
#[test]
fn a_failed_sync_of_the_log_is_known_to_all_until_the_database_is_rewritten() {
    let (scratch, dir, mut store) = pool();
    let mut other = SqliteStore::open(&dir, EPOCH).unwrap();
    store.checkpoint().unwrap();
    // This file cannot be synced, like a log on a failing disk.
    store.log.file = std::fs::File::open("/dev/null").unwrap();
    let change = new_change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let id = store.prepare(Term(0), &change).unwrap();
    store.commit(Term(0), id, MembershipVersion(0)).unwrap();
    let error = store.persist(&[id]).unwrap_err();
    assert!(error.to_string().contains("cannot be made durable"), "{error}");
    drop(store);

    let mut later = SqliteStore::open(&dir, EPOCH).unwrap();
    for store in [&mut other, &mut later] {
        let refused = store.persist(&[id]).unwrap_err();
        assert!(
            refused.to_string().contains("could not be made durable before"),
            "{refused}"
        );
        assert!(
            refused.way_out().unwrap().contains("vctl pool restore"),
            "{refused}"
        );
        let state = store.change(id).unwrap().unwrap().state;
        assert_ne!(state, ChangeState::Persisted);
    }
    assert!(SqliteStore::sync_failed(&dir, EPOCH).unwrap().is_some());
    let next_boot = CacheEpoch(Uuid::new_v4());
    assert_eq!(
        FailedSync::of(&dir, next_boot).why().unwrap(),
        None,
        "another epoch reads what is on the disk"
    );

    let backup = scratch.path().join("backup");
    later.back_up(&backup).unwrap();
    drop((other, later));
    SqliteStore::restore(&dir, &backup, None).unwrap();
    let mut anew = SqliteStore::open(&dir, EPOCH).unwrap();
    assert_eq!(SqliteStore::sync_failed(&dir, EPOCH).unwrap(), None);
    anew.persist(&[id]).unwrap();
    assert_eq!(anew.change(id).unwrap().unwrap().state, ChangeState::Persisted);
}

/// Where one of them could be lost, the next worker would move the chunk again, or not at all.
#[test]
fn a_commit_and_the_progress_of_its_job_are_one_transaction() {
    let (_scratch, _dir, mut store) = pool();
    let old = segment(0, 1, 1, 4);
    let table = vec![
        Edit::AddDisk(disk(1, 100)),
        Edit::AddDisk(disk(2, 100)),
        Edit::AddVolume(volume(1, 4)),
        map(1, &[old]),
    ];
    change(&mut store, table);
    let header = store.header().unwrap();
    let step = Step {
        volume: VolumeId(1),
        from: old,
        to: segment(0, 2, 10, 4).placement,
        done: 0,
    };
    let job = store.create_job(header.term, &build::job(), &[step]).unwrap();
    let moved = NewChange {
        job: Some(job),
        ..new_change(&mut store, vec![map(1, &[segment(0, 2, 10, 4)])])
    };
    let id = store.prepare(header.term, &moved).unwrap();
    for table in ["steps", "changes"] {
        let refuse = format!(
            "CREATE TEMP TRIGGER refuse BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END"
        );
        store.connection.execute_batch(&refuse).unwrap();
        store.commit(header.term, id, header.membership).unwrap_err();
        assert_eq!(
            store.change(id).unwrap().unwrap().state,
            ChangeState::Prepared,
            "{table}"
        );
        assert_eq!(store.steps(job).unwrap(), [step], "{table}");
        store.connection.execute_batch("DROP TRIGGER refuse").unwrap();
    }
    store.commit(header.term, id, header.membership).unwrap();
    assert_eq!(store.steps(job).unwrap(), [Step { done: 4, ..step }]);
}

/// Environment variable with the database that this test program reads and stops meanwhile.
const READ: &str = "APPARATUS_TEST_READS_DATABASE";

/// A stopped process that reads an old state of the database, in a transaction.
struct StoppedReader(std::process::Child);

impl StoppedReader {
    fn of(database: &std::path::Path) -> Self {
        let test = "store::sqlite::tests::the_log_begins_anew_though_a_process_was_stopped_while_it_read";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test]).env(READ, database);
        let child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let stopped = Self(child);
        let (pid, options) = (
            rustix::process::Pid::from_child(&stopped.0),
            rustix::process::WaitOptions::UNTRACED,
        );
        let status = rustix::process::waitpid(Some(pid), options).unwrap();
        assert!(status.unwrap().1.stopped());
        stopped
    }

    /// Stops in the middle of a transaction, and ends it when resumed.
    fn run(database: &std::path::Path) {
        let connection = Connection::open(database).unwrap();
        connection
            .execute_batch("BEGIN; SELECT count(*) FROM events")
            .unwrap();
        signal_hook::low_level::raise(libc::SIGSTOP).unwrap();
        connection.execute_batch("COMMIT").unwrap();
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    }
}

impl Drop for StoppedReader {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_log_begins_anew_though_a_process_was_stopped_while_it_read() {
    if let Some(database) = std::env::var_os(READ) {
        return StoppedReader::run(database.as_ref());
    }
    let (_scratch, dir, mut store) = pool();
    store.log(Severity::Info, "pool", "what the reader sees").unwrap();
    let _reader = StoppedReader::of(&dir.database());
    let lengthen = |store: &mut SqliteStore| {
        while store.log_frames("noop").unwrap().0 < LONG_LOG {
            store.log(Severity::Info, "pool", &"long".repeat(90_000)).unwrap();
        }
    };
    lengthen(&mut store);
    store.checkpoint().unwrap();
    assert!(store.log_frames("noop").unwrap().0 < 10, "the log has begun anew");
    lengthen(&mut store);
    let other = SqliteStore::open(&dir, EPOCH).unwrap();
    other
        .connection
        .execute_batch("BEGIN; SELECT count(*) FROM events")
        .unwrap();
    store.checkpoint().unwrap();
    assert!(
        store.log_frames("noop").unwrap().0 >= LONG_LOG,
        "a reader that runs is not disturbed"
    );
    other.connection.execute_batch("COMMIT").unwrap();
    store.checkpoint().unwrap();
    assert!(store.log_frames("noop").unwrap().0 < 10);
}
