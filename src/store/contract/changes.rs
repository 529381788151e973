use super::world::{World, area, boot, disk, map, seg, unmap, volume};
use crate::model::audit::{End, Entry, Process};
use crate::model::change::{Cancel, ChangeState, Commit, Owner};
use crate::model::error::ErrorKind;
use crate::model::event::Severity;
use crate::model::records::{DiskRecord, Edit};
use crate::model::units::{
    ChangeId, DiskId, Generation, MembershipVersion, Term, Timestamp, VolumeExtent, VolumeId,
};
use uuid::Uuid;

pub(super) fn a_change_lives_from_prepared_to_persisted(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.prepare(None, vec![map(1, &[seg(2, 2, 1, 3)])]).unwrap();
    let prepared = world.store.change(id).unwrap().unwrap();
    assert_eq!((prepared.id, prepared.state), (id, ChangeState::Prepared));
    assert_eq!(prepared.undo, None);
    assert_eq!(world.store.unfinished().unwrap(), [prepared]);
    assert_eq!(world.uses(2), [(1, 3, Owner::Change(id))]);
    assert_eq!(world.segments(1), [seg(0, 1, 1, 10)], "nothing has changed yet");

    assert_eq!(world.commit(id).unwrap(), Commit::Committed(Generation(2)));
    assert_eq!(world.generation(), Generation(2));
    let committed = world.store.change(id).unwrap().unwrap();
    assert_eq!(committed.state, ChangeState::Committed);
    assert_eq!(committed.undo.as_ref().unwrap().from, Generation(2));
    assert_eq!(world.store.unfinished().unwrap(), [committed]);
    assert_eq!(
        world.segments(1),
        [seg(0, 1, 1, 2), seg(2, 2, 1, 3), seg(5, 1, 6, 5)]
    );
    assert_eq!(world.uses(2), [(1, 3, Owner::Volume(VolumeId(1)))]);
    world.assert_one_owner_each();

    world.store.persist(&[id]).unwrap();
    assert_eq!(
        world.store.change(id).unwrap().unwrap().state,
        ChangeState::Persisted
    );
    assert_eq!(world.store.unfinished().unwrap(), []);
    let layout = world.store.header().unwrap().layout;
    world.store.persist(&[id, ChangeId(99)]).unwrap();
    world.store.persist(&[]).unwrap();
    assert_eq!(
        world.store.header().unwrap().layout,
        layout,
        "persisted and unknown changes are ignored"
    );
    assert_eq!(layout, 2);
}

