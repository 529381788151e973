//! What the way of a request costs without FUSE: gate, table, disk, fence words, counters. A read ends with its bytes' place in the mapping, so
//! nothing is copied; a write ends with `pwrite` into the page cache.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so")]

use apparatus::control::Bell;
use apparatus::data::{
    Answer, Apparatus, Delivery, Desk, Harden, Limits, Operation, Parts, Reply, Report, Request, Role,
};
use apparatus::disk::{Candidate, Disk, Disks, create_image};
use apparatus::error::Result;
use apparatus::member::MemberTable;
use apparatus::pool::model::{Area, DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use apparatus::pool::names::Name;
use apparatus::sys::boot_id;
use apparatus::table::Table;
use apparatus::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, Incarnation, Slot, VolumeExtent, VolumeId,
    VolumeOffset,
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::borrow::Cow;
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

/// Hears the answer, and looks at nothing.
struct Nobody;

impl Reply for Nobody {
    fn send(self, answer: Answer<'_>) -> Delivery {
        black_box(&answer);
        Delivery::Taken
    }
}

struct Silent;

impl Harden for Silent {
    fn harden(&self, _: VolumeId, _: Generation) -> Result<apparatus::data::Hardening> {
        Ok(apparatus::data::Hardening::Done)
    }
}

impl Report for Silent {
    fn disk_failed(&self, _: &str, _: &str, _: &str) {}
    fn harden_failed(&self, _: &str) {}
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

/// One volume on one disk.
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
    let home = Area {
        disk: disk.id,
        start: DiskExtent(1),
        len: EXTENTS,
    };
    let segment = Segment {
        start: VolumeExtent(0),
        home,
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
    let members =
        MemberTable::open(&apparatus::pool::dir::PoolDir::new(dir), pool, boot_id().unwrap()).unwrap();
    let line = Arc::new(members.mine(Slot(0)));
    line.begin(Incarnation(1), snapshot.header.generation);
    let limits = Limits {
        readers: 4,
        workers: 4,
        parked_bytes: 8 << 20,
        parked: 100,
        holds: 8,
        fenced: Duration::from_secs(600),
    };
    Apparatus::start(Parts {
        name: name("apparatus", "bench"),
        table: Table::new(&snapshot).unwrap(),
        disks,
        records: snapshot.disks.clone(),
        members,
        line,
        bell: Arc::new(Bell::new().unwrap()),
        harden: Arc::new(Silent),
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
    let mut desk = apparatus.desk(Role::Reader).unwrap();
    let (blocks, data) = (
        EXTENTS * UNIT.bytes() / BLOCK,
        vec![7; usize::try_from(BLOCK).unwrap()],
    );
    let mut block = 0;
    let mut next = || {
        block = (block + 7919) % blocks;
        VolumeOffset(block * BLOCK)
    };
    let write = |desk: &mut Desk, at| {
        let operation = Operation::Write {
            at,
            data: Cow::Borrowed(&data),
            durable: false,
        };
        apparatus.serve(desk, Request::new(VOLUME, operation, Nobody));
    };
    // What has never been written would be cold.
    (0..blocks).for_each(|_| write(&mut desk, next()));
    let mut group = c.benchmark_group("way/4 KiB");
    group.bench_function("read", |b| {
        b.iter(|| {
            let operation = Operation::Read {
                at: next(),
                len: BLOCK,
            };
            apparatus.serve(&mut desk, Request::new(VOLUME, operation, Nobody));
        });
    });
    group.bench_function("write", |b| {
        b.iter(|| write(&mut desk, next()));
    });
    group.finish();
    drop(desk);
    apparatus.end();
}

criterion_group!(benches, requests);
criterion_main!(benches);
