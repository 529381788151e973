//! The label at the head of every disk: encoded, decoded, and rewritten durably as when a layout is persisted.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so")]

use apparatus::blockdev::label::Label;
use apparatus::blockdev::{Candidate, Disk, create_image};
use apparatus::cluster;
use apparatus::model::names::Name;
use apparatus::model::records::{DiskRecord, PoolHeader};
use apparatus::model::units::{ByteCount, DiskId, ExtentSize};
use criterion::{Criterion, criterion_group, criterion_main};
use std::collections::BTreeSet;
use std::hint::black_box;
use uuid::Uuid;

const UNIT: ExtentSize = ExtentSize::DEFAULT;

fn bytes(c: &mut Criterion) {
    let label = Label {
        pool: Uuid::from_u128(1),
        disk: Uuid::from_u128(2),
        size: ByteCount(1 << 40),
        extent_size: UNIT,
        layout: 3,
        sequence: 4,
        instance: Uuid::new_v4(),
        copy: None,
    };
    let encoded = label.encode();
    c.bench_function("label/encode", |b| b.iter(|| black_box(&label).encode()));
    c.bench_function("label/decode", |b| {
        b.iter(|| Label::decode(black_box(&encoded)).unwrap())
    });
}

fn rewrite(c: &mut Criterion) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk.img");
    create_image(&path, ByteCount(8 * UNIT.bytes()), UNIT).unwrap();
    let uuid = Uuid::new_v4();
    let pool = PoolHeader {
        uuid: Uuid::new_v4(),
        ..PoolHeader::before(UNIT)
    };
    let candidate = Candidate::inspect(&path, &pool, &[]).unwrap();
    let extents = candidate.extents();
    candidate.write_label(&pool, uuid).unwrap();
    let record = DiskRecord {
        id: DiskId(1),
        name: Name::new("disk", "d").unwrap(),
        uuid,
        path,
        extents,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 0,
    };
    c.bench_function("label/open a disk", |b| {
        b.iter(|| Disk::open(&record, &pool).unwrap())
    });
    let cluster = cluster::open(&apparatus::model::dir::PoolDir::new(scratch.path())).unwrap();
    let ledger = cluster.share(pool.uuid).unwrap().ledgers.ledger(record.id);
    let (disk, mut layout) = (Disk::open(&record, &pool).unwrap(), 0);
    c.bench_function("label/rewrite, durably", |b| {
        b.iter(|| {
            layout += 1;
            disk.set_layout(layout, &*ledger).unwrap()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = bytes, rewrite
}
criterion_main!(benches);
