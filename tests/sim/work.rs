//! What controllers work on: moves chunk by chunk, and volumes that come and go.

use super::copy::{Copy, blocks, copies};
use super::ctl::{Todo, given_up};
use super::disk::BLOCKS;
use super::fault::Fault;
use super::host::BLOCK;
use super::{ProcId, World};
use apparatus::change::controller::{Outcome, Plan, Reason};
use apparatus::change::recovery;
use apparatus::pool::model::{Area, Difference, DiskRecord, Edit, Segment, Span, VolumeRecord};
use apparatus::pool::names::Name;
use apparatus::store::{HoldMode, JobKind, JobLimits, JobRecord, JobState, NewChange, Step, Store};
use apparatus::units::{
    ByteCount, DiskExtent, DiskId, JobId, Timestamp, VolumeExtent, VolumeId, VolumeOffset,
};

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    Chunk,
    Create(VolumeId),
    Remove(VolumeId),
}

/// How it ended, if not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Done {
    GaveUp,
    Unfinished,
}

/// The volumes that are always there have lower numbers.
pub const SCRATCH: VolumeId = VolumeId(3);

impl World {
    /// Finds the next thing to do and begins it, or ends the controller.
    pub fn plan(&mut self, id: ProcId) {
        self.check_ownership();
        if self.next_chunk(id) || (!self.ending && !self.options.explore && self.something_new(id)) {
            return;
        }
        for todo in [Todo::HardenList, Todo::FreeLook, Todo::Quit] {
            self.do_last(id, todo);
        }
    }

    /// The next chunk of a job that runs.
    fn next_chunk(&mut self, id: ProcId) -> bool {
        let jobs = self.store.jobs().unwrap_or_default();
        let running = jobs.iter().filter(|job| job.state == JobState::Running);
        running.map(|job| job.id).any(|job| self.chunk_of(id, job))
    }

    fn chunk_of(&mut self, id: ProcId, job: JobId) -> bool {
        let steps = self.store.steps(job).unwrap_or_default();
        let Some(step) = steps.iter().find(|step| step.done < step.to.len) else {
            self.end_job(job, JobState::Done, "jobs done");
            return false;
        };
        if !self.options.explore && self.rng.permille(15) {
            self.end_job(job, JobState::Cancelled, "jobs cancelled");
            return false;
        }
        // Another job may have moved the range since this one was planned: its old home is somebody else's by now.
        let homes = self.store.homes();
        let home = |into| (step.from.home.disk, DiskExtent(step.from.home.start.0 + into));
        let extent = |into| VolumeExtent(step.from.start.0 + into);
        let there = |into| homes.home(step.volume, extent(into)) == Some(home(into));
        if !(step.done..step.to.len).all(there) {
            self.end_job(job, JobState::Failed, "jobs overtaken by another");
            return false;
        }
        let most = (step.to.len - step.done).min(2);
        let len = if self.options.explore {
            1
        } else {
            self.rng.between(1, most)
        };
        self.chunk(id, job, step, len);
        true
    }

    fn end_job(&mut self, job: JobId, state: JobState, what: &'static str) {
        self.count(what);
        self.trace(|| format!("{what}: {job:?}"));
        _ = self.store.set_job_state(job, JobState::Running, state, "");
        _ = self.store.unreserve(job);
    }

    fn chunk(&mut self, id: ProcId, job: JobId, step: &Step, len: u64) {
        let part = |area: Area| Area {
            start: DiskExtent(area.start.0 + step.done),
            len,
            ..area
        };
        let (from, to) = (part(step.from.home), part(step.to));
        let start = VolumeExtent(step.from.start.0 + step.done);
        let segments = vec![Segment { start, home: to }];
        let edits = vec![Edit::Map {
            volume: step.volume,
            segments,
        }];
        let byte = |extent: u64| VolumeOffset(extent * BLOCKS * BLOCK);
        let span = Span {
            volume: step.volume,
            start: byte(start.0),
            end: byte(start.0 + len),
        };
        let spans = if self.wrong(Fault::CopyWithoutHold) {
            Vec::new()
        } else {
            vec![span]
        };
        let all = !self.options.explore && self.rng.permille(100);
        let mode = if all { HoldMode::All } else { HoldMode::Writes };
        let disk = Some(to.disk).filter(|_| !self.options.explore && self.rng.permille(300));
        self.propose(
            id,
            Some(job),
            edits,
            spans,
            mode,
            disk,
            Job::Chunk,
            copies(from, to),
        );
    }

