//! Works on a job: rounds of changes and, between them, with no hold in place, the operator's commands, persisting and freeing.

mod ends;
mod faults;
mod gaps;
mod start;

use super::commands::find;
use super::left::LeftBehind;
use super::mover::Mover;
use super::pace::{Backoff, Cadence};
use super::{Observer, overlap};
use crate::cluster::{Claims, JobClaim};
use crate::controller::space;
use crate::controller::{Controller, Persisting};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::event::Severity;
use crate::model::job::{JobRecord, JobState, Progress};
use crate::model::units::{DiskId, ExtentSize, JobId, VolumeId};
pub use start::up_to_date;
use start::{dirty_allowance, not_begun, open_disks_of};
use std::time::{Duration, Instant};

/// Duration of a round; the operator's commands are read between rounds.
const ROUND: Duration = Duration::from_millis(50);
/// Greatest age of the running figures in the store.
const FIGURES_EVERY: Duration = Duration::from_millis(200);
/// How long a process may take to release the lock of a job that it leaves: it first persists what it moved, and waits for the controller lock to do so.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for the controller lock at the beginning and at the end of the work.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes the lock of a job: no other process can work on the job as long as the lock is held. It is taken before the controller lock, which a process
/// that leaves the job needs.
///
/// # Errors
/// Fails with `ErrorKind::Busy` when another process works on the job for all of `within`.
pub fn take_on(claims: &dyn Claims, job: JobId, within: Duration) -> Result<JobClaim> {
    if let Some(claim) = claims.claim_job(job, within)? {
        return Ok(claim);
    }
    let holder = claims.worker_of(job)?;
    let why = holder.map_or_else(
        || "another process works on it".into(),
        |holder| format!("another process works on it: {holder}"),
    );
    Err(
        Error::new(ErrorKind::Busy, format!("job {job}"), why).hint(format!(
            "wait for its end (vctl job wait {job}), or pause it (vctl job pause {job})"
        )),
    )
}

/// Works on a job that no other process has, until it ends, is paused, or is cancelled. Returns the state in which it
/// is left. The controller lock is yielded in gaps, and may be yielded when this returns.
///
/// # Errors
/// Fails when the job failed, with the data safe where it was; or when the job cannot be worked on now, which leaves it as it is.
pub fn run(controller: &mut Controller, job: JobId, observer: &mut dyn Observer) -> Result<JobState> {
    let claim = take_on(&**controller.cluster(), job, RELEASE_TIMEOUT)?;
    run_taken(controller, claim, observer)
}

/// Works on a job as [`run`] does, with a lock that was taken before.
///
/// # Errors
/// Returns the errors of [`run`].
#[expect(
    clippy::needless_pass_by_value,
    reason = "it is held until the work has ended"
)]
pub fn run_taken(
    controller: &mut Controller,
    claim: JobClaim,
    observer: &mut dyn Observer,
) -> Result<JobState> {
    controller.yield_in_gaps()?;
    controller.set_purpose(&format!("job {}", claim.job()))?;
    if controller.lead(LOCK_TIMEOUT)?.is_none() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("job {}", claim.job()),
            "another controller acts",
        )
        .hint("try again"));
    }
    let mut worker = Worker::begin(controller, claim.job())?;
    let end = worker.work(observer);
    let left = worker.leave();
    let state = end?;
    left?;
    Ok(state)
}

struct Worker<'a> {
    controller: &'a mut Controller,
    /// The record as last read from the store, with the figures of this run.
    job: JobRecord,
    subject: String,
    size: ExtentSize,
    mover: Mover,
    cadence: Cadence,
    backoff: Backoff,
    not_before: Instant,
    saved: Instant,
    /// Ranges that cannot be read and stay where they are.
    left: LeftBehind,
    /// Changes that have been persisted: their labels can be written, and old placements freed.
    persisted: Option<Persisting>,
    /// Since when others have kept the job from the controller lock.
    locked_out_since: Option<Instant>,
}

