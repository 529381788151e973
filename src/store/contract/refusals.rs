use super::world::{World, area, disk, map, new_job, seg, step, unmap, volume};
use crate::model::change::{Commit, Owner};
use crate::model::error::ErrorKind;
use crate::model::job::JobState;
use crate::model::records::{DiskRecord, Edit, Segment, VolumeRecord};
use crate::model::units::{DiskId, Generation, JobId, VolumeId};

pub(super) fn a_lower_term_changes_nothing(world: World) {
    let mut world = world.with_pool_contents();
    let old = world.term();
    let change = world.new_change(None, vec![map(1, &[seg(0, 2, 1, 1)])]);
    let member = world.join("a").member;
    let job = world.job(&[step(seg(0, 1, 1, 1), area(2, 50, 1), 0)]);
    let term = world.store.raise_term().unwrap();
    assert_eq!(term.0, old.0 + 1);
    let uses = world.uses(2);
    let refused = [
        world.store.prepare(old, &change).map(|_| ()),
        world.store.reserve(old, job, &[area(2, 1, 1)]),
        world.store.create_job(old, &new_job(), &[]).map(|_| ()),
        world.store.replace_steps(old, job, &[], true),
        world
            .store
            .fence(old, member.slot, member.incarnation)
            .map(|_| ()),
    ];
    for refusal in refused {
        assert_eq!(refusal.unwrap_err().kind(), ErrorKind::Stale);
    }
    assert_eq!(world.uses(2), uses);
    assert_eq!(world.store.jobs().unwrap().len(), 1);
    assert_eq!(world.store.members().unwrap().1, [member]);
    assert_eq!(world.store.unfinished().unwrap(), []);
}

pub(super) fn owned_extents_are_refused(world: World) {
    let mut world = world.with_pool_contents();
    let moved = world.change(vec![map(1, &[seg(0, 2, 1, 1)])]);
    let prepared = world.prepare(None, vec![map(1, &[seg(1, 2, 2, 1)])]).unwrap();
    let job = world.job(&[step(seg(2, 1, 3, 1), area(2, 3, 1), 0)]);
    let other = world.job(&[step(seg(3, 1, 4, 1), area(2, 4, 1), 0)]);
    let uses = |world: &mut World| (world.uses(1), world.uses(2));
    let before = uses(&mut world);
    assert_eq!(before.0[0], (1, 1, Owner::Quarantine(moved)));
    assert_eq!(
        before.1,
        [
            (1, 1, Owner::Volume(VolumeId(1))),
            (2, 1, Owner::Change(prepared)),
            (3, 1, Owner::Job(job)),
            (4, 1, Owner::Job(other))
        ]
    );
    for taken in [
        area(1, 1, 1),
        area(1, 5, 1),
        area(2, 1, 1),
        area(2, 2, 1),
        area(2, 4, 1),
        area(2, 4, 3),
    ] {
        let placement = Segment {
            placement: taken,
            ..seg(4, 0, 0, 0)
        };
        assert!(
            world.prepare(Some(job), vec![map(1, &[placement])]).is_err(),
            "{taken:?}"
        );
        let term = world.term();
        assert!(
            world.store.reserve(term, job, &[area(2, 80, 1), taken]).is_err(),
            "{taken:?}"
        );
    }
    assert!(
        world.prepare(None, vec![map(1, &[seg(4, 2, 3, 1)])]).is_err(),
        "the job owns it, but the change names no job"
    );
    assert_eq!(uses(&mut world), before);
    let id = world
        .prepare(Some(job), vec![map(1, &[seg(4, 2, 3, 1)])])
        .unwrap();
    assert_eq!(uses(&mut world), before);
    world.store.cancel(id).unwrap();
    assert_eq!(uses(&mut world), before);
    world.change_of(Some(job), vec![map(1, &[seg(4, 2, 3, 1)])]);
    world.assert_one_owner_each();
}

