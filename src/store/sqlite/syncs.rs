//! What others build on at once is durable when its operation returns: each of these waits for the log.

use super::tests::{change, disk, map, pool, segment, volume};
use super::*;
use crate::model::build::{self, area};
use crate::model::job::Step;
use crate::model::records::Edit;
use crate::model::units::{ChangeId, VolumeId};
use crate::store::roles::*;
use std::fs::File;
use uuid::Uuid;

fn persisted(store: &mut SqliteStore, edits: Vec<Edit>) -> ChangeId {
    let id = change(store, edits);
    store.persist(&[id]).unwrap();
    let generation = store.header().unwrap().generation;
    store.free_quarantine(generation).unwrap();
    id
}

/// A power loss after a new owner has written must not bring the removed volume back with those bytes; nor may it bring back what recovery has undone.
#[test]
fn operations_that_others_build_on_at_once_wait_for_the_log() {
    let (_scratch, _dir, mut store) = pool();
    let moving = segment(0, 2, 1, 4);
    let two_volumes = vec![
        Edit::AddDisk(disk(1, 100)),
        Edit::AddDisk(disk(2, 100)),
        Edit::AddVolume(volume(1, 10)),
        map(1, &[segment(0, 1, 10, 10)]),
        Edit::AddVolume(volume(2, 4)),
        map(2, &[moving]),
    ];
    persisted(&mut store, two_volumes);
    let removal = persisted(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    let term = store.header().unwrap().term;
    let step = |to| Step {
        volume: VolumeId(2),
        from: moving,
        to,
        done: 0,
    };
    let job = store
        .create_job(term, &build::job(), &[step(area(2, 50, 4))])
        .unwrap();
    change(&mut store, vec![map(2, &[segment(0, 2, 60, 4)])]);
    // This file cannot be synced, like a log on a failing disk.
    store.log.file = File::open("/dev/null").unwrap();
    let given = |store: &mut SqliteStore, at| {
        store.removed().unwrap()[0]
            .left
            .iter()
            .all(|left| !left.placement.overlaps(area(1, at, 1)))
    };
    store.give_away(&[area(1, 10, 1)]).unwrap_err();
    store.reserve(term, job, &[area(1, 11, 1)]).unwrap_err();
    store.claim_for_copy(area(1, 12, 1)).unwrap_err();
    store
        .replace_steps(term, job, &[step(area(1, 13, 4))], false)
        .unwrap_err();
    for at in [10, 11, 12, 13, 16] {
        assert!(given(&mut store, at), "extent {at}");
    }
    store.give_away(&[area(1, 10, 1)]).unwrap();
    store.forget_removed(&[removal]).unwrap_err();
    store.create_job(term, &build::job(), &[]).unwrap_err();
    store.recover_epoch(CacheEpoch(Uuid::from_u128(2))).unwrap_err();
    store.adopt().unwrap_err();
}
