use super::world::{World, boot, map, name, seg};
use crate::map::{Draft, Reader, Table};
use crate::model::error::ErrorKind;
use crate::model::member::{Joined, Joiner, Member, MemberState, SLOTS};
use crate::model::names::Name;
use crate::model::node::Node;
use crate::model::records::Snapshot;
use crate::model::units::{Generation, Incarnation, Slot, Timestamp};
use std::path::Path;

fn named(text: &str) -> Name {
    Name::new("apparatus", text).unwrap()
}

pub(super) fn slots_and_incarnations(mut world: World) {
    let (version, none) = world.store.members().unwrap();
    assert_eq!(none, []);
    let a = world.join("a").member;
    let b = world.join("b").member;
    let c = world.join("c").member;
    assert_eq!([a.slot, b.slot, c.slot], [Slot(0), Slot(1), Slot(2)]);
    assert!(Incarnation(0) < a.incarnation && a.incarnation < b.incarnation && b.incarnation < c.incarnation);
    assert_eq!((a.state, a.name.as_str(), a.pid), (MemberState::Joined, "a", 1));
    assert_eq!(a.mount, Path::new("/m"));
    let (joined, members) = world.store.members().unwrap();
    assert_eq!(members, [a.clone(), b.clone(), c.clone()]);
    assert_eq!(joined.0, version.0 + 3);

    world.store.leave(b.slot, Incarnation(99)).unwrap();
    assert_eq!(
        world.store.members().unwrap(),
        (joined, members),
        "there is no such incarnation"
    );
    world.store.leave(b.slot, b.incarnation).unwrap();
    world.store.leave(b.slot, b.incarnation).unwrap();
    let (left, members) = world.store.members().unwrap();
    assert_eq!((left.0, members), (joined.0 + 1, vec![a.clone(), c.clone()]));

    let b = world.join("b").member;
    assert_eq!(b.slot, Slot(1), "its own slot");
    assert!(c.incarnation < b.incarnation);
    world.store.leave(a.slot, a.incarnation).unwrap();
    world.store.leave(b.slot, b.incarnation).unwrap();
    assert_eq!(world.join("d").member.slot, Slot(0), "the lowest free one");
    assert_eq!(world.join("b").member.slot, Slot(1));
    assert_eq!(world.join("a").member.slot, Slot(3));
}

pub(super) fn a_living_namesake_is_refused_and_a_dead_one_replaced(mut world: World) {
    let first = world.join("a").member;
    let version = world.membership();
    let refused = world
        .store
        .join(&Joiner::new(&named("a"), 2, "/n"), &|_| true)
        .unwrap_err();
    assert!(
        refused.to_string().contains("apparatus a") && refused.to_string().contains("/m"),
        "{refused}"
    );
    assert_eq!(world.store.members().unwrap(), (version, vec![first.clone()]));
    let term = world.term();
    world.store.fence(term, first.slot, first.incarnation).unwrap();
    assert!(
        world
            .store
            .join(&Joiner::new(&named("a"), 2, "/n"), &|_| true)
            .is_err(),
        "fenced and alive"
    );
    let second = world
        .store
        .join(&Joiner::new(&named("a"), 2, "/n"), &|_| false)
        .unwrap()
        .member;
    assert_eq!((second.slot, second.pid), (first.slot, 2));
    assert!(second.incarnation > first.incarnation);
    assert!(world.membership() > version);
    world.store.leave(first.slot, first.incarnation).unwrap();
    assert_eq!(
        world.store.members().unwrap().1,
        std::slice::from_ref(&second),
        "the old incarnation cannot leave for the new one"
    );
    world.store.leave(second.slot, second.incarnation).unwrap();
    world
        .store
        .join(&Joiner::new(&named("a"), 3, "/n"), &|_| true)
        .unwrap();
}

pub(super) fn a_full_member_table_replaces_dead_members(mut world: World) {
    for n in 0..SLOTS {
        assert_eq!(world.join(&format!("a{n}")).member.slot, Slot(n));
    }
    let version = world.membership();
    let refused = world
        .store
        .join(&Joiner::new(&named("b"), 1, "/m"), &|_| true)
        .unwrap_err();
    assert!(refused.to_string().contains("64"), "{refused}");
    assert_eq!(world.membership(), version);
    let lives = |member: &Member| member.name != named("a9");
    let joined = world
        .store
        .join(&Joiner::new(&named("b"), 1, "/m"), &lives)
        .unwrap()
        .member;
    assert_eq!((joined.slot, joined.name), (Slot(9), named("b")));
    let (now, members) = world.store.members().unwrap();
    assert!(now > version);
    assert_eq!(members.len(), usize::try_from(SLOTS).unwrap());
    assert!(!members.iter().any(|member| member.name == named("a9")));
}

