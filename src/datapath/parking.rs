//! The gate that requests pass, with the requests that are parked in it: parks them, releases them to workers, and fails them when parking has
//! been given up.

use super::park_timeouts::ParkTimeouts;
use super::submit::NextStep;
use super::workers::Workers;
use super::{Failure, Owned, Reply, Response, Waker};
use crate::cluster::OwnEntry;
use crate::datapath::runtime::Resumed;
use crate::gate::{Access, Bounds, Counts, Drain, Entry, Gate, Lane, Parked, Pass, ReleasedRequests};
use crate::model::change::HoldMode;
use crate::model::records::Span;
use crate::model::units::{ChangeId, Generation, VolumeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Gate, and where parked requests go.
pub(super) struct Parking {
    gate: Gate<Owned>,
    park_timeouts: Arc<ParkTimeouts>,
    workers: Arc<Workers>,
    waker: Arc<Waker>,
}

impl Parking {
    /// Makes an open gate, whose released requests these workers run.
    pub(super) fn new(
        bounds: Bounds,
        park_timeouts: Arc<ParkTimeouts>,
        workers: Arc<Workers>,
        waker: Arc<Waker>,
    ) -> Self {
        Self {
            gate: Gate::new(bounds, park_timeouts.clone()),
            park_timeouts,
            workers,
            waker,
        }
    }

    /// Takes a lane for a thread; `None` if all are taken.
    pub(super) fn lane(&self) -> Option<Lane> {
        self.gate.lane()
    }

    /// Tries to enter the gate; see [`Gate::enter`].
    #[inline]
    pub(super) fn enter<'a>(
        &self,
        lane: &'a mut Lane,
        span: Span,
        access: Access,
        generation: Generation,
    ) -> Entry<'a> {
        self.gate.enter(lane, span, access, generation)
    }

    /// Parks a request that a hold or the closed gate covers.
    #[cold]
    pub(super) fn park(&self, request: Owned, span: Span, access: Access) -> NextStep {
        if let Some(failure) = self.park_timeouts.given_up() {
            request.refuse(failure);
            return NextStep::Nothing;
        }
        match self.gate.park(request, span, access) {
            Parked::Waits => NextStep::Nothing,
            Parked::Retry(request) => NextStep::Again(request),
            Parked::Full(request, holds) => NextStep::Room(request, holds),
        }
    }

    /// Parks a request that has seen the fence word, closes the gate, and wakes the control thread to rejoin. Both happen before the request
    /// leaves its lane: the gate opens again only when all lanes have been left, so this cannot close it after a rejoin has opened it.
    #[cold]
    pub(super) fn park_fenced(&self, pass: Pass<'_>, request: Owned, span: Span, access: Access) -> NextStep {
        self.close();
        self.waker.wake();
        let next = self.park(request, span, access);
        drop(pass);
        next
    }

    /// Parks a request that has found the lease run out, and all that follow, until the lease is renewed. Holds stay in place.
    #[cold]
    pub(super) fn park_lapsed(
        &self,
        pass: Pass<'_>,
        request: Owned,
        (span, access): (Span, Access),
        entry: &dyn OwnEntry,
    ) -> NextStep {
        self.gate.pause();
        self.park_timeouts.closed();
        let next = self.park(request, span, access);
        drop(pass);
        // It may have been renewed before the gate was paused: whoever renews it lets the requests go on after that.
        if !entry.has_lapsed() {
            self.resume_lapsed();
        }
        next
    }

    /// Lets requests go on that have found the lease run out: it is renewed.
    pub(super) fn resume_lapsed(&self) {
        if let Some(freed) = self.gate.resume() {
            self.park_timeouts.opened();
            self.resume(freed);
        }
    }

    /// Requests the end of these holds, because the gate is full, and waits a while for room.
    pub(super) fn make_room(&self, holds: &[ChangeId]) {
        let seen = self.park_timeouts.moves();
        self.waker.overflow(holds);
        self.park_timeouts.wait_for_room(seen);
    }

    /// Places a hold. Returns false when there are too many.
    pub(super) fn hold(&self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool {
        self.gate.hold(change, spans, mode)
    }

    /// Places a note of writes; see [`Gate::note`].
    pub(super) fn note(&self, change: ChangeId, spans: &[Span]) -> bool {
        self.gate.note(change, spans)
    }

    /// Returns what was written since the note of this change was placed; `None` if it has none.
    pub(super) fn written(&self, change: ChangeId) -> Option<Vec<Span>> {
        self.gate.written(change)
    }

    /// Ends a note.
    pub(super) fn end_note(&self, change: ChangeId) {
        self.gate.end_note(change);
    }

    /// Returns the progress of the drain of this hold or note; `None` if there is no such hold.
    pub(super) fn drained(&self, change: ChangeId) -> Option<Drain> {
        self.gate.drained(change)
    }

    /// Ends a hold, and has workers run the requests that it had parked.
    pub(super) fn release(&self, change: ChangeId) -> Resumed {
        self.resume(self.gate.release(change))
    }

    /// Parks every request from now on.
    pub(super) fn close(&self) {
        self.gate.close();
        self.park_timeouts.closed();
    }

    /// Ends [`Parking::close`], and has workers run the parked requests.
    pub(super) fn open(&self) {
        self.park_timeouts.opened();
        self.resume(self.gate.open());
    }

    fn resume(&self, freed: ReleasedRequests<Owned>) -> Resumed {
        let ReleasedRequests {
            requests,
            parked,
            longest,
        } = freed;
        self.workers.run_later(requests);
        self.park_timeouts.moved();
        Resumed { parked, longest }
    }

    /// Returns the number of requests in flight.
    pub(super) fn in_flight(&self) -> u64 {
        match self.gate.emptied() {
            Some(Drain::Done) => 0,
            Some(Drain::Waiting { in_flight, .. }) => in_flight,
            None => self.gate.counts().in_flight,
        }
    }

    /// Returns the oldest generation that a request in flight may use, where `current` is the present one.
    pub(super) fn oldest(&self, current: Generation) -> Generation {
        self.gate.oldest(current)
    }

    /// Checks the invariants of the parked requests.
    pub(super) fn check(&self) -> Result<(), String> {
        self.gate.check()
    }

    /// Returns the counts of the gate, and records the ages of the requests in flight.
    pub(super) fn counts(&self) -> Counts {
        self.gate.counts()
    }

    /// Returns the number of parked requests of each volume that has some.
    pub(super) fn by_volume(&self) -> BTreeMap<VolumeId, u64> {
        self.gate.parked_by_volume()
    }

    /// Returns the requests that have been in flight for `least` or longer, with their ages.
    pub(super) fn lasting(&self, least: Duration) -> Vec<(Span, Duration)> {
        self.gate.lasting(least)
    }

    /// Closes the gate for good, because the apparatus ends: what is or would be parked fails from now on.
    pub(super) fn close_for_good(&self) {
        self.gate.close();
        self.park_timeouts.give_up(Failure::Ending);
    }

    /// Fails all parked requests, if parking has been given up.
    pub(super) fn fail_parked(&self) {
        let Some(failure) = self.park_timeouts.given_up() else {
            return;
        };
        let expired = self.gate.expire(Duration::ZERO);
        for request in expired.late {
            request.reply.send(Response::Failed(failure));
        }
        self.workers.run_later(expired.free);
        self.park_timeouts.moved();
    }

    /// Waits until no request is in flight, for `most` at most. Returns whether none is.
    pub(super) fn wait_until_empty(&self, most: Duration) -> bool {
        self.park_timeouts
            .wait_until(most, || self.gate.counts().in_flight == 0)
    }
}
