//! Processes that die and power that fails, imitated by copies of the database's files.
//!
//! A copy of both files between two transactions is what a killed process leaves. Cutting the log's copy at or after what was synced, or
//! losing sectors of it there, is what a power loss leaves.

use super::tests::{disk, map, pool, segment, volume};
use super::*;
use crate::pool::model::Edit;
use proptest::prelude::*;
use std::fs;
use uuid::Uuid;

/// What was visible after a transaction.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    snapshot: Snapshot,
    unfinished: Vec<ChangeRecord>,
    uses: Vec<Vec<Use>>,
}

fn seen(store: &mut SqliteStore) -> Seen {
    let mut snapshot = store.snapshot().unwrap();
    // The same database in another directory.
    snapshot.header.instance.dir = PathBuf::new();
    let uses = snapshot
        .disks
        .iter()
        .map(|disk| store.uses(disk.id).unwrap())
        .collect();
    Seen {
        snapshot,
        unfinished: store.unfinished().unwrap(),
        uses,
    }
}

/// The files as they were after a transaction.
struct Moment {
    seen: Seen,
    database: Vec<u8>,
    log: Vec<u8>,
}

fn files(dir: &PoolDir) -> (Vec<u8>, Vec<u8>) {
    (
        fs::read(dir.database()).unwrap(),
        fs::read(files::log_of(&dir.database())).unwrap(),
    )
}

/// Opens what a crash left, in another boot.
fn opened(database: &[u8], log: &[u8]) -> (tempfile::TempDir, SqliteStore) {
    let scratch = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let dir = PoolDir::new(scratch.path());
    fs::write(dir.database(), database).unwrap();
    fs::write(files::log_of(&dir.database()), log).unwrap();
    let store = SqliteStore::open_in_boot(&dir, BootId(Uuid::from_u128(99))).unwrap();
    (scratch, store)
}

/// A life of a pool: moments after each transaction, and for each the first moment that a power loss can lead back to and the
/// length of the log that was synced then.
struct Life {
    moments: Vec<Moment>,
    synced: Vec<(usize, usize)>,
    hardened: Vec<usize>,
}

fn life() -> Life {
    let (_scratch, dir, mut store) = pool();
    let mut life = Life {
        moments: Vec::new(),
        synced: Vec::new(),
        hardened: Vec::new(),
    };
    let mut synced = (0, 0);
    let mut record = |store: &mut SqliteStore, syncs: bool| {
        let (database, log) = files(&dir);
        if syncs {
            synced = (life.moments.len(), log.len());
        }
        life.moments.push(Moment {
            seen: seen(store),
            database,
            log,
        });
        life.synced.push(synced);
        let layout = store.header().unwrap().layout;
        life.hardened.push(usize::try_from(layout).unwrap());
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
            // Between the two halves of hardening, as whoever dies there leaves it.
            let latest = store
                .write(|db| change::begin_hardening(db, &ids))
                .unwrap()
                .unwrap();
            store.log.sync().unwrap();
            record(&mut store, true);
            store.write(|db| change::end_hardening(db, latest)).unwrap();
            record(&mut store, false);
            store.free_quarantine(Generation(u64::MAX)).unwrap();
            record(&mut store, false);
        }
    }
    life
}

/// Whatever was found, taking back what another boot left leads to a table without contradictions in which every hardened
/// chunk has its new home.
fn recovers(store: &mut SqliteStore) {
    let hardened = store.header().unwrap().layout;
    store.recover_boot(BootId(Uuid::from_u128(99))).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    assert_eq!(store.unfinished().unwrap(), []);
    assert_eq!(
        store.header().unwrap().layout,
        hardened,
        "counted before as after"
    );
    let moved: u64 = store
        .snapshot()
        .unwrap()
        .segments
        .iter()
        .map(|(_, one)| one)
        .filter(|one| one.home.disk == DiskId(2))
        .map(|one| one.home.len)
        .sum();
    assert_eq!(
        moved,
        hardened.saturating_sub(1),
        "a chunk for each hardened change but the first"
    );
    store.raise_term().unwrap();
}

#[test]
fn whoever_opens_after_a_kill_sees_the_last_transaction() {
    for moment in life().moments {
        let (_scratch, mut store) = opened(&moment.database, &moment.log);
        assert_eq!(without_layout(seen(&mut store)), without_layout(moment.seen));
        recovers(&mut store);
    }
}

/// Another boot counts the layout as if it had taken back already.
fn without_layout(mut seen: Seen) -> Seen {
    seen.snapshot.header.layout = 0;
    seen
}

#[test]
fn a_log_cut_anywhere_is_some_earlier_moment() {
    let life = life();
    let last = life.moments.last().unwrap();
    let mut reached = std::collections::BTreeSet::new();
    for cut in (0..last.log.len()).step_by(1777).chain([last.log.len()]) {
        let (_scratch, mut store) = opened(&last.database, &last.log[..cut]);
        let found = without_layout(seen(&mut store));
        let which = life
            .moments
            .iter()
            .rposition(|moment| without_layout(moment.seen.clone()) == found);
        let which = which.unwrap_or_else(|| panic!("cut at {cut}: no moment was like that: {found:#?}"));
        let (durable, length) = *life.synced.last().unwrap();
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

    /// Sectors reach the disk in any order: those after the last sync may be there or not.
    #[test]
    fn sectors_lost_after_the_last_sync_lose_no_synced_moment(
        at in any::<prop::sample::Index>(),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
    ) {
        static LIFE: std::sync::OnceLock<Life> = std::sync::OnceLock::new();
        let life = LIFE.get_or_init(life);
        let index = at.index(life.moments.len());
        let (moment, (durable, length)) = (&life.moments[index], life.synced[index]);
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
        let which = life.moments.iter().rposition(|moment| without_layout(moment.seen.clone()) == found);
        prop_assert!(which.is_some_and(|which| which >= durable), "{:?} is before {}", which, durable);
        recovers(&mut store);
    }
}
