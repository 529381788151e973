use super::*;
use crate::model::build::disk;
use crate::model::change::{ChangeState, Commit, HoldMode, NewChange};
use crate::model::records::Area;
use crate::model::records::{Delta, Edit, Instance};
use crate::model::units::ExtentSize;
use crate::model::units::{ChangeId, DiskId, Generation, JobId, MembershipVersion, Term};
use crate::store::roles::*;
use uuid::Uuid;

fn boot(n: u128) -> CacheEpoch {
    CacheEpoch(Uuid::from_u128(n))
}

fn pool() -> MemoryStore {
    let header = PoolHeader {
        uuid: Uuid::from_u128(1),
        extent_size: ExtentSize::MIN,
        access: crate::model::records::DiskAccess::Cached,
        generation: Generation(0),
        layout: 0,
        membership: MembershipVersion(0),
        term: Term(0),
        instance: Instance::default(),
    };
    MemoryStore::new(header, boot(1))
}

fn change(store: &mut MemoryStore, edits: Vec<Edit>) -> ChangeId {
    let from = store.header().unwrap().generation;
    let (membership, _) = store.members().unwrap();
    let change = NewChange {
        title: "test".into(),
        job: None,
        delta: Delta { from, edits },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    };
    let id = store.prepare(Term(0), &change).unwrap();
    assert_eq!(
        store.commit(Term(0), id, membership).unwrap(),
        Commit::Committed(from.next())
    );
    id
}

#[test]
fn power_loss_keeps_a_prefix_and_never_less_than_what_was_synced() {
    let mut store = pool();
    let first = change(&mut store, vec![Edit::AddDisk(disk(1, 9))]);
    store.persist(&[first]).unwrap();
    change(&mut store, vec![Edit::AddDisk(disk(2, 9))]);
    change(&mut store, vec![Edit::AddDisk(disk(3, 9))]);
    assert_eq!(store.unsynced(), 4);
    for (keep, disks) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (9, 3)] {
        let mut other = store.fork();
        other.power_loss(keep, boot(1));
        assert_eq!(other.disks().unwrap().len(), disks, "kept {keep}");
    }
    assert_eq!(
        store.clone().disks().unwrap().len(),
        3,
        "the original lost nothing"
    );
}

#[test]
fn another_boot_takes_back_what_was_not_persisted() {
    let mut store = pool();
    let first = change(&mut store, vec![Edit::AddDisk(disk(1, 9))]);
    store.persist(&[first]).unwrap();
    let second = change(&mut store, vec![Edit::AddDisk(disk(2, 9))]);
    store.power_loss(9, boot(2));
    assert_eq!(store.disks().unwrap().len(), 2);
    assert_eq!(store.recover_epoch(boot(2)).unwrap(), [second]);
    assert_eq!(store.disks().unwrap().len(), 1);
    assert_eq!(store.change(second).unwrap().unwrap().state, ChangeState::Undone);
    assert_eq!(store.unsynced(), 0, "durable when it returns");
    assert_eq!(store.recover_epoch(boot(2)).unwrap(), []);
}

#[test]
fn a_transaction_that_fails_changes_nothing() {
    let mut store = pool();
    change(&mut store, vec![Edit::AddDisk(disk(1, 9))]);
    let area = |start, len| Area {
        disk: DiskId(1),
        start: crate::model::units::DiskExtent(start),
        len,
    };
    let term = store.header().unwrap().term;
    let job = crate::model::build::job();
    assert_eq!(store.create_job(term, &job, &[]).unwrap(), JobId(1));
    let before = store.fork();
    assert!(
        store
            .reserve(Term(0), JobId(1), &[area(1, 2), area(2, 1)])
            .is_err()
    );
    assert_eq!(store.uses(DiskId(1)).unwrap(), []);
    assert_eq!(store.unsynced(), before.unsynced());
    store.reserve(Term(0), JobId(1), &[area(1, 2)]).unwrap();
    assert_eq!(store.uses(DiskId(1)).unwrap().len(), 1);
}
