//! Waits with bounds: for room in the gate, for the last request in flight, and for the end of a fence that takes too long.

use super::{Apparatus, Failure, Reply, lock};
use crate::control::Bell;
use crate::gate::Signal;
use std::io;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// What waits to be parked looks again after so long, even if nothing has moved.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Requests that were on their way into the gate when it was given up are found after so long.
const GLEAN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Keeper {
    state: Mutex<State>,
    moved: Condvar,
    bell: Arc<Bell>,
    patience: Duration,
}

#[derive(Default)]
struct State {
    /// Counts whatever somebody here may wait for.
    moves: u64,
    closed_since: Option<Instant>,
    /// What is parked, and what would be, is answered with this.
    given_up: Option<Failure>,
    ending: bool,
}

impl Keeper {
    /// `patience`: how long hosts wait for the end of a fence.
    pub(super) fn new(bell: Arc<Bell>, patience: Duration) -> Self {
        Self {
            state: Mutex::default(),
            moved: Condvar::new(),
            bell,
            patience,
        }
    }

    /// Something was let go, or a lane was left.
    pub(super) fn moved(&self) {
        self.change(|_| ());
    }

    /// The gate is closed.
    pub(super) fn closed(&self) {
        self.change(|state| {
            state.closed_since.get_or_insert_with(Instant::now);
        });
    }

    /// The gate is open again.
    pub(super) fn opened(&self) {
        self.change(|state| {
            state.closed_since = None;
            if state.given_up == Some(Failure::Fenced) {
                state.given_up = None;
            }
        });
    }

    /// From now on what cannot go on is answered with this.
    pub(super) fn give_up(&self, failure: Failure) {
        self.change(|state| state.given_up = Some(failure));
    }

    /// Whether parking has become pointless, and what to answer then.
    pub(super) fn given_up(&self) -> Option<Failure> {
        lock(&self.state).given_up
    }

    /// A number that changes whenever something moves.
    pub(super) fn moves(&self) -> u64 {
        lock(&self.state).moves
    }

    /// Waits until something has moved since `seen`, but not long.
    pub(super) fn wait_for_room(&self, seen: u64) {
        let state = lock(&self.state);
        let _ = self
            .moved
            .wait_timeout_while(state, LOOK_AGAIN, |state| state.moves == seen && !state.ending);
    }

    /// Waits until `done`, at most so long; looks whenever something moves. True when it is done.
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

    /// Waits until hosts have waited too long. False at the end.
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

impl Signal for Keeper {
    fn lane_left(&self) {
        self.bell.ring();
        self.moved();
    }
}

/// Starts the thread that answers hosts which have waited too long for the end of a fence.
pub(super) fn start(apparatus: &Arc<Apparatus>) -> io::Result<()> {
    let keeper = apparatus.keeper.clone();
    let apparatus = Arc::downgrade(apparatus);
    let watch = move || keep(&keeper, &apparatus);
    thread::Builder::new()
        .name("keeper".into())
        .spawn(watch)
        .map(drop)
}

fn keep(keeper: &Keeper, apparatus: &Weak<Apparatus>) {
    while keeper.wait_for_impatience() {
        let Some(apparatus) = apparatus.upgrade() else {
            return;
        };
        apparatus.fail_parked();
        drop(apparatus);
        let state = lock(&keeper.state);
        drop(wait(&keeper.moved, state, GLEAN, |state| {
            state.closed_since.is_some() && !state.ending
        }));
    }
}

impl Apparatus {
    /// Answers all that is parked by what was given up for.
    pub(super) fn fail_parked(&self) {
        let Some(failure) = self.keeper.given_up() else {
            return;
        };
        let expired = self.gate.expire(Duration::ZERO);
        for request in expired.late {
            request.reply.send(super::Answer::Failed(failure));
        }
        self.run_later(expired.free);
        self.keeper.moved();
    }
}