    #[allow(clippy::too_many_arguments)]
    fn propose(
        &mut self,
        id: ProcId,
        job: Option<JobId>,
        edits: Vec<Edit>,
        spans: Vec<Span>,
        mode: HoldMode,
        disk: Option<DiskId>,
        purpose: Job,
        copies: Vec<Copy>,
    ) {
        let from = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        let seen = self.see();
        let (membership, _) = self.store.members().unwrap_or_default();
        let disks: Vec<DiskRecord> = self.store.disks().unwrap_or_default();
        let late_writes = recovery::late_writes(&seen) && !self.wrong(Fault::ReadsNotHeld);
        if late_writes {
            self.count("changes with late writers about");
        }
        let difference = Difference { from, edits };
        let plan = Plan {
            change: NewChange {
                title: String::new(),
                job,
                difference,
                spans,
                mode,
            },
            disks: disks.into_iter().filter(|one| Some(one.id) == disk).collect(),
            participants: recovery::participants(&seen),
            membership,
            late_writes,
            patience: self.options.patience,
        };
        self.begin(id, plan, purpose, copies);
    }

    fn something_new(&mut self, id: ProcId) -> bool {
        match self.rng.below(10) {
            0..6 => self.new_move(id) && self.next_chunk(id),
            6 | 7 => self.create(id) || self.remove(id),
            _ => false,
        }
    }

    /// Records a job that moves a part of a volume to another disk.
    fn new_move(&mut self, id: ProcId) -> bool {
        let Some(term) = self.ctls.get(&id).map(|ctl| ctl.term) else {
            return false;
        };
        let volumes = self.store.volumes().unwrap_or_default();
        let usable: Vec<_> = volumes
            .iter()
            .filter(|volume| self.usable.contains(&volume.id))
            .collect();
        let Some(volume) = self.rng.pick(&usable).map(|volume| volume.id) else {
            return false;
        };
        let segments = self.store.homes().segments(volume);
        let size = segments.last().map_or(0, |last| last.end().0);
        let start = self.rng.below(size.max(1));
        let end = self.rng.between(start + 1, size.max(start + 1));
        let target = DiskId(self.rng.between(1, self.disks.len() as u64) as u32);
        let mut taken = Vec::new();
        let mut steps = Vec::new();
        for segment in segments {
            let Some(from) = segment.clip(VolumeExtent(start), VolumeExtent(end)) else {
                continue;
            };
            let Some(to) = self.free_area(target, from.home.len, &taken) else {
                return false;
            };
            taken.push(to);
            steps.push(Step {
                volume,
                from,
                to,
                done: 0,
            });
        }
        let created = self.store.create_job(term, &record(volume), &steps);
        self.trace(|| format!("{created:?}: {steps:?}"));
        self.count("jobs");
        created.is_ok() && !steps.is_empty()
    }

    /// A free run of so many extents.
    fn free_area(&mut self, disk: DiskId, len: u64, taken: &[Area]) -> Option<Area> {
        let uses = self.store.uses(disk).unwrap_or_default();
        let size = self
            .store
            .disks()
            .ok()?
            .iter()
            .find(|one| one.id == disk)?
            .extents;
        let free = |area: &Area| {
            !uses.iter().any(|one| one.area.overlaps(*area)) && !taken.iter().any(|one| one.overlaps(*area))
        };
        let starts: Vec<Area> = (1..=size.saturating_sub(len))
            .map(|start| Area {
                disk,
                start: DiskExtent(start),
                len,
            })
            .filter(free)
            .collect();
        self.rng.pick(&starts).copied()
    }

