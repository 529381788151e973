//! Whose turn it is among the reader threads: as many take requests as the governor says, the others sit out.
//!
//! Each thread counts what it serves in a cache line of its own. The thread that finds a window ended adds the counts up and asks the
//! governor. Who sits out looks now and then whether the others get on; where they do not, because there is nothing to do or because a disk
//! keeps them, it takes requests again. So nobody has to be woken, and no thread wakes up while hosts are idle.

use super::governor::Governor;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// What the governor decides by.
const WINDOW: Duration = Duration::from_millis(5);
/// So many requests from one look at the clock to the next.
const LOOK: u64 = 16;
/// From one look at the others to the next: as long may a request wait whose turn is that of a thread kept by a disk.
const NAP: Duration = Duration::from_millis(4);

/// The reader threads of a mount.
pub(super) struct Turns {
    active: AtomicUsize,
    window_ends_us: AtomicU64,
    served: Box<[Line]>,
    taken: AtomicUsize,
    window: Mutex<Window>,
    began: Instant,
}

/// Alone on its pair of cache lines: processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

struct Window {
    governor: Governor,
    began_us: u64,
    served: u64,
}

/// One reader thread's.
pub(super) struct Seat {
    index: usize,
    served: u64,
    /// What the others had served when they were last found not to get on.
    stuck: Option<u64>,
}

impl Turns {
    /// For so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Self {
            active: AtomicUsize::new(threads),
            window_ends_us: AtomicU64::new(0),
            served: (0..threads).map(|_| Line::default()).collect(),
            taken: AtomicUsize::new(0),
            window: Mutex::new(Window {
                governor: Governor::new(threads),
                began_us: 0,
                served: 0,
            }),
            began: Instant::now(),
        }
    }

    /// For the calling thread; `None` when all are taken.
    pub(super) fn seat(&self) -> Option<Seat> {
        let index = self.taken.fetch_add(1, Relaxed);
        (index < self.served.len()).then_some(Seat {
            index,
            served: 0,
            stuck: None,
        })
    }

    /// The thread has served a request. Returns when it is its turn to take another; `changed` is told another number of threads.
    pub(super) fn served(&self, seat: &mut Seat, changed: impl FnOnce(usize)) {
        seat.served += 1;
        self.served[seat.index].0.store(seat.served, Relaxed);
        if seat.served.is_multiple_of(LOOK) {
            self.look(changed);
        }
        if seat.index >= self.active.load(Relaxed) {
            self.sit_out(seat);
        }
    }

    fn look(&self, changed: impl FnOnce(usize)) {
        let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if now_us < self.window_ends_us.load(Relaxed) {
            return;
        }
        // Whoever has it does the same.
        let Ok(mut window) = self.window.try_lock() else {
            return;
        };
        let number = window.end(now_us, self.served_by(self.served.len()));
        let ends_us = now_us.saturating_add(u64::try_from(WINDOW.as_micros()).unwrap_or(u64::MAX));
        self.window_ends_us.store(ends_us, Relaxed);
        if self.active.swap(number, Relaxed) != number {
            changed(number);
        }
    }

    fn sit_out(&self, seat: &mut Seat) {
        loop {
            let active = self.active.load(Relaxed);
            let others = self.served_by(active);
            if seat.index < active || seat.stuck == Some(others) {
                return;
            }
            thread::park_timeout(NAP);
            if self.served_by(active) == others {
                seat.stuck = Some(others);
                return;
            }
        }
    }

    fn served_by(&self, threads: usize) -> u64 {
        self.served[..threads]
            .iter()
            .map(|line| line.0.load(Relaxed))
            .sum()
    }
}

impl Window {
    /// Ends it, begins the next, and answers how many threads are to take requests in that.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
    fn end(&mut self, now_us: u64, served: u64) -> usize {
        let (took_us, more) = (now_us - self.began_us, served - self.served);
        (self.began_us, self.served) = (now_us, served);
        self.governor.window(more as f64 * 1e6 / took_us.max(1) as f64);
        self.governor.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of threads that take requests is set by hand here.
    fn with_active(threads: usize, active: usize) -> Turns {
        let turns = Turns::new(threads);
        turns.active.store(active, Relaxed);
        turns.window_ends_us.store(u64::MAX, Relaxed);
        turns
    }

    #[test]
    fn there_is_a_seat_for_each_thread_and_no_more() {
        let turns = Turns::new(2);
        assert_eq!(turns.seat().map(|seat| seat.index), Some(0));
        assert_eq!(turns.seat().map(|seat| seat.index), Some(1));
        assert!(turns.seat().is_none());
    }

    #[test]
    fn who_sits_out_comes_back_when_the_others_do_not_get_on_and_stays() {
        let turns = with_active(2, 1);
        let (_first, mut second) = (turns.seat().unwrap(), turns.seat().unwrap());
        turns.served(&mut second, |_| ());
        assert_eq!(second.stuck, Some(0));
        for _ in 0..10_000 {
            turns.served(&mut second, |_| ());
        }
        assert_eq!(second.served, 10_001);
    }

    #[test]
    fn who_sits_out_serves_nothing_while_another_gets_on_until_its_turn() {
        let turns = with_active(2, 1);
        let (mut first, mut second) = (turns.seat().unwrap(), turns.seat().unwrap());
        turns.served(&mut first, |_| ());
        thread::scope(|scope| {
            let sitting = scope.spawn(|| turns.served(&mut second, |_| ()));
            let rounds = 1000;
            for _ in 0..rounds {
                turns.served(&mut first, |_| ());
            }
            turns.active.store(2, Relaxed);
            sitting.join().unwrap();
        });
        assert_eq!(second.served, 1);
    }

    #[test]
    fn a_window_that_ends_asks_the_governor_once() {
        let turns = Turns::new(4);
        let mut told = Vec::new();
        turns.window_ends_us.store(u64::MAX, Relaxed);
        turns.look(|number| told.push(number));
        assert!(told.is_empty(), "the window has not ended");
        turns.served[0].0.store(1 << 40, Relaxed);
        turns.window_ends_us.store(0, Relaxed);
        turns.look(|number| told.push(number));
        assert_eq!(told, [3], "from all four to the first number of a load");
    }
}
