use crate::metadata::header::Position;
use crate::metadata::place::Place;
use crate::model::change::Owner;
use crate::model::records::{Area, Edit};
use crate::model::units::{CacheEpoch, DiskExtent, DiskId, ExtentSize, Generation, VolumeId};
use crate::store::metadata::Persisted;
use crate::store::roles::*;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::change::{begin_persisting, end_persisting};
use crate::store::sqlite::tests::{change, disk, map, new_change, pool, segment, volume};
use uuid::Uuid;

fn area(start: u64, len: u64) -> Area {
    Area {
        disk: DiskId(1),
        start: DiskExtent(start),
        len,
    }
}

fn position(layout: u64) -> Position {
    Position {
        layout,
        generation: Generation(layout),
    }
}

fn persisted(store: &mut SqliteStore) -> Persisted {
    store.persisted().unwrap().unwrap()
}

#[test]
fn the_extents_of_a_copy_have_one_owner_and_are_freed_when_it_moves_or_its_disk_leaves() {
    let (_scratch, _, mut store) = pool();
    change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let mapped = map(1, &[segment(0, 1, 10, 4)]);
    change(&mut store, vec![Edit::AddVolume(volume(1, 4)), mapped]);
    assert!(store.claim_for_copy(area(8, 4)).is_err(), "a volume lies there");
    assert!(store.claim_for_copy(area(98, 4)).is_err(), "the disk ends there");
    for start in [20, 60] {
        store.claim_for_copy(area(start, 8)).unwrap();
    }
    assert!(store.claim_for_copy(area(24, 1)).is_err());
    let onto = new_change(&mut store, vec![map(1, &[segment(0, 1, 22, 4)])]);
    let term = store.header().unwrap().term;
    let refused = store.prepare(term, &onto).unwrap_err().to_string();
    assert!(refused.contains("copy of the pool's metadata"), "{refused}");
    let place = Place::in_extents(ExtentSize::DEFAULT, area(60, 8)).unwrap();
    store.copy_placed(DiskId(1), place, position(2)).unwrap();
    assert_eq!(store.copy_extents().unwrap(), [area(60, 8)]);
    let uses = store.uses(DiskId(1)).unwrap();
    assert_eq!(uses.last().unwrap().owner, Owner::Metadata);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    let shorter = new_change(&mut store, vec![Edit::SetDisk(disk(1, 64))]);
    let id = store.prepare(term, &shorter);
    let membership = store.header().unwrap().membership;
    let answer = id.and_then(|id| store.commit(term, id, membership));
    let refused = answer.unwrap_err().to_string();
    assert!(refused.contains("copy of the pool's metadata"), "{refused}");
    store.copy_dropped(DiskId(1)).unwrap();
    assert_eq!(store.copy_extents().unwrap(), []);
    assert_eq!(persisted(&mut store).copies, []);
    store.claim_for_copy(area(60, 8)).unwrap();
    store.copy_placed(DiskId(1), place, position(2)).unwrap();
    change(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    let unfinished = store.unfinished().unwrap();
    let ids: Vec<_> = unfinished.iter().map(|record| record.id).collect();
    store.persist(&ids).unwrap();
    let current = store.header().unwrap().generation;
    store.free_quarantine(current).unwrap();
    change(&mut store, vec![Edit::RemoveDisk(DiskId(1))]);
    assert_eq!(store.copy_extents().unwrap(), []);
}

#[test]
fn what_was_written_elsewhere_or_before_does_not_count() {
    let (_scratch, _, mut store) = pool();
    change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let behind = Place::behind_the_label(ExtentSize::DEFAULT);
    let own = Place::in_extents(ExtentSize::DEFAULT, area(60, 8)).unwrap();
    store.copy_placed(DiskId(1), behind, position(5)).unwrap();
    store.copies_written(&[(DiskId(1), own)], position(9)).unwrap();
    store.copies_written(&[(DiskId(1), behind)], position(4)).unwrap();
    assert_eq!(persisted(&mut store).copies[0].position, position(5));
    store.copy_lags(DiskId(1), "why").unwrap();
    assert_eq!(persisted(&mut store).facts.carriers.len(), 0);
    store.copies_written(&[(DiskId(1), behind)], position(6)).unwrap();
    let copy = persisted(&mut store).copies.remove(0);
    assert_eq!((copy.position, copy.lag), (position(6), None));
}

#[test]
fn a_disk_that_shrinks_again_when_power_was_lost_carries_nothing_beyond_its_end() {
    let (_scratch, dir, mut store) = pool();
    let record = disk(1, 100);
    let added = change(&mut store, vec![Edit::AddDisk(record.clone())]);
    store.persist(&[added]).unwrap();
    let mut longer = record;
    longer.extents = 200;
    change(&mut store, vec![Edit::SetDisk(longer)]);
    store.claim_for_copy(area(150, 8)).unwrap();
    let place = Place::in_extents(ExtentSize::DEFAULT, area(150, 8)).unwrap();
    store.copy_placed(DiskId(1), place, position(1)).unwrap();
    drop(store);
    let other = CacheEpoch(Uuid::from_u128(2));
    let mut store = SqliteStore::open(&dir, other).unwrap();
    store.recover_epoch(other).unwrap();
    assert_eq!(store.disks().unwrap()[0].extents, 100);
    assert_eq!(store.copy_extents().unwrap(), []);
    assert_eq!(persisted(&mut store).copies, []);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_on_its_way_to_be_persisted_is_no_part_of_a_copy_yet() {
    let (_scratch, _, mut store) = pool();
    let first = change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    store.persist(&[first]).unwrap();
    let before = persisted(&mut store).position;
    let id = change(&mut store, vec![Edit::AddVolume(volume(1, 4))]);
    assert_eq!(persisted(&mut store).position, before);
    let latest = store.write(|db| begin_persisting(db, &[id])).unwrap();
    assert_eq!(
        persisted(&mut store).position,
        before,
        "a power loss now may take it back"
    );
    store.write(|db| end_persisting(db, latest.unwrap())).unwrap();
    let after = persisted(&mut store).position;
    assert_eq!(
        (after.layout, after.generation),
        (before.layout + 1, before.generation.next())
    );
}

#[test]
fn an_adopted_database_begins_another_history() {
    let (_scratch, _, mut store) = pool();
    let first = change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    store.persist(&[first]).unwrap();
    let before = persisted(&mut store);
    let place = Place::behind_the_label(ExtentSize::DEFAULT);
    store.copy_placed(DiskId(1), place, before.position).unwrap();
    store.adopt().unwrap();
    let after = persisted(&mut store);
    assert_ne!(after.lineage, before.lineage);
    assert_eq!(
        after.copies[0].position,
        Position::default(),
        "its copy may be of a later past"
    );
}
