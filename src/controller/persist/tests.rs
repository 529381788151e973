//! What has to be on the disks before changes count as persisted, and when they do.

use super::*;
use crate::metadata::place::Place;
use crate::model::build::{self, area, committed, segment};
use crate::model::change::{HoldMode, NewChange};
use crate::model::dir::PoolDir;
use crate::model::records::{Delta, PoolHeader, Segment};
use crate::model::units::ByteCount;
use std::sync::Mutex;
use uuid::Uuid;

fn map(at: u64, placement: Area) -> Edit {
    let start = VolumeExtent(at);
    build::map(1, &[Segment { start, placement }])
}

fn placements(edits: Vec<Edit>) -> Vec<Area> {
    let record = |(id, edit): (u64, Edit)| committed(id, vec![edit], None);
    let records: Vec<_> = (0..).zip(edits).map(record).collect();
    new_placements(&records).into_values().flatten().collect()
}

#[test]
fn data_that_a_later_change_moves_again_need_not_be_on_its_disk() {
    let there = area(1, 100, 8);
    assert_eq!(placements(vec![map(10, there)]), [there]);
    let middle = placements(vec![map(10, there), map(12, area(2, 5, 3))]);
    assert_eq!(middle, [area(1, 100, 2), area(1, 105, 3), area(2, 5, 3)]);
    assert_eq!(
        placements(vec![map(10, there), map(10, area(2, 5, 8))]),
        [area(2, 5, 8)]
    );
    assert_eq!(
        placements(vec![map(12, area(2, 5, 3)), map(10, there)]),
        [there],
        "an earlier one takes nothing away"
    );
    let unmap = Edit::Unmap {
        volume: VolumeId(1),
        start: VolumeExtent(0),
        end: VolumeExtent(17),
    };
    assert_eq!(placements(vec![map(10, there), unmap]), [area(1, 107, 1)]);
    assert_eq!(
        placements(vec![map(10, there), Edit::RemoveVolume(VolumeId(1))]),
        []
    );
    assert_eq!(
        placements(vec![map(10, there), Edit::RemoveVolume(VolumeId(2))]),
        [there]
    );
}

/// Makes a pool of disks 1 to 3 with volume 1 of four extents on disk 1, all persisted.
fn pool() -> (tempfile::TempDir, PoolDir, Box<dyn Store>) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = PoolDir::new(scratch.path().join("pool"));
    crate::store::create(&dir, ExtentSize::DEFAULT).unwrap();
    let mut store = crate::controller::pool::open_store(&dir).unwrap();
    let mut edits: Vec<Edit> = (1..4).map(|id| Edit::AddDisk(build::disk(id, 100))).collect();
    edits.push(Edit::AddVolume(build::volume(1, 4 << 20)));
    edits.push(build::map(1, &[segment(0, 1, 1, 4)]));
    commit(&mut *store, edits);
    let all = Batch::of_all(&mut *store).unwrap();
    store.persist(&all.ids).unwrap();
    (scratch, dir, store)
}

fn commit(store: &mut dyn Store, edits: Vec<Edit>) -> Generation {
    let header = store.header().unwrap();
    let from = header.generation;
    let change = NewChange {
        title: "test".into(),
        job: None,
        delta: Delta { from, edits },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    };
    let id = store.prepare(header.term, &change).unwrap();
    store.commit(header.term, id, header.membership).unwrap();
    from.next()
}

#[test]
fn a_flush_persists_every_change_of_its_volume_and_no_later_one_of_another_disk() {
    let (_scratch, _dir, mut store) = pool();
    let first = commit(&mut *store, vec![build::map(1, &[segment(0, 2, 1, 1)])]);
    let last = commit(&mut *store, vec![build::map(1, &[segment(1, 3, 1, 1)])]);
    for (by, disks) in [(first, &[2][..]), (last, &[2, 3])] {
        let batch = Batch::of_volume(&mut *store, VolumeId(1), by).unwrap().unwrap();
        assert_eq!(batch.disks(), disks.iter().copied().map(DiskId).collect());
    }
}

