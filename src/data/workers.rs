//! Threads for what may wait for a disk: cold reads, zeroing, seeks, flushes, and requests that a hold or a fence had parked.
//!
//! One thread lasts. More are started while work waits and none is idle, up to a bound, and end when they have had nothing to do
//! for a while: so that a disk's queue is kept busy by as many blocked threads as it takes. A disk that does not answer keeps only
//! threads that wait for it.

use super::{Answer, Apparatus, Desk, Failure, Limits, Owned, Reply, Role, lock};
use crate::gate::Parkable;
use crate::units::{DiskId, VolumeId};
use std::collections::{BTreeMap, VecDeque};
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
/// So many requests of one disk share a thread: it works on all reads whoever waits.
const SHARE: usize = 4;

/// Requests to run one after the other.
type Chain = Vec<Owned>;

/// What may keep a job waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Awaits {
    /// Anything, for as long as it takes: each has a thread of its own.
    Anything,
    /// The disks of this volume: the same.
    Volume(VolumeId),
    /// This disk, which mostly has been told to read what is asked for.
    Disk(DiskId),
}

impl Awaits {
    fn of(chain: &Chain) -> Self {
        let Some((first, others)) = chain.split_first() else {
            return Self::Anything;
        };
        match first.awaits {
            Some(disk) if others.is_empty() => Self::Disk(disk),
            _ if others.iter().all(|other| other.volume == first.volume) => Self::Volume(first.volume),
            _ => Self::Anything,
        }
    }

    fn share(self) -> usize {
        match self {
            Self::Anything | Self::Volume(_) => 1,
            Self::Disk(_) => SHARE,
        }
    }
}

/// The threads and what waits for them.
pub(super) struct Workers {
    state: Mutex<State<Chain>>,
    wake: Condvar,
    left: Condvar,
    most_queued: usize,
    most_bytes: u64,
}

/// What waits for threads, and those. Nothing waits behind what another disk keeps: each has its own line, and no more threads than its line is
/// worth, nor more than leave some for one line more.
struct State<J> {
    lines: BTreeMap<Awaits, Line<J>>,
    /// Requests that wait, and the bytes that they keep.
    queued: usize,
    bytes: u64,
    most_threads: usize,
    threads: usize,
    /// Threads that wait and that nobody has woken.
    idle: usize,
    /// Threads that have been woken and have not noticed yet.
    woken: usize,
    ending: bool,
}

/// Jobs that wait for the same.
struct Line<J> {
    jobs: VecDeque<J>,
    /// Jobs being worked on, each by a thread.
    working: usize,
}

/// What a new job needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Waking,
    Thread,
}

impl<J> Line<J> {
    fn new() -> Self {
        Self {
            jobs: VecDeque::new(),
            working: 0,
        }
    }

    /// How many more threads are to work on it, if it may have so many.
    fn lacks(&self, share: usize, most: usize) -> usize {
        let worth = (self.jobs.len() + self.working).div_ceil(share);
        worth.min(most).saturating_sub(self.working).min(self.jobs.len())
    }
}

impl<J> State<J> {
    fn new(most_threads: usize) -> Self {
        Self {
            lines: BTreeMap::new(),
            queued: 0,
            bytes: 0,
            most_threads: most_threads.max(1),
            threads: 0,
            idle: 0,
            woken: 0,
            ending: false,
        }
    }

    fn working(&self) -> usize {
        self.lines.values().map(|line| line.working).sum()
    }

    /// Threads that the line may have: half of what the others leave.
    fn most_of(&self, line: &Line<J>) -> usize {
        let others = self.working() - line.working;
        self.most_threads.saturating_sub(others).div_ceil(2).max(1)
    }

    fn lacks(&self, awaits: Awaits, line: &Line<J>) -> usize {
        line.lacks(awaits.share(), self.most_of(line))
    }

    fn push(&mut self, awaits: Awaits, job: J) -> Need {
        self.lines
            .entry(awaits)
            .or_insert_with(Line::new)
            .jobs
            .push_back(job);
        let lacking: usize = self
            .lines
            .iter()
            .map(|(&awaits, line)| self.lacks(awaits, line))
            .sum();
        if lacking <= self.threads.saturating_sub(self.idle + self.working()) {
            // Those that are on their way take it.
            return Need::Nothing;
        }
        if self.idle > 0 {
            self.idle -= 1;
            self.woken += 1;
            return Need::Waking;
        }
        if self.threads < self.most_threads {
            return Need::Thread;
        }
        Need::Nothing
    }

