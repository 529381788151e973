use super::*;
use crate::pool::model::{Difference, Edit};
use crate::store::{ChangeState, HoldMode};
use crate::units::{DiskExtent, Timestamp};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use uuid::Uuid;

fn pool() -> (TempDir, PoolDir, SqliteStore) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = PoolDir::new(scratch.path().join("a/pool"));
    let store = SqliteStore::create(&dir, ExtentSize::DEFAULT).unwrap();
    (scratch, dir, store)
}

fn disk(id: u32, extents: u64) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: Uuid::new_v4(),
        path: format!("/disks/{id}").into(),
        extents,
        tags: BTreeSet::new(),
        allocate: true,
    }
}

fn volume(id: u64, extents: u64) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        name: Name::new("volume", &format!("v{id}")).unwrap(),
        size: ByteCount(extents << 20),
        mode: 0o600,
        uid: 0,
        gid: 0,
        read_only: false,
    }
}

fn segment(start: u64, disk: u32, home: u64, len: u64) -> Segment {
    let home = Area {
        disk: DiskId(disk),
        start: DiskExtent(home),
        len,
    };
    Segment {
        start: VolumeExtent(start),
        home,
    }
}

fn map(volume: u64, segments: &[Segment]) -> Edit {
    Edit::Map {
        volume: VolumeId(volume),
        segments: segments.to_vec(),
    }
}

fn new_change(store: &mut SqliteStore, edits: Vec<Edit>) -> NewChange {
    NewChange {
        title: "test".into(),
        job: None,
        difference: Difference {
            from: store.header().unwrap().generation,
            edits,
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    }
}

fn change(store: &mut SqliteStore, edits: Vec<Edit>) -> ChangeId {
    let change = new_change(store, edits);
    let header = store.header().unwrap();
    let id = store.prepare(header.term, &change).unwrap();
    let answer = store.commit(header.term, id, header.membership).unwrap();
    assert_eq!(answer, Commit::Committed(header.generation.next()));
    id
}

#[test]
fn a_pool_is_made_private_and_is_there_when_opened_again() {
    let (_scratch, dir, mut store) = pool();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path()), 0o700);
    assert_eq!(mode(&dir.run()), 0o700);
    for file in std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        assert!(file.is_dir() || mode(&file) == 0o600, "{file:?}");
    }
    change(&mut store, vec![Edit::AddDisk(disk(1, 100))]);
    let before = store.snapshot().unwrap();
    drop(store);
    let mut again = SqliteStore::open(&dir).unwrap();
    assert_eq!(again.snapshot().unwrap(), before);
    assert_eq!(before.disks.len(), 1);
    let refused = SqliteStore::create(&dir, ExtentSize::DEFAULT).err().unwrap();
    assert!(refused.to_string().contains("pool here already"), "{refused}");
}

#[test]
fn a_change_lives_from_prepared_to_hardened() {
    let (_scratch, _dir, mut store) = pool();
    change(
        &mut store,
        vec![
            Edit::AddDisk(disk(1, 100)),
            Edit::AddVolume(volume(1, 10)),
            map(1, &[segment(0, 1, 1, 4), segment(4, 1, 5, 6)]),
        ],
    );
    let id = change(&mut store, vec![map(1, &[segment(2, 1, 50, 3)])]);
    let segments = store
        .segments(VolumeId(1), VolumeExtent(0), VolumeExtent(u64::MAX))
        .unwrap();
    assert_eq!(
        segments,
        [segment(0, 1, 1, 2), segment(2, 1, 50, 3), segment(5, 1, 6, 5)]
    );
    let ids: Vec<_> = store
        .unfinished()
        .unwrap()
        .iter()
        .map(|change| change.id)
        .collect();
    store.harden(&ids).unwrap();
    assert_eq!(store.change(id).unwrap().unwrap().state, ChangeState::Hardened);
    assert_eq!(store.header().unwrap().layout, 2);
    assert_eq!(
        store.free_quarantine(Generation(2)).unwrap(),
        [segment(0, 1, 3, 3).home]
    );
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn power_loss_takes_back_what_was_not_hardened() {
    let (_scratch, dir, mut store) = pool();
    let first = change(
        &mut store,
        vec![
            Edit::AddDisk(disk(1, 100)),
            Edit::AddVolume(volume(1, 10)),
            map(1, &[segment(0, 1, 1, 10)]),
        ],
    );
    store.harden(&[first]).unwrap();
    let before = store.snapshot().unwrap();
    let second = change(&mut store, vec![map(1, &[segment(0, 1, 20, 10)])]);
    let third = change(&mut store, vec![Edit::RemoveVolume(VolumeId(1))]);
    drop(store);
    let boot = BootId(Uuid::new_v4());
    let mut store = SqliteStore::open_in_boot(&dir, boot).unwrap();
    assert_eq!(store.recover_boot(boot).unwrap(), [third, second]);
    let after = store.snapshot().unwrap();
    assert_eq!((after.segments, after.volumes), (before.segments, before.volumes));
    assert_eq!(after.header.generation, Generation(5));
    assert_eq!(store.uses(DiskId(1)).unwrap().len(), 1);
    assert_eq!(store.events(0, 9).unwrap().len(), 1);
    assert!(Timestamp::now() >= store.events(0, 9).unwrap()[0].at);
}
