//! Jobs: moves chunk by chunk, which an operator pauses, resumes, cancels and has rolled back, and which overtake each other.

use super::copy::copies;
use super::ctl::Todo;
use super::disk::BLOCKS;
use super::fault::Fault;
use super::host::BLOCK;
use super::work::Job;
use super::{ProcId, World};
use apparatus::pool::holds::Holds;
use apparatus::pool::model::{Area, Edit, Segment, Span};
use apparatus::store::{HoldMode, JobKind, JobLimits, JobRecord, JobState, Progress, Step, Store};
use apparatus::units::{
    ByteCount, DiskExtent, DiskId, JobId, Timestamp, VolumeExtent, VolumeId, VolumeOffset,
};

impl World {
    /// The next chunk of a job that runs, there or back.
    pub fn next_chunk(&mut self, id: ProcId) -> bool {
        let jobs = self.store.jobs().unwrap_or_default();
        jobs.iter().any(|job| match job.state {
            JobState::RollingBack if !job.back => self.turn_back(id, job),
            JobState::Running | JobState::RollingBack => self.chunk_of(id, job),
            JobState::Paused => self.maybe_resume(job),
            _ => false,
        })
    }

    fn chunk_of(&mut self, id: ProcId, job: &JobRecord) -> bool {
        let steps = self.store.steps(job.id).unwrap_or_default();
        let Some(step) = steps.iter().find(|step| step.done < step.to.len) else {
            match job.back {
                true => self.end_job(job, JobState::Cancelled, "jobs rolled back"),
                false => self.end_job(job, JobState::Done, "jobs done"),
            }
            return false;
        };
        if !self.options.explore && self.wish(job) {
            return false;
        }
        // Another job may have moved the range since this one was planned: its old home is somebody else's by now.
        let homes = self.store.homes();
        let home = |into| (step.from.home.disk, DiskExtent(step.from.home.start.0 + into));
        let extent = |into| VolumeExtent(step.from.start.0 + into);
        let there = |into| homes.home(step.volume, extent(into)) == Some(home(into));
        if !(step.done..step.to.len).all(there) && !self.wrong(Fault::OvertakenGoesOn) {
            self.end_job(job, JobState::Failed, "jobs overtaken by another");
            return false;
        }
        let most = (step.to.len - step.done).min(2);
        let len = if self.options.explore {
            1
        } else {
            self.rng.between(1, most)
        };
        self.chunk(id, job.id, step, len);
        true
    }

    /// Now and then the operator wishes something of a job that runs. True if it does not go on.
    fn wish(&mut self, job: &JobRecord) -> bool {
        let wishes = self.options.wishes;
        if self.ending || !self.rng.permille(wishes) {
            return false;
        }
        match self.rng.below(3) {
            0 => self.end_job(job, JobState::Cancelled, "jobs cancelled"),
            1 if !job.back => self.set_job(job, JobState::RollingBack, "jobs to be rolled back"),
            _ => self.set_job(job, JobState::Paused, "jobs paused"),
        }
        true
    }

    fn maybe_resume(&mut self, job: &JobRecord) -> bool {
        if !self.ending && self.rng.permille(300) {
            let on = if job.back {
                JobState::RollingBack
            } else {
                JobState::Running
            };
            self.set_job(job, on, "jobs resumed");
        }
        false
    }

    fn set_job(&mut self, job: &JobRecord, state: JobState, what: &'static str) {
        self.count(what);
        self.trace(|| format!("{what}: {:?}", job.id));
        _ = self.store.set_job_state(job.id, job.state, state, "");
    }

    fn end_job(&mut self, job: &JobRecord, state: JobState, what: &'static str) {
        self.set_job(job, state, what);
    }

    /// What the job has moved is to go back: once that is hardened, the way back is planned.
    fn turn_back(&mut self, id: ProcId, job: &JobRecord) -> bool {
        if !self.not_hardened().1.is_empty() {
            for todo in [Todo::HardenList, Todo::FreeLook, Todo::Plan] {
                self.do_last(id, todo);
            }
            return true;
        }
        let Some(term) = self.ctls.get(&id).map(|ctl| ctl.term) else {
            return false;
        };
        match self.plan_back(job.id) {
            Some(back) => _ = self.store.replace_steps(term, job.id, &back, true),
            None => self.end_job(job, JobState::Failed, "jobs without room to roll back"),
        }
        false
    }

    /// A step for each extent that still lies where the job has put it.
    fn plan_back(&mut self, job: JobId) -> Option<Vec<Step>> {
        let (homes, mut taken, mut back) = (self.store.homes(), Vec::new(), Vec::new());
        for step in self.store.steps(job).unwrap_or_default() {
            for into in 0..step.done {
                let at = |area: Area| Area {
                    start: DiskExtent(area.start.0 + into),
                    len: 1,
                    ..area
                };
                let (start, home) = (VolumeExtent(step.from.start.0 + into), at(step.to));
                if homes.home(step.volume, start) == Some((home.disk, home.start)) {
                    let to = self.free_area(step.from.home.disk, 1, &taken)?;
                    taken.push(to);
                    let (volume, from) = (step.volume, Segment { start, home });
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

    /// Records a job that moves a part of a volume to another disk.
    pub fn new_move(&mut self, id: ProcId) -> bool {
        let Some(term) = self.ctls.get(&id).map(|ctl| ctl.term) else {
            return false;
        };
        let volumes = self.store.volumes().unwrap_or_default();
        let usable: Vec<_> = volumes
            .iter()
            .filter(|volume| self.usable.contains_key(&volume.id))
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
