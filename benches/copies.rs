//! The cost of the copies of the pool's metadata on its disks: persisting a change without a copy, with one and with four; and making a pool of a million segments again
//! from its disks. Prints medians; the rounds of the three pools alternate, so that a noisy machine disturbs them alike.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on should say so"
)]

use apparatus::admin::import::{self, Accepted};
use apparatus::blockdev::{Candidate, create_image};
use apparatus::controller::{Controller, Wait};
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::dir::PoolDir;
use apparatus::model::names::Name;
use apparatus::model::records::{Area, Delta, DiskRecord, Edit, Segment, VolumeRecord};
use apparatus::model::units::{
    ByteCount, DiskExtent, DiskId, DiskOffset, ExtentSize, VolumeExtent, VolumeId,
};
use apparatus::store;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

const ROUNDS: u64 = 200;
const SEGMENTS: u64 = 1_000_000;
/// Segments that one change maps.
const PART: u64 = 4096;

struct Pool {
    scratch: TempDir,
    dir: PoolDir,
    disks: Vec<PathBuf>,
    controller: Option<Controller>,
}

impl Pool {
    fn new(disks: u32, extents: u64, extent_size: ExtentSize, copies: usize) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let dir = PoolDir::new(scratch.path().join("pool"));
        store::create(&dir, extent_size).unwrap();
        let mut controller = Controller::acquire(&dir, "bench", Wait::No).unwrap();
        controller.set_copies(copies);
        let mut pool = Self {
            dir,
            disks: Vec::new(),
            controller: Some(controller),
            scratch,
        };
        for id in 1..=disks {
            pool.add_disk(id, extents, extent_size);
        }
        pool
    }

    fn controller(&mut self) -> &mut Controller {
        self.controller.as_mut().unwrap()
    }

    fn add_disk(&mut self, id: u32, extents: u64, unit: ExtentSize) {
        let path = self.scratch.path().join(format!("d{id}.img"));
        create_image(&path, ByteCount(extents * unit.bytes()), unit).unwrap();
        let header = self.controller().store().header().unwrap();
        let known = self.controller().store().disks().unwrap();
        let record = DiskRecord {
            id: DiskId(id),
            name: Name::new("disk", &format!("d{id}")).unwrap(),
            uuid: Uuid::new_v4(),
            path: path.clone(),
            extents,
            tags: BTreeSet::new(),
            allocate: true,
            reserve: 0,
            label: 0,
        };
        let candidate = Candidate::inspect(&path, &header, &known).unwrap();
        candidate.write_label(&header, record.uuid).unwrap();
        self.change(vec![Edit::AddDisk(record)]);
        self.disks.push(path);
    }

    /// Commits a change, and persists nothing.
    fn change(&mut self, edits: Vec<Edit>) {
        let controller = self.controller();
        let from = controller.store().header().unwrap().generation;
        let change = NewChange {
            title: "bench".into(),
            job: None,
            delta: Delta { from, edits },
            spans: Vec::new(),
            mode: HoldMode::Writes,
        };
        controller.run(change, false, &mut || Ok(())).unwrap();
    }

    fn add_volume(&mut self, extents: u64, unit: ExtentSize) {
        let record = VolumeRecord {
            id: VolumeId(1),
            name: Name::new("volume", "v").unwrap(),
            size: ByteCount(extents * unit.bytes()),
            mode: 0o600,
            uid: 0,
            gid: 0,
            read_only: false,
        };
        self.change(vec![Edit::AddVolume(record)]);
    }

    fn map(&mut self, segments: Vec<Segment>) {
        self.change(vec![Edit::Map {
            volume: VolumeId(1),
            segments,
        }]);
    }

    fn persist(&mut self) -> Duration {
        let began = Instant::now();
        self.controller().persist().unwrap();
        began.elapsed()
    }
}

fn segment(at: u64, disk: u32, place: u64) -> Segment {
    Segment {
        start: VolumeExtent(at),
        placement: Area {
            disk: DiskId(disk),
            start: DiskExtent(place),
            len: 1,
        },
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn persisting() {
    let unit = ExtentSize::DEFAULT;
    let counts = [0_usize, 1, 4];
    let mut pools = counts.map(|copies| {
        let mut pool = Pool::new(4, 64, unit, copies);
        pool.add_volume(4, unit);
        pool.map((0..4).map(|at| segment(at, 1, 1 + at)).collect());
        pool.persist();
        pool
    });
    let mut times = counts.map(|_| Vec::new());
    let data = vec![7; 1 << 20];
    for round in 0..ROUNDS {
        for (pool, times) in pools.iter_mut().zip(&mut times) {
            let place = 10 + round % 2;
            let disk = pool.controller().disks().get(DiskId(1)).unwrap();
            disk.write_at(&data, DiskOffset(place * unit.bytes())).unwrap();
            pool.map(vec![segment(0, 1, place)]);
            times.push(pool.persist());
            pool.controller().free_now().unwrap();
        }
    }
    let medians = times.map(|mut times| median(&mut times));
    let least = medians.first().map_or(1.0, Duration::as_secs_f64);
    for (copies, time) in counts.iter().zip(medians) {
        let ratio = time.as_secs_f64() / least;
        println!("persist a move of 1 MiB, {copies} copies: {time:.2?}, {ratio:.2} times");
    }
}

fn importing() {
    let unit = ExtentSize::new(64 << 10).unwrap();
    let mut pool = Pool::new(2, SEGMENTS + 8192, unit, 4);
    pool.add_volume(SEGMENTS, unit);
    let all = |at: u64| segment(at, 1 + u32::try_from(at % 2).unwrap_or(0), 1 + at / 2 * 2);
    for first in (0..SEGMENTS).step_by(usize::try_from(PART).unwrap()) {
        pool.map((first..(first + PART).min(SEGMENTS)).map(all).collect());
    }
    let time = pool.persist();
    println!("persist {SEGMENTS} segments, with their first long copies: {time:.2?}");
    pool.map(vec![segment(1, 2, 2)]);
    println!("persist one change after that: {:.2?}", pool.persist());
    drop(pool.controller.take());
    std::fs::remove_dir_all(pool.dir.path()).unwrap();
    let other = PoolDir::new(pool.scratch.path().join("other"));
    let began = Instant::now();
    let plan = import::inspect(&other, &pool.disks, Accepted::default()).unwrap();
    println!("read {SEGMENTS} segments from the disks: {:.2?}", began.elapsed());
    drop(plan);
    let began = Instant::now();
    import::import(&other, &pool.disks, Accepted::default(), None).unwrap();
    println!("import {SEGMENTS} segments: {:.2?}", began.elapsed());
}

fn main() {
    persisting();
    importing();
}
