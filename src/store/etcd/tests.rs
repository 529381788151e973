//! Tests with a real etcd. They are skipped by name where it is not installed.

use super::testing::EtcdCluster;
use super::*;
use crate::model::error::ErrorKind;
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
            assert_eq!(log.append(&entry).unwrap(), Appended::Accepted);
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
    assert_eq!(one.append(&first).unwrap(), Appended::Accepted);
    let second = entry(Position::default(), 10);
    assert_eq!(other.append(&second).unwrap(), Appended::Outdated);
    let entries = other.after(Position::default()).unwrap().entries;
    assert_eq!(entries, std::slice::from_ref(&first));
    assert_eq!(other.head().unwrap(), first.position());
    // The same entry again, as after a lost answer, is not accepted twice.
    assert_eq!(one.append(&first).unwrap(), Appended::Outdated);
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
        match log.append(&next) {
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
    assert_eq!(log.append(&next).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(log.head().unwrap_err().kind(), ErrorKind::TimedOut);
}
