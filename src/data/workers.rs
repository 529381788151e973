//! Threads for what may wait for a disk: cold reads, zeroing, seeks, flushes, and requests that a hold or a fence had parked.
//!
//! One thread lasts. More are started while work waits and none is idle, up to a bound, and end when they have had nothing to do
//! for a while: so that a disk's queue is kept busy by as many blocked threads as it takes. A disk that does not answer keeps only
//! threads that wait for it.

use super::lines::{Awaits, Need, State};
use super::{Answer, Apparatus, Desk, Failure, Limits, Operation, Owned, Reply, Role, lock};
use crate::gate::Parkable;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// An idle thread ends after so long.
const IDLE: Duration = Duration::from_secs(10);
/// How long the end waits for threads that wait for a disk.
const FAREWELL: Duration = Duration::from_secs(5);
/// Requests let go at once are spread over so many threads.
const SPREAD: usize = 4;
/// Fewer than this are not worth another thread.
const WORTH_A_THREAD: usize = 8;

/// Requests to run one after the other.
type Chain = Vec<Owned>;

/// The threads and what waits for them.
pub(super) struct Workers {
    state: Mutex<State<Chain>>,
    wake: Condvar,
    left: Condvar,
    most_queued: usize,
    most_bytes: u64,
}

/// What keeps a chain waiting.
fn awaits(chain: &Chain) -> Awaits {
    let Some((first, others)) = chain.split_first() else {
        return Awaits::Anything;
    };
    match first.awaits {
        Some(disk) if others.is_empty() => Awaits::Disk(disk),
        _ if others.iter().all(|other| other.volume == first.volume) => Awaits::Volume(first.volume),
        _ => Awaits::Anything,
    }
}

impl State<Chain> {
    fn add(&mut self, chain: Chain) -> Need {
        self.queued += chain.len();
        self.bytes += bytes(&chain);
        self.push(awaits(&chain), chain)
    }

    fn take(&mut self) -> Option<(Awaits, Chain)> {
        let (awaits, chain) = self.pop()?;
        self.queued -= chain.len();
        self.bytes -= bytes(&chain);
        Some((awaits, chain))
    }
}

fn bytes(chain: &Chain) -> u64 {
    chain.iter().map(Parkable::bytes).sum()
}

impl Workers {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::new(State::new(limits.workers)),
            wake: Condvar::new(),
            left: Condvar::new(),
            most_queued: limits.parked,
            most_bytes: limits.parked_bytes,
        }
    }

    /// Ends the threads; what they have not begun is answered with an error. Waits for them, but not for ever.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ending = true;
        (state.queued, state.bytes) = (0, 0);
        let rest: Vec<Chain> = state
            .lines
            .values_mut()
            .flat_map(|line| line.jobs.drain(..))
            .collect();
        drop(state);
        self.wake.notify_all();
        rest.into_iter().flatten().for_each(refuse);
        let state = lock(&self.state);
        let _ = self
            .left
            .wait_timeout_while(state, FAREWELL, |state| state.threads > 0);
    }

    /// The next job for a thread that has done one (`done`). `None`: the thread is to end.
    fn next(&self, done: Option<Awaits>, lasts: bool) -> Option<(Awaits, Chain)> {
        let mut state = lock(&self.state);
        if let Some(awaits) = done {
            state.done(awaits);
        }
        loop {
            if let Some(job) = state.take() {
                return Some(job);
            }
            if state.ending {
                return None;
            }
            state.idle += 1;
            let (back, timeout) = self
                .wake
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            match state.woken {
                0 => state.idle -= 1,
                _ => state.woken -= 1,
            }
            if timeout.timed_out() && !lasts && state.lines.values().all(|line| line.jobs.is_empty()) {
                return None;
            }
        }
    }
}

fn refuse(request: Owned) {
    request.reply.send(Answer::Failed(Failure::Ending));
}

