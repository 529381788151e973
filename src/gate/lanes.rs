//! Lanes: who is inside, written by each request with plain stores into memory of its own.
//!
//! Each lane has a cache line pair of its own. Its sequence number is odd while a request is inside, and each entry and each
//! leaving adds one, so that the holding side can tell a lane's earlier request from a later one.
//!
//! # Why no request slips past a hold
//!
//! *Entering*: store the range and the odd number; light barrier; load the state word; if it says so, load the cover.
//! *Holding*: store the cover and the state word; heavy barrier; read the lanes.
//! By the argument of [`super::barrier`] a request inside the held range either sees the hold, and leaves again, or
//! its lane is seen. That is true of the cover as well, which is loaded after the state word, so it does not matter
//! that another hold had set the word before.
//!
//! Whatever enters a lane after the holder has read it was not visible at the barrier, so it sees the hold. Hence the
//! requests seen in that one reading, by lane and number, are all that the drain has to wait for, and a reading that
//! is torn by a later entry means that the earlier request has left.
//!
//! # Why a drain is always woken
//!
//! *Leaving*: store the even number; light barrier; load the state word; if a drain is under way: full fence, load
//! `awaited`, and signal if that is the number that left.
//! *Draining*: the state word is set before the heavy barrier of the hold. A request whose load of it misses that has
//! left visibly before the lanes are read. For all others: store `awaited`; full fence; load the number. Either the drain
//! sees that the request has left, or the request sees that it is awaited.
//!
//! # What is visible to whom
//!
//! The even number is stored with release and read with acquire: what a request did is done for whoever sees that it left.
//! The state word is stored with release and loaded with acquire: a request that sees the end of a hold sees the face
//! that was switched under it.

use super::barrier::Barrier;
use super::core::Cover;
use super::{Access, Signal};
use crate::pool::model::Span;
use crate::units::{Generation, VolumeId, VolumeOffset};
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

/// A hold is in place, or the gate is closed: look at the cover.
pub(super) const HELD: u32 = 1;
/// A drain is under way: look whether it waits for you.
pub(super) const DRAINING: u32 = 2;
/// The gate is closed: everybody who leaves says so.
pub(super) const CLOSED: u32 = 4;

/// Alone on its pair of cache lines: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// All lanes of a gate, and what a request looks at to enter and leave.
pub(super) struct Lanes {
    slots: Box<[Padded<Slot>]>,
    barrier: Barrier,
    state: AtomicU32,
    cover: ArcSwap<Cover>,
    signal: Arc<dyn Signal>,
    free: Padded<Mutex<Vec<usize>>>,
    /// Lanes above this were never taken.
    used: Padded<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Slot {
    sequence: AtomicU64,
    volume: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    writes: AtomicBool,
    generation: AtomicU64,
    /// The number that a drain waits for to leave.
    awaited: AtomicU64,
}

/// A request seen inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) lane: usize,
    pub(super) sequence: u64,
    pub(super) span: Span,
    pub(super) access: Access,
    pub(super) generation: Generation,
}

/// A place for one request in flight. Belongs to one thread at a time; dropping it gives it back to the gate.
pub struct Lane {
    lanes: Arc<Lanes>,
    index: usize,
    sequence: u64,
}

/// Inside the gate. Dropping it leaves.
#[must_use = "dropping a pass leaves the gate"]
pub struct Pass<'a>(&'a mut Lane);

/// Inside the gate, with the lane, so that it can go to another thread together with its request. Dropping it leaves, and
/// gives the lane back to the gate.
#[must_use = "dropping a pass leaves the gate"]
pub struct OwnedPass(Lane);

/// What came of asking to enter.
pub enum Entry<'a> {
    /// Go on.
    Open(Pass<'a>),
    /// A hold covers it: make it parkable and call [`super::Gate::park`].
    Held,
}

impl Lanes {
    pub(super) fn new(count: usize, barrier: Barrier, signal: Arc<dyn Signal>) -> Arc<Self> {
        Arc::new(Self {
            slots: (0..count).map(|_| Padded::default()).collect(),
            barrier,
            state: AtomicU32::new(0),
            cover: ArcSwap::default(),
            signal,
            free: Padded(Mutex::new((0..count).rev().collect())),
            used: Padded::default(),
        })
    }

    /// The lane freed last, so that lanes in use stay few and close together.
    pub(super) fn take(self: &Arc<Self>) -> Option<Lane> {
        let mut free = self.free.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = free.pop()?;
        self.used.0.fetch_max(index + 1, Ordering::Relaxed);
        let sequence = self.slots[index].0.sequence.load(Ordering::Relaxed);
        Some(Lane {
            lanes: Arc::clone(self),
            index,
            sequence,
        })
    }

    /// What requests look at from now on, without waiting until they do.
    pub(super) fn show(&self, cover: &Arc<Cover>, draining: bool) {
        self.cover.store(Arc::clone(cover));
        let held = if cover.is_empty() { 0 } else { HELD };
        let drain = if draining { DRAINING } else { 0 };
        let closed = if cover.closed() { CLOSED } else { 0 };
        self.state.store(held | drain | closed, Ordering::Release);
    }

