use super::members::node;
use super::world::{World, area, boot, disk, map, name, seg, step, unmap, volume};
use crate::model::alloc::Policy;
use crate::model::change::{ChangeState, Owner};
use crate::model::job::JobState;
use crate::model::member::MemberState;
use crate::model::options::{Fullness, Options, Thresholds};
use crate::model::records::{DiskRecord, Edit, VolumeRecord};
use crate::model::units::{ByteCount, ChangeId, DiskId, Generation, VolumeId};

/// Checks that only volumes own extents, and that no change is unfinished.
fn assert_quiet(world: &mut World) {
    assert_eq!(world.store.unfinished().unwrap(), []);
    for disk in world.table().0 {
        let uses = world.uses(disk.id.0);
        assert!(
            uses.iter().all(|(_, _, owner)| matches!(owner, Owner::Volume(_))),
            "{uses:?}"
        );
    }
    world.assert_one_owner_each();
}

/// Returns deltas of every kind, each for a pool with contents.
fn every_edit() -> Vec<Vec<Edit>> {
    let larger = VolumeRecord {
        size: ByteCount(super::world::UNIT.bytes() * 12),
        ..volume(1, 10)
    };
    let renamed = VolumeRecord {
        name: name("xvolume", 9),
        mode: 0o777,
        read_only: true,
        ..volume(1, 10)
    };
    let closed = DiskRecord {
        allocate: false,
        name: name("xdisk", 9),
        extents: 120,
        ..disk(2, 100)
    };
    vec![
        vec![],
        vec![Edit::AddDisk(disk(3, 9))],
        vec![Edit::SetDisk(closed.clone())],
        vec![Edit::SetDisk(DiskRecord {
            extents: 11,
            ..disk(1, 11)
        })],
        vec![Edit::RemoveDisk(DiskId(2))],
        vec![
            Edit::AddVolume(volume(2, 3)),
            map(2, &[seg(0, 2, 1, 2), seg(2, 1, 50, 1)]),
        ],
        vec![Edit::SetVolume(renamed)],
        vec![
            Edit::SetVolume(larger),
            map(1, &[seg(10, 1, 11, 1), seg(11, 2, 3, 1)]),
        ],
        vec![unmap(1, 4, 10), Edit::SetVolume(volume(1, 4))],
        vec![Edit::RemoveVolume(VolumeId(1))],
        vec![map(1, &[seg(0, 2, 1, 10)])],
        vec![
            map(1, &[seg(2, 2, 1, 1), seg(4, 2, 9, 2)]),
            map(1, &[seg(3, 2, 50, 3)]),
            unmap(1, 0, 1),
        ],
        vec![
            Edit::RemoveVolume(VolumeId(1)),
            Edit::AddVolume(volume(1, 2)),
            map(1, &[seg(0, 2, 1, 2)]),
        ],
        vec![
            Edit::AddDisk(disk(3, 9)),
            map(1, &[seg(0, 3, 1, 8)]),
            Edit::SetDisk(DiskRecord {
                extents: 40,
                ..disk(3, 9)
            }),
        ],
        vec![map(1, &[seg(0, 2, 1, 2)]), map(1, &[seg(0, 2, 11, 2)])],
    ]
}

pub(super) fn every_edit_is_taken_back(world: World) {
    let mut world = world.with_pool_contents();
    for edits in every_edit() {
        let (before, layout) = (world.table(), world.store.header().unwrap().layout);
        let generation = world.generation();
        let id = world.change(edits.clone());
        let changed = world.table() != before;
        assert_eq!(changed, !edits.is_empty(), "{edits:?}");
        world.assert_one_owner_each();
        let boot = world.reboot();
        assert_eq!(world.store.recover_epoch(boot).unwrap(), [id]);
        assert_eq!(world.table(), before, "{edits:?}");
        let header = world.store.header().unwrap();
        assert_eq!((header.generation.0, header.layout), (generation.0 + 2, layout));
        assert_eq!(
            world.store.change(id).unwrap().unwrap().state,
            ChangeState::Undone
        );
        assert_quiet(&mut world);
        assert_eq!(world.store.recover_epoch(boot).unwrap(), [], "it is done once");
        assert_eq!(world.generation(), header.generation);
    }
}

