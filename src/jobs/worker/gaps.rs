//! The gaps of a job, in which the controller lock is yielded: while the job waits for its rate limit, for
//! a disk or for its next attempt, while it persists what it moved, and whenever another process waits for
//! the lock. Commands get the lock at the next batch of chunks, other jobs at the end of a round.

use super::start::{open_disks_of, up_to_date};
use super::{ROUND, Worker};
use crate::controller::GapOutcome;
use crate::jobs::commands::find;
use crate::model::error::Result;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// A job that is kept from the lock for longer shows that in its state.
const REPORT_AFTER: Duration = Duration::from_secs(1);

impl Worker<'_> {
    /// Makes sure that the job has the controller lock. Returns false when another controller holds it for now, or when the job was given
    /// another command in the gap.
    pub(super) fn lead(&mut self) -> Result<bool> {
        let Some(led) = self.controller.lead(ROUND)? else {
            self.show_lock_holder()?;
            return Ok(false);
        };
        self.locked_out_since = None;
        if led == GapOutcome::Changed && !self.resynchronize()? {
            return Ok(false);
        }
        self.mover.enter();
        Ok(true)
    }

    /// Adapts to what others did in a gap. Returns false when they ended the job or gave it another command: then its destination may
    /// belong to others.
    fn resynchronize(&mut self) -> Result<bool> {
        let record = find(self.controller.store(), self.job.id)?;
        if record.state != self.job.state {
            return Ok(false);
        }
        self.mover.mark_stale();
        if record.progress != self.mover.progress() || !self.mover.has_disks_open(self.controller.disks()) {
            self.plan_again()?;
        }
        Ok(true)
    }

    /// Plans again from the table as it is now: what others have moved, resized away or removed is not moved any more.
    pub(super) fn plan_again(&mut self) -> Result<()> {
        self.mover.settle()?;
        let steps = up_to_date(self.controller, &self.job)?;
        open_disks_of(self.controller, &steps)?;
        self.mover.restart(steps)
    }

    /// Shows in the job's state which process keeps it from the controller lock.
    fn show_lock_holder(&mut self) -> Result<()> {
        let since = *self.locked_out_since.get_or_insert_with(Instant::now);
        if since.elapsed() < REPORT_AFTER {
            return Ok(());
        }
        match self.controller.cluster().leader()? {
            Some(holder) => self.show_wait(&format!("waits for {holder}")),
            None => Ok(()),
        }
    }

    /// Begins a gap, if possible: nothing is written to the job's destination until it ends.
    pub(super) fn yield_lock(&mut self) -> Result<()> {
        if self.controller.leads() {
            self.mover.leave(&**self.controller.cluster())?;
            self.controller.yield_lock();
        }
        Ok(())
    }

    /// Yields the controller lock between two rounds if the job has to wait or another process wants the lock.
    pub(super) fn gap(&mut self, wait: Duration, moved: bool) -> Result<()> {
        if !wait.is_zero() {
            self.yield_lock()?;
            park_timeout(wait.min(ROUND));
        } else if !moved {
            self.yield_lock()?;
            self.mover.wait_for_run(ROUND);
        } else if self.controller.leads() && self.controller.has_waiters()? {
            self.yield_lock()?;
        }
        Ok(())
    }

    /// Flushes the disks that the committed changes map, and persists those changes. It begins with the controller lock, and yields it
    /// while it waits for disks.
    pub(super) fn persist_in_gap(&mut self) -> Result<()> {
        let persisting = self.controller.begin_persisting()?;
        self.yield_lock()?;
        self.controller.flush_and_record(&persisting)?;
        self.persisted = Some(persisting);
        Ok(())
    }

    /// Frees the old placements once the moved data is persisted. The caller has the controller lock.
    pub(super) fn free(&mut self) -> Result<()> {
        if let Some(persisting) = self.persisted.take() {
            self.controller.end_persisting(&persisting)?;
            self.controller.free()?;
        }
        Ok(())
    }
}