impl Apparatus {
    /// Has a worker run this request. Gives it back when too many wait already.
    pub(super) fn offer(&self, request: Owned) -> Result<(), Owned> {
        let mut state = lock(&self.workers.state);
        let is_full = state.queued >= self.workers.most_queued || state.bytes >= self.workers.most_bytes;
        if state.ending || is_full {
            return Err(request);
        }
        let need = state.add(vec![request]);
        drop(state);
        self.see_to(&need);
        Ok(())
    }

    /// Has workers run these, those that overlap in this order. Never waits, and never gives up: as many as the gate parks.
    pub(super) fn run_later(&self, requests: Vec<Owned>) {
        let (flushes, others) = requests
            .into_iter()
            .partition(|request| matches!(request.operation, Operation::Flush));
        self.run_each(flushes);
        for chain in chains(others) {
            let mut state = lock(&self.workers.state);
            if state.ending {
                drop(state);
                chain.into_iter().for_each(refuse);
                continue;
            }
            let need = state.add(chain);
            drop(state);
            self.see_to(&need);
        }
    }

    /// Has workers run these flushes, each by itself: one may wait long for a disk that another has nothing to do with.
    pub(super) fn run_each(&self, requests: Vec<Owned>) {
        for request in requests {
            let mut state = lock(&self.workers.state);
            if state.ending {
                drop(state);
                refuse(request);
                continue;
            }
            let need = state.add(vec![request]);
            drop(state);
            self.see_to(&need);
        }
    }

    fn see_to(&self, need: &Need) {
        match need {
            Need::Nothing => (),
            Need::Waking => self.workers.wake.notify_one(),
            Need::Thread => {
                if let Some(apparatus) = self.me.upgrade() {
                    // Without a further thread (or desk) the work waits for those there are.
                    let _ = start(&apparatus, false);
                }
            }
        }
    }
}

/// Starts the thread that lasts.
pub(super) fn start_first(apparatus: &Arc<Apparatus>) -> io::Result<()> {
    start(apparatus, true)
}

fn start(apparatus: &Arc<Apparatus>, lasts: bool) -> io::Result<()> {
    let desk = apparatus
        .desk(Role::Worker)
        .ok_or_else(|| io::Error::other("no lane left"))?;
    lock(&apparatus.workers.state).threads += 1;
    let place = Place {
        apparatus: apparatus.clone(),
        at: None,
    };
    thread::Builder::new()
        .name("worker".into())
        .spawn(move || work(place, desk, lasts))
        .map(drop)
}

/// A thread's place among the workers; given up by dropping, also by a thread that cannot be started.
struct Place {
    apparatus: Arc<Apparatus>,
    /// What it is working on.
    at: Option<Awaits>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.apparatus.workers.state);
        state.threads -= 1;
        // A thread that panicked.
        if let Some(awaits) = self.at {
            state.done(awaits);
        }
        drop(state);
        self.apparatus.workers.left.notify_all();
    }
}

fn work(mut place: Place, mut desk: Desk, lasts: bool) {
    while let Some((awaits, chain)) = place.apparatus.workers.next(place.at.take(), lasts) {
        place.at = Some(awaits);
        for request in chain {
            place.apparatus.serve(&mut desk, request);
        }
    }
}

/// Splits requests into chains that may run side by side: those that overlap are in one chain, in the order given.
fn chains(requests: Vec<Owned>) -> Vec<Chain> {
    let lanes = requests.len().div_ceil(WORTH_A_THREAD).clamp(1, SPREAD);
    let spans: Vec<_> = requests.iter().map(Owned::span).collect();
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&i| (spans[i].volume, spans[i].start));
    let mut lane_of = vec![0; spans.len()];
    let (mut group, mut before) = (0, None);
    for i in order {
        let span = spans[i];
        let reach = match before {
            Some((volume, reach)) if volume == span.volume && span.start < reach => span.end.max(reach),
            _ => {
                group += 1;
                span.end
            }
        };
        before = Some((span.volume, reach));
        lane_of[i] = group % lanes;
    }
    let mut chains: Vec<Chain> = (0..lanes).map(|_| Vec::new()).collect();
    for (request, lane) in requests.into_iter().zip(lane_of) {
        chains[lane].push(request);
    }
    chains.retain(|chain| !chain.is_empty());
    chains
}