impl<'a> Worker<'a> {
    fn begin(controller: &'a mut Controller, id: JobId) -> Result<Self> {
        let job = find(controller.store(), id)?;
        let size = controller.store().header()?.extent_size;
        let steps = up_to_date(controller, &job)?;
        if let Err(why) = overlap::refuse(controller, Some(id), &steps) {
            // The job stays paused until it is resumed.
            let store = controller.store();
            store.set_job_state(id, JobState::Running, JobState::Paused, why.why())?;
            return Err(why);
        }
        if matches!(job.state, JobState::Running | JobState::RollingBack)
            && let Err(why) = open_disks_of(controller, &steps)
        {
            return Err(not_begun(controller.store(), &job, &why));
        }
        let mover = Mover::new(&job, steps, size, controller.ledgers())?;
        let now = Instant::now();
        Ok(Self {
            controller,
            job,
            subject: format!("job {id}"),
            size,
            mover,
            cadence: Cadence::new(dirty_allowance()),
            backoff: Backoff::default(),
            not_before: now,
            saved: now,
            left: LeftBehind::default(),
            persisted: None,
            locked_out_since: None,
        })
    }

    fn work(&mut self, observer: &mut dyn Observer) -> Result<JobState> {
        loop {
            self.reload()?;
            let to_plan = match self.job.state {
                JobState::Running => false,
                JobState::RollingBack => !self.job.back,
                state => return Ok(state),
            };
            let Progress { done, total } = self.mover.progress();
            let go_on = observer.progress(&self.job, done, total);
            match (go_on, to_plan) {
                (true, true) => self.plan_rollback()?,
                (true, false) if self.mover.finished() => self.complete()?,
                (true, false) => self.round()?,
                (false, _) if observer.hands_over() => return Ok(self.job.state),
                (false, false) => drop(self.set_state(JobState::Paused, "interrupted")?),
                // The rollback is planned when the job is worked on again.
                (false, true) => return Ok(self.job.state),
            }
        }
    }

    /// Reads the operator's commands. The figures stay those of this run, which are newer.
    fn reload(&mut self) -> Result<()> {
        let record = find(self.controller.store(), self.job.id)?;
        let old = &mut self.job;
        self.job = JobRecord {
            copied: old.copied,
            longest_hold_us: old.longest_hold_us,
            held: old.held,
            holds: std::mem::take(&mut old.holds),
            ..record
        };
        self.mover.set_limits(self.job.limits);
        Ok(())
    }

    /// Runs one round: moves chunks, saves figures, persists, and yields the lock if needed.
    fn round(&mut self) -> Result<()> {
        let now = Instant::now();
        let wait = self
            .mover
            .wait()
            .max(self.not_before.saturating_duration_since(now));
        let mut moved = false;
        if wait.is_zero() && self.lead()? {
            moved = self.move_on()?;
        }
        self.check_for_hung_disk()?;
        self.save_figures(FIGURES_EVERY)?;
        if self.cadence.due(Instant::now()) {
            self.persist()?;
        }
        self.gap(wait, moved)
    }

    /// Runs a pipeline of changes. Returns whether it moved anything.
    fn move_on(&mut self) -> Result<bool> {
        self.free()?;
        self.mover.begin_round(ROUND);
        let end = self.controller.run_pipeline(&mut self.mover);
        let moved = self.count();
        match end {
            Ok(()) => self.handle_early_end()?,
            // The operator's command may have removed the reservation.
            Err(_) if self.state_changed()? => self.start_over()?,
            Err(why) => return Err(why),
        }
        Ok(moved)
    }

    /// Adds up the mover's figures. Returns whether anything was moved since the last call.
    fn count(&mut self) -> bool {
        let figures = self.mover.take_figures();
        self.job.copied.0 += figures.copied;
        self.job.held += figures.held;
        let longest = u64::try_from(figures.longest.as_micros()).unwrap_or(u64::MAX);
        self.job.longest_hold_us = self.job.longest_hold_us.max(longest);
        self.job.holds.merge(&figures.holds);
        if figures.chunks > 0 {
            self.cadence
                .committed(figures.chunks, figures.copied, Instant::now());
            self.backoff.reset();
        }
        figures.chunks > 0
    }

    fn save_figures(&mut self, every: Duration) -> Result<()> {
        if self.saved.elapsed() < every {
            return Ok(());
        }
        self.saved = Instant::now();
        let job = &self.job;
        self.controller
            .store()
            .set_job_figures(job.id, job.copied, job.longest_hold_us, job.held, &job.holds)
    }