pub(super) fn fencing_is_by_incarnation(mut world: World) {
    let member = world.join("a").member;
    let (term, version) = (world.term(), world.membership());
    let (slot, incarnation) = (member.slot, member.incarnation);
    assert_eq!(
        world.store.rejoin(slot, incarnation, None).unwrap_err().kind(),
        ErrorKind::Stale,
        "it is not fenced"
    );
    assert_eq!(
        world
            .store
            .fence(term, slot, Incarnation(incarnation.0 + 1))
            .unwrap(),
        None
    );
    assert_eq!(world.store.fence(term, Slot(5), incarnation).unwrap(), None);
    assert_eq!(world.membership(), version);
    let fenced = world.store.fence(term, slot, incarnation).unwrap().unwrap();
    assert!(fenced > version);
    assert_eq!(
        world.store.fence(term, slot, incarnation).unwrap(),
        None,
        "fenced already"
    );
    let (now, members) = world.store.members().unwrap();
    assert_eq!((now, members[0].state), (fenced, MemberState::Fenced));

    assert_eq!(
        world
            .store
            .rejoin(slot, Incarnation(incarnation.0 + 1), None)
            .unwrap_err()
            .kind(),
        ErrorKind::Stale
    );
    let again = world.store.rejoin(slot, incarnation, None).unwrap();
    assert_eq!(
        (again.member.slot, again.member.state),
        (slot, MemberState::Joined)
    );
    assert!(again.member.incarnation > incarnation);
    assert_eq!(again.snapshot.header.membership, world.membership());
    assert!(world.membership() > fenced);
    assert_eq!(
        world.store.rejoin(slot, incarnation, None).unwrap_err().kind(),
        ErrorKind::Stale
    );
    assert_eq!(
        world.store.fence(term, slot, incarnation).unwrap(),
        None,
        "a late fence of an earlier incarnation"
    );
    world.store.leave(slot, again.member.incarnation).unwrap();
    assert_eq!(
        world.store.fence(term, slot, again.member.incarnation).unwrap(),
        None
    );
    assert_eq!(
        world
            .store
            .rejoin(slot, again.member.incarnation, None)
            .unwrap_err()
            .kind(),
        ErrorKind::Stale
    );
}

pub(super) fn joining_gives_the_whole_table(world: World) {
    let mut world = world.with_pool_contents();
    let committed = world.change(vec![map(1, &[seg(0, 2, 1, 1)])]);
    let prepared = world.prepare(None, vec![]).unwrap();
    let joined = world.join("a");
    assert_eq!(joined.snapshot, world.store.snapshot().unwrap());
    assert_eq!(joined.member.joined_at, Generation(2));
    let ids: Vec<_> = joined.unfinished.iter().map(|change| change.id).collect();
    assert_eq!(ids, [committed, prepared]);
    assert!(joined.unfinished.iter().all(|change| change.epoch == boot(1)));
    assert_eq!(joined.snapshot.volumes[0].name, name("volume", 1));
    let term = world.term();
    world
        .store
        .fence(term, joined.member.slot, joined.member.incarnation)
        .unwrap();
    world.change(vec![map(1, &[seg(0, 2, 9, 1)])]);
    let again = world
        .store
        .rejoin(joined.member.slot, joined.member.incarnation, None)
        .unwrap();
    assert_eq!(again.snapshot, world.store.snapshot().unwrap());
    assert_eq!(again.member.joined_at, Generation(3));
}

/// Returns whether the table that results from the table read earlier and the join equals the store's own.
fn same_table(read: &Snapshot, joined: &Joined, now: &Snapshot) -> bool {
    let draft = Draft::new(read).unwrap();
    let loaded = Table::of(draft.joined(&joined.snapshot, joined.since.as_deref()).unwrap());
    let whole = Table::new(now).unwrap();
    let (mut one, mut other) = (loaded.reader(), whole.reader());
    let volumes = whole.volumes(&mut other);
    let placements = |table: &Table, reader: &mut Reader| -> Vec<_> {
        volumes
            .iter()
            .map(|volume| table.segments(reader, volume.id))
            .collect()
    };
    loaded.generation() == whole.generation()
        && loaded.volumes(&mut one) == volumes
        && loaded.disks(&mut one) == whole.disks(&mut other)
        && placements(&loaded, &mut one) == placements(&whole, &mut other)
}

