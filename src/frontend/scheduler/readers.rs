//! Schedules the FUSE reader threads: as many as a rule says are active and read requests, and the others are parked. The rule is the governor, or in a direct
//! pool the number of requests in flight. One more thread is a spare, which runs only while all readers block on disks.
//!
//! Each thread counts its requests in a cache line of its own. The thread that finds a window ended adds the counts up and asks the rule. A
//! parked thread checks at intervals whether the others make progress. Where they do not, because there are no requests or because they block on
//! a disk, it reads requests again. So no thread has to be woken, and while hosts are idle only the spare wakes up at intervals.

use super::concurrency::Concurrency;
use super::governor::Governor;
use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Length of a window, over which the rule gets figures.
const WINDOW: Duration = Duration::from_millis(5);
/// Number of requests between two readings of the clock, and where each request waits for a disk.
const LOOK: u64 = 16;
const LOOK_WAITING: u64 = 4;
/// Interval at which a parked thread checks the others. A request may wait this long when all active threads block on a disk.
const NAP: Duration = Duration::from_millis(4);
/// Interval at which the spare checks the readers.
const PAUSE: Duration = Duration::from_millis(250);
/// Readers that all serve a request now, and have served no more than this many in one such interval, block on disks.
const FEW: u64 = 25;

/// The reader threads of a mount, and the spare.
pub(in crate::frontend) struct ReaderScheduler {
    readers: usize,
    active: AtomicUsize,
    look: u64,
    /// Largest number of threads that were seen busy at once in this window.
    peak: AtomicUsize,
    window_ends_us: AtomicU64,
    counters: Box<[CacheLine]>,
    taken: AtomicUsize,
    spare_slot: Arc<SpareSlot>,
    window: Mutex<Window>,
    began: Instant,
}

/// Counters of one thread, alone on a pair of cache lines: processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct CacheLine {
    served: AtomicU64,
    busy: AtomicBool,
}

struct Window {
    rule: Rule,
    began_us: u64,
    served: u64,
}

/// Rule for the number of active threads.
enum Rule {
    /// The number that serves most.
    Throughput(Governor),
    /// A number that follows the requests in flight.
    InFlight(Concurrency),
}

/// State of one reader thread, which drops it at its end.
pub(in crate::frontend) struct ReaderContext {
    index: usize,
    served: u64,
    observed: Observed,
    spare_slot: Arc<SpareSlot>,
}

/// The spare thread, and whether the mount has ended.
#[derive(Default)]
struct SpareSlot {
    is_over: AtomicBool,
    spare: OnceLock<Thread>,
}

impl Drop for ReaderContext {
    fn drop(&mut self) {
        self.spare_slot.is_over.store(true, Relaxed);
        if let Some(spare) = self.spare_slot.spare.get() {
            spare.unpark();
        }
    }
}

/// State of the other threads, as a thread saw it last.
enum Observed {
    /// A reader: the requests that the others had served when they last made no progress.
    Reader { stalled_at: Option<u64> },
    /// The spare.
    Spare(Watch),
}

struct Watch {
    looked: Instant,
    /// Requests that all readers had served by then.
    served: u64,
    /// Whether all readers blocked on disks.
    needed: bool,
}

impl ReaderContext {
    /// Returns whether the thread is the spare, which must not wait for a disk.
    pub(in crate::frontend) fn is_spare(&self) -> bool {
        matches!(self.observed, Observed::Spare(_))
    }
}

impl ReaderScheduler {
    /// Makes a scheduler for `readers` reader threads and a spare.
    pub(in crate::frontend) fn new(readers: usize) -> Self {
        Self {
            readers,
            active: AtomicUsize::new(readers),
            look: LOOK,
            peak: AtomicUsize::new(0),
            window_ends_us: AtomicU64::new(0),
            counters: (0..=readers).map(|_| CacheLine::default()).collect(),
            taken: AtomicUsize::new(0),
            spare_slot: Arc::default(),
            window: Mutex::new(Window {
                rule: Rule::Throughput(Governor::new(readers)),
                began_us: 0,
                served: 0,
            }),
            began: Instant::now(),
        }
    }

