//! What comes after a change: hardening, freeing, and what is said of one that was given up.

use super::Controller;
use crate::change::controller::Reason;
use crate::change::failpoint::{Point, hit};
use crate::change::harden::{Who, disks_at_risk, harden};
use crate::change::recovery::oldest_in_use;
use crate::change::survey::see;
use crate::control::client::Happening;
use crate::error::{Error, Kind, Result};
use crate::pool::names::Name;
use crate::units::{DiskId, Slot};
use crate::wire::message::{Answer, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long apparatuses are given to finish requests by older tables before old extents are freed; what stays is freed another time.
const QUIESCE: Duration = Duration::from_millis(200);

impl Controller {
    /// Flushes the disks that committed changes map, and hardens those changes. The labels of those disks get the layout number.
    ///
    /// # Errors
    /// A disk's or the store's; nothing was hardened then.
    pub fn harden(&mut self) -> Result<()> {
        self.open_what_is_at_risk()?;
        let touched = harden(&mut *self.store, &self.disks, &self.members, Who::Controller)?;
        if !touched.is_empty() {
            let layout = self.store.header()?.layout;
            let open: Vec<_> = touched.iter().filter_map(|id| self.disks.get(*id)).collect();
            self.label(open, layout);
        }
        self.store.checkpoint()?;
        self.tell();
        Ok(())
    }

    /// The disks that have lost something, or may have, with changes on them that are not hardened: those cannot be, until all of it lies elsewhere.
    ///
    /// # Errors
    /// The store's.
    pub fn losing(&mut self) -> Result<BTreeSet<DiskId>> {
        let mut disks = disks_at_risk(&mut *self.store)?;
        disks.retain(|disk| {
            let marks = self.members.marks(*disk);
            marks.has_lost() || marks.is_in_doubt()
        });
        Ok(disks)
    }

    /// Frees quarantined extents that nobody can use any more, after asking the apparatuses for the oldest table in use, and has the disks
    /// discard what they held.
    ///
    /// # Errors
    /// The store's.
    pub fn free(&mut self) -> Result<()> {
        let current = self.store.header()?.generation;
        let range = self.range()?;
        self.quiesce(range.participants.iter().map(|who| who.slot).collect());
        // An apparatus shows its oldest table in the member table before it answers.
        let seen = see(&mut *self.store, &self.members, &self.pool)?;
        let oldest = oldest_in_use(&seen, current);
        let busy = self.discard(oldest)?;
        self.store.free_quarantine_except(oldest, &busy)?;
        hit(Point::ControllerFreed);
        self.tell();
        Ok(())
    }

    fn quiesce(&mut self, mut asked: BTreeSet<Slot>) {
        asked.retain(|slot| self.links.is_welcomed(*slot));
        let wait_us = u64::try_from(QUIESCE.as_micros()).unwrap_or(u64::MAX);
        for slot in &asked {
            self.links.send(*slot, Request::Quiesce { wait_us });
        }
        self.links.flush();
        let deadline = Instant::now() + QUIESCE + Duration::from_micros(self.patience.answer_us);
        while !asked.is_empty() {
            match self.links.wait(deadline) {
                Some(
                    Happening::Answered(slot, Answer::Quiesced { .. } | Answer::Refused { change: None, .. })
                    | Happening::Lost(slot, _)
                    | Happening::Refused(slot, _),
                ) => {
                    asked.remove(&slot);
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// Why a change was given up, for a person.
pub(super) fn given_up(title: &str, reason: &Reason, names: &BTreeMap<Slot, Name>) -> Error {
    let name = |slot: &Slot| {
        names
            .get(slot)
            .map_or_else(|| format!("in slot {slot}"), ToString::to_string)
    };
    let timed_out = |why: String| Error::new(Kind::TimedOut, title, why);
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
            timed_out(format!("apparatus {apparatus} still has {in_flight} requests in flight, the oldest for {seconds} s{on}"))
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
            "apparatus {} lives and does not answer in time",
            name(slot)
        ))
        .hint("nothing has changed: try again when the machine is less busy"),
        Reason::MembershipMoved => timed_out("apparatuses came and went meanwhile".into()),
        Reason::GenerationMoved => timed_out("another change came first".into()),
        Reason::HoldRanOut => timed_out("the hold ran out before the change was committed".into()),
        Reason::StaleTerm => Error::new(Kind::Stale, title, "another controller acts"),
        Reason::Refused(slot, why) => {
            Error::failed(title, format!("apparatus {} refuses: {why}", name(slot)))
        }
        Reason::Work(why) | Reason::Store(why) => Error::failed(title, why.clone()),
        Reason::Abandoned(why) => Error::new(Kind::Cancelled, title, why.clone()),
    }
}
