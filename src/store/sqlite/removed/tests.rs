//! What is remembered of removed volumes, through commits, power losses and other owners.

use crate::model::build::area;
use crate::model::change::Owner;
use crate::model::records::Edit;
use crate::model::removed::{MOST_SEGMENTS, RemovedVolume};
use crate::model::units::{
    CacheEpoch, ChangeId, DiskId, ExtentSize, Generation, Timestamp, VolumeExtent, VolumeId,
};
use crate::store::roles::*;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::tests::{EPOCH, change, disk, map, pool, segment, volume};
use uuid::Uuid;

const LATER: CacheEpoch = CacheEpoch(Uuid::from_u128(2));

/// Commits and persists a change, and frees what it took from volumes.
fn done(store: &mut SqliteStore, edits: Vec<Edit>) -> ChangeId {
    let id = change(store, edits);
    persist(store);
    id
}

fn persist(store: &mut SqliteStore) {
    let unfinished = store.unfinished().unwrap();
    let ids: Vec<ChangeId> = unfinished.iter().map(|record| record.id).collect();
    store.persist(&ids).unwrap();
    store.free_quarantine(Generation(u64::MAX >> 1)).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

/// Returns edits that add a volume with this number in two pieces of disk 1: extents 10 to 13 and 20 to 25.
fn add(id: u64) -> Vec<Edit> {
    let pieces = [segment(0, 1, 10, 4), segment(4, 1, 20, 6)];
    vec![Edit::AddVolume(volume(id, 10)), map(id, &pieces)]
}

/// Adds and removes volume 1. Returns the change that removed it.
fn remove(store: &mut SqliteStore) -> ChangeId {
    done(store, vec![Edit::AddDisk(disk(1, 100))]);
    done(store, add(1));
    done(store, vec![Edit::RemoveVolume(VolumeId(1))])
}

fn only(store: &mut SqliteStore) -> RemovedVolume {
    let mut removed = store.removed().unwrap();
    assert_eq!(removed.len(), 1, "{removed:?}");
    removed.remove(0)
}

fn lost(store: &mut SqliteStore) -> u64 {
    only(store).lost(ExtentSize::DEFAULT)
}

#[test]
fn a_removed_volume_is_remembered_until_it_is_brought_back() {
    let (_scratch, _, mut store) = pool();
    let by = remove(&mut store);
    let removed = only(&mut store);
    assert_eq!(removed.change, by);
    assert_eq!(removed.volume, volume(1, 10));
    assert_eq!(removed.left, [segment(0, 1, 10, 4), segment(4, 1, 20, 6)]);
    assert_eq!(store.uses(DiskId(1)).unwrap(), [], "its extents are free");
    change(&mut store, add(1));
    assert_eq!(store.removed().unwrap(), []);
    persist(&mut store);
    let rows: u64 = store
        .connection
        .query_row("SELECT count(*) FROM removed_segments", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0);
    done(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    assert_eq!(lost(&mut store), 0);
}

#[test]
fn what_others_get_of_it_is_lost_to_it() {
    let (_scratch, dir, mut store) = pool();
    remove(&mut store);
    // Extents that are about to be zeroed for a new volume.
    store.give_away(&[area(1, 12, 9), area(1, 40, 5)]).unwrap();
    assert_eq!(
        only(&mut store).left,
        [segment(0, 1, 10, 2), segment(5, 1, 21, 5)]
    );
    // A prepared change, and a copy of the metadata.
    let w = vec![Edit::AddVolume(volume(2, 1)), map(2, &[segment(0, 1, 23, 1)])];
    done(&mut store, w);
    store.claim_for_copy(area(1, 25, 2)).unwrap();
    let left = [segment(0, 1, 10, 2), segment(5, 1, 21, 2), segment(8, 1, 24, 1)];
    assert_eq!(only(&mut store).left, left);
    assert_eq!(lost(&mut store), 5);
    // The end of a disk that becomes shorter.
    store.copy_dropped(DiskId(1)).unwrap();
    done(&mut store, vec![Edit::SetDisk(disk(1, 24))]);
    assert_eq!(lost(&mut store), 6);
    drop(store);
    let mut store = SqliteStore::open(&dir, LATER).unwrap();
    assert_eq!(lost(&mut store), 6);
    let backup = dir.path().join("backup");
    store.back_up(&backup).unwrap();
    drop(store);
    SqliteStore::restore(&dir, &backup, Some(99)).unwrap();
    let mut store = SqliteStore::open(&dir, LATER).unwrap();
    assert_eq!(store.removed().unwrap(), [], "a restored database remembers none");
}

#[test]
fn a_power_loss_takes_a_removal_and_a_return_back() {
    let (_scratch, dir, mut store) = pool();
    done(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    done(&mut store, add(1));
    change(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    assert_eq!(lost(&mut store), 0);
    store.recover_epoch(LATER).unwrap();
    assert_eq!(store.removed().unwrap(), [], "it is there again");
    drop(store);

    let mut store = SqliteStore::open(&dir, LATER).unwrap();
    done(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    change(&mut store, add(1));
    change(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    assert_eq!(
        store.removed().unwrap(),
        [],
        "it was placed by a change that may be taken back, so it is not remembered"
    );
    store.recover_epoch(EPOCH).unwrap();
    assert_eq!(lost(&mut store), 0, "the first removal is persisted");
    done(&mut store, add(1));
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_forgotten_goes_into_quarantine_to_be_discarded() {
    let (_scratch, _, mut store) = pool();
    let by = remove(&mut store);
    store.give_away(&[area(1, 12, 1)]).unwrap();
    store.forget_removed(&[by]).unwrap();
    assert_eq!(store.removed().unwrap(), []);
    let uses = store.uses(DiskId(1)).unwrap();
    let areas: Vec<_> = uses.iter().map(|used| used.area).collect();
    assert_eq!(areas, [area(1, 10, 2), area(1, 13, 1), area(1, 20, 6)]);
    assert!(uses.iter().all(|used| used.owner == Owner::Quarantine(by)));
    assert_eq!(store.freeable(Generation(0)).unwrap(), areas);
    persist(&mut store);
    assert_eq!(store.uses(DiskId(1)).unwrap(), []);
}

#[test]
fn the_oldest_are_forgotten_and_none_whose_removal_may_be_taken_back() {
    let (_scratch, _, mut store) = pool();
    done(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let at = |id: u64| vec![Edit::AddVolume(volume(id, 1)), map(id, &[segment(0, 1, id, 1)])];
    for id in 1..=4 {
        done(&mut store, at(id));
    }
    for id in 1..=3 {
        done(&mut store, vec![Edit::RemoveVolume(VolumeId(id))]);
    }
    change(&mut store, vec![Edit::RemoveVolume(VolumeId(4))]);
    let mut left = |most, since| {
        store.forget_oldest_removed(most, Timestamp(since)).unwrap();
        let removed = store.removed().unwrap();
        removed.iter().map(|each| each.volume.id.0).collect::<Vec<_>>()
    };
    assert_eq!(left(4, 0), [1, 2, 3, 4]);
    assert_eq!(left(2, 0), [3, 4]);
    assert_eq!(left(2, i64::MAX), [4]);
}

#[test]
fn a_volume_in_too_many_pieces_or_in_parts_is_not_remembered() {
    let (_scratch, _, mut store) = pool();
    let many = MOST_SEGMENTS as u64 + 1;
    done(&mut store, vec![Edit::AddDisk(disk(1, 3 * many))]);
    let pieces: Vec<_> = (0..many).map(|at| segment(at, 1, 1 + 2 * at, 1)).collect();
    done(
        &mut store,
        vec![Edit::AddVolume(volume(1, many)), map(1, &pieces)],
    );
    done(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    assert_eq!(store.removed().unwrap(), []);
    done(&mut store, add(2));
    let unmap = Edit::Unmap {
        volume: VolumeId(2),
        start: VolumeExtent(9),
        end: VolumeExtent(10),
    };
    done(&mut store, vec![unmap, Edit::SetVolume(volume(2, 9))]);
    done(&mut store, vec![Edit::RemoveVolume(VolumeId(2))]);
    assert_eq!(only(&mut store).volume.size.0, 9 << 20, "as it was in the end");
}

#[test]
fn the_check_finds_extents_that_were_given_away_and_are_still_remembered() {
    let (_scratch, _, mut store) = pool();
    let by = remove(&mut store);
    let w = vec![Edit::AddVolume(volume(2, 1)), map(2, &[segment(0, 1, 40, 1)])];
    done(&mut store, w);
    let sql = "INSERT INTO removed_segments (change, volume, start, disk, extent, len) VALUES (?1, 1, 12, 1, 40, 1)";
    store.connection.execute(sql, [by.0]).unwrap();
    let problems = store.check().unwrap();
    assert!(
        problems.len() == 1 && problems[0].contains("removed volume v1"),
        "{problems:?}"
    );
}
