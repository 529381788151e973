//! Lanes: each request records that it is inside, with plain stores into memory of its own.
//!
//! Each lane has its own pair of cache lines. Its sequence number is odd while a request is inside; each entry and each leave
//! adds one, so that the holding side can distinguish a lane's earlier request from a later one.
//!
//! # Why no request slips past a hold
//!
//! *Entering*: store the range and the odd number; light barrier; load the state word; if it has the hold flag, load the cover.
//!
//! *Holding*: store the cover and the state word; heavy barrier; read the lanes.
//!
//! By the argument of [`super::barrier`] a request inside the held range either sees the hold, and leaves again, or its lane
//! is seen. The same is true of the cover, which is loaded after the state word, so it does not matter whether another hold had
//! set the word before.
//!
//! A request that enters a lane after the holding thread has read it was not visible at the barrier, so it sees the hold. Hence
//! the drain has to wait only for the requests seen in that one reading, by lane and number, and a reading that is torn by a
//! later entry means that the earlier request has left.
//!
//! A note of writes is part of the cover too. So a write either sees the note, and marks it before it goes on, or it is among those inside when the note
//! is placed, and is drained. Its marks are made before it leaves: who has seen it leave, in the drain of a later hold, sees them.
//!
//! # Why a drain is always woken
//!
//! *Leaving*: store the even number; light barrier; load the state word; if a drain is under way: full fence, load
//! `awaited`, and signal if that is the number that left.
//! *Draining*: the state word is set before the heavy barrier of the hold. A request whose load of it misses that has
//! left visibly before the lanes are read. For all others: store `awaited`; full fence; load the number. Either the drain
//! sees that the request has left, or the request sees that it is awaited.
//!
//! # Visibility
//!
//! The even number is stored with release and read with acquire: the effects of a request are visible to a thread that sees
//! that it left. The state word is stored with release and loaded with acquire: a request that sees the end of a hold sees the
//! version that was switched under it.

use super::barrier::Barrier;
use super::core::Cover;
use super::{Access, Signal};
use crate::model::records::Span;
use crate::model::units::{Generation, VolumeId, VolumeOffset};
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

/// A hold or a note is in place, or the gate is closed: entering requests must check the cover.
pub(super) const HELD: u32 = 1;
/// A drain is under way: leaving requests must check whether it waits for them.
pub(super) const DRAINING: u32 = 2;
/// The gate is closed: every request that leaves signals.
pub(super) const CLOSED: u32 = 4;

/// A value alone on its pair of cache lines, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// All lanes of a gate, and the state that requests check when they enter and leave.
pub(super) struct Lanes {
    slots: Box<[Padded<Slot>]>,
    barrier: Barrier,
    state: AtomicU32,
    cover: ArcSwap<Cover>,
    signal: Arc<dyn Signal>,
    free: Padded<Mutex<Vec<usize>>>,
    /// Lanes at and above this index were never taken.
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
    /// The sequence number whose leaving a drain waits for.
    awaited: AtomicU64,
}

/// A request that was seen inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) lane: usize,
    pub(super) sequence: u64,
    pub(super) span: Span,
    pub(super) access: Access,
    pub(super) generation: Generation,
}

/// A slot for one request in flight. It belongs to one thread at a time; dropping it returns it to the gate.
pub struct Lane {
    lanes: Arc<Lanes>,
    index: usize,
    sequence: u64,
}

/// Proof that a request is inside the gate. Dropping it leaves.
#[must_use = "dropping a pass leaves the gate"]
pub struct Pass<'a>(&'a mut Lane);

/// Proof that a request is inside the gate, with its lane, so that it can go to another thread together with the request.
/// Dropping it leaves and returns the lane to the gate.
#[must_use = "dropping a pass leaves the gate"]
pub struct OwnedPass(Lane);

/// The result of a request's attempt to enter.
pub enum Entry<'a> {
    /// The request is inside.
    Open(Pass<'a>),
    /// A hold covers the request: the caller makes it parkable and calls [`super::Gate::park`].
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

    /// Takes the lane that was freed last, so that the lanes in use stay few and close together.
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

    /// Publishes the state that requests check from now on; does not wait until they see it.
    pub(super) fn show(&self, cover: &Arc<Cover>, draining: bool) {
        self.cover.store(Arc::clone(cover));
        let held = if cover.is_empty() { 0 } else { HELD };
        let drain = if draining { DRAINING } else { 0 };
        let closed = if cover.closed() { CLOSED } else { 0 };
        self.state.store(held | drain | closed, Ordering::Release);
    }

    /// Returns whether this lane belongs to this gate.
    pub(super) fn owns(&self, lane: &Lane) -> bool {
        std::ptr::eq(self, &raw const *lane.lanes)
    }

    /// Runs the heavy barrier: every request either sees the state published before, or is among those that [`Lanes::inside`]
    /// then returns.
    pub(super) fn settle(&self) {
        self.barrier.heavy();
    }

    /// Returns the requests inside.
    pub(super) fn inside(&self) -> impl Iterator<Item = InFlight> + '_ {
        let used = self.used.0.load(Ordering::Relaxed);
        self.slots[..used]
            .iter()
            .enumerate()
            .filter_map(|(lane, slot)| slot.0.read(lane))
    }

    /// Keeps only those requests that are still inside. Each of them signals when it leaves.
    pub(super) fn await_leaving(&self, requests: &mut Vec<InFlight>) {
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
        let cover = self.cover.load();
        let covers = cover.covers(span, access);
        if !covers {
            cover.note(span, access);
        }
        covers
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
    /// Returns the request inside; `None` also if it left during the read.
    fn read(&self, lane: usize) -> Option<InFlight> {
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
        whole.then_some(InFlight {
            lane,
            sequence,
            span,
            access,
            generation,
        })
    }
}

impl Lane {
    /// Enters; see [`super::Gate::enter`].
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
        // This fence orders the even number before the range that follows, for a reader between the two.
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
    /// Takes the request's lane out and leaves another one for the next request of this thread.
    pub fn into_owned(self, fresh: Lane) -> OwnedPass {
        let lane = std::mem::replace(&mut *self.0, fresh);
        std::mem::forget(self);
        OwnedPass(lane)
    }
}

impl OwnedPass {
    /// Leaves, after the reply was sent, and returns the lane for another request.
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
