//! The mover on real images and the store in memory, driven as the driver drives it, with changes given up at every point.

use super::super::Request;
use super::super::plan::{plan, plan_back};
use super::super::testing::Images;
use super::*;
use crate::model::alloc::Faults;
use crate::model::build::{self, map, segment};
use crate::model::change::{Commit, HoldMode};
use crate::model::job::Progress;
use crate::model::records::{Delta, Edit, Instance, PoolHeader, Segment, Span};
use crate::model::units::{
    ByteCount, CacheEpoch, Generation, JobId, MembershipVersion, Term, VolumeExtent, VolumeId, VolumeOffset,
};
use crate::protocol::controller::Reason;
use crate::store::memory::MemoryStore;
use crate::store::roles::*;
use proptest::prelude::*;
use uuid::Uuid;

const EXTENT: u64 = 1 << 20;
const EXTENTS: u64 = 10;
const VOLUME: VolumeId = VolumeId(1);

/// How a change of the test ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeEnd {
    Commits,
    GivenUpBeforeWork,
    GivenUpAfterWork,
    AskedAgainAfterWork,
    /// It is copied before the hold, and hosts write to it after that.
    CopiedAhead,
}

fn change_end() -> impl Strategy<Value = ChangeEnd> {
    prop_oneof![
        4 => Just(ChangeEnd::Commits),
        1 => Just(ChangeEnd::GivenUpBeforeWork),
        1 => Just(ChangeEnd::GivenUpAfterWork),
        1 => Just(ChangeEnd::AskedAgainAfterWork),
        3 => Just(ChangeEnd::CopiedAhead),
    ]
}

/// A host's request: offset in the volume in KiB, length in KiB, and the byte to write; 0 is a punch.
type HostWrite = (u64, u64, u8);

fn host_writes() -> impl Strategy<Value = Vec<HostWrite>> {
    prop::collection::vec(
        (0..EXTENTS * 1024, 1u64..700, prop_oneof![Just(0u8), any::<u8>()]),
        0..4,
    )
}

struct Bench {
    images: Images,
    disks: Disks,
    store: MemoryStore,
    term: Term,
    content: Vec<u8>,
}

impl Bench {
    /// Creates a volume in three pieces on disk 1, some of it data.
    fn new() -> Self {
        let images = Images::new();
        let disks = Disks::new();
        images.open().into_iter().for_each(|disk| disks.insert(disk));
        let header = PoolHeader {
            uuid: Uuid::nil(),
            extent_size: ExtentSize::DEFAULT,
            access: crate::model::records::DiskAccess::Cached,
            generation: Generation(0),
            layout: 0,
            membership: MembershipVersion(0),
            term: Term(0),
            instance: Instance::default(),
        };
        let mut store = MemoryStore::new(header, CacheEpoch(Uuid::nil()));
        let term = store.raise_term().unwrap();
        let segments = [segment(0, 1, 5, 4), segment(4, 1, 1, 3), segment(7, 1, 11, 3)];
        let mut edits: Vec<Edit> = images.records.iter().cloned().map(Edit::AddDisk).collect();
        edits.extend([
            Edit::AddVolume(build::volume(VOLUME.0, EXTENTS * EXTENT)),
            map(VOLUME.0, &segments),
        ]);
        let content = vec![0; usize::try_from(EXTENTS * EXTENT).unwrap()];
        let mut bench = Self {
            images,
            disks,
            store,
            term,
            content,
        };
        bench.commit(
            None,
            Delta {
                from: Generation(0),
                edits,
            },
        );
        bench
    }

    fn commit(&mut self, job: Option<JobId>, delta: Delta) {
        let change = NewChange {
            title: "test".into(),
            job,
            delta,
            spans: vec![],
            mode: HoldMode::Writes,
        };
        let id = self.store.prepare(self.term, &change).unwrap();
        self.finish(id);
    }

    fn finish(&mut self, id: crate::model::units::ChangeId) {
        let (membership, _) = self.store.members().unwrap();
        let done = self.store.commit(self.term, id, membership).unwrap();
        assert!(matches!(done, Commit::Committed(_)), "{done:?}");
    }

    fn segments(&mut self) -> Vec<Segment> {
        self.store
            .segments(VOLUME, VolumeExtent(0), VolumeExtent(EXTENTS))
            .unwrap()
    }

    /// Writes or punches at the current placements, extent by extent.
    fn host(&mut self, (at, len, byte): HostWrite) {
        let (mut at, end) = (at * 1024, ((at + len) * 1024).min(EXTENTS * EXTENT));
        let segments = self.segments();
        while at < end {
            let part = (EXTENT - at % EXTENT).min(end - at);
            let extent = VolumeExtent(at / EXTENT);
            let placement = segments
                .iter()
                .find_map(|s| s.clip(extent, VolumeExtent(extent.0 + 1)))
                .unwrap()
                .placement;
            let place = DiskOffset(placement.start.0 * EXTENT + at % EXTENT);
            let disk = self.disks.get(placement.disk).unwrap();
            let range = usize::try_from(at).unwrap()..usize::try_from(at + part).unwrap();
            self.content[range.clone()].fill(byte);
            match byte {
                0 => disk.zero(place, part, true).unwrap(),
                _ => disk.write_at(&self.content[range], place).unwrap(),
            }
            at += part;
        }
    }

