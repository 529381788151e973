//! What the store costs: a change of one segment in tables of 1, 1 000 and 1 000 000 segments, without a sync as it runs inside a
//! hold; hardening, with one; and loading a table.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so")]

use apparatus::pool::dir::PoolDir;
use apparatus::pool::model::{Area, Difference, DiskRecord, Edit, Segment, VolumeRecord};
use apparatus::pool::names::Name;
use apparatus::store::sqlite::SqliteStore;
use apparatus::store::{Commit, HoldMode, NewChange, Store};
use apparatus::units::{
    ByteCount, ChangeId, DiskExtent, DiskId, ExtentSize, Generation, Term, VolumeExtent, VolumeId,
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::{LazyCell, RefCell};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

const VOLUME: VolumeId = VolumeId(1);

struct Bench {
    _scratch: TempDir,
    store: SqliteStore,
    segments: u64,
    moved: u64,
}

fn disk(id: u32, extents: u64) -> Edit {
    Edit::AddDisk(DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: Uuid::new_v4(),
        path: format!("/d{id}").into(),
        extents,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 0,
    })
}

fn segment(start: u64, disk: u32, home: u64) -> Segment {
    let home = Area {
        disk: DiskId(disk),
        start: DiskExtent(home),
        len: 1,
    };
    Segment {
        start: VolumeExtent(start),
        home,
    }
}

impl Bench {
    /// A volume whose neighbouring extents lie on two disks in turn, so that no two segments merge; disk 3 is empty.
    fn new(segments: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::create(&PoolDir::new(scratch.path().join("pool")), ExtentSize::DEFAULT).unwrap();
        let mut bench = Self {
            _scratch: scratch,
            store,
            segments,
            moved: 0,
        };
        let volume = VolumeRecord {
            id: VOLUME,
            name: Name::new("volume", "v").unwrap(),
            size: ByteCount(segments << 20),
            mode: 0o600,
            uid: 0,
            gid: 0,
            read_only: false,
        };
        let disks = (1..=3).map(|id| disk(id, segments + 1_000_000));
        let at = |start| segment(start, u32::try_from(start % 2).unwrap() + 1, start + 1);
        let map = Edit::Map {
            volume: VOLUME,
            segments: (0..segments).map(at).collect(),
        };
        bench.change(disks.chain([Edit::AddVolume(volume), map]).collect());
        bench.harden();
        bench
    }

    fn change(&mut self, edits: Vec<Edit>) -> ChangeId {
        let header = self.store.header().unwrap();
        let difference = Difference {
            from: header.generation,
            edits,
        };
        let change = NewChange {
            title: "bench".into(),
            job: None,
            difference,
            spans: Vec::new(),
            mode: HoldMode::Writes,
        };
        let id = self.store.prepare(Term(0), &change).unwrap();
        let answer = self.store.commit(Term(0), id, header.membership).unwrap();
        assert!(matches!(answer, Commit::Committed(_)));
        id
    }

    /// Moves one extent to disk 3, or back to its own.
    fn move_one(&mut self) -> ChangeId {
        let n = self.moved;
        self.moved += 1;
        let spot = n.wrapping_mul(7919) % self.segments;
        let to = segment(spot, 3, 1 + n % 1_000_000);
        self.change(vec![Edit::Map {
            volume: VOLUME,
            segments: vec![to],
        }])
    }

    fn harden(&mut self) {
        let ids: Vec<ChangeId> = self
            .store
            .unfinished()
            .unwrap()
            .iter()
            .map(|change| change.id)
            .collect();
        self.store.harden(&ids).unwrap();
        self.store.free_quarantine(Generation(u64::MAX)).unwrap();
        self.store.checkpoint().unwrap();
    }
}

/// Rounds between two hardenings, as in a move.
const TOGETHER: u64 = 64;

fn store(c: &mut Criterion) {
    for segments in [1, 1000, 1_000_000] {
        let bench = LazyCell::new(|| RefCell::new(Bench::new(segments)));
        c.bench_function(&format!("store/prepare and commit/{segments}"), |b| {
            b.iter_custom(|rounds| without_hardening(&mut bench.borrow_mut(), rounds));
        });
        c.bench_function(&format!("store/commit and harden/{segments}"), |b| {
            b.iter(|| {
                bench.borrow_mut().move_one();
                bench.borrow_mut().harden();
            });
        });
        c.bench_function(&format!("store/snapshot/{segments}"), |b| {
            b.iter(|| black_box(bench.borrow_mut().store.snapshot().unwrap().segments.len()));
        });
    }
}

fn without_hardening(bench: &mut Bench, rounds: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for round in 0..rounds {
        let start = Instant::now();
        bench.move_one();
        spent += start.elapsed();
        if round % TOGETHER == 0 {
            bench.harden();
        }
    }
    spent
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = store
}
criterion_main!(benches);
