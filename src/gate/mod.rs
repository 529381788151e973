//! The gate that every host request passes: holds by range, drains, and knows who is inside.
//!
//! The fast path shares nothing: a request writes its range into its own lane with plain stores, and looks at one
//! word that says whether any hold is in place. The holding side sets that word, has the kernel put a memory barrier
//! into every thread (`membarrier`), and then reads the lanes. So either the request sees the hold or the hold sees
//! the request.

pub mod core;

use crate::pool::model::Span;
use crate::store::HoldMode;
use crate::units::{ChangeId, Generation};
use std::sync::Arc;
use std::time::Duration;

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
    /// Bytes of write data parked at once.
    pub parked_bytes: u64,
    /// Requests parked at once.
    pub parked: usize,
    /// Holds at once.
    pub holds: usize,
}

/// Something that can be parked: a request with its reply handle and its own copy of the data.
pub trait Parkable: Send + 'static {
    /// Memory that it keeps while parked, in bytes.
    fn bytes(&self) -> u64;
}

/// The gate of one apparatus. `T` is what it parks.
pub struct Gate<T: Parkable> {
    _parked: std::marker::PhantomData<fn(T)>,
}

/// A place for one request in flight. Owned by a reader thread, and moved along when its request is handed to another.
pub struct Lane {
    _private: (),
}

/// Inside the gate. Dropping it leaves.
pub struct Pass<'a> {
    _lane: &'a mut Lane,
}

/// What came of asking to enter.
pub enum Entry<'a> {
    /// Go on.
    Open(Pass<'a>),
    /// A hold covers it: make it parkable and call [`Gate::park`].
    Held,
}

/// What came of parking.
pub enum Parked<T> {
    /// It waits its turn.
    Waits,
    /// The hold is gone already: enter again.
    Retry(T),
    /// The bound is reached: these holds have to end (`participant::Event::Overflow`), and the caller tries again.
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
        /// Its age.
        age: Duration,
    },
}

/// What the gate tells the control thread. Called from any thread; must be quick and must not call the gate.
pub trait Signal: Send + Sync {
    /// A lane that a drain waited for was left: look at the drains again.
    fn lane_left(&self);
}

/// Requests let go by the end of a hold.
pub struct Let<T> {
    /// In order of arrival; those that overlap must run in this order.
    pub requests: Vec<T>,
    /// How many requests this hold had parked.
    pub parked: u64,
    /// The longest that one of them waited.
    pub longest: Duration,
}

/// What [`Gate::expire`] took out.
pub struct Expired<T> {
    /// Those that waited too long.
    pub late: Vec<T>,
    /// Those that had waited for one of these, and for nothing else: they may run.
    pub free: Vec<T>,
}

impl<T: Parkable> Gate<T> {
    /// A gate without holds.
    ///
    /// # Errors
    /// Where the kernel has no `membarrier`, nothing fails: entering then costs a full fence.
    #[must_use]
    pub fn new(_bounds: Bounds, _signal: Arc<dyn Signal>) -> Self {
        todo!()
    }

    /// A lane, or `None` when all are taken.
    #[must_use]
    pub fn lane(&self) -> Option<Lane> {
        todo!()
    }

    /// Asks to go in. `generation` is read from the table before this call: what the request will use is not older.
    /// An empty span (`start == end`) overlaps no hold: it is in flight, and is stopped by [`Gate::close`] alone.
    pub fn enter<'a>(
        &self,
        _lane: &'a mut Lane,
        _span: Span,
        _access: Access,
        _generation: Generation,
    ) -> Entry<'a> {
        todo!()
    }

    /// Parks a request that found a hold, or that must wait for the end of a fence ([`Gate::close`]).
    pub fn park(&self, _item: T, _span: Span, _access: Access) -> Parked<T> {
        todo!()
    }

    /// Places a hold: from the return of this call on, nothing new that overlaps goes in. Idempotent by id.
    /// False when there are too many.
    pub fn hold(&self, _id: ChangeId, _spans: &[Span], _mode: HoldMode) -> bool {
        todo!()
    }

    /// How far the drain of this hold is.
    #[must_use]
    pub fn drained(&self, _id: ChangeId) -> Drain {
        todo!()
    }

    /// Takes the hold away. The caller runs what it gets.
    pub fn release(&self, _id: ChangeId) -> Let<T> {
        todo!()
    }

    /// Parks every request from now on, whatever its range: fenced. Takes all holds away without letting anything go.
    pub fn close(&self) {
        todo!()
    }

    /// The end of [`Gate::close`].
    pub fn open(&self) -> Let<T> {
        todo!()
    }

    /// Takes out what has been parked for so long, covered or not, to be answered with an error, and what waited for
    /// nothing but that.
    pub fn expire(&self, _patience: Duration) -> Expired<T> {
        todo!()
    }

    /// No request in flight uses a table older than this; `current` when none is in flight.
    #[must_use]
    pub fn oldest(&self, _current: Generation) -> Generation {
        todo!()
    }

    /// Requests in flight, parked, bytes parked, holds: now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        todo!()
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