#[test]
fn no_change_is_reported_as_persisted_before_the_store_is_durable() {
    let (_scratch, dir, mut store) = pool();
    let cluster = crate::cluster::open(&dir).unwrap();
    let ledgers = cluster.share(store.header().unwrap().uuid).unwrap().ledgers;
    let before = ledgers.persisted();
    commit(&mut *store, vec![Edit::SetVolume(build::volume(1, 4 << 20))]);
    let batch = Batch::of_all(&mut *store).unwrap();
    // The log of this epoch cannot be made durable any more.
    let failed = format!("{}\nlost\n", cluster.epoch().unwrap().0);
    std::fs::write(dir.run().join("log-failed"), failed).unwrap();
    batch
        .persist(&mut *store, &Disks::new(), &*ledgers, Who::Apparatus)
        .unwrap_err();
    assert_eq!(ledgers.persisted(), before);
}

#[test]
fn whoever_persists_brings_the_copies_up_to_date() {
    for who in [Who::Controller, Who::Apparatus] {
        let (_scratch, dir, mut store) = pool();
        let cluster = crate::cluster::open(&dir).unwrap();
        let ledgers = cluster.share(store.header().unwrap().uuid).unwrap().ledgers;
        let place = Place::behind_the_label(ExtentSize::DEFAULT);
        let position = store.persisted().unwrap().unwrap().position;
        store.copy_placed(DiskId(1), place, position).unwrap();
        commit(&mut *store, vec![Edit::SetVolume(build::volume(1, 4 << 20))]);
        let batch = Batch::of_all(&mut *store).unwrap();
        batch.persist(&mut *store, &Disks::new(), &*ledgers, who).unwrap();
        let copies = store.persisted().unwrap().unwrap().copies;
        assert!(
            copies[0].lag.is_some(),
            "{who:?}: its disk is not open, so it is left behind"
        );
    }
}

/// Ledger that counts as clean, and records what is asked of it.
struct Asked(bool, Mutex<Vec<&'static str>>);

impl FlushLedger for Asked {
    fn disk(&self) -> DiskId {
        DiskId(1)
    }
    fn written(&self) {
        self.1.lock().unwrap().push("written");
    }
    fn flush(&self, _: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        Ok(())
    }
    fn flush_here(&self, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        self.1.lock().unwrap().push("flush");
        flush()
    }
    fn watch(&self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        work()
    }
    fn note_failure(&self) {}
    fn doubt_others(&self) {}
    fn is_in_doubt(&self) -> bool {
        self.0
    }
    fn is_dirty(&self) -> bool {
        false
    }
    fn failures(&self) -> u64 {
        0
    }
    fn failures_here(&self) -> u64 {
        0
    }
    fn has_lost(&self) -> bool {
        false
    }
}

#[test]
fn moved_data_is_flushed_though_its_disk_counts_as_clean_and_written_again_in_doubt() {
    let scratch = tempfile::tempdir().unwrap();
    let pool = PoolHeader {
        uuid: Uuid::from_u128(7),
        ..PoolHeader::before(ExtentSize::DEFAULT)
    };
    let record = DiskRecord {
        uuid: Uuid::from_u128(8),
        path: scratch.path().join("image"),
        ..build::disk(1, 16)
    };
    crate::blockdev::create_image(&record.path, ByteCount(16 << 20), ExtentSize::DEFAULT).unwrap();
    let candidate = crate::blockdev::Candidate::inspect(&record.path, &pool, &[]).unwrap();
    candidate.write_label(&pool, record.uuid).unwrap();
    let disk = Disk::open(&record, &pool).unwrap();
    for in_doubt in [false, true] {
        let ledger = Asked(in_doubt, Mutex::default());
        flush_areas(&disk, &ledger, &[area(1, 1, 1)], ExtentSize::DEFAULT).unwrap();
        assert_eq!(*ledger.1.lock().unwrap(), ["written", "flush"]);
        // What lies beyond the disk cannot be written again.
        let beyond = flush_areas(&disk, &ledger, &[area(1, 100, 1)], ExtentSize::DEFAULT);
        assert_eq!(beyond.is_err(), in_doubt);
    }
}
