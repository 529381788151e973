//! Killed processes and power failures, imitated by copies of the database's files.
//!
//! A copy of both files between two transactions is the state after a process was killed. The state after a power loss is such
//! a copy with the log cut at or after the synced length, or with sectors missing there.

use super::tests::{disk, map, pool, segment, volume};
use super::*;
use crate::model::change::{ChangeRecord, UsedArea};
use crate::model::records::Edit;
use crate::model::records::Snapshot;
use crate::model::units::{ChangeId, DiskId, Generation};
use crate::store::roles::*;
use proptest::prelude::*;
use std::fs;
use uuid::Uuid;

/// The state that was visible after a transaction.
#[derive(Clone, Debug, PartialEq)]
struct Visible {
    snapshot: Snapshot,
    unfinished: Vec<ChangeRecord>,
    uses: Vec<Vec<UsedArea>>,
}

fn seen(store: &mut SqliteStore) -> Visible {
    let mut snapshot = store.snapshot().unwrap();
    // The copy is the same database in another directory.
    snapshot.header.instance.dir = PoolDir::default();
    let uses = snapshot
        .disks
        .iter()
        .map(|disk| store.uses(disk.id).unwrap())
        .collect();
    Visible {
        snapshot,
        unfinished: store.unfinished().unwrap(),
        uses,
    }
}

/// The files after a transaction.
struct Files {
    seen: Visible,
    database: Vec<u8>,
    log: Vec<u8>,
}

fn files(dir: &PoolDir) -> (Vec<u8>, Vec<u8>) {
    (
        fs::read(dir.database()).unwrap(),
        fs::read(files::log_of(&dir.database())).unwrap(),
    )
}

/// Opens the files after a crash, in another epoch.
fn opened(database: &[u8], log: &[u8]) -> (tempfile::TempDir, SqliteStore) {
    let scratch = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let dir = PoolDir::new(scratch.path());
    fs::write(dir.database(), database).unwrap();
    fs::write(files::log_of(&dir.database()), log).unwrap();
    let store = SqliteStore::open(&dir, CacheEpoch(Uuid::from_u128(99))).unwrap();
    (scratch, store)
}

/// The history of a pool: its state after each transaction, and for each the first state that a power loss can lead back to and
/// the length of the log that was synced then.
struct PoolHistory {
    moments: Vec<Files>,
    synced: Vec<(usize, usize)>,
    persisted: Vec<usize>,
}

fn history() -> PoolHistory {
    let (_scratch, dir, mut store) = pool();
    let mut history = PoolHistory {
        moments: Vec::new(),
        synced: Vec::new(),
        persisted: Vec::new(),
    };
    let mut synced = (0, 0);
    let mut record = |store: &mut SqliteStore, syncs: bool| {
        let (database, log) = files(&dir);
        if syncs {
            synced = (history.moments.len(), log.len());
        }
        history.moments.push(Files {
            seen: seen(store),
            database,
            log,
        });
        history.synced.push(synced);
        let layout = store.header().unwrap().layout;
        history.persisted.push(usize::try_from(layout).unwrap());
    };
    record(&mut store, true);
    let edits = vec![
        Edit::AddDisk(disk(1, 100)),
        Edit::AddDisk(disk(2, 100)),
        Edit::AddVolume(volume(1, 10)),
        map(1, &[segment(0, 1, 1, 10)]),
    ];
    let chunks = (0..10).map(|chunk| vec![map(1, &[segment(chunk, 2, 1 + chunk, 1)])]);
    for (round, edits) in std::iter::once(edits).chain(chunks).enumerate() {
        let new = super::tests::new_change(&mut store, edits);
        let header = store.header().unwrap();
        let id = store.prepare(header.term, &new).unwrap();
        record(&mut store, false);
        store.commit(header.term, id, header.membership).unwrap();
        record(&mut store, false);
        if round % 4 == 3 {
            let ids: Vec<ChangeId> = store.unfinished().unwrap().iter().map(|one| one.id).collect();
            // The state between the two halves of persisting, as a process that dies there leaves it.
            let latest = store
                .write(|db| change::begin_persisting(db, &ids))
                .unwrap()
                .unwrap();
            store.log.sync().unwrap();
            record(&mut store, true);
            store.write(|db| change::end_persisting(db, latest)).unwrap();
            record(&mut store, false);
            store.free_quarantine(Generation(u64::MAX)).unwrap();
            record(&mut store, false);
        }
    }
    history
}

