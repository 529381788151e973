//! The end of a job: completes it, with what is left to evacuate, and plans its rollback.

use super::{ROUND, Worker};
use crate::jobs::plan::{plan_back, plan_without};
use crate::jobs::{Request, set_allocate};
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::model::job::{JobKind, JobState};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// Attempts to plan the rollback, several seconds together.
const PLANS: u32 = 9;

impl Worker<'_> {
    /// Completes the job once all steps are done.
    pub(super) fn complete(&mut self) -> Result<()> {
        self.mover.settle()?;
        if !self.persist()? || !self.lead()? || !self.mover.finished() {
            return Ok(());
        }
        self.free()?;
        self.save_figures(Duration::ZERO)?;
        if !self.job.back && self.plan_remainder()? {
            return Ok(());
        }
        let to = if self.job.back {
            JobState::Cancelled
        } else {
            JobState::Done
        };
        if let JobKind::Evacuate {
            disk, reopen: true, ..
        } = self.job.kind
            && self.job.back
        {
            set_allocate(self.controller, disk, true, &self.job.title)?;
        }
        let why = match self.left.describe() {
            Some(left) if !self.job.limits.skip_unreadable => return Err(self.left_behind(&left)),
            left => left.unwrap_or_default(),
        };
        if self.set_state(to, &why)? {
            let text = match to {
                JobState::Done => "done",
                _ => "moved back what it had moved",
            };
            self.log_event(Severity::Info, &format!("{}: {text}", self.job.title));
        }
        Ok(())
    }

    /// Plans what is still on the disk that an evacuation empties. Returns true if there is more to move.
    fn plan_remainder(&mut self) -> Result<bool> {
        let JobKind::Evacuate {
            disk,
            to,
            use_reserve,
            ..
        } = self.job.kind.clone()
        else {
            return Ok(false);
        };
        let request = Request::Evacuate {
            disk,
            to,
            use_reserve,
        };
        let faults = self.controller.faults()?;
        let more = match plan_without(self.controller.store(), &request, &faults, self.left.runs()) {
            Ok(more) => more,
            Err(error) => return Err(self.fail(&error.to_string(), error.way_out().unwrap_or_default())),
        };
        if more.is_empty() {
            return Ok(false);
        }
        let steps = [self.mover.steps(), &more].concat();
        let term = self.controller.term();
        self.controller
            .store()
            .replace_steps(term, self.job.id, &steps, false)?;
        self.mover.restart(steps)?;
        Ok(true)
    }

    /// Plans the rollback. The old extents are free by then, unless they have another owner, or an apparatus still serves a request
    /// by an old table, which is temporary.
    pub(super) fn plan_rollback(&mut self) -> Result<()> {
        if self.wait_for_retry()? {
            return Ok(());
        }
        self.mover.settle()?;
        let persisted = !self.controller.disks_losing_writes()?.is_empty() || self.persist()?;
        if !persisted || !self.lead()? {
            return Ok(());
        }
        self.free()?;
        let steps = self.mover.steps().to_vec();
        match plan_back(self.controller.store(), &steps, &self.subject) {
            Ok(back) => {
                let term = self.controller.term();
                self.controller
                    .store()
                    .replace_steps(term, self.job.id, &back, true)?;
                self.backoff.reset();
                self.mover.restart(back)
            }
            Err(error) if self.backoff.attempts() < PLANS => {
                self.not_before = Instant::now() + self.backoff.next();
                self.show_wait(&error.to_string())
            }
            Err(error) => Err(self.fail(&error.to_string(), error.way_out().unwrap_or_default())),
        }
    }

    /// Waits, at most for a round, if it is too early for another attempt. Returns whether it waited.
    fn wait_for_retry(&mut self) -> Result<bool> {
        let wait = self.not_before.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            self.yield_lock()?;
            park_timeout(wait.min(ROUND));
        }
        Ok(!wait.is_zero())
    }
}
