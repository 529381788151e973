//! The cost of the store: a change of one segment in tables of 1, 1 000 and 1 000 000 segments, without a sync, as inside a hold;
//! persisting, with a sync; and loading a table.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so")]

use apparatus::controller::pool::open_store;
use apparatus::model::change::{Commit, HoldMode, NewChange};
use apparatus::model::dir::PoolDir;
use apparatus::model::names::Name;
use apparatus::model::records::{Area, Delta, DiskRecord, Edit, Segment, VolumeRecord};
use apparatus::model::units::{
    ByteCount, ChangeId, DiskExtent, DiskId, ExtentSize, Generation, Term, VolumeExtent, VolumeId,
};
use apparatus::store::{self, Store};
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
    store: Box<dyn Store>,
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

fn segment(start: u64, disk: u32, placement: u64) -> Segment {
    let placement = Area {
        disk: DiskId(disk),
        start: DiskExtent(placement),
        len: 1,
    };
    Segment {
        start: VolumeExtent(start),
        placement,
    }
}

impl Bench {
    /// Creates a volume whose extents alternate between two disks, so that no two segments merge; disk 3 is empty.
    fn new(segments: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(scratch.path().join("pool"));
        store::create(&pool, ExtentSize::DEFAULT).unwrap();
        let store = open_store(&pool).unwrap();
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
        bench.persist();
        bench
    }

    fn change(&mut self, edits: Vec<Edit>) -> ChangeId {
        let header = self.store.header().unwrap();
        let delta = Delta {
            from: header.generation,
            edits,
        };
        let change = NewChange {
            title: "bench".into(),
            job: None,
            delta,
            spans: Vec::new(),
            mode: HoldMode::Writes,
        };
        let id = self.store.prepare(Term(0), &change).unwrap();
        let answer = self.store.commit(Term(0), id, header.membership).unwrap();
        assert!(matches!(answer, Commit::Committed(_)));
        id
    }

    /// Moves one extent to disk 3, or back to its former disk.
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

    fn persist(&mut self) {
        let ids: Vec<ChangeId> = self
            .store
            .unfinished()
            .unwrap()
            .iter()
            .map(|change| change.id)
            .collect();
        self.store.persist(&ids).unwrap();
        self.store.free_quarantine(Generation(u64::MAX)).unwrap();
        self.store.checkpoint().unwrap();
    }
}

/// Number of changes that are persisted together, as in a move.
const TOGETHER: u64 = 64;

fn store(c: &mut Criterion) {
    for segments in [1, 1000, 1_000_000] {
        let bench = LazyCell::new(|| RefCell::new(Bench::new(segments)));
        c.bench_function(&format!("store/prepare and commit/{segments}"), |b| {
            b.iter_custom(|rounds| without_persisting(&mut bench.borrow_mut(), rounds));
        });
        c.bench_function(&format!("store/commit and persist/{segments}"), |b| {
            b.iter(|| {
                bench.borrow_mut().move_one();
                bench.borrow_mut().persist();
            });
        });
        c.bench_function(&format!("store/snapshot/{segments}"), |b| {
            b.iter(|| black_box(bench.borrow_mut().store.snapshot().unwrap().segments.len()));
        });
    }
}

fn without_persisting(bench: &mut Bench, rounds: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for round in 0..rounds {
        let start = Instant::now();
        bench.move_one();
        spent += start.elapsed();
        if round % TOGETHER == 0 {
            bench.persist();
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