pub(super) fn a_quarantined_area_can_be_mapped_again_until_its_change_is_persisted(world: World) {
    let mut world = world.with_pool_contents();
    let before = world.table();
    // These are extents 3 to 7 of disk 1.
    let moved = world.change(vec![map(1, &[seg(2, 2, 1, 5)])]);
    let elsewhere = vec![map(1, &[seg(9, 1, 3, 1)])];
    assert!(
        world.prepare(None, elsewhere).is_err(),
        "that part of the volume was not there"
    );
    world.change(vec![map(1, &[seg(3, 1, 4, 2)])]);
    assert!(
        world.prepare(None, vec![map(1, &[seg(3, 1, 4, 2)])]).is_err(),
        "the volume owns it again"
    );
    world.assert_one_owner_each();
    let rest = world.change(vec![map(1, &[seg(2, 1, 3, 1), seg(5, 1, 6, 2)])]);
    assert_eq!(world.table(), before);
    let ids: Vec<ChangeId> = world
        .store
        .unfinished()
        .unwrap()
        .iter()
        .map(|one| one.id)
        .collect();
    assert_eq!((ids.first(), ids.last()), (Some(&moved), Some(&rest)));
    world.store.persist(&ids).unwrap();
    let generation = world.generation();
    world.store.free_quarantine(generation).unwrap();
    assert_quiet(&mut world);

    let again = world.change(vec![map(1, &[seg(2, 2, 1, 5)])]);
    let back = vec![map(1, &[seg(2, 1, 3, 5)])];
    let prepared = world.prepare(None, back.clone()).unwrap();
    world.store.persist(&[again]).unwrap();
    assert!(world.commit(prepared).is_err(), "a flush may depend on it");
    world.store.cancel(prepared).unwrap();
    assert!(world.prepare(None, back).is_err());
}

pub(super) fn a_change_that_mapped_a_quarantined_area_again_is_taken_back(world: World) {
    let mut world = world.with_pool_contents();
    let before = world.table();
    world.change(vec![map(1, &[seg(2, 2, 1, 5)])]);
    world.change(vec![map(1, &[seg(3, 1, 4, 2)])]);
    world.change(vec![map(1, &[seg(3, 2, 30, 1)])]);
    world.change(vec![map(1, &[seg(3, 1, 4, 1)])]);
    let boot = world.reboot();
    assert_eq!(world.store.recover_epoch(boot).unwrap().len(), 4);
    assert_eq!(world.table(), before);
    assert_quiet(&mut world);
}

pub(super) fn changes_are_taken_back_latest_first(world: World) {
    let mut world = world.with_pool_contents();
    let kept = world.change(vec![map(1, &[seg(0, 2, 1, 5)])]);
    world.store.persist(&[kept]).unwrap();
    let before = world.table();
    let ids = [
        world.change(vec![map(1, &[seg(3, 2, 20, 5)])]),
        world.change(vec![map(1, &[seg(4, 2, 30, 2)])]),
        world.change(vec![Edit::RemoveVolume(VolumeId(1))]),
        world.change(vec![Edit::AddVolume(volume(2, 1)), map(2, &[seg(0, 2, 40, 1)])]),
    ];
    let boot = world.reboot();
    let latest_first: Vec<ChangeId> = ids.iter().rev().copied().collect();
    assert_eq!(world.store.recover_epoch(boot).unwrap(), latest_first);
    assert_eq!(world.table(), before);
    assert_eq!(world.generation(), Generation(2 + 4 + 4));
    assert_eq!(
        world.store.free_quarantine(Generation(2)).unwrap(),
        [area(1, 1, 5)],
        "of the persisted one"
    );
    assert_quiet(&mut world);
    assert!(
        !world.store.events(0, 10).unwrap().is_empty(),
        "an event reports it"
    );
    let next = world.change(vec![map(1, &[seg(0, 2, 60, 1)])]);
    assert!(next > ids[3]);
    assert_eq!(
        world.store.recover_epoch(boot).unwrap(),
        [],
        "changes of this epoch stay"
    );
}