pub(super) fn edits_that_do_not_fit_the_table_are_refused(world: World) {
    let mut world = world.with_pool_contents();
    let named = |volume: VolumeRecord| VolumeRecord {
        name: super::world::name("volume", 1),
        ..volume
    };
    let twin = DiskRecord {
        uuid: disk(1, 1).uuid,
        ..disk(3, 9)
    };
    let namesake = DiskRecord {
        name: disk(1, 1).name,
        ..disk(3, 9)
    };
    let before = world.table();
    for edits in [
        vec![Edit::AddDisk(disk(1, 9))],
        vec![Edit::AddDisk(twin)],
        vec![Edit::AddDisk(namesake.clone())],
        vec![Edit::SetDisk(DiskRecord {
            id: DiskId(2),
            ..namesake
        })],
        vec![Edit::SetDisk(disk(3, 9))],
        vec![Edit::SetDisk(disk(1, 10))],
        vec![Edit::RemoveDisk(DiskId(1))],
        vec![Edit::RemoveDisk(DiskId(3))],
        vec![Edit::AddVolume(volume(1, 9))],
        vec![Edit::AddVolume(named(volume(2, 9)))],
        vec![Edit::SetVolume(volume(2, 9))],
        vec![Edit::SetVolume(volume(1, 9))],
        vec![Edit::RemoveVolume(VolumeId(2))],
        vec![Edit::RemoveVolume(VolumeId(1)), map(1, &[seg(0, 2, 1, 1)])],
        vec![map(2, &[seg(0, 2, 1, 1)])],
        vec![map(1, &[seg(0, 3, 1, 1)])],
        vec![map(1, &[seg(9, 2, 1, 2)])],
        vec![map(1, &[seg(0, 2, 99, 2)])],
        vec![unmap(2, 0, 1)],
        vec![Edit::RemoveVolume(VolumeId(1)), Edit::RemoveDisk(DiskId(1))],
        vec![Edit::RemoveVolume(VolumeId(1)), Edit::SetDisk(disk(1, 5))],
        vec![map(1, &[seg(0, 2, 1, 1)]), Edit::RemoveDisk(DiskId(2))],
        vec![map(1, &[seg(0, 2, 1, 1)]), Edit::AddVolume(volume(1, 1))],
    ] {
        assert!(world.prepare(None, edits.clone()).is_err(), "{edits:?}");
        assert_eq!(world.table(), before);
        assert_eq!(world.uses(2), [], "{edits:?}");
    }
    assert_eq!(world.store.unfinished().unwrap(), []);
}

pub(super) fn malformed_deltas_are_refused(world: World) {
    let mut world = world.with_pool_contents();
    let most = u64::MAX;
    for edits in [
        vec![map(1, &[seg(0, 2, 1, 0)])],
        vec![map(1, &[seg(0, 2, 0, 1)])],
        vec![map(1, &[seg(1, 2, 1, 1), seg(0, 2, 2, 1)])],
        vec![map(1, &[seg(0, 2, 1, 2), seg(1, 2, 5, 1)])],
        vec![map(1, &[seg(0, 2, 1, 2), seg(2, 2, 2, 1)])],
        vec![map(1, &[seg(0, 2, 1, 1)]), map(1, &[seg(1, 2, 1, 1)])],
        vec![map(1, &[seg(0, 2, most, 1)])],
        vec![map(1, &[seg(0, 2, most - 1, 5)])],
        vec![map(1, &[seg(most, 2, 1, 1)])],
        vec![map(1, &[seg(5, 2, 1, most)])],
        vec![unmap(1, 3, 3)],
        vec![unmap(1, 4, 3)],
    ] {
        assert!(world.prepare(None, edits.clone()).is_err(), "{edits:?}");
    }
    let term = world.term();
    for bad in [
        area(2, 0, 1),
        area(2, 1, 0),
        area(2, 99, 2),
        area(3, 1, 1),
        area(2, most, 1),
        area(2, 1, most),
    ] {
        assert!(world.store.reserve(term, JobId(1), &[bad]).is_err(), "{bad:?}");
    }
    assert_eq!(
        (world.uses(2), world.store.unfinished().unwrap()),
        (vec![], vec![])
    );
}

pub(super) fn a_change_that_no_longer_fits_is_not_committed(world: World) {
    let mut world = world.with_pool_contents();
    let mut later = world.new_change(None, vec![map(1, &[seg(9, 2, 1, 1)])]);
    later.delta.from = Generation(2);
    let term = world.term();
    let id = world.store.prepare(term, &later).unwrap();
    assert_eq!(world.commit(id).unwrap(), Commit::GenerationMoved(Generation(1)));
    world.change(vec![unmap(1, 5, 10), Edit::SetVolume(volume(1, 5))]);
    let before = world.table();
    assert!(world.commit(id).is_err());
    assert_eq!((world.generation(), world.table()), (Generation(2), before));
    assert_eq!(world.uses(2), [(1, 1, Owner::Change(id))]);
    world.store.cancel(id).unwrap();
    assert_eq!(world.uses(2), []);

    let job = world.job(&[step(seg(0, 1, 1, 1), area(2, 1, 1), 0)]);
    let id = world
        .prepare(Some(job), vec![map(1, &[seg(0, 2, 1, 1)])])
        .unwrap();
    let ended = world
        .store
        .set_job_state(job, JobState::Running, JobState::Cancelled, "");
    assert!(ended.unwrap());
    assert!(world.commit(id).is_err(), "its destination has no owner now");
    world.assert_one_owner_each();
}