/// Checks that the recovery leads to a table without contradictions in which every persisted chunk has its new
/// placement.
fn recovers(store: &mut SqliteStore) {
    let persisted = store.header().unwrap().layout;
    store.recover_epoch(CacheEpoch(Uuid::from_u128(99))).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    assert_eq!(store.unfinished().unwrap(), []);
    assert_eq!(
        store.header().unwrap().layout,
        persisted,
        "the count is the same before and after"
    );
    let moved: u64 = store
        .snapshot()
        .unwrap()
        .segments
        .iter()
        .map(|(_, one)| one)
        .filter(|one| one.placement.disk == DiskId(2))
        .map(|one| one.placement.len)
        .sum();
    assert_eq!(
        moved,
        persisted.saturating_sub(1),
        "a chunk for each persisted change but the first"
    );
    store.raise_term().unwrap();
}

#[test]
fn the_last_transaction_is_visible_after_a_kill() {
    for moment in history().moments {
        let (_scratch, mut store) = opened(&moment.database, &moment.log);
        assert_eq!(without_layout(seen(&mut store)), without_layout(moment.seen));
        recovers(&mut store);
    }
}

/// Clears the layout number, which another epoch counts as if the recovery had taken place already.
fn without_layout(mut seen: Visible) -> Visible {
    seen.snapshot.header.layout = 0;
    seen
}

#[test]
fn a_log_cut_anywhere_is_some_earlier_state() {
    let history = history();
    let last = history.moments.last().unwrap();
    let mut reached = std::collections::BTreeSet::new();
    for cut in (0..last.log.len()).step_by(1777).chain([last.log.len()]) {
        let (_scratch, mut store) = opened(&last.database, &last.log[..cut]);
        let found = without_layout(seen(&mut store));
        let which = history
            .moments
            .iter()
            .rposition(|moment| without_layout(moment.seen.clone()) == found);
        let which = which.unwrap_or_else(|| panic!("cut at {cut}: no earlier state equals it: {found:#?}"));
        let (durable, length) = *history.synced.last().unwrap();
        assert!(
            cut < length || which >= durable,
            "cut at {cut}: {which} is before what was synced"
        );
        reached.insert(which);
        recovers(&mut store);
    }
    assert!(reached.len() > 10, "cuts led to few moments: {reached:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Sectors reach the disk in any order: those after the last sync may be missing.
    #[test]
    fn sectors_lost_after_the_last_sync_lose_no_synced_moment(
        at in any::<prop::sample::Index>(),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
    ) {
        static HISTORY: std::sync::OnceLock<PoolHistory> = std::sync::OnceLock::new();
        let history = HISTORY.get_or_init(history);
        let index = at.index(history.moments.len());
        let (moment, (durable, length)) = (&history.moments[index], history.synced[index]);
        let mut log = moment.log.clone();
        for sector in lost {
            let from = length + sector.index((log.len() - length).max(1));
            let to = (from + 512).min(log.len());
            if from < to {
                log[from..to].fill(0);
            }
        }
        let (_scratch, mut store) = opened(&moment.database, &log);
        let found = without_layout(seen(&mut store));
        let which = history.moments.iter().rposition(|moment| without_layout(moment.seen.clone()) == found);
        prop_assert!(which.is_some_and(|which| which >= durable), "{:?} is before {}", which, durable);
        recovers(&mut store);
    }
}