    /// Persists what was committed and gives the old placements back.
    fn free(&mut self) {
        let ids: Vec<_> = self
            .store
            .unfinished()
            .unwrap()
            .iter()
            .map(|change| change.id)
            .collect();
        self.store.persist(&ids).unwrap();
        let oldest = self.store.header().unwrap().generation;
        self.store.free_quarantine(oldest).unwrap();
    }

    fn check_content(&mut self) {
        for segment in self.segments() {
            let len = usize::try_from(segment.placement.len * EXTENT).unwrap();
            let mut bytes = vec![0; len];
            let disk = self.disks.get(segment.placement.disk).unwrap();
            disk.read_at(&mut bytes, DiskOffset(segment.placement.start.0 * EXTENT))
                .unwrap();
            let at = usize::try_from(segment.start.0 * EXTENT).unwrap();
            assert!(bytes == self.content[at..at + len], "{segment:?} differs");
        }
    }

    fn job(&mut self, steps: &[Step]) -> JobRecord {
        let mut job = build::job();
        job.id = self.store.create_job(self.term, &job, steps).unwrap();
        job
    }

    /// Does what the driver does with a batch: plans several changes, announces them, works and commits one by one. A host writes
    /// between planning and working.
    fn pipeline(&mut self, mover: &mut Mover, ends: &mut impl Iterator<Item = (ChangeEnd, Vec<HostWrite>)>) {
        mover.begin_round(Duration::from_secs(60));
        loop {
            let batch = self.gather(mover);
            if batch.is_empty() {
                return;
            }
            let mut given_up = false;
            for change in batch {
                let (change_end, writes) = ends.next().unwrap_or((ChangeEnd::Commits, vec![]));
                let ahead = change_end == ChangeEnd::CopiedAhead && !given_up;
                if ahead {
                    mover.copy_ahead().unwrap();
                }
                let written = match ahead {
                    true => Written::Only(writes.iter().map(noted).collect()),
                    false => Written::All,
                };
                writes.into_iter().for_each(|write| self.host(write));
                if given_up {
                    mover.ended(&gave_up(), Duration::ZERO).unwrap();
                    continue;
                }
                given_up = !self.run_change(mover, change, change_end, &written);
            }
        }
    }

    fn gather(&mut self, mover: &mut Mover) -> Vec<NewChange> {
        let mut batch = Vec::new();
        while batch.len() < 3 {
            let from = Generation(self.store.header().unwrap().generation.0 + batch.len() as u64);
            let mut prepare = Prepare {
                store: &mut self.store,
                disks: &self.disks,
                from,
                late_writes: false,
            };
            match mover.next(&mut prepare).unwrap() {
                Some(change) => batch.push(change),
                None if batch.is_empty() && !mover.finished() && !mover.chunks.has_ended() => {}
                None => break,
            }
        }
        batch
    }

    fn run_change(
        &mut self,
        mover: &mut Mover,
        change: NewChange,
        change_end: ChangeEnd,
        written: &Written,
    ) -> bool {
        if change_end == ChangeEnd::GivenUpBeforeWork {
            mover.ended(&gave_up(), Duration::ZERO).unwrap();
            return false;
        }
        mover.work(written).unwrap();
        if change_end == ChangeEnd::AskedAgainAfterWork {
            // A hole now, where there was data at the first copy.
            self.host((change.spans[0].start.0 / 1024, 300, 0));
            mover.work(&Written::All).unwrap();
        }
        if change_end == ChangeEnd::GivenUpAfterWork {
            mover.ended(&gave_up(), Duration::ZERO).unwrap();
            return false;
        }
        let id = self.store.prepare(self.term, &change).unwrap();
        self.finish(id);
        let finished = Outcome::Finished {
            generation: change.delta.from.next(),
            fenced: vec![],
            parked: 2,
            longest_us: 3,
        };
        mover.ended(&finished, Duration::from_micros(500)).unwrap();
        true
    }

    /// Moves by these steps until all is done, as the worker does. Returns the figures.
    fn move_all(&mut self, job: &JobRecord, ends: Vec<(ChangeEnd, Vec<HostWrite>)>) -> MoveFigures {
        let mut ends = ends.into_iter();
        let steps = self.store.steps(job.id).unwrap();
        let mut mover = Mover::new(job, steps, ExtentSize::DEFAULT, &self.images.ledgers()).unwrap();
        while !mover.finished() {
            self.pipeline(&mut mover, &mut ends);
            if mover.take_early_end().is_some() {
                mover.restart(self.store.steps(job.id).unwrap()).unwrap();
            }
        }
        assert_eq!(mover.steps(), self.store.steps(job.id).unwrap());
        mover.take_figures()
    }
}

/// Returns the range of a host's write, as a note has it.
fn noted(&(at, len, _): &HostWrite) -> Span {
    Span {
        volume: VOLUME,
        start: VolumeOffset(at * 1024),
        end: VolumeOffset((at + len) * 1024),
    }
}