pub(super) fn prepared_changes_and_members_of_another_boot_end(world: World) {
    let mut world = world.with_pool_contents();
    let prepared = world.prepare(None, vec![map(1, &[seg(0, 2, 1, 5)])]).unwrap();
    let a = world.join("a").member;
    let b = world.join("b").member;
    let term = world.term();
    world.store.fence(term, b.slot, b.incarnation).unwrap();
    let version = world.membership();
    let boot = world.reboot();
    assert_eq!(world.store.members().unwrap().1.len(), 2);
    assert_eq!(world.store.recover_epoch(boot).unwrap(), []);
    assert_eq!(
        world.store.change(prepared).unwrap().unwrap().state,
        ChangeState::Cancelled
    );
    assert_eq!(world.store.members().unwrap().1, []);
    assert!(world.membership() > version);
    assert!(world.store.rejoin(b.slot, b.incarnation, None).is_err());
    assert_quiet(&mut world);
    let again = world.join("a").member;
    assert_eq!((again.slot, again.state), (a.slot, MemberState::Joined));
    assert!(again.incarnation > b.incarnation);
    let version = world.membership();
    assert_eq!(world.store.recover_epoch(boot).unwrap(), []);
    assert_eq!(world.membership(), version, "members of this epoch stay");
}

pub(super) fn another_nodes_epoch_ends_neither_members_nor_changes(world: World) {
    let mut world = world.with_pool_contents();
    world.store.set_node(&node("n1", 1)).unwrap();
    let committed = world.change(vec![map(1, &[seg(0, 2, 1, 1)])]);
    let prepared = world.prepare(None, vec![]).unwrap();
    let a = world.join("a").member;
    let state = |world: &mut World, id| world.store.change(id).unwrap().unwrap().state;
    assert_eq!(world.store.recover_epoch(boot(7)).unwrap(), []);
    assert_eq!(world.store.members().unwrap().1, [a]);
    assert_eq!(state(&mut world, committed), ChangeState::Committed);
    assert_eq!(state(&mut world, prepared), ChangeState::Prepared);
    // The node has booted anew: what its page cache had is lost.
    world.store.set_node(&node("n1", 5)).unwrap();
    assert_eq!(world.store.recover_epoch(boot(7)).unwrap(), [committed]);
    assert_eq!(world.store.members().unwrap().1, []);
    assert_eq!(state(&mut world, prepared), ChangeState::Cancelled);
}

pub(super) fn a_job_goes_back_with_its_chunks(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.job(&[step(seg(0, 1, 1, 10), area(2, 10, 10), 0)]);
    let first = world.change_of(Some(id), vec![map(1, &[seg(0, 2, 10, 3)])]);
    world.store.persist(&[first]).unwrap();
    let second = world.change_of(Some(id), vec![map(1, &[seg(3, 2, 13, 3)])]);
    let third = world.change_of(Some(id), vec![map(1, &[seg(6, 2, 16, 1), seg(7, 2, 17, 1)])]);
    let fourth = world
        .prepare(Some(id), vec![map(1, &[seg(8, 2, 18, 1)])])
        .unwrap();
    assert_eq!(world.store.steps(id).unwrap()[0].done, 8);
    let boot = world.reboot();
    assert_eq!(world.store.recover_epoch(boot).unwrap(), [third, second]);
    assert_eq!(
        world.store.change(fourth).unwrap().unwrap().state,
        ChangeState::Cancelled
    );
    assert_eq!(world.store.steps(id).unwrap()[0].done, 3);
    assert_eq!(
        world.uses(2),
        [(10, 3, Owner::Volume(VolumeId(1))), (13, 7, Owner::Job(id))]
    );
    assert_eq!(world.segments(1), [seg(0, 2, 10, 3), seg(3, 1, 4, 7)]);
    assert_eq!(world.store.job(id).unwrap().unwrap().state, JobState::Running);
    world.assert_one_owner_each();
    world.change_of(Some(id), vec![map(1, &[seg(3, 2, 13, 7)])]);
    assert_eq!(world.store.steps(id).unwrap()[0].done, 10);
}

