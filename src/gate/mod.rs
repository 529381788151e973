//! The gate that every host request passes: holds by range, drains, and knows who is inside.
//!
//! The fast path shares nothing: a request writes its range into its own lane with plain stores, and looks at one
//! word that says whether any hold is in place. The holding side sets that word, has the kernel put a memory barrier
//! into every thread (`membarrier`), and then reads the lanes. So either the request sees the hold or the hold sees
//! the request.

pub mod barrier;
pub mod core;
mod lanes;
mod sights;
#[cfg(test)]
mod tests;

pub use self::core::Expired;
pub use lanes::{Entry, Lane, OwnedPass, Pass};

use self::core::{Cover, Freed, Holds};
use crate::pool::model::Span;
use crate::store::HoldMode;
use crate::units::{ChangeId, Generation, VolumeId};
use barrier::Barrier;
use lanes::{Inside, Lanes};
use sights::Sights;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a request does to its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads, seeks.
    Read,
    /// Writes, punches, zeroes.
    Write,
}

/// Bounds of a gate.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests in flight at once; one lane each.
    pub lanes: usize,
    /// Bytes of write data parked at once; not less than the largest request has.
    pub parked_bytes: u64,
    /// Requests parked at once.
    pub parked: usize,
    /// Holds at once.
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
    /// Memory that it keeps while parked, in bytes.
    fn bytes(&self) -> u64;
}

/// The gate of one apparatus. `T` is what it parks.
pub struct Gate<T: Parkable> {
    lanes: Arc<Lanes>,
    control: Mutex<Control<T>>,
    bounds: Bounds,
    begin: Instant,
}

/// What only holds, and requests under a hold, look at.
struct Control<T> {
    holds: Holds<T>,
    /// By hold, those that were inside when it was placed and may still be; `None` is the closed gate's.
    drains: BTreeMap<Option<ChangeId>, Vec<Inside>>,
    sights: Sights,
    ever_parked: u64,
    longest_us: u64,
}

/// What came of parking.
pub enum Parked<T> {
    /// It waits its turn.
    Waits,
    /// Nothing covers it any more: enter again.
    Retry(T),
    /// The bound is reached: these holds have to end (`participant::Event::Overflow`; none are named when the gate
    /// is closed), and the caller tries again.
    Full(T, Vec<ChangeId>),
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Nothing that overlaps is in flight.
    Done,
    /// So many still are.
    Waiting {
        /// How many.
        in_flight: u64,
        /// Where the oldest is, and since when.
        oldest: Span,
        /// For how long the gate has known it, at least: see [`Gate::counts`].
        age: Duration,
    },
}

/// What the gate tells the control thread. Called from any thread; must be quick and must not call the gate.
pub trait Signal: Send + Sync {
    /// A lane that a drain waited for was left, or any lane of a closed gate: look at the drains again.
    fn lane_left(&self);
}

/// Requests let go by the end of a hold.
pub struct Let<T> {
    /// In order of arrival; those that overlap must run in this order.
    pub requests: Vec<T>,
    /// How many parked requests this hold covered, those included that still wait for another.
    pub parked: u64,
    /// The longest that one of them had waited.
    pub longest: Duration,
}

impl<T> From<Freed<T>> for Let<T> {
    fn from(freed: Freed<T>) -> Self {
        Self {
            requests: freed.items,
            parked: freed.parked,
            longest: Duration::from_micros(freed.longest_us),
        }
    }
}

impl<T: Parkable> Gate<T> {
    /// A gate without holds. Where the kernel has no `membarrier`, entering costs a full fence.
    #[must_use]
    pub fn new(bounds: Bounds, signal: Arc<dyn Signal>) -> Self {
        Self::with_barrier(bounds, signal, Barrier::new())
    }

    /// A gate whose two sides are kept in order by this barrier.
    #[must_use]
    pub fn with_barrier(bounds: Bounds, signal: Arc<dyn Signal>, barrier: Barrier) -> Self {
        let control = Control {
            holds: Holds::new(),
            drains: BTreeMap::new(),
            sights: Sights::new(bounds.lanes),
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

    /// A lane, or `None` when all are taken.
    #[must_use]
    pub fn lane(&self) -> Option<Lane> {
        self.lanes.take()
    }

    /// Asks to go in, with a lane of this gate. `generation` is read from the table before this call: what the request
    /// will use is not older. An empty span (`start == end`) overlaps no hold: it is in flight, and is stopped by
    /// [`Gate::close`] alone.
    #[inline]
    pub fn enter<'a>(
        &self,
        lane: &'a mut Lane,
        span: Span,
        access: Access,
        generation: Generation,
    ) -> Entry<'a> {
        debug_assert!(self.lanes.owns(lane), "the lane of another gate");
        lane.enter(span, access, generation)
    }

    /// Parks a request that found a hold, or that must wait for the end of a fence. The latter calls [`Gate::close`] first
    /// and leaves its pass only after this, so that the drain that precedes a rejoin waits until it is parked.
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

