//! The cost of a request without FUSE: gate, table, disk, fence word, counters. A read ends with the address of its bytes in the mapping,
//! so nothing is copied; a write ends with `pwrite` into the page cache.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so")]

use apparatus::blockdev::{Candidate, Disk, Disks, create_image};
use apparatus::cluster;
use apparatus::datapath::{
    Apparatus, Data, Delivery, IoContext, Limits, Operation, Parts, Persist, Reply, Report, Request,
    Response, Role, SystemThreads, Waker,
};
use apparatus::map::Table;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::model::records::{Area, DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use apparatus::model::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, Incarnation, Slot, VolumeExtent, VolumeId,
    VolumeOffset,
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const UNIT: ExtentSize = ExtentSize::DEFAULT;
const EXTENTS: u64 = 64;
const BLOCK: u64 = 4096;
const VOLUME: VolumeId = VolumeId(1);

/// Receives the answer and ignores it.
struct Nobody;

impl Reply for Nobody {
    fn send(self, answer: Response<'_>) -> Delivery {
        black_box(&answer);
        Delivery::Taken
    }
}

struct Silent;

impl Persist for Silent {
    fn persist(&self, _: VolumeId, _: Generation) -> Result<apparatus::datapath::PersistState> {
        Ok(apparatus::datapath::PersistState::Done)
    }
}

impl Report for Silent {
    fn disk_failed(&self, _: &str, _: &str, _: &str) {}
    fn persist_failed(&self, _: &str) {}
}

fn name(kind: &'static str, text: &str) -> Name {
    Name::new(kind, text).unwrap()
}

fn header(uuid: Uuid) -> PoolHeader {
    PoolHeader {
        uuid,
        ..PoolHeader::before(UNIT)
    }
}

fn image(path: &Path, pool: Uuid) -> DiskRecord {
    create_image(path, ByteCount((EXTENTS + 1) * UNIT.bytes()), UNIT).unwrap();
    let candidate = Candidate::inspect(path, &header(pool), &[]).unwrap();
    let (uuid, extents) = (Uuid::new_v4(), candidate.extents());
    candidate.write_label(&header(pool), uuid).unwrap();
    DiskRecord {
        id: DiskId(1),
        name: name("disk", "d"),
        uuid,
        path: path.to_owned(),
        extents,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 0,
    }
}

/// Returns a table with one volume on one disk.
fn snapshot(disk: DiskRecord, pool: Uuid) -> Snapshot {
    let header = header(pool);
    let volume = VolumeRecord {
        id: VOLUME,
        name: name("volume", "v"),
        size: ByteCount(EXTENTS * UNIT.bytes()),
        mode: 0o600,
        uid: 0,
        gid: 0,
        read_only: false,
    };
    let placement = Area {
        disk: disk.id,
        start: DiskExtent(1),
        len: EXTENTS,
    };
    let segment = Segment {
        start: VolumeExtent(0),
        placement,
    };
    Snapshot {
        header,
        disks: vec![disk],
        volumes: vec![volume],
        segments: vec![(VOLUME, segment)],
    }
}

fn apparatus(dir: &Path) -> Arc<Apparatus> {
    let pool = Uuid::new_v4();
    let snapshot = snapshot(image(&dir.join("d.img"), pool), pool);
    let disks = Disks::new();
    disks.insert(Arc::new(
        Disk::open(&snapshot.disks[0], &snapshot.header).unwrap(),
    ));
    let shared = cluster::open(&apparatus::model::dir::PoolDir::new(dir))
        .unwrap()
        .share(pool)
        .unwrap();
    let entry = shared.members.own(Slot(0));
    entry.begin(Incarnation(1), snapshot.header.generation);
    let limits = Limits {
        readers: 4,
        workers: 4,
        parked_bytes: 8 << 20,
        parked: 100,
        holds: 8,
        fenced: Duration::from_secs(600),
        copied_reads: 0,
    };
    Apparatus::start(Parts {
        access: snapshot.header.access,
        name: name("apparatus", "bench"),
        table: Table::new(&snapshot).unwrap(),
        disks,
        records: snapshot.disks.clone(),
        ledgers: shared.ledgers,
        entry,
        waker: Arc::new(Waker::new().unwrap()),
        threads: Arc::new(SystemThreads),
        persist: Arc::new(Silent),
        report: Arc::new(Silent),
        limits,
        stop: Box::new(|| ()),
    })
    .unwrap()
}

fn requests(c: &mut Criterion) {
    let scratch = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    std::fs::create_dir(scratch.path().join("run")).unwrap();
    let apparatus = apparatus(scratch.path());
    apparatus.set_readers(1);
    let mut context = apparatus.io_context(Role::Reader).unwrap();
    let (blocks, data) = (
        EXTENTS * UNIT.bytes() / BLOCK,
        vec![7; usize::try_from(BLOCK).unwrap()],
    );
    let mut block = 0;
    let mut next = || {
        block = (block + 7919) % blocks;
        VolumeOffset(block * BLOCK)
    };
    let write = |context: &mut IoContext, at| {
        let operation = Operation::Write {
            at,
            data: Data::Borrowed(&data),
            durable: false,
        };
        apparatus.serve(context, Request::new(VOLUME, operation, Nobody));
    };
    // Blocks that have never been written would be cold.
    (0..blocks).for_each(|_| write(&mut context, next()));
    let mut group = c.benchmark_group("way/4 KiB");
    group.bench_function("read", |b| {
        b.iter(|| {
            let operation = Operation::Read {
                at: next(),
                len: BLOCK,
            };
            apparatus.serve(&mut context, Request::new(VOLUME, operation, Nobody));
        });
    });
    group.bench_function("write", |b| {
        b.iter(|| write(&mut context, next()));
    });
    group.finish();
    drop(context);
    apparatus.end();
}

criterion_group!(benches, requests);
criterion_main!(benches);
