//! The holds and notes in place: places them in the data path, watches their drains, and ends them.

use crate::datapath::Runtime;
use crate::datapath::runtime::Resumed;
use crate::failpoint::{Point, hit};
use crate::model::change::HoldMode;
use crate::model::records::Span;
use crate::model::units::{ChangeId, VolumeId};
use crate::protocol::participant::{Event, OWN};
use crate::rpc::message::Answer;
use crate::rpc::written::Written;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Holds whose drains are watched.
pub(super) struct Holds {
    runtime: Arc<dyn Runtime>,
    draining: BTreeSet<ChangeId>,
    /// Notes whose drains are watched.
    settling: BTreeSet<ChangeId>,
}

impl Holds {
    /// Makes the bookkeeping of the holds in this data path.
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            draining: BTreeSet::new(),
            settling: BTreeSet::new(),
        }
    }

    /// Places a note of writes. Returns an event if it has settled at once, or if there are too many notes.
    pub(super) fn note(&mut self, change: ChangeId, spans: &[Span]) -> Option<Event> {
        if !self.runtime.note_writes(change, spans) {
            return Some(Event::NoteRefused(change));
        }
        self.settling.insert(change);
        self.check_note(change)
    }

    fn check_note(&mut self, change: ChangeId) -> Option<Event> {
        if self.runtime.lag(change).is_some() {
            return None;
        }
        self.settling.remove(&change);
        Some(Event::NoteSettled(change))
    }

    /// Ends a note.
    pub(super) fn end_note(&mut self, change: ChangeId) {
        self.settling.remove(&change);
        self.runtime.end_note(change);
    }

    /// Returns the answer that a hold is drained, with what was written since its note was placed.
    pub(super) fn held(&self, change: ChangeId) -> Answer {
        let written = Written::of_note(self.runtime.written(change));
        Answer::Held { change, written }
    }

    /// Places a hold. Returns an event if it is drained at once, or if there are too many holds.
    pub(super) fn place(&mut self, change: ChangeId, spans: &[Span], mode: HoldMode) -> Option<Event> {
        if !self.runtime.hold(change, spans, mode) {
            return Some(Event::Overflow(change));
        }
        hit(Point::ApparatusHoldPlaced);
        self.draining.insert(change);
        self.check(change)
    }

    fn check(&mut self, change: ChangeId) -> Option<Event> {
        if self.runtime.lag(change).is_some() {
            return None;
        }
        self.draining.remove(&change);
        hit(Point::ApparatusDrained);
        Some(Event::Drained(change))
    }

    /// Returns an event for each hold and note whose drain has ended.
    pub(super) fn drained(&mut self) -> Vec<Event> {
        let settled: Vec<ChangeId> = self.settling.iter().copied().collect();
        let settled = settled.into_iter().filter_map(|change| self.check_note(change));
        let mut events: Vec<Event> = settled.collect();
        let draining: Vec<ChangeId> = self.draining.iter().copied().collect();
        events.extend(draining.into_iter().filter_map(|change| self.check(change)));
        events
    }

    /// Holds the writes of these volumes, until [`Holds::release_writes`].
    pub(super) fn hold_writes(&self, volumes: &[VolumeId]) {
        let spans: Vec<Span> = volumes.iter().map(|volume| Span::whole(*volume)).collect();
        if !self.runtime.hold(OWN, &spans, HoldMode::Writes) {
            log::error!("cannot hold writes: there are too many holds");
        }
    }

    /// Ends [`Holds::hold_writes`].
    pub(super) fn release_writes(&self) {
        self.runtime.release(OWN);
    }

    /// Stops watching the drain of a hold, which stays in place.
    pub(super) fn stop_watching(&mut self, change: ChangeId) {
        self.draining.remove(&change);
    }

    /// Ends a hold.
    pub(super) fn release(&mut self, change: ChangeId) -> Resumed {
        self.draining.remove(&change);
        self.settling.remove(&change);
        let resumed = self.runtime.release(change);
        hit(Point::ApparatusReopened);
        resumed
    }

    /// Returns the answer to a request that ended a hold.
    pub(super) fn released(&self, change: ChangeId, resumed: Resumed) -> Answer {
        Answer::Released {
            change,
            parked: resumed.parked,
            longest_us: u64::try_from(resumed.longest.as_micros()).unwrap_or(u64::MAX),
            oldest: self.runtime.oldest(),
        }
    }

    /// Returns the answer that the hold or note is still draining, or `None` if its drain has just ended: the wake-up causes `Drained` then.
    pub(super) fn still_draining(&self, change: ChangeId) -> Option<Answer> {
        let lag = self.runtime.lag(change)?;
        Some(Answer::StillDraining {
            change,
            in_flight: lag.in_flight,
            oldest_us: u64::try_from(lag.age.as_micros()).unwrap_or(u64::MAX),
            disk: lag.disk,
        })
    }

    /// Forgets all holds and notes, which the closed gate has ended.
    pub(super) fn forget_all(&mut self) {
        self.draining.clear();
        self.settling.clear();
    }
}
