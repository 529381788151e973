//! What follows a change: persisting, freeing, and the error for a change that was given up.

use super::Controller;
use crate::controller::observe::observe_members;
use crate::controller::persist::{Batch, Who, disks_at_risk};
use crate::failpoint::{Point, hit};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::removed;
use crate::model::units::{DiskId, Slot, Timestamp};
use crate::model::words::count;
use crate::protocol::controller::Reason;
use crate::protocol::recovery::oldest_in_use;
use crate::rpc::client::WaitOutcome;
use crate::rpc::message::{Answer, Request};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a removed volume is remembered, in microseconds.
const FORGOTTEN_AFTER_US: i64 = 1_000_000 * removed::KEPT_FOR.as_secs().cast_signed();

/// Committed changes that are being persisted.
pub struct Persisting(Batch);

impl Controller {
    /// Flushes the disks that committed changes map, and persists those changes. The labels of those disks get the layout number.
    ///
    /// # Errors
    /// Returns the errors of a disk or of the store; nothing was persisted then.
    pub fn persist(&mut self) -> Result<()> {
        let persisting = self.begin_persisting()?;
        self.flush_and_record(&persisting)?;
        self.end_persisting(&persisting)
    }

    /// Collects what is to be persisted, and opens its disks.
    ///
    /// # Errors
    /// Returns the errors of a disk or of the store.
    pub fn begin_persisting(&mut self) -> Result<Persisting> {
        self.open_disks_at_risk()?;
        Batch::of_all(&mut *self.store).map(Persisting)
    }

    /// Does the part that waits for disks. It can be done in a gap, as apparatuses do it; what others commit or persist meanwhile is not
    /// affected.
    ///
    /// # Errors
    /// Returns the errors of a disk or of the store; nothing was persisted then.
    pub fn flush_and_record(&mut self, persisting: &Persisting) -> Result<()> {
        persisting
            .0
            .persist(&mut *self.store, &self.disks, &*self.ledgers, Who::Controller)
    }

    /// Writes the layout number to the labels of the flushed disks. Not in a gap: a process that opens a disk reads the number from the
    /// store before the label.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn end_persisting(&mut self, persisting: &Persisting) -> Result<()> {
        // A label shall not have a layout that the copies of the metadata lack: others may have persisted more meanwhile.
        let layout = self.store.header()?.layout;
        self.bring_up_copies()?;
        let open: Vec<_> = if self.arrange_copies()? {
            // The labels show that there is more than a copy that was left behind covers.
            self.disks.all()
        } else {
            let touched = persisting.0.disks();
            touched.iter().filter_map(|id| self.disks.get(*id)).collect()
        };
        self.label(open, layout);
        self.store.checkpoint()?;
        self.log_notes();
        Ok(())
    }

    /// Returns the disks that have lost writes, or may have, and have changes on them that are not persisted: those cannot be, until all
    /// of their data lies elsewhere.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn disks_losing_writes(&mut self) -> Result<BTreeSet<DiskId>> {
        let mut disks = disks_at_risk(&mut *self.store)?;
        disks.retain(|disk| {
            let ledger = self.ledgers.ledger(*disk);
            ledger.has_lost() || ledger.is_in_doubt()
        });
        Ok(disks)
    }

    /// Frees quarantined extents that no apparatus can use any more, after asking the
    /// apparatuses for the oldest table in use, and has the disks discard what they held.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn free(&mut self) -> Result<()> {
        let range = self.range()?;
        self.quiesce(range.participants.iter().map(|who| who.slot).collect());
        self.free_now()
    }

    /// Frees as [`Controller::free`] does, without asking the apparatuses: what one of them has just ceased to use is freed another time.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn free_now(&mut self) -> Result<()> {
        let since = Timestamp(Timestamp::now().0.saturating_sub(FORGOTTEN_AFTER_US));
        self.store.forget_oldest_removed(removed::KEPT, since)?;
        let current = self.store.header()?.generation;
        // An apparatus shows its oldest table in the member table before it answers.
        let seen = observe_members(
            &mut *self.store,
            (&*self.members, &*self.cluster),
            &mut self.elsewhere,
        )?;
        // The copies of the metadata must not name what is freed, either.
        let oldest = oldest_in_use(&seen, current).min(self.bring_up_copies()?);
        let busy = self.discard(oldest)?;
        self.store.free_quarantine_except(oldest, &busy)?;
        hit(Point::ControllerFreed);
        self.log_notes();
        Ok(())
    }

    fn quiesce(&mut self, mut asked: BTreeSet<Slot>) {
        asked.retain(|slot| self.links.is_welcomed(*slot));
        let quiesce = self.environment.timing().quiesce;
        let wait_us = u64::try_from(quiesce.as_micros()).unwrap_or(u64::MAX);
        for slot in &asked {
            self.links.send(*slot, Request::Quiesce { wait_us });
        }
        self.links.flush();
        let deadline = self.environment.now() + quiesce + Duration::from_micros(self.patience.answer_us);
        while !asked.is_empty() {
            match self.links.wait(deadline) {
                Some(
                    WaitOutcome::Answered(
                        slot,
                        Answer::Quiesced { .. } | Answer::Refused { change: None, .. },
                    )
                    | WaitOutcome::Lost(slot, _)
                    | WaitOutcome::Refused(slot, _),
                ) => {
                    asked.remove(&slot);
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// Returns the error for a change that was given up.
pub(super) fn given_up(title: &str, reason: &Reason, name: &dyn Fn(Slot) -> String) -> Error {
    let name = |slot: &Slot| name(*slot);
    let timed_out = |why: String| Error::new(ErrorKind::TimedOut, title, why);
    match reason {
        Reason::Draining {
            slot,
            in_flight,
            oldest_us,
            disk,
        } => {
            let (apparatus, seconds) = (name(slot), *oldest_us / 1_000_000);
            let on = if disk.is_empty() {
                String::new()
            } else {
                format!(" on disk {disk}")
            };
            let requests = count(*in_flight, "request");
            timed_out(format!(
                "apparatus {apparatus} still has {requests} in flight, the oldest for {seconds} s{on}"
            ))
            .hint("nothing has changed: try again when the disk answers")
        }
        Reason::Opening {
            slot,
            disk,
            waited_us,
        } => {
            let (apparatus, seconds) = (name(slot), *waited_us / 1_000_000);
            timed_out(format!(
                "apparatus {apparatus} is still opening disk {disk}, since {seconds} s"
            ))
            .hint("nothing has changed: try again when the disk answers")
        }
        Reason::Slow(slot) => timed_out(format!(
            "apparatus {} is alive but does not answer in time",
            name(slot)
        ))
        .hint("nothing has changed: try again when the machine is less busy"),
        Reason::Silent(slot) => timed_out(format!("apparatus {} does not answer", name(slot))),
        Reason::MembershipMoved => timed_out("apparatuses came and went meanwhile".into()),
        Reason::GenerationMoved => timed_out("another change came first".into()),
        Reason::HoldRanOut => timed_out("the hold expired before the change was committed".into()),
        Reason::StaleTerm => Error::new(ErrorKind::Stale, title, "another controller holds the lock"),
        Reason::Refused(slot, why) => {
            Error::failed(title, format!("apparatus {} refuses: {why}", name(slot)))
        }
        Reason::Work(why) | Reason::Store(why) => Error::failed(title, why.clone()),
        Reason::Abandoned(why) => Error::new(ErrorKind::Cancelled, title, why.clone()),
    }
}
