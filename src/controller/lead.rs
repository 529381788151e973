//! The gaps of a job: its controller yields the controller lock, and takes it again.
//!
//! In a gap there is no change under way, so the next holder of the lock finds nothing to finish. The controller keeps its
//! connections, its open disks and its store. When it has the lock again, the term in the store shows whether another controller held
//! it: if none did, nothing has changed. Otherwise it raises the term, and first repairs what the other may have left unfinished.

use super::Controller;
use crate::cluster::{Role, WaitLimit};
use crate::failpoint::{Point, hit};
use crate::model::error::Result;
use std::time::Duration;

/// Whether another controller held the lock in a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapOutcome {
    /// No other controller held the lock, so nothing has changed.
    Unchanged,
    /// Another controller held the lock: the table, the disks and the jobs may have changed.
    Changed,
}

impl Controller {
    /// Marks the controller as one of a job, which yields the lock in gaps: others that find it taken wait for the next gap.
    ///
    /// # Errors
    /// Returns the errors of the kernel.
    pub fn yield_in_gaps(&mut self) -> Result<()> {
        self.leadership.yield_in_gaps()
    }

    /// Returns whether this controller has the lock.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leadership.is_held()
    }

    /// Returns whether a command waits for the controller lock.
    ///
    /// # Errors
    /// Returns the errors of the kernel.
    pub fn has_waiting_command(&self) -> Result<bool> {
        self.leadership.is_wanted_by(Role::Command)
    }

    /// Returns whether a command or another job waits for the controller lock.
    ///
    /// # Errors
    /// Returns the errors of the kernel.
    pub fn has_waiters(&self) -> Result<bool> {
        Ok(self.has_waiting_command()? || self.leadership.is_wanted_by(Role::Job)?)
    }

    /// Yields the controller lock until [`Controller::lead`]. No change may be under way.
    pub fn yield_lock(&mut self) {
        self.leadership.release();
    }

    /// Takes the controller lock again, waiting at most for `within`; `None` when others hold it all that time. A repeated call keeps the
    /// place in the queue.
    ///
    /// # Errors
    /// Returns the errors of the lock, of the store and of a recovery.
    pub fn lead(&mut self, within: Duration) -> Result<Option<GapOutcome>> {
        if self.leads() {
            return Ok(Some(GapOutcome::Unchanged));
        }
        if !self.leadership.acquire(WaitLimit::For(Some(within)))? {
            return Ok(None);
        }
        hit(Point::ControllerLocked);
        if self.store.header()?.term == self.term {
            return Ok(Some(GapOutcome::Unchanged));
        }
        self.term = self.store.raise_term()?;
        hit(Point::ControllerTermRaised);
        self.links.set_term(self.term);
        self.recover()?;
        // The recovery has brought to an end what this controller could not.
        self.unfinished = None;
        self.close_changed_disks()?;
        hit(Point::ControllerRecovered);
        self.log_notes();
        Ok(Some(GapOutcome::Changed))
    }

    /// Closes disks that are no longer in the pool, or have another path: they are opened again where they are needed.
    fn close_changed_disks(&mut self) -> Result<()> {
        let records = self.store.disks()?;
        for disk in self.disks.all() {
            let record = records.iter().find(|record| record.id == disk.id());
            if record.is_none_or(|record| record.path != disk.recorded_path()) {
                self.disks.remove(disk.id());
            }
        }
        self.opening.retain(|id, opening| {
            records
                .iter()
                .any(|record| record.id == *id && record.path == opening.path())
        });
        Ok(())
    }
}
