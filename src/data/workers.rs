//! Threads for what may wait for a disk: cold reads, zeroing, seeks, flushes, and requests that a hold or a fence had parked.
//!
//! One thread lasts. More are started while work waits and none is idle, up to a bound, and end when they have had nothing to do
//! for a while: so that a disk's queue is kept busy by as many blocked threads as it takes.

use super::{Answer, Apparatus, Desk, Failure, Owned, Reply, Role, lock};
use std::collections::VecDeque;
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

/// A job that may keep its thread as long as a disk takes counts this much, a read whose bytes are on their way already counts 1: so
/// many of those share a thread, because the disk works on all of them whoever waits.
const WHOLE_THREAD: usize = 4;

/// Requests to run one after the other.
type Chain = Vec<Owned>;

fn weight(chain: &Chain) -> usize {
    match chain[..] {
        [Owned { fetched: true, .. }] => 1,
        _ => WHOLE_THREAD,
    }
}

/// The threads and what waits for them.
pub(super) struct Workers {
    state: Mutex<State>,
    wake: Condvar,
    left: Condvar,
    most_threads: usize,
    most_queued: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Chain>,
    queued: usize,
    /// What is queued and what is being worked on, by weight.
    load: usize,
    threads: usize,
    /// Threads that wait and that nobody has woken.
    idle: usize,
    /// Threads that have been woken and have not noticed yet.
    woken: usize,
    ending: bool,
}

/// What a new job needs.
enum Need {
    Nothing,
    Waking,
    Thread,
}

impl State {
    fn push(&mut self, chain: Chain, most_threads: usize) -> Need {
        self.load += weight(&chain);
        self.queued += chain.len();
        self.queue.push_back(chain);
        if self.threads - self.idle >= self.load.div_ceil(WHOLE_THREAD) {
            // Those at work take it when they have done what they are at.
            return Need::Nothing;
        }
        if self.idle > 0 {
            self.idle -= 1;
            self.woken += 1;
            return Need::Waking;
        }
        if self.threads < most_threads {
            return Need::Thread;
        }
        Need::Nothing
    }

    fn pop(&mut self) -> Option<Chain> {
        let chain = self.queue.pop_front()?;
        self.queued -= chain.len();
        Some(chain)
    }
}

impl Workers {
    pub(super) fn new(most_threads: usize, most_queued: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            left: Condvar::new(),
            most_threads: most_threads.max(1),
            most_queued,
        }
    }

    /// Ends the threads; what they have not begun is answered with an error. Waits for them, but not for ever.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ending = true;
        state.queued = 0;
        let rest: Vec<Chain> = state.queue.drain(..).collect();
        drop(state);
        self.wake.notify_all();
        rest.into_iter().flatten().for_each(refuse);
        let state = lock(&self.state);
        let _ = self
            .left
            .wait_timeout_while(state, FAREWELL, |state| state.threads > 0);
    }

    /// The next job for a thread that has done one of weight `done`. `None`: the thread is to end.
    fn next(&self, done: usize, lasts: bool) -> Option<Chain> {
        let mut state = lock(&self.state);
        state.load -= done;
        loop {
            if let Some(chain) = state.pop() {
                return Some(chain);
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
            if timeout.timed_out() && !lasts && state.queue.is_empty() {
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
        if state.ending || state.queued >= self.workers.most_queued {
            return Err(request);
        }
        let need = state.push(vec![request], self.workers.most_threads);
        drop(state);
        self.see_to(&need);
        Ok(())
    }

    /// Has workers run these, those that overlap in this order. Never waits, and never gives up: as many as the gate parks.
    pub(super) fn run_later(&self, requests: Vec<Owned>) {
        for chain in chains(requests) {
            let mut state = lock(&self.workers.state);
            if state.ending {
                drop(state);
                chain.into_iter().for_each(refuse);
                continue;
            }
            let need = state.push(chain, self.workers.most_threads);
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
    let place = Place(apparatus.clone());
    thread::Builder::new()
        .name("worker".into())
        .spawn(move || work(&place, desk, lasts))
        .map(drop)
}

/// A thread's place among the workers; given up by dropping, also by a thread that cannot be started.
struct Place(Arc<Apparatus>);

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.0.workers.state).threads -= 1;
        self.0.workers.left.notify_all();
    }
}

fn work(place: &Place, mut desk: Desk, lasts: bool) {
    let mut done = 0;
    while let Some(chain) = place.0.workers.next(done, lasts) {
        done = weight(&chain);
        for request in chain {
            place.0.serve(&mut desk, request);
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
