//! Worker threads for requests that may wait for a disk: cold reads, zeroing, seeks, flushes, and requests that a hold or a fence had parked.
//!
//! One thread is permanent. More start while jobs wait and no thread is idle, up to a bound, and end when they have been idle for a while,
//! so that enough threads block on a disk to keep its queue busy. A hung disk blocks only threads that wait for it. Where threads may not wait
//! ([`Threads::may_wait`]), none is permanent, and a job that finds no thread starts one.

use super::run_queues::{Awaits, Need, State};
use super::submit::Submitter;
use super::{Failure, IoContext, Limits, Operation, Owned, Reply, Response, Role, Threads, lock};
use crate::gate::Parkable;
use crate::model::records::DiskAccess;
use std::io;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// Time after which an idle thread ends.
const IDLE: Duration = Duration::from_secs(10);
/// Time that [`Workers::end`] waits for threads that wait for a disk.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of threads for requests that are released together.
const SPREAD: usize = 4;
/// Number of released requests that is worth another thread.
const WORTH_A_THREAD: usize = 8;

/// Requests that run one after the other.
type Chain = Vec<Owned>;

/// Worker threads, and the jobs that wait for them.
pub(super) struct Workers {
    me: Weak<Self>,
    /// Serves the requests; set when the first thread starts.
    submitter: OnceLock<Weak<Submitter>>,
    state: Mutex<State<Chain>>,
    wake: Condvar,
    left: Condvar,
    most_queued: usize,
    most_bytes: u64,
    threads: Arc<dyn Threads>,
}

/// Returns what the chain may have to wait for.
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
    /// Makes it without a thread.
    pub(super) fn new(limits: &Limits, access: DiskAccess, threads: Arc<dyn Threads>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            submitter: OnceLock::new(),
            state: Mutex::new(State::new(limits.workers, access)),
            wake: Condvar::new(),
            left: Condvar::new(),
            most_queued: limits.parked,
            most_bytes: limits.parked_bytes,
            threads,
        })
    }

    /// Starts the permanent thread. All threads serve requests with this submitter. Called once.
    pub(super) fn start(&self, submitter: &Arc<Submitter>) -> io::Result<()> {
        // There is one data path, so a second call changes nothing.
        let _ = self.submitter.set(Arc::downgrade(submitter));
        if self.threads.may_wait() {
            self.start_thread(true)?;
        }
        Ok(())
    }

    fn start_thread(&self, permanent: bool) -> io::Result<()> {
        let submitter = self.submitter.get().and_then(Weak::upgrade);
        let (Some(workers), Some(submitter)) = (self.me.upgrade(), submitter) else {
            return Err(io::Error::other("the data path is ending"));
        };
        let context = submitter
            .io_context(Role::Worker)
            .ok_or_else(|| io::Error::other("no lane left"))?;
        lock(&self.state).threads += 1;
        let slot = WorkerSlot {
            workers,
            at: None,
            left: false,
        };
        let body = move || work(slot, &submitter, context, permanent);
        self.threads.start("worker", Box::new(body))
    }

    /// Ends the threads, and waits for them for [`END_TIMEOUT`] at most. Requests that they have not begun fail.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ending = true;
        (state.queued, state.bytes) = (0, 0);
        let rest: Vec<Chain> = state
            .queues
            .values_mut()
            .flat_map(|queue| queue.jobs.drain(..))
            .collect();
        drop(state);
        self.wake.notify_all();
        rest.into_iter().flatten().for_each(refuse);
        let state = lock(&self.state);
        let _ = self
            .left
            .wait_timeout_while(state, END_TIMEOUT, |state| state.threads > 0);
    }

    /// Returns the next job for a thread that has finished one (`done`), or `None` when the thread is to end. It does not count as a thread any more
    /// then: a job that comes now may not wait for it.
    fn next(&self, done: Option<Awaits>, permanent: bool) -> Option<(Awaits, Chain)> {
        let mut state = lock(&self.state);
        if let Some(awaits) = done {
            state.done(awaits);
        }
        loop {
            if let Some(job) = state.take() {
                return Some(job);
            }
            if state.ending || !self.threads.may_wait() {
                state.threads -= 1;
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
            if timeout.timed_out() && !permanent && state.queues.values().all(|queue| queue.jobs.is_empty()) {
                state.threads -= 1;
                return None;
            }
        }
    }

    /// Queues a request for a worker. Returns it when too many are waiting already.
    pub(super) fn offer(&self, request: Owned) -> Result<(), Owned> {
        let mut state = lock(&self.state);
        let is_full = state.queued >= self.most_queued || state.bytes >= self.most_bytes;
        if state.ending || is_full {
            return Err(request);
        }
        let need = state.add(vec![request]);
        drop(state);
        self.supply_thread(&need);
        Ok(())
    }

    /// Queues requests for workers; those that overlap run in this order. Never waits and never refuses: the gate bounds their number.
    pub(super) fn run_later(&self, requests: Vec<Owned>) {
        let (flushes, others) = requests
            .into_iter()
            .partition(|request| matches!(request.operation, Operation::Flush));
        self.run_each(flushes);
        for chain in chains(others) {
            let mut state = lock(&self.state);
            if state.ending {
                drop(state);
                chain.into_iter().for_each(refuse);
                continue;
            }
            let need = state.add(chain);
            drop(state);
            self.supply_thread(&need);
        }
    }

    /// Queues flushes for workers, each by itself: one may wait long for a disk that another does not need.
    pub(super) fn run_each(&self, requests: Vec<Owned>) {
        for request in requests {
            let mut state = lock(&self.state);
            if state.ending {
                drop(state);
                refuse(request);
                continue;
            }
            let need = state.add(vec![request]);
            drop(state);
            self.supply_thread(&need);
        }
    }

    fn supply_thread(&self, need: &Need) {
        match need {
            Need::Nothing => (),
            Need::Waking => self.wake.notify_one(),
            Need::Thread => {
                // If no thread (or context) can be added, the job waits for the existing ones.
                let _ = self.start_thread(false);
            }
        }
    }
}