    /// Makes a scheduler for `readers` reader threads that all wait for the disks of their requests, and a spare. The number of active ones follows the
    /// requests in flight, so that few are handed to a worker.
    pub(in crate::frontend) fn waiting(readers: usize) -> Self {
        let scheduler = Self::new(readers);
        Self {
            look: LOOK_WAITING,
            window: Mutex::new(Window {
                rule: Rule::InFlight(Concurrency::new(readers)),
                began_us: 0,
                served: 0,
            }),
            ..scheduler
        }
    }

    /// Returns the context of the calling thread: the readers get theirs first, then the spare. Returns `None` when all are taken.
    pub(in crate::frontend) fn context(&self) -> Option<ReaderContext> {
        let index = self.taken.fetch_add(1, Relaxed);
        let observed = match index.cmp(&self.readers) {
            Ordering::Less => Observed::Reader { stalled_at: None },
            Ordering::Equal => {
                self.spare_slot.spare.get_or_init(thread::current);
                Observed::Spare(Watch {
                    looked: Instant::now(),
                    served: 0,
                    needed: false,
                })
            }
            Ordering::Greater => return None,
        };
        Some(ReaderContext {
            index,
            served: 0,
            observed,
            spare_slot: self.spare_slot.clone(),
        })
    }

    /// Records that the thread has read a request.
    pub(in crate::frontend) fn begins(&self, context: &ReaderContext) {
        self.counters[context.index].busy.store(true, Relaxed);
    }

    /// Records that the thread has served the request. Returns when the thread is to read another one. Calls `changed` with a new number of
    /// active threads.
    pub(in crate::frontend) fn served(&self, context: &mut ReaderContext, changed: impl FnOnce(usize)) {
        context.served += 1;
        let counter = &self.counters[context.index];
        counter.served.store(context.served, Relaxed);
        counter.busy.store(false, Relaxed);
        if context.served.is_multiple_of(self.look) {
            self.check_window(changed);
        }
        if context.index >= self.active.load(Relaxed) {
            self.wait_to_be_active(context);
        }
    }

    fn check_window(&self, changed: impl FnOnce(usize)) {
        if self.look == LOOK_WAITING {
            // The calling thread has just served a request.
            self.peak.fetch_max(1 + self.busy(), Relaxed);
        }
        if !self.window_is_over(self.now_us()) {
            return;
        }
        // The thread that has the lock ends the window too.
        if let Ok(mut window) = self.window.try_lock() {
            self.end_window(&mut window, changed);
        }
    }