fn gave_up() -> Outcome {
    Outcome::GaveUp {
        fenced: vec![],
        reason: Reason::HoldRanOut,
    }
}

fn to_disk_2() -> Request {
    Request::Move {
        volume: VOLUME,
        range: None,
        from: None,
        to: vec![DiskId(2)],
        policy: None,
    }
}

#[test]
fn a_plain_move_copies_only_data_and_leaves_one_segment() {
    let mut bench = Bench::new();
    bench.host((100, 64, 7));
    bench.host((5 * 1024 + 1000, 48, 8));
    let steps = plan(&mut bench.store, &to_disk_2(), &Faults::new()).unwrap();
    let job = bench.job(&steps);
    let figures = bench.move_all(&job, vec![]);
    bench.check_content();
    assert_eq!(bench.segments().len(), 1);
    assert_eq!(bench.segments()[0].placement.disk, DiskId(2));
    assert_eq!(
        (figures.copied, figures.longest),
        (112 * 1024, Duration::from_micros(500))
    );
    assert_eq!(figures.held, 2 * figures.chunks);
    // Nothing is left to be moved, so nothing is planned.
    assert_eq!(
        plan(&mut bench.store, &to_disk_2(), &Faults::new()).unwrap(),
        vec![]
    );
}

/// A change is under way while the next is requested: the rate holds for both.
#[test]
fn a_rate_lets_one_chunk_go_ahead() {
    let mut bench = Bench::new();
    bench.host((0, EXTENTS * 1024, 7));
    let steps = plan(&mut bench.store, &to_disk_2(), &Faults::new()).unwrap();
    let mut job = bench.job(&steps);
    job.limits.rate = Some(ByteCount(1));
    let mut mover = Mover::new(&job, steps, ExtentSize::DEFAULT, &bench.images.ledgers()).unwrap();
    mover.begin_round(Duration::from_secs(60));
    let batch = bench.gather(&mut mover);
    assert_eq!(batch.len(), 1);
    assert_eq!(batch[0].spans[0].end.0 - batch[0].spans[0].start.0, EXTENT);
    assert!(mover.wait() > Duration::from_secs(60));
}

#[test]
fn a_range_is_moved_and_moved_back() {
    let mut bench = Bench::new();
    (0..10).for_each(|i| bench.host((i * 1024, 1024, u8::try_from(i).unwrap() + 1)));
    let range = Span {
        volume: VOLUME,
        start: VolumeOffset(3 * EXTENT + 5),
        end: VolumeOffset(8 * EXTENT + 1),
    };
    let request = Request::Move {
        volume: VOLUME,
        range: Some(range),
        from: None,
        to: vec![DiskId(2)],
        policy: None,
    };
    let forth = plan(&mut bench.store, &request, &Faults::new()).unwrap();
    assert_eq!(Progress::of(&forth), Progress { done: 0, total: 6 });
    let job = bench.job(&forth);
    bench.move_all(&job, vec![]);
    bench.check_content();
    bench.free();
    let moved = bench.store.steps(job.id).unwrap();
    let back = plan_back(&mut bench.store, &moved, "job 1").unwrap();
    assert_eq!(Progress::of(&back), Progress { done: 0, total: 6 });
    bench
        .store
        .replace_steps(bench.term, job.id, &back, true)
        .unwrap();
    bench.move_all(&job, vec![]);
    bench.check_content();
    assert!(
        bench
            .segments()
            .iter()
            .all(|segment| segment.placement.disk == DiskId(1))
    );
}

#[test]
fn a_source_that_cannot_be_read_ends_the_pipeline_with_its_range() {
    let mut bench = Bench::new();
    (0..10).for_each(|i| bench.host((i * 1024, 1024, 9)));
    let steps = plan(&mut bench.store, &to_disk_2(), &Faults::new()).unwrap();
    let job = bench.job(&steps);
    let mut mover = Mover::new(&job, steps, ExtentSize::DEFAULT, &bench.images.ledgers()).unwrap();
    // The last piece of the volume lies beyond this size.
    bench.images.files[0].set_len(11 * EXTENT).unwrap();
    bench.pipeline(&mut mover, &mut std::iter::empty());
    let Some(EarlyEnd::Disk(chunk, CopyFault::Source(_))) = mover.take_early_end() else {
        panic!("it did not end early")
    };
    assert_eq!(chunk.from.placement.disk, DiskId(1));
    assert_eq!(mover.progress(), Progress { done: 7, total: 10 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// No write is lost, whatever hosts write in between, and whatever changes are given up and run again.
    #[test]
    fn nothing_is_lost(before in host_writes(), ends in prop::collection::vec((change_end(), host_writes()), 0..30)) {
        let mut bench = Bench::new();
        before.into_iter().for_each(|write| bench.host(write));
        let steps = plan(&mut bench.store, &to_disk_2(), &Faults::new()).unwrap();
        let job = bench.job(&steps);
        bench.move_all(&job, ends);
        bench.check_content();
        prop_assert!(bench.segments().iter().all(|segment| segment.placement.disk == DiskId(2)));
    }
}
