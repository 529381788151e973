//! The table at one, a thousand and a million segments: lookup, applying a delta of one segment (the switch), building, memory; and a delta
//! as text.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so")]

use apparatus::map::Table;
use apparatus::model::names::Name;
use apparatus::model::records::{
    Area, Delta, DiskRecord, Edit, Instance, PoolHeader, Segment, Snapshot, VolumeRecord,
};
use apparatus::model::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, MembershipVersion, Term, VolumeExtent, VolumeId,
    VolumeOffset,
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::collections::BTreeSet;
use std::hint::black_box;

const SIZES: [u64; 3] = [1, 1_000, 1_000_000];
const UNIT: ExtentSize = ExtentSize::DEFAULT;

fn segment(extent: u64, disk: u32, placement: u64) -> Segment {
    let placement = Area {
        disk: DiskId(disk),
        start: DiskExtent(placement),
        len: 1,
    };
    Segment {
        start: VolumeExtent(extent),
        placement,
    }
}

/// Returns one volume of this many extents, each a segment of its own, on one disk; a second disk is empty.
fn scattered(n: u64) -> Snapshot {
    let disk = |id| DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: uuid::Uuid::from_u128(id.into()),
        path: "/image".into(),
        extents: 4 * n + 8,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 0,
    };
    let volume = VolumeRecord {
        id: VolumeId(1),
        name: Name::new("volume", "v").unwrap(),
        size: ByteCount(n * UNIT.bytes()),
        mode: 0o600,
        uid: 0,
        gid: 0,
        read_only: false,
    };
    let header = PoolHeader {
        uuid: uuid::Uuid::nil(),
        extent_size: UNIT,
        access: apparatus::model::records::DiskAccess::Cached,
        generation: Generation(0),
        layout: 0,
        membership: MembershipVersion(0),
        term: Term(0),
        instance: Instance::default(),
    };
    let segments = (0..n)
        .map(|extent| (VolumeId(1), segment(extent, 1, 2 * (n - extent))))
        .collect();
    Snapshot {
        header,
        disks: vec![disk(1), disk(2)],
        volumes: vec![volume],
        segments,
    }
}

/// Returns the next number of a sequence without a pattern that a processor could predict.
fn roll(state: &mut u64, below: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn memory(_: &mut Criterion) {
    let snapshot = scattered(1_000_000);
    let before = resident_kib();
    let table = Table::new(&snapshot).unwrap();
    let mut reader = table.reader();
    for from in 0..10_000 {
        table.apply(&one_segment(from, from * 7919 % 1_000_000)).unwrap();
    }
    let after = resident_kib();
    table.volume(&mut reader, VolumeId(1));
    println!(
        "table/memory: 1000000 segments, both versions, after 10000 changes: {} KiB resident",
        after - before
    );
}

fn building(c: &mut Criterion) {
    let snapshot = scattered(1_000_000);
    let mut group = c.benchmark_group("table/build");
    group.sample_size(10);
    group.bench_function("1000000 segments", |b| b.iter(|| Table::new(&snapshot).unwrap()));
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/lookup of 4 KiB");
    for n in SIZES {
        let table = Table::new(&scattered(n)).unwrap();
        let (mut reader, mut pieces, mut dice) = (table.reader(), Vec::new(), 1);
        let size = n * UNIT.bytes();
        group.bench_function(format!("{n} segments"), |b| {
            b.iter(|| {
                let at = VolumeOffset(roll(&mut dice, size >> 12) << 12);
                table
                    .locate(&mut reader, VolumeId(1), at, 4096, &mut pieces)
                    .unwrap();
                black_box(&pieces);
            });
        });
    }
    let table = Table::new(&scattered(1)).unwrap();
    group.bench_function("only the generation", |b| b.iter(|| table.generation()));
    group.finish();
}

/// Moves one extent to a placement that does not depend on its last one.
fn one_segment(from: u64, extent: u64) -> Delta {
    let segments = vec![segment(
        extent,
        1 + u32::from(from.is_multiple_of(2)),
        1 + (extent * 3 + from % 2),
    )];
    Delta {
        from: Generation(from),
        edits: vec![Edit::Map {
            volume: VolumeId(1),
            segments,
        }],
    }
}

fn applying(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/apply one segment");
    for n in SIZES {
        for (order, random) in [("in order", false), ("anywhere", true)] {
            let table = Table::new(&scattered(n)).unwrap();
            let mut dice = 1;
            group.bench_function(format!("{order}, {n} segments"), |b| {
                b.iter(|| {
                    let from = table.generation().0;
                    let extent = if random { roll(&mut dice, n) } else { from % n };
                    table.apply(&one_segment(from, extent)).unwrap()
                });
            });
        }
    }
    group.finish();
}

/// Measures a switch, and the first lookup of a reader after it.
fn switching(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/apply and look");
    for n in [1_000, 1_000_000] {
        let table = Table::new(&scattered(n)).unwrap();
        let mut reader = table.reader();
        let mut pieces = Vec::new();
        group.bench_function(format!("{n} segments"), |b| {
            b.iter(|| {
                let from = table.generation().0;
                table.apply(&one_segment(from, from % n)).unwrap();
                table
                    .locate(&mut reader, VolumeId(1), VolumeOffset(0), 4096, &mut pieces)
                    .unwrap()
            });
        });
    }
    group.finish();
}

fn text(c: &mut Criterion) {
    let mut group = c.benchmark_group("delta as text");
    for n in [1, 100] {
        let segments = (0..n)
            .map(|extent| segment(extent, 1, 1000 + 2 * extent))
            .collect();
        let delta = Delta {
            from: Generation(7),
            edits: vec![Edit::Map {
                volume: VolumeId(1),
                segments,
            }],
        };
        let text = ron::to_string(&delta).unwrap();
        group.bench_function(format!("encode, {n} segments"), |b| {
            b.iter(|| ron::to_string(&delta).unwrap())
        });
        group.bench_function(format!("decode, {n} segments, {} bytes", text.len()), |b| {
            b.iter(|| ron::from_str::<Delta>(&text).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, memory, building, lookup, applying, switching, text);
criterion_main!(benches);
