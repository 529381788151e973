//! The gate that every host request passes: it holds ranges, drains them, and knows which requests are inside.
//!
//! The fast path shares nothing: a request writes its range into its own lane with plain stores and checks one word that tells
//! whether any hold is in place. The holding side sets that word, has the kernel run a memory barrier in every thread
//! (`membarrier`), and then reads the lanes. So either the request sees the hold, or the hold sees the request.
//!
//! A *note* is placed in the same way, and parks nothing: a write that sees it marks the regions that it touches, before it goes on.

mod ages;
pub mod barrier;
pub mod core;
mod lanes;
mod note;
#[cfg(test)]
mod tests;

pub use self::core::Expired;
pub use lanes::{Entry, Lane, OwnedPass, Pass};

use self::core::{Cover, Holds, Released};
use crate::model::change::HoldMode;
use crate::model::records::Span;
use crate::model::units::{ChangeId, Generation, VolumeId};
use ages::InFlightAges;
use barrier::Barrier;
use lanes::{InFlight, Lanes};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a request uses its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// It reads or seeks.
    Read,
    /// It writes, punches or zeroes.
    Write,
}

/// Limits of a gate.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Largest number of requests in flight; each needs one lane.
    pub lanes: usize,
    /// Largest number of bytes of parked write data; at least that of the largest request.
    pub parked_bytes: u64,
    /// Largest number of parked requests.
    pub parked: usize,
    /// Largest number of holds.
    pub holds: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            lanes: 1024,
            parked_bytes: 256 << 20,
            parked: 4096,
            holds: 64,
        }
    }
}

/// Something that can be parked: a request with its reply handle and its own copy of the data.
pub trait Parkable: Send + 'static {
    /// Returns the number of bytes of memory that it keeps while parked.
    fn bytes(&self) -> u64;
}

/// The gate of one apparatus. `T` is the type that it parks.
pub struct Gate<T: Parkable> {
    lanes: Arc<Lanes>,
    control: Mutex<Control<T>>,
    bounds: Bounds,
    begin: Instant,
}

/// State that only holds, and requests under a hold, use.
struct Control<T> {
    holds: Holds<T>,
    /// For each hold, the requests that were inside when it was placed and may still be; `None` stands for the closed gate.
    drains: BTreeMap<Option<ChangeId>, Vec<InFlight>>,
    ages: InFlightAges,
    ever_parked: u64,
    longest_us: u64,
}

/// The result of parking a request.
pub enum Parked<T> {
    /// The request is parked.
    Waits,
    /// Nothing covers the request any more: the caller enters again.
    Retry(T),
    /// The limit is reached: these holds have to end (`participant::Event::Overflow`; the list is empty if the gate is closed),
    /// and the caller tries again.
    Full(T, Vec<ChangeId>),
}

/// Progress of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// No request that overlaps is in flight.
    Done,
    /// Some requests still are.
    Waiting {
        /// Their number.
        in_flight: u64,
        /// The range of the oldest one.
        oldest: Span,
        /// How long the gate has known it, as a lower bound: see [`Gate::counts`].
        age: Duration,
    },
}

/// Notifications to the control thread. Any thread calls them; they must be quick and must not call the gate.
pub trait Signal: Send + Sync {
    /// Called when a lane that a drain waited for was left, or any lane of a closed gate: the drains have to be checked again.
    fn lane_left(&self);
}

/// Requests that the end of a hold releases.
pub struct ReleasedRequests<T> {
    /// The requests in order of arrival; those that overlap must run in this order.
    pub requests: Vec<T>,
    /// Number of parked requests that this hold covered, including those that still wait for another one.
    pub parked: u64,
    /// The longest time that one of them had waited.
    pub longest: Duration,
}

impl<T> From<Released<T>> for ReleasedRequests<T> {
    fn from(freed: Released<T>) -> Self {
        Self {
            requests: freed.items,
            parked: freed.parked,
            longest: Duration::from_micros(freed.longest_us),
        }
    }
}

impl<T: Parkable> Gate<T> {
    /// Returns a gate without holds. If the kernel has no `membarrier`, entering costs a full fence.
    #[must_use]
    pub fn new(bounds: Bounds, signal: Arc<dyn Signal>) -> Self {
        Self::with_barrier(bounds, signal, Barrier::new())
    }

    /// Returns a gate whose two sides are ordered by this barrier.
    #[must_use]
    pub fn with_barrier(bounds: Bounds, signal: Arc<dyn Signal>, barrier: Barrier) -> Self {
        let control = Control {
            holds: Holds::new(),
            drains: BTreeMap::new(),
            ages: InFlightAges::new(bounds.lanes),
            ever_parked: 0,
            longest_us: 0,
        };
        Self {
            lanes: Lanes::new(bounds.lanes, barrier, signal),
            control: Mutex::new(control),
            bounds,
            begin: Instant::now(),
        }
    }

    /// Takes a lane; `None` if all are taken.
    #[must_use]
    pub fn lane(&self) -> Option<Lane> {
        self.lanes.take()
    }