    /// Returns how many threads serve a request now.
    fn busy(&self) -> usize {
        let counters = self.counters.iter();
        counters.filter(|counter| counter.busy.load(Relaxed)).count()
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn window_is_over(&self, now_us: u64) -> bool {
        now_us >= self.window_ends_us.load(Relaxed)
    }

    /// Ends the window if it is over. It reads the clock again: another thread may have ended the window meanwhile, and begun the next one later than
    /// the caller's reading.
    fn end_window(&self, window: &mut Window, changed: impl FnOnce(usize)) {
        let now_us = self.now_us();
        if !self.window_is_over(now_us) {
            return;
        }
        let peak = self.peak.swap(0, Relaxed);
        let number = window.end(now_us, self.served_by(self.counters.len()), peak);
        let ends_us = now_us.saturating_add(u64::try_from(WINDOW.as_micros()).unwrap_or(u64::MAX));
        self.window_ends_us.store(ends_us, Relaxed);
        if self.active.swap(number, Relaxed) != number {
            changed(number);
        }
    }

    #[cold]
    fn wait_to_be_active(&self, context: &mut ReaderContext) {
        match &mut context.observed {
            Observed::Reader { stalled_at } => self.stay_parked(context.index, stalled_at),
            Observed::Spare(watch) => {
                let is_over = &self.spare_slot.is_over;
                while !is_over.load(Relaxed) && !self.needs_spare(watch) {
                    thread::park_timeout(PAUSE);
                }
            }
        }
    }

    fn stay_parked(&self, index: usize, stalled_at: &mut Option<u64>) {
        loop {
            let active = self.active.load(Relaxed);
            let others = self.served_by(active);
            if index < active || *stalled_at == Some(others) {
                return;
            }
            thread::park_timeout(NAP);
            if self.served_by(active) == others {
                *stalled_at = Some(others);
                return;
            }
        }
    }

    /// Returns whether the spare is to run. Checks the readers again once [`PAUSE`] has passed.
    fn needs_spare(&self, watch: &mut Watch) -> bool {
        if watch.looked.elapsed() >= PAUSE {
            let served = self.served_by(self.readers);
            let are_busy = self.counters[..self.readers]
                .iter()
                .all(|counter| counter.busy.load(Relaxed));
            *watch = Watch {
                looked: Instant::now(),
                needed: are_busy && served - watch.served <= FEW,
                served,
            };
        }
        watch.needed
    }

    fn served_by(&self, threads: usize) -> u64 {
        self.counters[..threads]
            .iter()
            .map(|counter| counter.served.load(Relaxed))
            .sum()
    }
}

impl Window {
    /// Ends the window, begins the next one, and returns how many threads are active in that.
    fn end(&mut self, now_us: u64, served: u64, peak: usize) -> usize {
        let (took_us, more) = (
            now_us.saturating_sub(self.began_us),
            served.saturating_sub(self.served),
        );
        (self.began_us, self.served) = (now_us, served);
        match &mut self.rule {
            Rule::Throughput(governor) => {
                governor.window(rate(more, took_us));
                governor.number()
            }
            Rule::InFlight(concurrency) => concurrency.window(peak),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
fn rate(requests: u64, took_us: u64) -> f64 {
    requests as f64 * 1e6 / took_us.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a scheduler with a fixed number of active threads.
    fn with_active(threads: usize, active: usize) -> ReaderScheduler {
        let readers = ReaderScheduler::new(threads);
        readers.active.store(active, Relaxed);
        readers.window_ends_us.store(u64::MAX, Relaxed);
        readers
    }

    #[test]
    fn there_is_a_context_for_each_reader_and_one_for_a_spare() {
        let readers = ReaderScheduler::new(2);
        for is_spare in [false, false, true] {
            assert_eq!(
                readers.context().map(|context| context.is_spare()),
                Some(is_spare)
            );
        }
        assert!(readers.context().is_none());
    }

    fn needs_spare(readers: &ReaderScheduler, context: &mut ReaderContext, after: Duration) -> bool {
        let Observed::Spare(watch) = &mut context.observed else {
            panic!("not the spare's context");
        };
        watch.looked = Instant::now().checked_sub(after).unwrap();
        readers.needs_spare(watch)
    }

    #[test]
    fn the_spare_is_needed_while_each_reader_blocks_on_one_request() {
        let readers = ReaderScheduler::new(2);
        let [mut one, mut other, mut spare] = [0; 3].map(|_| readers.context().unwrap());
        assert!(!needs_spare(&readers, &mut spare, PAUSE), "no request");
        readers.begins(&one);
        assert!(!needs_spare(&readers, &mut spare, PAUSE), "one is free");
        readers.begins(&other);
        assert!(!needs_spare(&readers, &mut spare, Duration::ZERO), "not yet");
        assert!(needs_spare(&readers, &mut spare, PAUSE));
        readers.served(&mut one, |_| ());
        assert!(
            needs_spare(&readers, &mut spare, Duration::ZERO),
            "until it checks again"
        );
        assert!(!needs_spare(&readers, &mut spare, PAUSE), "one is free again");
        for _ in 0..=FEW {
            readers.begins(&one);
            readers.served(&mut one, |_| ());
        }
        readers.begins(&one);
        assert!(!needs_spare(&readers, &mut spare, PAUSE), "they make progress");
        readers.served(&mut other, |_| ());
        readers.begins(&other);
        assert!(needs_spare(&readers, &mut spare, PAUSE), "too little progress");
    }

    #[test]
    fn the_spare_takes_no_second_request_until_it_is_needed() {
        let readers = ReaderScheduler::new(1);
        let (one, mut spare) = (readers.context().unwrap(), readers.context().unwrap());
        thread::scope(|scope| {
            let standing_by = scope.spawn(|| readers.served(&mut spare, |_| ()));
            readers.begins(&one);
            standing_by.join().unwrap();
        });
        assert!(matches!(
            spare.observed,
            Observed::Spare(Watch { needed: true, .. })
        ));
    }

    #[test]
    fn the_spare_ends_when_a_reader_has_ended() {
        let readers = ReaderScheduler::new(1);
        let (one, mut spare) = (readers.context().unwrap(), readers.context().unwrap());
        thread::scope(|scope| {
            let standing_by = scope.spawn(|| readers.served(&mut spare, |_| ()));
            drop(one);
            standing_by.join().unwrap();
        });
        assert!(matches!(
            spare.observed,
            Observed::Spare(Watch { needed: false, .. })
        ));
    }

    #[test]
    fn a_parked_thread_is_active_again_while_the_others_make_no_progress() {
        let readers = with_active(2, 1);
        let (_first, mut second) = (readers.context().unwrap(), readers.context().unwrap());
        readers.served(&mut second, |_| ());
        assert!(matches!(
            second.observed,
            Observed::Reader { stalled_at: Some(0) }
        ));
        for _ in 0..10_000 {
            readers.served(&mut second, |_| ());
        }
        assert_eq!(second.served, 10_001);
    }

    #[test]
    fn a_parked_thread_serves_nothing_while_another_makes_progress_until_it_is_active() {
        let readers = with_active(2, 1);
        let (mut first, mut second) = (readers.context().unwrap(), readers.context().unwrap());
        readers.served(&mut first, |_| ());
        thread::scope(|scope| {
            let parked = scope.spawn(|| readers.served(&mut second, |_| ()));
            let rounds = 1000;
            for _ in 0..rounds {
                readers.served(&mut first, |_| ());
            }
            readers.active.store(2, Relaxed);
            parked.join().unwrap();
        });
        assert_eq!(second.served, 1);
    }

    #[test]
    fn readers_that_wait_for_disks_are_as_many_as_twice_the_requests_in_flight() {
        let readers = ReaderScheduler::waiting(16);
        readers.window_ends_us.store(u64::MAX, Relaxed);
        let mut contexts: Vec<_> = (0..4).map(|_| readers.context().unwrap()).collect();
        for context in &contexts[1..] {
            readers.begins(context);
        }
        for _ in 0..LOOK_WAITING {
            readers.served(&mut contexts[0], |number| {
                panic!("{number} are active: the window has not ended")
            });
        }
        readers.window_ends_us.store(0, Relaxed);
        let mut reported = Vec::new();
        readers.check_window(|number| reported.push(number));
        assert_eq!(reported, [8], "three were busy beside the one that looked");
    }

    #[test]
    fn a_window_that_ends_asks_the_governor_once() {
        let readers = ReaderScheduler::new(4);
        let mut reported = Vec::new();
        readers.window_ends_us.store(u64::MAX, Relaxed);
        readers.check_window(|number| reported.push(number));
        assert!(reported.is_empty(), "the window has not ended");
        readers.counters[0].served.store(1 << 40, Relaxed);
        readers.window_ends_us.store(0, Relaxed);
        readers.check_window(|number| reported.push(number));
        assert_eq!(reported, [3], "from all four to the first number of a load");
    }

    #[test]
    fn a_window_that_another_thread_has_ended_is_not_ended_twice() {
        let readers = ReaderScheduler::new(4);
        // Another thread has ended the window since this one read the clock, and the next one has begun later than that.
        readers.window_ends_us.store(u64::MAX, Relaxed);
        let mut window = readers.window.lock().unwrap();
        window.began_us = u64::MAX - 1;
        readers.end_window(&mut window, |_| panic!("ended"));
        assert_eq!(window.began_us, u64::MAX - 1);
        // The length of a window is never negative, in whatever order clock and counts are read.
        window.served = 9;
        window.end(5, 8, 0);
        assert_eq!((window.began_us, window.served), (5, 8));
    }
}