pub(super) fn commit_and_cancel_exclude_each_other(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.prepare(None, vec![map(1, &[seg(0, 2, 1, 1)])]).unwrap();
    assert_eq!(world.store.cancel(id).unwrap(), Cancel::Cancelled);
    assert_eq!(world.store.cancel(id).unwrap(), Cancel::Cancelled);
    assert_eq!(world.commit(id).unwrap(), Commit::Cancelled);
    assert_eq!((world.generation(), world.uses(2)), (Generation(1), vec![]));
    assert_eq!(
        world.store.change(id).unwrap().unwrap().state,
        ChangeState::Cancelled
    );
    world.store.persist(&[id]).unwrap();
    assert_eq!(
        world.store.change(id).unwrap().unwrap().state,
        ChangeState::Cancelled
    );

    let id = world.change(vec![map(1, &[seg(0, 2, 1, 1)])]);
    assert_eq!(world.commit(id).unwrap(), Commit::Committed(Generation(2)));
    let record = world.store.change(id).unwrap().unwrap();
    assert_eq!(
        world.store.cancel(id).unwrap(),
        Cancel::Committed(Box::new(record))
    );
    world.store.persist(&[id]).unwrap();
    assert_eq!(world.commit(id).unwrap(), Commit::Committed(Generation(2)));
    let record = world.store.change(id).unwrap().unwrap();
    assert_eq!(record.state, ChangeState::Persisted);
    assert_eq!(
        world.store.cancel(id).unwrap(),
        Cancel::Committed(Box::new(record))
    );
    assert_eq!(world.generation(), Generation(2));

    assert_eq!(world.store.change(ChangeId(77)).unwrap(), None);
    assert_eq!(
        world.commit(ChangeId(77)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        world.store.cancel(ChangeId(77)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

pub(super) fn commit_checks_term_then_state_then_membership_then_generation(world: World) {
    let mut world = world.with_pool_contents();
    let first = world.prepare(None, vec![map(1, &[seg(0, 2, 1, 1)])]).unwrap();
    let second = world.prepare(None, vec![map(1, &[seg(1, 2, 2, 1)])]).unwrap();
    let third = world.prepare(None, vec![map(1, &[seg(2, 2, 3, 1)])]).unwrap();
    world.commit(first).unwrap();
    world.store.cancel(third).unwrap();
    let member = world.join("a").member;
    let (old, now) = (MembershipVersion(0), world.membership());
    assert_ne!(old, now);
    let term = world.store.raise_term().unwrap();
    let stale = Term(term.0 - 1);
    for id in [first, second, third] {
        assert_eq!(
            world.store.commit(stale, id, old).unwrap(),
            Commit::StaleTerm(term)
        );
    }
    assert_eq!(
        world.store.commit(term, first, old).unwrap(),
        Commit::Committed(Generation(2))
    );
    assert_eq!(world.store.commit(term, third, old).unwrap(), Commit::Cancelled);
    assert_eq!(
        world.store.commit(term, second, old).unwrap(),
        Commit::MembershipMoved(now)
    );
    assert_eq!(
        world.store.commit(term, second, now).unwrap(),
        Commit::GenerationMoved(Generation(2))
    );
    world.store.leave(member.slot, member.incarnation).unwrap();
    let moved = world.membership();
    assert_eq!(
        world.store.commit(term, second, now).unwrap(),
        Commit::MembershipMoved(moved)
    );
    assert_eq!(
        world.store.change(second).unwrap().unwrap().state,
        ChangeState::Prepared
    );
    assert_eq!(world.generation(), Generation(2));
    world.assert_one_owner_each();
}

pub(super) fn persisting_requires_the_earlier_changes(world: World) {
    let mut world = world.with_pool_contents();
    let first = world.change(vec![map(1, &[seg(0, 2, 1, 1)])]);
    let second = world.change(vec![map(1, &[seg(0, 2, 5, 1)])]);
    let refused = world.store.persist(&[second]).unwrap_err();
    assert!(
        refused.to_string().contains(&format!("change {first}")),
        "{refused}"
    );
    let states = |world: &mut World| [first, second].map(|id| world.store.change(id).unwrap().unwrap().state);
    assert_eq!(states(&mut world), [ChangeState::Committed; 2]);
    world.store.persist(&[first]).unwrap();
    assert_eq!(
        states(&mut world),
        [ChangeState::Persisted, ChangeState::Committed]
    );
    world.store.persist(&[second, first]).unwrap();
    assert_eq!(states(&mut world), [ChangeState::Persisted; 2]);
    let both: Vec<_> = (10..12)
        .map(|at| world.change(vec![map(1, &[seg(3, 2, at, 1)])]))
        .collect();
    world.store.persist(&[both[1], both[0]]).unwrap();
    assert_eq!(world.store.unfinished().unwrap(), []);
    assert_eq!(world.store.header().unwrap().layout, 5);
}

pub(super) fn segments_are_merged_and_found(world: World) {
    let mut world = world.with_pool_contents();
    for at in 0..5 {
        world.change(vec![map(1, &[seg(at, 2, 20 + at, 1)])]);
    }
    assert_eq!(world.segments(1), [seg(0, 2, 20, 5), seg(5, 1, 6, 5)]);
    world.change(vec![
        map(1, &[seg(7, 2, 1, 1), seg(8, 2, 2, 1)]),
        map(1, &[seg(5, 2, 25, 1)]),
    ]);
    let now = [
        seg(0, 2, 20, 6),
        seg(6, 1, 7, 1),
        seg(7, 2, 1, 2),
        seg(9, 1, 10, 1),
    ];
    assert_eq!(world.segments(1), now);
    for (start, end, found) in [
        (0, 1, &now[..1]),
        (5, 6, &now[..1]),
        (5, 7, &now[..2]),
        (6, 7, &now[1..2]),
        (8, 8, &[]),
        (8, 100, &now[2..]),
        (10, 11, &[]),
    ] {
        let segments = world
            .store
            .segments(VolumeId(1), VolumeExtent(start), VolumeExtent(end))
            .unwrap();
        assert_eq!(segments, found, "{start}..{end}");
    }
    assert_eq!(world.segments(9), []);
    world.change(vec![unmap(1, 1, 8)]);
    assert_eq!(
        world.segments(1),
        [seg(0, 2, 20, 1), seg(8, 2, 2, 1), seg(9, 1, 10, 1)]
    );
    world.assert_one_owner_each();
}

pub(super) fn the_old_placement_is_in_quarantine_until_no_apparatus_can_use_it(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.change(vec![map(1, &[seg(2, 2, 1, 3)])]);
    let volume = Owner::Volume(VolumeId(1));
    let kept = [(1, 2, volume), (3, 3, Owner::Quarantine(id)), (6, 5, volume)];
    assert_eq!(world.uses(1), kept);
    assert!(world.prepare(None, vec![map(1, &[seg(0, 1, 4, 1)])]).is_err());
    assert_eq!(
        world.store.free_quarantine(Generation(9)).unwrap(),
        [],
        "it is not persisted"
    );
    world.store.persist(&[id]).unwrap();
    assert_eq!(world.uses(1), kept);
    assert_eq!(
        world.store.free_quarantine(Generation(1)).unwrap(),
        [],
        "an apparatus may use table 1"
    );
    assert_eq!(world.uses(1), kept);
    assert_eq!(
        world.store.free_quarantine(Generation(2)).unwrap(),
        [area(1, 3, 3)]
    );
    assert_eq!(world.uses(1), [(1, 2, volume), (6, 5, volume)]);
    assert_eq!(world.store.free_quarantine(Generation(u64::MAX)).unwrap(), []);
    world.change(vec![map(1, &[seg(0, 1, 4, 1)])]);
    world.assert_one_owner_each();
}

pub(super) fn numbers_are_never_reused(world: World) {
    let mut world = world.with_pool_contents();
    assert_eq!(world.store.next_volume_id().unwrap(), VolumeId(2));
    assert_eq!(
        world.store.next_volume_id().unwrap(),
        VolumeId(2),
        "asking changes nothing"
    );
    assert_eq!(world.store.next_disk_id().unwrap().0, 3);
    let id = world
        .prepare(
            None,
            vec![Edit::AddVolume(volume(2, 1)), Edit::AddDisk(disk(3, 9))],
        )
        .unwrap();
    world.store.cancel(id).unwrap();
    assert_eq!(world.store.next_volume_id().unwrap(), VolumeId(2));
    let first = world.change(vec![Edit::AddVolume(volume(2, 1)), Edit::AddDisk(disk(3, 9))]);
    let second = world.change(vec![
        Edit::RemoveVolume(VolumeId(2)),
        Edit::RemoveDisk(disk(3, 9).id),
    ]);
    assert!(first < second);
    assert_eq!(world.store.next_volume_id().unwrap(), VolumeId(3));
    assert_eq!(world.store.next_disk_id().unwrap().0, 4);
    let boot = world.reboot();
    assert_eq!(world.store.recover_epoch(boot).unwrap(), [second, first]);
    assert_eq!(world.store.next_volume_id().unwrap(), VolumeId(3));
    let third = world.prepare(None, vec![]).unwrap();
    assert!(third > second);
}

pub(super) fn handles_see_each_others_changes_at_once(world: World) {
    let mut world = world.with_pool_contents();
    let mut other = world.fixture.open();
    let id = world.change(vec![map(1, &[seg(0, 2, 1, 10)])]);
    let (mut there, here) = (other.snapshot().unwrap(), world.store.snapshot().unwrap());
    // The other handle may be on another machine, in another directory.
    there.header.instance.dir.clone_from(&here.header.instance.dir);
    assert_eq!(there, here);
    assert_eq!(other.change(id).unwrap().unwrap().state, ChangeState::Committed);
    let next = world.prepare(None, vec![]).unwrap();
    other.cancel(next).unwrap();
    assert_eq!(world.commit(next).unwrap(), Commit::Cancelled);
    other.persist(&[id]).unwrap();
    assert_eq!(
        world.store.change(id).unwrap().unwrap().state,
        ChangeState::Persisted
    );
}

pub(super) fn events_are_numbered_and_paged(mut world: World) {
    for n in 0..5 {
        world
            .store
            .log(Severity::Warning, &format!("disk d{n}"), "is nearly full")
            .unwrap();
    }
    let all = world.store.events(0, 100).unwrap();
    assert_eq!(
        all.iter().map(|event| event.seq).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    assert_eq!(
        (all[4].subject.as_str(), all[4].text.as_str()),
        ("disk d4", "is nearly full")
    );
    assert_eq!(all[0].severity, Severity::Warning);
    assert_eq!(world.store.events(2, 2).unwrap(), all[2..4]);
    assert_eq!(world.store.events(5, 9).unwrap(), []);
    assert_eq!(world.store.events(u64::MAX, usize::MAX).unwrap(), []);
}

pub(super) fn labels_only_get_higher_numbers(world: World) {
    let mut world = world.with_pool_contents();
    let label = |world: &mut World| world.store.disks().unwrap()[0].label;
    assert_eq!(label(&mut world), 0);
    world.store.label_written(DiskId(1), 5).unwrap();
    world.store.label_written(DiskId(1), 4).unwrap();
    world.store.label_written(DiskId(9), 7).unwrap();
    assert_eq!(label(&mut world), 5);
    let record = disk(1, 100);
    world.change(vec![Edit::SetDisk(record.clone())]);
    assert_eq!(label(&mut world), 5, "an edit planned earlier");
    world.change(vec![Edit::SetDisk(DiskRecord { label: 6, ..record })]);
    assert_eq!(label(&mut world), 6);
    assert_eq!(world.store.snapshot().unwrap().disks[0].label, 6);
}

pub(super) fn operations_are_recorded_when_they_begin_and_when_they_end(mut world: World) {
    let entry = |n: u32| Entry {
        id: Uuid::from_u128(n.into()),
        by: "vctl".into(),
        node: n
            .is_multiple_of(2)
            .then(|| crate::model::names::Name::new("node", "n1").unwrap()),
        uid: 1000,
        user: "me".into(),
        pid: n,
        process: Some(Process {
            epoch: boot(1),
            namespace: 2,
            started: 3,
        }),
        command: vec!["volume".into(), format!("v{n}\u{1b}")],
        began: Timestamp(n.into()),
        end: None,
    };
    let ended = |n: u32| Entry {
        end: Some(End {
            at: Timestamp(99),
            status: 4,
            why: "busy".into(),
        }),
        ..entry(n)
    };
    let store = &mut world.store;
    for each in [entry(1), entry(2), ended(1), ended(3), entry(3), entry(1)] {
        store.record(&each).unwrap();
    }
    let all = store.recorded(0, 9).unwrap();
    let entries: Vec<_> = all.iter().map(|each| (each.seq, each.entry.clone())).collect();
    assert_eq!(entries, [(2, entry(2)), (1, ended(1)), (3, ended(3))]);
    assert_eq!(store.recorded(all[0].mark, 1).unwrap(), all[1..2]);
    assert_eq!(store.recorded(all[2].mark, 9).unwrap(), []);
    assert_eq!(store.recorded(u64::MAX, usize::MAX).unwrap(), []);
}