    fn create(&mut self, id: ProcId) -> bool {
        let volumes = self.store.volumes().unwrap_or_default();
        let disk = DiskId(self.rng.between(1, self.disks.len() as u64) as u32);
        let len = self.rng.between(1, 2);
        let Some(area) = self.free_area(disk, len, &[]).filter(|_| volumes.len() < 3) else {
            return false;
        };
        let volume = self.store.next_volume_id().unwrap_or_default().max(SCRATCH);
        let edits = vec![
            Edit::AddVolume(volume_record(volume, len)),
            Edit::Map {
                volume,
                segments: vec![Segment {
                    start: VolumeExtent(0),
                    home: area,
                }],
            },
        ];
        let begin = self.history.tick();
        let mut fills = Vec::new();
        for (block, to) in blocks(area).enumerate() {
            let tag = self.history.tag();
            self.history.write((volume, block as u64), tag, begin);
            fills.push(Copy { from: None, to, tag });
        }
        self.propose(
            id,
            None,
            edits,
            Vec::new(),
            HoldMode::Writes,
            None,
            Job::Create(volume),
            fills,
        );
        true
    }

    fn remove(&mut self, id: ProcId) -> bool {
        let Some(volume) = self.usable.iter().copied().find(|&volume| volume >= SCRATCH) else {
            return false;
        };
        self.usable.remove(&volume);
        let edits = vec![Edit::RemoveVolume(volume)];
        let spans = vec![Span::whole(volume)];
        self.propose(
            id,
            None,
            edits,
            spans,
            HoldMode::All,
            None,
            Job::Remove(volume),
            Vec::new(),
        );
        true
    }

    /// A change is over.
    pub fn ended(&mut self, id: ProcId, job: Job, outcome: &Outcome) {
        match outcome {
            Outcome::Finished { fenced, .. } => {
                self.count("changes finished");
                if !fenced.is_empty() {
                    self.count("changes finished without somebody");
                }
            }
            Outcome::GaveUp { reason, .. } => self.count(why(reason)),
            Outcome::Unfinished { .. } => self.count("changes left to the next controller"),
        }
        match (job, given_up(outcome)) {
            (Job::Create(volume), None) | (Job::Remove(volume), Some(Done::GaveUp))
                if self.store.homes().volumes().any(|other| other.id == volume) =>
            {
                self.usable.insert(volume);
            }
            _ => {}
        }
        let stale = matches!(
            outcome,
            Outcome::GaveUp {
                reason: Reason::StaleTerm,
                ..
            }
        );
        if stale || given_up(outcome) == Some(Done::Unfinished) {
            self.do_next(id, vec![Todo::Quit]);
        }
    }

    /// Whatever the last controller was about, it is decided now.
    pub fn after_recovery(&mut self) {
        self.usable = self.store.homes().volumes().map(|volume| volume.id).collect();
    }

    /// A fault: the old home is given away as soon as there is a new one.
    pub fn free_at_once(&mut self) {
        let (disks, ids) = self.not_hardened();
        for disk in disks {
            let begun = self.disks[disk].begin_flush();
            self.disks[disk].end_flush(begun);
        }
        _ = self.store.harden(&ids);
        let generation = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        _ = self.store.free_quarantine(generation);
    }
}

pub fn volume_record(id: VolumeId, extents: u64) -> VolumeRecord {
    VolumeRecord {
        id,
        name: Name::new("volume", &format!("v{id}")).unwrap(),
        size: ByteCount(extents * BLOCKS * BLOCK),
        mode: 0o600,
        uid: 0,
        gid: 0,
        read_only: false,
    }
}

pub fn record(volume: VolumeId) -> JobRecord {
    JobRecord {
        id: JobId(0),
        kind: JobKind::Move { volume },
        state: JobState::Running,
        limits: JobLimits::default(),
        back: false,
        title: String::new(),
        created: Timestamp(0),
        ended: None,
        copied: ByteCount(0),
        longest_hold_us: 0,
        held: 0,
        why: String::new(),
    }
}

fn why(reason: &Reason) -> &'static str {
    match reason {
        Reason::Draining { .. } => "given up: still draining",
        Reason::MembershipMoved => "given up: membership moved",
        Reason::GenerationMoved => "given up: generation moved",
        Reason::HoldRanOut => "given up: hold ran out",
        Reason::StaleTerm => "given up: stale term",
        Reason::Refused(..) => "given up: refused",
        Reason::Work(_) => "given up: work failed",
        Reason::Store(_) => "given up: store failed",
        Reason::Abandoned(_) => "given up: abandoned",
    }
}