pub(super) fn a_job_that_was_done_goes_on(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.job(&[step(seg(0, 1, 1, 2), area(2, 10, 2), 0)]);
    world.change_of(Some(id), vec![map(1, &[seg(0, 2, 10, 2)])]);
    assert!(
        world
            .store
            .set_job_state(id, JobState::Running, JobState::Done, "")
            .unwrap()
    );
    let boot = world.reboot();
    world.store.recover_epoch(boot).unwrap();
    let job = world.store.job(id).unwrap().unwrap();
    assert_eq!((job.state, job.ended), (JobState::Running, None));
    assert!(!job.why.is_empty());
    assert_eq!(world.store.steps(id).unwrap()[0].done, 0);
    assert_eq!(world.uses(2), [(10, 2, Owner::Job(id))]);
}

pub(super) fn a_cancelled_job_gets_nothing_back(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.job(&[step(seg(0, 1, 1, 4), area(2, 10, 4), 0)]);
    world.change_of(Some(id), vec![map(1, &[seg(0, 2, 10, 2)])]);
    assert!(
        world
            .store
            .set_job_state(id, JobState::Running, JobState::Cancelled, "")
            .unwrap()
    );
    let boot = world.reboot();
    world.store.recover_epoch(boot).unwrap();
    assert_eq!(world.store.job(id).unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(world.store.steps(id).unwrap()[0].done, 0);
    assert_quiet(&mut world);
}

pub(super) fn joining_recovers_first(world: World) {
    let mut world = world.with_pool_contents();
    let before = world.table();
    let id = world.change(vec![map(1, &[seg(0, 2, 1, 10)])]);
    world.join("old");
    world.reboot();
    let joined = world.join("new");
    assert_eq!(world.table(), before);
    assert_eq!(joined.snapshot, world.store.snapshot().unwrap());
    assert_eq!(joined.unfinished, []);
    assert_eq!(
        world.store.change(id).unwrap().unwrap().state,
        ChangeState::Undone
    );
    assert_eq!(world.store.members().unwrap().1, [joined.member]);
}

pub(super) fn reservations_on_a_disk_that_is_taken_back_are_dropped(world: World) {
    let mut world = world.with_pool_contents();
    world.change(vec![Edit::AddDisk(disk(3, 50))]);
    world.change(vec![Edit::SetDisk(DiskRecord {
        extents: 200,
        ..disk(2, 100)
    })]);
    let steps = [
        step(seg(0, 1, 1, 2), area(3, 10, 2), 0),
        step(seg(2, 1, 3, 2), area(2, 150, 2), 0),
        step(seg(4, 1, 5, 2), area(2, 50, 2), 0),
    ];
    let id = world.job(&steps);
    let boot = world.reboot();
    assert_eq!(world.store.recover_epoch(boot).unwrap().len(), 2);
    assert_eq!(
        world
            .table()
            .0
            .iter()
            .map(|disk| disk.extents)
            .collect::<Vec<_>>(),
        [100, 100]
    );
    assert_eq!(world.uses(2), [(50, 2, Owner::Job(id))]);
    world.assert_one_owner_each();
}

pub(super) fn options_survive(mut world: World) {
    assert_eq!(world.store.options().unwrap(), Options::default());
    assert_eq!(world.store.fullness().unwrap(), Fullness::Room);
    let options = Options {
        policy: Policy::Contiguous,
        thresholds: Thresholds::new(50, 60).unwrap(),
    };
    world.store.set_options(&options).unwrap();
    world.store.set_fullness(Fullness::Full).unwrap();
    assert_eq!(world.store.fullness().unwrap(), Fullness::Full);
    world.reboot();
    assert_eq!(world.store.options().unwrap(), options);
}