    /// Tries to enter with a lane of this gate. The caller reads `generation` from the table before this call: the request will
    /// not use an older one. An empty span (`start == end`) overlaps no hold: it counts as in flight, and only [`Gate::close`]
    /// stops it.
    #[inline]
    pub fn enter<'a>(
        &self,
        lane: &'a mut Lane,
        span: Span,
        access: Access,
        generation: Generation,
    ) -> Entry<'a> {
        debug_assert!(self.lanes.owns(lane), "the lane belongs to another gate");
        lane.enter(span, access, generation)
    }

    /// Parks a request that met a hold, or that must wait for the end of a fence. In the second case the caller calls
    /// [`Gate::close`] first and leaves its pass only after this call, so that the drain before a rejoin waits until the
    /// request is parked.
    pub fn park(&self, item: T, span: Span, access: Access) -> Parked<T> {
        let mut control = self.control();
        if !control.holds.covers(&span, access) {
            return Parked::Retry(item);
        }
        let bytes = item.bytes();
        if !self.has_room(&control, bytes) {
            let holds = control.holds.cover().covering(&span, access);
            return Parked::Full(item, holds.into_iter().collect());
        }
        control.ever_parked += 1;
        let now = self.now_us();
        match control.holds.park(item, span, access, bytes, now) {
            None => Parked::Waits,
            Some(item) => Parked::Retry(item),
        }
    }

    /// Places a hold: once this call returns, no new overlapping request enters. Idempotent by id. Returns false if there are
    /// too many holds.
    #[must_use]
    pub fn hold(&self, id: ChangeId, spans: &[Span], mode: HoldMode) -> bool {
        let mut control = self.control();
        if control.holds.has(id) {
            return true;
        }
        if control.holds.holds() >= self.bounds.holds {
            return false;
        }
        control.holds.place(id, spans, mode);
        let cover = control.holds.cover().only(id);
        self.drain(&mut control, Some(id), &cover);
        true
    }

    /// Places a note: every write to these spans that enters from now on marks the regions that it touches. Those inside are drained as for a hold, and
    /// nothing is parked. Idempotent by id. Returns false if there are too many notes.
    #[must_use]
    pub fn note(&self, id: ChangeId, spans: &[Span]) -> bool {
        let mut control = self.control();
        if control.holds.has_note(id) {
            return true;
        }
        if control.holds.notes() >= self.bounds.holds {
            return false;
        }
        control.holds.place_note(id, spans);
        self.drain(&mut control, Some(id), &Cover::of(id, spans, HoldMode::Writes));
        true
    }

    /// Returns what was written since the note of this change was placed; `None` if it has none (any more).
    #[must_use]
    pub fn written(&self, id: ChangeId) -> Option<Vec<Span>> {
        self.control().holds.written(id)
    }

    /// Ends the note of this change. A hold of it stays in place.
    pub fn end_note(&self, id: ChangeId) {
        let mut control = self.control();
        control.holds.end_note(id);
        if !control.holds.has(id) {
            control.drains.remove(&Some(id));
        }
        self.show(&control);
    }

    /// Returns the progress of the drain of this hold or note; `None` if there is neither (any more: [`Gate::close`] ends all).
    #[must_use]
    pub fn drained(&self, id: ChangeId) -> Option<Drain> {
        self.progress(Some(id))
    }

    /// Removes the hold. The caller runs the requests that it gets.
    #[must_use]
    pub fn release(&self, id: ChangeId) -> ReleasedRequests<T> {
        let mut control = self.control();
        let freed = control.holds.release(id, self.now_us());
        control.drains.remove(&Some(id));
        self.reopen(&mut control, freed)
    }

    /// Parks every request from now on, whatever its range, because of a fence. Removes all holds without releasing any
    /// request. It is idempotent, and any thread that sees the fence may call it; each call removes the holds placed since the
    /// last one.
    pub fn close(&self) {
        let mut control = self.control();
        let closed = control.holds.cover().closed();
        control.holds.close();
        control.drains.retain(|drain, _| drain.is_none());
        if !closed {
            self.drain(&mut control, None, &Cover::everything());
        }
    }

    /// Returns the progress of the drain of all requests that were inside when the gate was closed; `None` if it is not closed.
    #[must_use]
    pub fn emptied(&self) -> Option<Drain> {
        self.progress(None)
    }

    /// Ends [`Gate::close`]. The caller runs the requests that it gets.
    #[must_use]
    pub fn open(&self) -> ReleasedRequests<T> {
        let mut control = self.control();
        let freed = control.holds.open(self.now_us());
        control.drains.remove(&None);
        self.reopen(&mut control, freed)
    }

    /// Parks every request from now on, whatever its range, because the lease has run out. Holds and notes stay in place: the life goes on, and may have
    /// confirmed them. It is idempotent, and any thread that finds the lease run out may call it. [`Gate::close`] ends it.
    pub fn pause(&self) {
        let mut control = self.control();
        control.holds.pause();
        self.show(&control);
    }

    /// Ends [`Gate::pause`]. The caller runs the requests that it gets; `None` if the gate was not paused.
    #[must_use]
    pub fn resume(&self) -> Option<ReleasedRequests<T>> {
        let mut control = self.control();
        if !control.holds.cover().paused() {
            return None;
        }
        let freed = control.holds.resume(self.now_us());
        Some(self.reopen(&mut control, freed))
    }

    /// Removes the requests that have been parked for `patience` or longer, whatever covers them.
    #[must_use]
    pub fn expire(&self, patience: Duration) -> Expired<T> {
        let mut control = self.control();
        let patience_us = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        let expired = control.holds.expire(patience_us, self.now_us());
        Expired {
            late: expired.late,
            free: expired.free,
        }
    }

    /// Returns the oldest generation that a request in flight may use; `current` if none is in flight. The caller calls it
    /// after the switch to `current`: requests that enter later use that one.
    #[must_use]
    pub fn oldest(&self, current: Generation) -> Generation {
        self.lanes.settle();
        self.lanes
            .inside()
            .map(|request| request.generation)
            .fold(current, Generation::min)
    }

    /// Returns the current counts. Each call also notes which requests are inside, so that a drain can report the age of a
    /// request: ages are as exact as these calls are frequent.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut control = self.control();
        let inside: Vec<_> = self.lanes.inside().collect();
        control.ages.note(&inside, self.now_us());
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Counts {
            in_flight: count(inside.len()),
            parked: count(control.holds.parked()),
            parked_bytes: control.holds.parked_bytes(),
            holds: count(control.holds.holds()),
            ever_parked: control.ever_parked,
            longest_parked_us: control.longest_us,
        }
    }

    /// Returns the requests that have been in flight for `least` or longer, with their ages, which are as exact as calls of
    /// [`Gate::counts`] are frequent.
    #[must_use]
    pub fn lasting(&self, least: Duration) -> Vec<(Span, Duration)> {
        let mut control = self.control();
        let inside: Vec<_> = self.lanes.inside().collect();
        let now_us = self.now_us();
        control.ages.note(&inside, now_us);
        let age =
            |request: &InFlight| Duration::from_micros(now_us.saturating_sub(control.ages.since(request)));
        inside
            .iter()
            .map(|request| (request.span, age(request)))
            .filter(|(_, age)| *age >= least)
            .collect()
    }

    /// Returns the number of requests parked now, by volume; volumes without any are left out.
    #[must_use]
    pub fn parked_by_volume(&self) -> BTreeMap<VolumeId, u64> {
        let control = self.control();
        let parked = control.holds.parked_by_volume().filter(|(_, count)| *count > 0);
        parked
            .map(|(volume, count)| (volume, u64::try_from(count).unwrap_or(u64::MAX)))
            .collect()
    }

    /// Checks the invariants of the parked requests ([`Holds::check`]); for tests.
    ///
    /// # Errors
    /// Fails with a description of the first invariant that is violated.
    pub fn check(&self) -> Result<(), String> {
        self.control().holds.check()
    }

    fn control(&self) -> MutexGuard<'_, Control<T>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn has_room(&self, control: &Control<T>, bytes: u64) -> bool {
        let holds = &control.holds;
        holds.parked() < self.bounds.parked
            && holds.parked_bytes().saturating_add(bytes) <= self.bounds.parked_bytes
    }

    /// Publishes a new hold and records the requests inside that it covers.
    fn drain(&self, control: &mut Control<T>, id: Option<ChangeId>, covered: &Cover) {
        self.lanes.show(control.holds.cover(), true);
        self.lanes.settle();
        let inside: Vec<_> = self.lanes.inside().collect();
        control.ages.note(&inside, self.now_us());
        let overlaps = |request: &InFlight| covered.covers(&request.span, request.access);
        control
            .drains
            .insert(id, inside.into_iter().filter(overlaps).collect());
        self.show(control);
    }

    fn progress(&self, id: Option<ChangeId>) -> Option<Drain> {
        let mut control = self.control();
        let requests = control.drains.get_mut(&id)?;
        self.lanes.await_leaving(requests);
        let requests = requests.clone();
        let Some((oldest, since_us)) = control.ages.oldest(&requests) else {
            self.show(&control);
            return Some(Drain::Done);
        };
        Some(Drain::Waiting {
            in_flight: u64::try_from(requests.len()).unwrap_or(u64::MAX),
            oldest: oldest.span,
            age: Duration::from_micros(self.now_us().saturating_sub(since_us)),
        })
    }

    fn reopen(&self, control: &mut Control<T>, freed: Released<T>) -> ReleasedRequests<T> {
        control.longest_us = control.longest_us.max(freed.longest_us);
        self.show(control);
        freed.into()
    }

    fn show(&self, control: &Control<T>) {
        let draining = control.drains.values().any(|requests| !requests.is_empty());
        self.lanes.show(control.holds.cover(), draining);
    }
}

/// Counts of the gate at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of requests inside.
    pub in_flight: u64,
    /// Number of requests parked.
    pub parked: u64,
    /// Bytes of parked writes.
    pub parked_bytes: u64,
    /// Number of holds in place.
    pub holds: u64,
    /// Number of requests parked since the gate was created.
    pub ever_parked: u64,
    /// Longest time that a request was parked, in microseconds.
    pub longest_parked_us: u64,
}
