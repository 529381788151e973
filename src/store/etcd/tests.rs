//! Tests with a real etcd. They are skipped by name where it is not installed.

use super::testing::EtcdCluster;
use super::*;
use crate::model::error::ErrorKind;
use crate::model::names::Name;
use crate::model::units::{Incarnation, Slot};
use crate::store::leases::{LeaseHolder, Leases, Renewed};
use uuid::Uuid;

fn entry(after: Position, rows: usize) -> Entry {
    Entry {
        after,
        format: 8,
        nonce: Uuid::new_v4().as_u128(),
        rows: vec![b'x'; rows],
    }
}

/// Appends entries; returns them.
fn append(log: &mut EtcdJournal, sizes: &[usize]) -> Vec<Entry> {
    let mut at = log.head().unwrap();
    sizes
        .iter()
        .map(|&size| {
            let entry = entry(at, size);
            assert_eq!(log.append(&entry, &[]).unwrap(), Appended::Accepted);
            at = entry.position();
            entry
        })
        .collect()
}

#[test]
fn of_two_entries_at_one_position_one_is_accepted() {
    let Some(cluster) = EtcdCluster::shared(3) else {
        return;
    };
    let pool = Uuid::new_v4();
    let (mut one, mut other) = (cluster.log(pool), cluster.log(pool));
    assert_eq!(one.head().unwrap(), Position::default());
    assert_eq!(other.head().unwrap(), Position::default());
    let first = entry(Position::default(), 10);
    assert_eq!(one.append(&first, &[]).unwrap(), Appended::Accepted);
    let second = entry(Position::default(), 10);
    assert_eq!(other.append(&second, &[]).unwrap(), Appended::Outdated);
    let entries = other.after(Position::default()).unwrap().entries;
    assert_eq!(entries, std::slice::from_ref(&first));
    assert_eq!(other.head().unwrap(), first.position());
    // The same entry again, as after a lost answer, is not accepted twice.
    assert_eq!(one.append(&first, &[]).unwrap(), Appended::Outdated);
}

#[test]
fn entries_of_any_size_are_read_in_their_order() {
    let Some(cluster) = EtcdCluster::shared(1) else {
        return;
    };
    let mut log = cluster.log(Uuid::new_v4());
    let mut sizes = vec![1; 70];
    sizes.extend([PART, PART + 1, 3 * PART, 0]);
    let entries = append(&mut log, &sizes);
    let missing = log.after(Position::default()).unwrap();
    assert_eq!(missing.entries, entries);
    let missing = log.after(entries[71].position()).unwrap();
    assert_eq!(missing.entries, entries[72..]);
    assert_eq!(log.after(entries[73].position()).unwrap(), Missing::default());
}

#[test]
fn a_position_that_the_log_does_not_have_is_refused() {
    let Some(cluster) = EtcdCluster::shared(1) else {
        return;
    };
    let mut log = cluster.log(Uuid::new_v4());
    let last = append(&mut log, &[5, 5]).pop().unwrap().position();
    let later = Position {
        number: last.number + 1,
        ..last
    };
    let other = Position {
        chain: last.chain ^ 1,
        ..last
    };
    for at in [later, other] {
        let error = log.after(at).unwrap_err();
        assert!(
            error
                .way_out()
                .is_some_and(|way| way.contains("vctl pool rescue")),
            "{error}"
        );
    }
}

#[test]
fn a_log_that_is_removed_leaves_other_pools_alone() {
    let Some(cluster) = EtcdCluster::shared(1) else {
        return;
    };
    let (mut one, mut other) = (cluster.log(Uuid::new_v4()), cluster.log(Uuid::new_v4()));
    append(&mut one, &[5, 2 * PART]);
    append(&mut other, &[5]);
    one.destroy().unwrap();
    assert_eq!(one.head().unwrap(), Position::default());
    assert_eq!(one.after(Position::default()).unwrap(), Missing::default());
    assert_eq!(other.head().unwrap().number, 1);
}

#[test]
fn a_member_may_end_and_a_majority_is_needed() {
    let Some(mut cluster) = EtcdCluster::start(3) else {
        return;
    };
    let mut log = cluster.log(Uuid::new_v4());
    append(&mut log, &[5]);
    cluster.end(0);
    // The members may have to elect another leader first.
    let mut at = log.head();
    for _ in 0..30 {
        if at.is_ok() {
            break;
        }
        at = log.head();
    }
    let mut next = entry(at.unwrap(), 5);
    for _ in 0..30 {
        match log.append(&next, &[]) {
            Ok(Appended::Accepted) => break,
            Ok(Appended::Outdated) => {
                // An attempt without an answer has arrived.
                assert_eq!(log.after(next.after).unwrap().entries[0].nonce, next.nonce);
                break;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}"),
        }
    }
    let last = log.head().unwrap();
    assert_eq!(last.number, 2);
    cluster.end(0);
    next = entry(last, 5);
    assert_eq!(log.append(&next, &[]).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(log.head().unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn a_lease_is_renewed_exactly_while_its_life_is_in_the_control_range() {
    let Some(cluster) = EtcdCluster::shared(3) else {
        return;
    };
    let pool = Uuid::new_v4();
    let (mut log, mut own, mut other) = (cluster.log(pool), cluster.leases(pool), cluster.leases(pool));
    let holder = |incarnation| LeaseHolder {
        slot: Slot(3),
        incarnation: Incarnation(incarnation),
        node: Name::new("node", "n1").unwrap(),
    };
    let mut at = Position::default();
    let mut state = |member: &str, nodes: &str| {
        let entry = entry(at, 1);
        at = entry.position();
        let key = |key: &str, value: &str| DerivedKey {
            key: key.into(),
            value: value.into(),
        };
        let keys = [key("member/3", member), key("nodes", nodes)];
        assert_eq!(log.append(&entry, &keys).unwrap(), Appended::Accepted);
    };
    assert_eq!(
        own.renew(&holder(7), None).unwrap(),
        Renewed::No,
        "no such member"
    );
    state("joined 7 n1", "n1");
    assert_eq!(
        own.renew(&holder(7), None).unwrap(),
        Renewed::Yes { several: false }
    );
    assert_eq!(other.published(Slot(3), Incarnation(7)).unwrap(), None);
    state("joined 7 n1", "n1 n2");
    assert_eq!(
        own.renew(&holder(7), None).unwrap(),
        Renewed::Yes { several: true }
    );
    for _ in 0..3 {
        // The second and later ones write nothing new.
        assert_eq!(
            own.renew(&holder(7), Some(30)).unwrap(),
            Renewed::Yes { several: true }
        );
        assert_eq!(other.published(Slot(3), Incarnation(7)).unwrap(), Some(30));
    }
    assert_eq!(other.published(Slot(3), Incarnation(6)).unwrap(), None);
    assert_eq!(
        own.renew(&holder(6), Some(30)).unwrap(),
        Renewed::No,
        "another life"
    );
    state("fenced 7 n1", "n1 n2");
    assert_eq!(own.renew(&holder(7), Some(30)).unwrap(), Renewed::No);
    state("joined 8 n1", "n1 n2");
    assert_eq!(other.published(Slot(3), Incarnation(8)).unwrap(), None, "not yet");
    assert_eq!(
        own.renew(&holder(8), Some(40)).unwrap(),
        Renewed::Yes { several: true }
    );
    assert_eq!(other.published(Slot(3), Incarnation(8)).unwrap(), Some(40));
}