    /// Places a hold: from the return of this call on, nothing new that overlaps goes in. Idempotent by id.
    /// False when there are too many.
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

    /// How far the drain of this hold is; `None` when there is no such hold (any more: [`Gate::close`] ends all).
    #[must_use]
    pub fn drained(&self, id: ChangeId) -> Option<Drain> {
        self.progress(Some(id))
    }

    /// Takes the hold away. The caller runs what it gets.
    #[must_use]
    pub fn release(&self, id: ChangeId) -> Let<T> {
        let mut control = self.control();
        let freed = control.holds.release(id, self.now_us());
        control.drains.remove(&Some(id));
        self.reopen(&mut control, freed)
    }

    /// Parks every request from now on, whatever its range: fenced. Takes all holds away without letting anything go.
    /// Idempotent, and may be called by any thread that sees the fence; each call takes away the holds placed since the last one.
    pub fn close(&self) {
        let mut control = self.control();
        let closed = control.holds.cover().closed();
        control.holds.close();
        control.drains.retain(|drain, _| drain.is_none());
        if !closed {
            self.drain(&mut control, None, &Cover::everything());
        }
    }

    /// How far the drain of everything is that was inside when the gate was closed; `None` when it is not closed.
    #[must_use]
    pub fn emptied(&self) -> Option<Drain> {
        self.progress(None)
    }

    /// The end of [`Gate::close`]. The caller runs what it gets.
    #[must_use]
    pub fn open(&self) -> Let<T> {
        let mut control = self.control();
        let freed = control.holds.open(self.now_us());
        control.drains.remove(&None);
        self.reopen(&mut control, freed)
    }

    /// Takes out the requests that have been parked for `patience` or longer, whatever covers them.
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

    /// No request in flight uses a table older than this; `current` when none is in flight. Call it after the switch to
    /// `current`: whoever enters later looks there.
    #[must_use]
    pub fn oldest(&self, current: Generation) -> Generation {
        self.lanes.settle();
        self.lanes
            .inside()
            .map(|request| request.generation)
            .fold(current, Generation::min)
    }

    /// Requests in flight, parked, bytes parked, holds: now. Each call also notes who is inside, so that a
    /// drain can tell the age of a request: it is as exact as these calls are frequent.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut control = self.control();
        let inside: Vec<_> = self.lanes.inside().collect();
        control.sights.note(&inside, self.now_us());
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

    /// What is in flight for so long or longer, and for how long: as exact as calls of [`Gate::counts`] are frequent.
    #[must_use]
    pub fn lasting(&self, least: Duration) -> Vec<(Span, Duration)> {
        let mut control = self.control();
        let inside: Vec<_> = self.lanes.inside().collect();
        let now_us = self.now_us();
        control.sights.note(&inside, now_us);
        let age =
            |request: &Inside| Duration::from_micros(now_us.saturating_sub(control.sights.since(request)));
        inside
            .iter()
            .map(|request| (request.span, age(request)))
            .filter(|(_, age)| *age >= least)
            .collect()
    }

    /// Requests parked now, by volume; without those of which there are none.
    #[must_use]
    pub fn parked_by_volume(&self) -> BTreeMap<VolumeId, u64> {
        let control = self.control();
        let parked = control.holds.parked_by_volume().filter(|(_, count)| *count > 0);
        parked
            .map(|(volume, count)| (volume, u64::try_from(count).unwrap_or(u64::MAX)))
            .collect()
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

    /// Makes a new hold known, and notes who is inside of what it covers.
    fn drain(&self, control: &mut Control<T>, id: Option<ChangeId>, covered: &Cover) {
        self.lanes.show(control.holds.cover(), true);
        self.lanes.settle();
        let inside: Vec<_> = self.lanes.inside().collect();
        control.sights.note(&inside, self.now_us());
        let overlaps = |request: &Inside| covered.covers(&request.span, request.access);
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
        let Some((oldest, since_us)) = control.sights.oldest(&requests) else {
            self.show(&control);
            return Some(Drain::Done);
        };
        Some(Drain::Waiting {
            in_flight: u64::try_from(requests.len()).unwrap_or(u64::MAX),
            oldest: oldest.span,
            age: Duration::from_micros(self.now_us().saturating_sub(since_us)),
        })
    }

    fn reopen(&self, control: &mut Control<T>, freed: Freed<T>) -> Let<T> {
        control.longest_us = control.longest_us.max(freed.longest_us);
        self.show(control);
        freed.into()
    }

    fn show(&self, control: &Control<T>) {
        let draining = control.drains.values().any(|requests| !requests.is_empty());
        self.lanes.show(control.holds.cover(), draining);
    }
}

/// What is in the gate now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests inside.
    pub in_flight: u64,
    /// Requests parked.
    pub parked: u64,
    /// Bytes of parked writes.
    pub parked_bytes: u64,
    /// Holds in place.
    pub holds: u64,
    /// Requests ever parked.
    pub ever_parked: u64,
    /// Longest that one was parked, in microseconds.
    pub longest_parked_us: u64,
}