    /// Starts again from the copy progress table in the store.
    fn start_over(&mut self) -> Result<()> {
        let steps = self.controller.store().steps(self.job.id)?;
        self.mover.restart(steps)
    }

    /// Returns whether the operator has changed the job's state since it was last read.
    fn state_changed(&mut self) -> Result<bool> {
        let state = find(self.controller.store(), self.job.id)?.state;
        Ok(state != self.job.state)
    }

    /// Shows in the job's record what it waits for; an empty text when it goes on.
    fn show_wait(&mut self, why: &str) -> Result<()> {
        if self.job.why == why {
            return Ok(());
        }
        let state = self.job.state;
        self.controller
            .store()
            .set_job_state(self.job.id, state, state, why)
            .map(drop)
    }

    /// Sets the job's state. Returns false when the operator has changed it in between.
    fn set_state(&mut self, to: JobState, why: &str) -> Result<bool> {
        self.controller
            .store()
            .set_job_state(self.job.id, self.job.state, to, why)
    }

    /// Flushes the targets and persists the changes, in a gap, so that no other process waits for the
    /// disks. Persisting is put off while a disk that loses writes is no target of this job any more:
    /// the job may be moving away from it. Returns false when another controller holds the lock now.
    fn persist(&mut self) -> Result<bool> {
        if !self.lead()? {
            return Ok(false);
        }
        let Err(error) = self.persist_in_gap() else {
            self.cadence.persisted();
            return Ok(true);
        };
        let losing = self.controller.disks_losing_writes()?;
        let target = self
            .mover
            .steps()
            .iter()
            .find(|step| losing.contains(&step.to.disk));
        if target.is_none() && !losing.is_empty() && !self.mover.finished() {
            self.cadence.put_off(Instant::now());
            self.controller.store().checkpoint()?;
            self.show_wait(&format!(
                "goes on, and is not persisted before it is done: {error}"
            ))?;
            return Ok(true);
        }
        let why = format!("the moved data cannot be persisted: {error}");
        let roll_back = format!("`vctl job cancel {} --roll-back` moves it back", self.job.id);
        let hint = error.way_out().map_or(roll_back, str::to_owned);
        Err(self.fail(&why, &hint))
    }

    /// Ends this run properly, whatever the state: nothing is under way, and what was moved is persisted.
    fn leave(&mut self) -> Result<()> {
        if self.mover.settle().is_err() {
            self.mover.abandon(&**self.controller.cluster())?;
        }
        self.save_figures(Duration::ZERO)?;
        let to_persist = self.cadence.pending() && self.controller.disks_losing_writes()?.is_empty();
        if to_persist && self.controller.lead(LOCK_TIMEOUT)?.is_some() {
            self.persist_in_gap()?;
        }
        if self.persisted.is_some() && self.controller.lead(LOCK_TIMEOUT)?.is_some() {
            self.free()?;
        }
        space::watch(self.controller.store());
        Ok(())
    }

    /// Marks the job as failed in the store and returns the error. What was moved stays moved.
    fn fail(&mut self, why: &str, hint: &str) -> Error {
        let error = Error::failed(&self.subject, why).hint(hint);
        if let Err(also) = self.set_state(JobState::Failed, why) {
            return Error::failed(
                &self.subject,
                format!("{why}; and the failure could not be recorded: {also}"),
            )
            .hint(hint);
        }
        self.log_event(Severity::Error, why);
        error
    }

    /// Logs an event. Failing to write it does not stop the job.
    fn log_event(&mut self, severity: Severity, text: &str) {
        if let Err(error) = self.controller.store().log(severity, &self.subject, text) {
            log::warn!("{}: {text} (not in the events: {error})", self.subject);
        }
    }

    fn disk_name(&mut self, id: DiskId) -> String {
        let disks = self.controller.store().disks().unwrap_or_default();
        disks
            .iter()
            .find(|disk| disk.id == id)
            .map_or_else(|| id.to_string(), |disk| disk.name.to_string())
    }

    fn volume_name(&mut self, id: VolumeId) -> String {
        let volumes = self.controller.store().volumes().unwrap_or_default();
        volumes
            .iter()
            .find(|volume| volume.id == id)
            .map_or_else(|| id.to_string(), |volume| volume.name.to_string())
    }
}
