//! Jobs: moves chunk by chunk, which an operator pauses, resumes, cancels and has rolled back, and which overtake each other.

use super::copy::copies;
use super::disk::BLOCKS;
use super::fault::Fault;
use super::host::BLOCK;
use super::work::{Job, Next, Proposal, new_change};
use super::{ProcId, World};
use apparatus::jobs::Request;
use apparatus::jobs::chunks::StepTable;
use apparatus::model::change::HoldMode;
use apparatus::model::holds::Holds;
use apparatus::model::job::{JobKind, JobLimits, JobRecord, JobState, Progress};
use apparatus::model::records::{Segment, Span};
use apparatus::model::units::{
    ByteCount, DiskId, ExtentSize, Generation, JobId, Timestamp, VolumeId, VolumeOffset,
};
use apparatus::store::roles::*;

impl World {
    /// A job that a driver is to go on with.
    pub fn next_of_jobs(&mut self) -> Option<Next> {
        let me = super::thread::me();
        let jobs = self.store.jobs().unwrap_or_default();
        let free = jobs
            .iter()
            .filter(|job| !self.is_worked_on_by_another(job.id, me));
        let free: Vec<JobRecord> = free.cloned().collect();
        let next = free.iter().find_map(|job| match job.state {
            JobState::RollingBack if !job.back => Some(Next::PlanBack(job.id)),
            JobState::Running | JobState::RollingBack => self.goes_on(job).then_some(Next::Chunks(job.id)),
            JobState::Paused => {
                self.maybe_resume(job);
                None
            }
            _ => None,
        });
        if let Some(Next::Chunks(job) | Next::PlanBack(job)) = next {
            self.claims.insert(job, me);
        }
        next
    }

    /// Whether another process has the job lock.
    fn is_worked_on_by_another(&self, job: JobId, me: ProcId) -> bool {
        let owner = self.claims.get(&job).filter(|&&owner| owner != me);
        owner.is_some_and(|owner| self.drivers.contains_key(owner))
    }

    /// The explorer's: the next chunk of a job that runs.
    pub fn next_chunk(&mut self) -> Option<Proposal> {
        let jobs = self.store.jobs().unwrap_or_default();
        let running = jobs.iter().filter(|job| job.state == JobState::Running);
        running
            .filter(|job| self.goes_on(job))
            .map(|job| job.id)
            .collect::<Vec<_>>()
            .into_iter()
            .find_map(|job| self.chunk(job))
    }

    /// Whether a job that runs has something to move. It is ended where all is moved, or where another job has moved the range.
    fn goes_on(&mut self, job: &JobRecord) -> bool {
        let steps = self.store.steps(job.id).unwrap_or_default();
        if steps.iter().all(|step| step.done >= step.to.len) {
            match job.back {
                true => self.end_job(job, JobState::Cancelled, "jobs rolled back"),
                false => self.end_job(job, JobState::Done, "jobs done"),
            }
            return false;
        }
        if !self.options.explore && self.command(job) {
            return false;
        }
        true
    }

    /// The explorer's: a job's next chunk, as production code cuts it.
    fn chunk(&mut self, job: JobId) -> Option<Proposal> {
        let steps = self.store.steps(job).unwrap_or_default();
        let chunk = StepTable::new(steps).next(1)?;
        let spans = if self.wrong(Fault::CopyWithoutHold) {
            Vec::new()
        } else {
            vec![chunk.span(ExtentSize::MIN)]
        };
        let edits = chunk.delta(Generation(0)).edits;
        Some(Proposal {
            change: new_change(Some(job), edits, spans, HoldMode::Writes),
            purpose: Job::Chunk,
            copies: copies(chunk.from.placement, chunk.to),
        })
    }

    /// Now and then the operator commands something of a job that runs. True if it does not go on.
    fn command(&mut self, job: &JobRecord) -> bool {
        let commands = self.options.commands;
        if self.ending || !self.rng.permille(commands) {
            return false;
        }
        match self.rng.below(3) {
            0 => self.end_job(job, JobState::Cancelled, "jobs cancelled"),
            1 if !job.back => self.set_job(job, JobState::RollingBack, "jobs to be rolled back"),
            _ => self.set_job(job, JobState::Paused, "jobs paused"),
        }
        true
    }

    fn maybe_resume(&mut self, job: &JobRecord) {
        if !self.ending && self.rng.permille(300) {
            let on = if job.back {
                JobState::RollingBack
            } else {
                JobState::Running
            };
            self.set_job(job, on, "jobs resumed");
        }
    }

    fn set_job(&mut self, job: &JobRecord, state: JobState, what: &'static str) {
        self.count(what);
        self.claims.remove(&job.id);
        self.trace(|| format!("{what}: {:?}", job.id));
        _ = self.store.set_job_state(job.id, job.state, state, "");
    }

    fn end_job(&mut self, job: &JobRecord, state: JobState, what: &'static str) {
        self.set_job(job, state, what);
    }

    /// There is no room for the way back.
    pub fn end_job_without_room(&mut self, job: JobId) {
        if let Ok(Some(record)) = self.store.job(job) {
            self.end_job(&record, JobState::Failed, "jobs without room to roll back");
        }
    }

    /// A job that moves a part of a volume to another disk.
    pub fn new_move(&mut self) -> Option<Request> {
        let volumes = self.store.volumes().unwrap_or_default();
        let usable: Vec<_> = volumes
            .iter()
            .filter(|volume| self.usable.contains_key(&volume.id))
            .collect();
        let volume = self.rng.pick(&usable).map(|volume| volume.id)?;
        let segments = self.store.placements().segments(volume);
        let size = segments.last().map_or(0, |last| last.end().0);
        let start = self.rng.below(size.max(1));
        let end = self.rng.between(start + 1, size.max(start + 1));
        let there = |segment: &Segment| segment.start.0 <= start && start < segment.end().0;
        let from = segments.iter().find(|segment| there(segment))?.placement.disk;
        let others = (1..=self.disks.len() as u32).map(DiskId);
        let others: Vec<DiskId> = others.filter(|disk| *disk != from).collect();
        let target = *self.rng.pick(&others)?;
        let byte = |extent: u64| VolumeOffset(extent * BLOCKS * BLOCK);
        let range = Span {
            volume,
            start: byte(start),
            end: byte(end),
        };
        Some(Request::Move {
            volume,
            range: Some(range),
            from: None,
            to: vec![target],
            policy: None,
        })
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
        holds: Holds::default(),
        progress: Progress::default(),
        why: String::new(),
    }
}