    /// What a thread is to do: a job of the line with the fewest threads among those that lack some. Where there is but one line,
    /// nobody is kept by going on with it, which is cheaper than to sleep.
    fn pop(&mut self) -> Option<(Awaits, J)> {
        let alone = self.lines.len() == 1;
        let lacking = self.lines.iter().filter(|(awaits, line)| {
            self.lacks(**awaits, line) > 0 || alone && line.working < self.most_of(line)
        });
        let (&awaits, _) = lacking.min_by_key(|(_, line)| line.working)?;
        let line = self.lines.get_mut(&awaits)?;
        let job = line.jobs.pop_front()?;
        line.working += 1;
        Some((awaits, job))
    }

    /// A job has been done.
    fn done(&mut self, awaits: Awaits) {
        if let Some(line) = self.lines.get_mut(&awaits) {
            line.working -= 1;
            if line.working == 0 && line.jobs.is_empty() {
                self.lines.remove(&awaits);
            }
        }
    }
}

impl State<Chain> {
    fn add(&mut self, chain: Chain) -> Need {
        self.queued += chain.len();
        self.bytes += bytes(&chain);
        self.push(Awaits::of(&chain), chain)
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
        for chain in chains(requests) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: Awaits = Awaits::Disk(DiskId(1));
    const B: Awaits = Awaits::Disk(DiskId(2));

    /// Threads that are started at once, and take what they are to.
    struct World {
        state: State<u32>,
        taken: Vec<(Awaits, u32)>,
    }

    impl World {
        fn new(most_threads: usize) -> Self {
            let state = State::new(most_threads);
            Self { state, taken: vec![] }
        }

        fn push(&mut self, awaits: Awaits, job: u32) {
            if self.state.push(awaits, job) == Need::Thread {
                self.state.threads += 1;
                self.taken.extend(self.state.pop());
            }
        }
    }

    #[test]
    fn four_reads_of_a_disk_share_a_thread_and_anything_else_has_its_own() {
        let mut world = World::new(64);
        for job in 0..9 {
            world.push(A, job);
        }
        assert_eq!(world.state.threads, 3);
        for job in 0..5 {
            world.push(Awaits::Anything, job);
        }
        assert_eq!(world.state.threads, 8);
    }

    #[test]
    fn a_disk_that_does_not_answer_keeps_nothing_of_another() {
        let mut world = World::new(64);
        for job in 0..7 {
            world.push(A, job);
        }
        world.push(B, 0);
        world.push(Awaits::Anything, 0);
        assert_eq!(world.taken[2..], [(B, 0), (Awaits::Anything, 0)]);

        // A thread that has done what another disk gave does not go and wait for this one too, as long as there is a third.
        world.state.done(B);
        assert_eq!(world.state.pop(), None);
        world.push(B, 1);
        assert_eq!(world.state.pop(), Some((B, 1)), "by the thread that is there");
        assert_eq!(world.state.threads, 4);
    }

    #[test]
    fn each_job_is_done_once_in_the_order_of_its_line_and_nothing_is_left_over() {
        let mut world = World::new(3);
        for job in 0..40 {
            world.push([A, B][job as usize % 2], job / 2);
        }
        assert_eq!(world.state.threads, 2, "the third is left for a third line");
        let mut done = vec![];
        while let Some((awaits, job)) = world.taken.pop() {
            done.push((awaits, job));
            world.state.done(awaits);
            world.taken.extend(world.state.pop());
        }
        assert!(world.state.lines.is_empty());
        let of = |awaits| {
            done.iter()
                .filter(|job| job.0 == awaits)
                .map(|job| job.1)
                .collect::<Vec<_>>()
        };
        let mut all = [of(A), of(B)];
        all.iter_mut().for_each(|jobs| jobs.sort_unstable());
        assert_eq!(all, [(0..20).collect::<Vec<_>>(), (0..20).collect()]);
    }

    #[test]
    fn however_much_waits_for_some_there_is_a_thread_for_another() {
        let mut world = World::new(64);
        let hanging = [32, 16, 8, 4, 2, 1];
        for (volume, most) in hanging.into_iter().enumerate() {
            for job in 0..100 {
                world.push(Awaits::Volume(VolumeId(volume as u64)), job);
            }
            let line = &world.state.lines[&Awaits::Volume(VolumeId(volume as u64))];
            assert_eq!(line.working, most, "volume {volume}");
        }
        world.push(B, 7);
        assert_eq!(world.taken.last(), Some(&(B, 7)));
    }

    #[test]
    fn threads_that_have_nothing_to_do_are_not_all_taken_by_one_line() {
        let mut world = World::new(8);
        for job in 0..4 {
            world.push(Awaits::Volume(VolumeId(job)), 0);
        }
        for (awaits, _) in std::mem::take(&mut world.taken) {
            world.state.done(awaits);
        }
        for job in 0..100 {
            world.push(A, job);
        }
        let taken = (0..8).map_while(|_| world.state.pop()).count();
        assert_eq!(world.state.lines[&A].working, 4, "{taken}");
    }
}
