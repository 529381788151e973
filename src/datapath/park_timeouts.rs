//! Bounded waits: for room in the gate, for the last request in flight, and for the end of a fence.

use super::parking::Parking;
use super::{Failure, Threads, Waker, lock};
use crate::gate::Signal;
use std::io;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

/// A request that waits to be parked checks again after this time, even if there was no event.
const RECHECK: Duration = Duration::from_millis(100);
/// After this time, requests are failed that were entering the gate when the timeout struck.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// Timeouts of parked requests, and the events that they wait for.
pub(super) struct ParkTimeouts {
    state: Mutex<State>,
    moved: Condvar,
    waker: Arc<Waker>,
    patience: Duration,
}

#[derive(Default)]
struct State {
    /// Counts the events that a thread may wait for.
    moves: u64,
    closed_since: Option<Instant>,
    /// The failure that ends all parked requests, and those that would be parked.
    given_up: Option<Failure>,
    ending: bool,
}

impl ParkTimeouts {
    /// Makes timeouts of an open gate. `patience` bounds how long requests wait for the end of a fence.
    pub(super) fn new(waker: Arc<Waker>, patience: Duration) -> Self {
        Self {
            state: Mutex::default(),
            moved: Condvar::new(),
            waker,
            patience,
        }
    }

    /// Records an event: requests were released, or a lane was left.
    pub(super) fn moved(&self) {
        self.change(|_| ());
    }

    /// Records that the gate is closed.
    pub(super) fn closed(&self) {
        self.change(|state| {
            state.closed_since.get_or_insert_with(Instant::now);
        });
    }

    /// Records that the gate is open again.
    pub(super) fn opened(&self) {
        self.change(|state| {
            state.closed_since = None;
            if state.given_up == Some(Failure::Fenced) {
                state.given_up = None;
            }
        });
    }

    /// Makes requests that are or would be parked fail with `failure` from now on.
    pub(super) fn give_up(&self, failure: Failure) {
        self.change(|state| state.given_up = Some(failure));
    }

    /// Returns the failure that requests get instead of being parked, if parking has been given up.
    pub(super) fn given_up(&self) -> Option<Failure> {
        lock(&self.state).given_up
    }

    /// Returns the number of events, which changes with each one.
    pub(super) fn moves(&self) -> u64 {
        lock(&self.state).moves
    }

    /// Waits until an event after `seen`, for [`RECHECK`] at most.
    pub(super) fn wait_for_room(&self, seen: u64) {
        let state = lock(&self.state);
        let _ = self
            .moved
            .wait_timeout_while(state, RECHECK, |state| state.moves == seen && !state.ending);
    }

    /// Waits until `done` holds, for `most` at most, and evaluates it after each event. Returns whether it holds.
    pub(super) fn wait_until(&self, most: Duration, done: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        loop {
            let seen = self.moves();
            if done() {
                return true;
            }
            let Some(left) = most.checked_sub(begun.elapsed()) else {
                return false;
            };
            let state = lock(&self.state);
            let _ = self
                .moved
                .wait_timeout_while(state, left, |state| state.moves == seen);
        }
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.change(|state| state.ending = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        state.moves = state.moves.wrapping_add(1);
        drop(state);
        self.moved.notify_all();
    }

    /// Waits until requests have waited for `patience` at a closed gate, and returns true; returns false when the thread is to end.
    fn wait_for_impatience(&self) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.ending {
                return false;
            }
            let left = match state.closed_since {
                None => Duration::MAX,
                Some(since) => self.patience.saturating_sub(since.elapsed()),
            };
            if left.is_zero() {
                state.given_up.get_or_insert(Failure::Fenced);
                return true;
            }
            let seen = state.moves;
            state = wait(&self.moved, state, left, |state| {
                state.moves == seen && !state.ending
            });
        }
    }
}

fn wait<'a>(
    moved: &Condvar,
    state: std::sync::MutexGuard<'a, State>,
    most: Duration,
    while_so: impl Fn(&State) -> bool,
) -> std::sync::MutexGuard<'a, State> {
    moved
        .wait_timeout_while(state, most, |state| while_so(state))
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .0
}

impl Signal for ParkTimeouts {
    fn lane_left(&self) {
        self.waker.wake();
        self.moved();
    }
}

/// Starts the thread that fails requests which have waited too long for the end of a fence. Where threads may not wait, requests wait without limit.
pub(super) fn start(
    threads: &dyn Threads,
    park_timeouts: Arc<ParkTimeouts>,
    parking: &Arc<Parking>,
) -> io::Result<()> {
    if !threads.may_wait() {
        return Ok(());
    }
    let parking = Arc::downgrade(parking);
    let watch = move || expire(&park_timeouts, &parking);
    threads.start("park_timeouts", Box::new(watch))
}

fn expire(park_timeouts: &ParkTimeouts, parking: &Weak<Parking>) {
    while park_timeouts.wait_for_impatience() {
        let Some(parking) = parking.upgrade() else {
            return;
        };
        parking.fail_parked();
        drop(parking);
        let state = lock(&park_timeouts.state);
        drop(wait(&park_timeouts.moved, state, STRAGGLERS, |state| {
            state.closed_since.is_some() && !state.ending
        }));
    }
}
