//! Jobs: moves chunk by chunk, which an operator pauses, resumes, cancels and has rolled back, and which overtake each other.

use super::copy::copies;
use super::disk::BLOCKS;
use super::fault::Fault;
use super::host::BLOCK;
use super::work::{Job, Next, Proposal, new_change};
use super::{ProcId, World};
use apparatus::model::change::HoldMode;
use apparatus::model::holds::Holds;
use apparatus::model::job::{JobKind, JobLimits, JobRecord, JobState, Progress, Step};
use apparatus::model::records::{Area, Edit, Segment, Span};
use apparatus::model::units::{
    ByteCount, DiskExtent, DiskId, JobId, Term, Timestamp, VolumeExtent, VolumeId, VolumeOffset,
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
            .find_map(|job| self.chunk_ahead(job, 0))
    }

    /// Whether a job that runs has something to move. It is ended where all is moved, or where another job has moved the range.
    fn goes_on(&mut self, job: &JobRecord) -> bool {
        let steps = self.store.steps(job.id).unwrap_or_default();
        let Some(step) = steps.iter().find(|step| step.done < step.to.len) else {
            match job.back {
                true => self.end_job(job, JobState::Cancelled, "jobs rolled back"),
                false => self.end_job(job, JobState::Done, "jobs done"),
            }
            return false;
        };
        if !self.options.explore && self.command(job) {
            return false;
        }
        // Another job may have moved the range since this one was planned: its old placement is somebody else's by now.
        if !self.is_still_there(step, step.done) && !self.wrong(Fault::OvertakenGoesOn) {
            self.end_job(job, JobState::Failed, "jobs overtaken by another");
            return false;
        }
        true
    }

    /// Whether all of a step from this extent on lies where it was planned.
    fn is_still_there(&self, step: &Step, done: u64) -> bool {
        let placements = self.store.placements();
        let placement = |into| {
            (
                step.from.placement.disk,
                DiskExtent(step.from.placement.start.0 + into),
            )
        };
        let extent = |into| VolumeExtent(step.from.start.0 + into);
        let there = |into| placements.placement(step.volume, extent(into)) == Some(placement(into));
        (done..step.to.len).all(there)
    }

    /// The next chunk of a job, when this many extents before it are under way.
    pub fn chunk_ahead(&mut self, job: JobId, ahead: u64) -> Option<Proposal> {
        let mut skip = ahead;
        let steps = self.store.steps(job).unwrap_or_default();
        for mut step in steps {
            let rest = step.to.len - step.done;
            if skip >= rest {
                skip -= rest;
                continue;
            }
            step.done += skip;
            if !self.is_still_there(&step, step.done) && !self.wrong(Fault::OvertakenGoesOn) {
                return None;
            }
            let most = (step.to.len - step.done).min(2);
            let len = if self.options.explore {
                1
            } else {
                self.rng.between(1, most)
            };
            return Some(self.chunk(job, &step, len));
        }
        None
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

    /// What the job has moved is to go back: now that it is persisted, the way back is planned.
    pub fn turn_back(&mut self, term: Term, job: JobId) {
        let Some(record) = self.store.job(job).ok().flatten() else {
            return;
        };
        match self.plan_back(job) {
            Some(back) => _ = self.store.replace_steps(term, job, &back, true),
            None => self.end_job(&record, JobState::Failed, "jobs without room to roll back"),
        }
    }

    /// A step for each extent that still lies where the job has put it.
    fn plan_back(&mut self, job: JobId) -> Option<Vec<Step>> {
        let (placements, mut taken, mut back) = (self.store.placements(), Vec::new(), Vec::new());
        for step in self.store.steps(job).unwrap_or_default() {
            for into in 0..step.done {
                let at = |area: Area| Area {
                    start: DiskExtent(area.start.0 + into),
                    len: 1,
                    ..area
                };
                let (start, placement) = (VolumeExtent(step.from.start.0 + into), at(step.to));
                if placements.placement(step.volume, start) == Some((placement.disk, placement.start)) {
                    let to = self.free_area(step.from.placement.disk, 1, &taken)?;
                    taken.push(to);
                    let (volume, from) = (step.volume, Segment { start, placement });
                    back.push(Step {
                        volume,
                        from,
                        to,
                        done: 0,
                    });
                }
            }
        }
        Some(back)
    }

    fn chunk(&mut self, job: JobId, step: &Step, len: u64) -> Proposal {
        let part = |area: Area| Area {
            start: DiskExtent(area.start.0 + step.done),
            len,
            ..area
        };
        let (from, to) = (part(step.from.placement), part(step.to));
        let start = VolumeExtent(step.from.start.0 + step.done);
        let segments = vec![Segment { start, placement: to }];
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
        let change = new_change(Some(job), edits, spans, mode);
        Proposal {
            change,
            purpose: Job::Chunk,
            copies: copies(from, to),
            extents: len,
        }
    }

    /// Records a job that moves a part of a volume to another disk.
    pub fn new_move(&mut self, term: Term) -> bool {
        let volumes = self.store.volumes().unwrap_or_default();
        let usable: Vec<_> = volumes
            .iter()
            .filter(|volume| self.usable.contains_key(&volume.id))
            .collect();
        let Some(volume) = self.rng.pick(&usable).map(|volume| volume.id) else {
            return false;
        };
        let segments = self.store.placements().segments(volume);
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
            let Some(to) = self.free_area(target, from.placement.len, &taken) else {
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