    /// Whether this lane is one of these.
    pub(super) fn owns(&self, lane: &Lane) -> bool {
        std::ptr::eq(self, &raw const *lane.lanes)
    }

    /// After this every request either sees what was shown before, or is among those [`Lanes::inside`].
    pub(super) fn settle(&self) {
        self.barrier.heavy();
    }

    /// The requests inside.
    pub(super) fn inside(&self) -> impl Iterator<Item = Inside> + '_ {
        let used = self.used.0.load(Ordering::Relaxed);
        self.slots[..used]
            .iter()
            .enumerate()
            .filter_map(|(lane, slot)| slot.0.read(lane))
    }

    /// Keeps those that are still inside. Each of them signals when it leaves.
    pub(super) fn await_leaving(&self, requests: &mut Vec<Inside>) {
        for request in &*requests {
            self.slots[request.lane]
                .0
                .awaited
                .store(request.sequence, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        requests.retain(|request| {
            self.slots[request.lane].0.sequence.load(Ordering::Acquire) == request.sequence
        });
    }

    #[cold]
    #[inline(never)]
    fn covers(&self, span: &Span, access: Access) -> bool {
        self.cover.load().covers(span, access)
    }

    #[cold]
    #[inline(never)]
    fn left(&self, slot: &Slot, sequence: u64, state: u32) {
        fence(Ordering::SeqCst);
        if state & CLOSED != 0 || slot.awaited.load(Ordering::Relaxed) == sequence {
            self.signal.lane_left();
        }
    }
}

impl Slot {
    /// Who is inside; `None` too when it left while this looked.
    fn read(&self, lane: usize) -> Option<Inside> {
        let sequence = self.sequence.load(Ordering::Acquire);
        if sequence.is_multiple_of(2) {
            return None;
        }
        let span = Span {
            volume: VolumeId(self.volume.load(Ordering::Relaxed)),
            start: VolumeOffset(self.start.load(Ordering::Relaxed)),
            end: VolumeOffset(self.end.load(Ordering::Relaxed)),
        };
        let access = if self.writes.load(Ordering::Relaxed) {
            Access::Write
        } else {
            Access::Read
        };
        let generation = Generation(self.generation.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let whole = self.sequence.load(Ordering::Relaxed) == sequence;
        whole.then_some(Inside {
            lane,
            sequence,
            span,
            access,
            generation,
        })
    }
}

impl Lane {
    /// See [`super::Gate::enter`].
    #[inline]
    pub(super) fn enter(&mut self, span: Span, access: Access, generation: Generation) -> Entry<'_> {
        self.occupy(&span, access, generation);
        self.lanes.barrier.light();
        let held = self.lanes.state.load(Ordering::Acquire) & HELD != 0;
        if held && self.lanes.covers(&span, access) {
            self.vacate();
            Entry::Held
        } else {
            Entry::Open(Pass(self))
        }
    }

    #[inline]
    fn is_inside(&self) -> bool {
        !self.sequence.is_multiple_of(2)
    }

    #[inline]
    fn occupy(&mut self, span: &Span, access: Access, generation: Generation) {
        let slot = &self.lanes.slots[self.index].0;
        // Orders the even number before the range that follows, for a reader that is between the two.
        fence(Ordering::Release);
        slot.volume.store(span.volume.0, Ordering::Relaxed);
        slot.start.store(span.start.0, Ordering::Relaxed);
        slot.end.store(span.end.0, Ordering::Relaxed);
        slot.writes.store(access == Access::Write, Ordering::Relaxed);
        slot.generation.store(generation.0, Ordering::Relaxed);
        self.sequence += 1;
        slot.sequence.store(self.sequence, Ordering::Release);
    }

    #[inline]
    fn vacate(&mut self) {
        let slot = &self.lanes.slots[self.index].0;
        let left = self.sequence;
        self.sequence += 1;
        slot.sequence.store(self.sequence, Ordering::Release);
        self.lanes.barrier.light();
        let state = self.lanes.state.load(Ordering::Relaxed);
        if state & (DRAINING | CLOSED) != 0 {
            self.lanes.left(slot, left, state);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.is_inside() {
            self.vacate();
        }
        self.lanes
            .free
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.index);
    }
}

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.vacate();
    }
}

impl Pass<'_> {
    /// Takes the request's lane along and leaves another one in its place, for the next request of this thread.
    pub fn into_owned(self, fresh: Lane) -> OwnedPass {
        let lane = std::mem::replace(&mut *self.0, fresh);
        std::mem::forget(self);
        OwnedPass(lane)
    }
}

impl OwnedPass {
    /// Leaves, after the reply was sent, and keeps the lane for another request.
    #[must_use = "dropping the lane gives it back to the gate"]
    pub fn leave(mut self) -> Lane {
        self.0.vacate();
        self.0
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("index", &self.index)
            .field("sequence", &self.sequence)
            .finish()
    }
}