fn refuse(request: Owned) {
    request.reply.send(Response::Failed(Failure::Ending));
}

/// Slot of a worker thread. Dropping releases it, also for a thread that cannot be started.
struct WorkerSlot {
    workers: Arc<Workers>,
    /// Queue of the job that it runs.
    at: Option<Awaits>,
    /// Whether the thread has been told to end.
    left: bool,
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        let mut state = lock(&self.workers.state);
        if !self.left {
            state.threads -= 1;
        }
        // The thread panicked during a job.
        if let Some(awaits) = self.at {
            state.done(awaits);
        }
        drop(state);
        self.workers.left.notify_all();
    }
}

fn work(mut slot: WorkerSlot, submitter: &Submitter, mut context: IoContext, permanent: bool) {
    while let Some((awaits, chain)) = slot.workers.next(slot.at.take(), permanent) {
        slot.at = Some(awaits);
        for request in chain {
            submitter.serve(&mut context, request);
        }
    }
    slot.left = true;
}

/// Splits requests into chains that may run in parallel. Requests that overlap are in one chain, in the order given.
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
    use crate::blockdev::AlignedBytes;
    use crate::datapath::{BoxedReply, Data, Delivery, Request};
    use crate::model::units::{VolumeId, VolumeOffset};

    /// Writes `len` bytes; the first two of them are the number of the request.
    fn write(number: u16, at: u64, len: usize) -> Owned {
        let mut data = vec![0; len];
        data[..2].copy_from_slice(&number.to_le_bytes());
        let operation = Operation::Write {
            at: VolumeOffset(at),
            data: Data::Owned(AlignedBytes::copy_of(&data)),
            durable: false,
        };
        Request::new(VolumeId(1), operation, BoxedReply::new(|_| Delivery::Taken))
    }

    fn number(request: &Owned) -> u16 {
        match &request.operation {
            Operation::Write { data, .. } => u16::from_le_bytes([data[0], data[1]]),
            _ => panic!("another request"),
        }
    }

    #[test]
    fn requests_that_overlap_run_one_after_the_other_in_the_order_given() {
        // Eight places with five requests each, of which each overlaps the next; the first request spans three places.
        let place = |n: u16| write(n, u64::from(n % 8) * 1000 + u64::from(n / 8) * 100, 150);
        let mut requests = vec![write(0, 0, 2500)];
        requests.extend((1..40).rev().map(place));
        let given: Vec<_> = requests
            .iter()
            .map(|request| (number(request), request.span()))
            .collect();
        let chains = chains(requests);
        assert!(chains.len() > 1, "places that are apart run in parallel");
        let numbers: Vec<Vec<u16>> = chains
            .iter()
            .map(|chain| chain.iter().map(number).collect())
            .collect();
        assert_eq!(numbers.iter().flatten().count(), given.len());
        let at = |number: u16| {
            let in_chain = |chain: &Vec<u16>| chain.iter().position(|other| *other == number);
            numbers
                .iter()
                .enumerate()
                .find_map(|(i, chain)| Some((i, in_chain(chain)?)))
                .unwrap()
        };
        for (i, (earlier, span)) in given.iter().enumerate() {
            for (later, other) in &given[i + 1..] {
                let (first, second) = (at(*earlier), at(*later));
                let in_order = first.0 == second.0 && first.1 < second.1;
                assert!(
                    in_order || !span.overlaps(other),
                    "{earlier} before {later}: {numbers:?}"
                );
            }
        }
    }
}