pub(super) fn joining_after_reading_gives_what_has_changed_since(world: World) {
    let mut world = world.with_pool_contents();
    let read = world.store.snapshot().unwrap();
    let known = Some(read.header.generation);
    let first = world.change(vec![map(1, &[seg(0, 2, 1, 1)])]);
    world.change(vec![map(1, &[seg(1, 2, 5, 1)])]);
    world.store.persist(&[first]).unwrap();
    let cancelled = world.prepare(None, vec![]).unwrap();
    world.store.cancel(cancelled).unwrap();
    let join = |world: &mut World, who: &str, known| {
        let joiner = Joiner {
            known,
            ..Joiner::new(&named(who), 1, "/m")
        };
        world.store.join(&joiner, &|_| false).unwrap()
    };
    let joined = join(&mut world, "a", known);
    assert_eq!(joined.since.as_ref().map(Vec::len), Some(2));
    assert_eq!(
        joined.since,
        world.store.deltas_since(read.header.generation).unwrap()
    );
    assert_eq!(joined.snapshot.segments, []);
    let now = world.store.snapshot().unwrap();
    assert_eq!(joined.snapshot.volumes, now.volumes);
    assert_eq!(joined.member.joined_at, now.header.generation);
    assert!(same_table(&read, &joined, &now));
    let again = join(&mut world, "b", Some(now.header.generation));
    assert_eq!(again.since, Some(Vec::new()));
    assert!(same_table(&now, &again, &now));

    let term = world.term();
    let (slot, incarnation) = (joined.member.slot, joined.member.incarnation);
    world.store.fence(term, slot, incarnation).unwrap();
    world.change(vec![map(1, &[seg(0, 2, 9, 1)])]);
    let back = world.store.rejoin(slot, incarnation, known).unwrap();
    assert_eq!(back.since.as_ref().map(Vec::len), Some(3));
    let now = world.store.snapshot().unwrap();
    assert!(same_table(&read, &back, &now));

    // A known table that does not exist yet, or that a power loss took back, leads to the whole table.
    let later = Generation(now.header.generation.0 + 1);
    assert_eq!(world.store.deltas_since(later).unwrap(), None);
    assert_eq!(
        join(&mut world, "c", Some(later)).snapshot,
        world.store.snapshot().unwrap()
    );
    world.store.recover_epoch(boot(9)).unwrap();
    let undone = join(&mut world, "d", known);
    assert_eq!(
        (undone.since, undone.snapshot),
        (None, world.store.snapshot().unwrap())
    );
}

pub(super) fn node(text: &str, epoch: u128) -> Node {
    Node {
        name: named(text),
        machine: format!("machine of {text}"),
        epoch: boot(epoch),
        certificate: text.into(),
        address: Some("10.0.0.1:7300".parse().unwrap()),
        program: "1".into(),
        since: Timestamp(7),
    }
}

pub(super) fn members_name_their_node_and_port(mut world: World) {
    let joiner = Joiner {
        node: Some(named("n1")),
        port: Some(65535),
        ..Joiner::new(&named("a"), 1, "/m")
    };
    let member = world.store.join(&joiner, &|_| false).unwrap().member;
    assert_eq!(
        (member.node.clone(), member.port),
        (Some(named("n1")), Some(65535))
    );
    assert_eq!(world.store.members().unwrap().1, [member]);
    let elsewhere = world.join("a").member;
    assert_eq!((elsewhere.node, elsewhere.port), (None, None));
}

pub(super) fn nodes_are_recorded_once_for_each_machine(mut world: World) {
    assert_eq!(world.store.nodes().unwrap(), []);
    let (one, two) = (
        node("n1", 1),
        Node {
            address: None,
            ..node("n2", 2)
        },
    );
    world.store.set_node(&two).unwrap();
    world.store.set_node(&one).unwrap();
    assert_eq!(world.store.nodes().unwrap(), [one.clone(), two.clone()]);
    world
        .store
        .set_node(&Node {
            since: Timestamp(8),
            ..one.clone()
        })
        .unwrap();
    assert_eq!(world.store.nodes().unwrap()[0], one, "nothing has changed");
    let later = Node {
        since: Timestamp(8),
        program: "2".into(),
        ..node("n1", 3)
    };
    world.store.set_node(&later).unwrap();
    assert_eq!(world.store.nodes().unwrap(), [later.clone(), two.clone()]);
    let other = Node {
        machine: "another".into(),
        ..one
    };
    let refused = world.store.set_node(&other).unwrap_err();
    assert!(refused.to_string().contains("node n1"), "{refused}");
    assert_eq!(world.store.nodes().unwrap(), [later, two]);
    assert!(world.store.remove_node(&named("n2")).unwrap());
    assert!(!world.store.remove_node(&named("n2")).unwrap());
    assert_eq!(world.store.nodes().unwrap().len(), 1);
}

pub(super) fn a_node_that_runs_apparatuses_is_not_removed(mut world: World) {
    world.store.set_node(&node("n1", 1)).unwrap();
    let joiner = Joiner {
        node: Some(named("n1")),
        ..Joiner::new(&named("a"), 1, "/m")
    };
    let member = world.store.join(&joiner, &|_| false).unwrap().member;
    let term = world.term();
    for _ in 0..2 {
        let refused = world.store.remove_node(&named("n1")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        world.store.fence(term, member.slot, member.incarnation).unwrap();
    }
    world.store.leave(member.slot, member.incarnation).unwrap();
    assert!(world.store.remove_node(&named("n1")).unwrap());
}
