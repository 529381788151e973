//! Whose turn it is among the reader threads: as many take requests as the governor says, the others sit out. One more stands by as a
//! spare, for the time when disks keep all of them.
//!
//! Each thread counts what it serves in a cache line of its own. The thread that finds a window ended adds the counts up and asks the
//! governor. Who sits out looks now and then whether the others get on; where they do not, because there is nothing to do or because a disk
//! keeps them, it takes requests again. So nobody has to be woken, and while hosts are idle only the spare wakes up, now and then.

use super::governor::Governor;
use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// What the governor decides by.
const WINDOW: Duration = Duration::from_millis(5);
/// So many requests from one look at the clock to the next.
const LOOK: u64 = 16;
/// From one look at the others to the next: as long may a request wait whose turn is that of a thread kept by a disk.
const NAP: Duration = Duration::from_millis(4);
/// From one look of the spare at the readers to its next.
const PAUSE: Duration = Duration::from_millis(250);
/// Readers that have served no more than so many requests in that time, and are at one now, are kept by disks.
const FEW: u64 = 25;

/// The reader threads of a mount, and the spare.
pub(super) struct Turns {
    readers: usize,
    active: AtomicUsize,
    window_ends_us: AtomicU64,
    lines: Box<[Line]>,
    taken: AtomicUsize,
    standby: Arc<Standby>,
    window: Mutex<Window>,
    began: Instant,
}

/// Alone on its pair of cache lines: processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Line {
    served: AtomicU64,
    busy: AtomicBool,
}

struct Window {
    governor: Governor,
    began_us: u64,
    served: u64,
}

/// One thread's, until that ends.
pub(super) struct Seat {
    index: usize,
    served: u64,
    place: Place,
    standby: Arc<Standby>,
}

/// Tells the spare that the mount has ended.
#[derive(Default)]
struct Standby {
    is_over: AtomicBool,
    spare: OnceLock<Thread>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.standby.is_over.store(true, Relaxed);
        if let Some(spare) = self.standby.spare.get() {
            spare.unpark();
        }
    }
}

/// What a thread remembers of the others.
enum Place {
    /// What they had served when they were last found not to get on.
    Reader { stuck: Option<u64> },
    /// What the spare saw last.
    Spare(Watch),
}

struct Watch {
    looked: Instant,
    /// By all readers until then.
    served: u64,
    /// Whether disks kept them.
    needed: bool,
}

impl Seat {
    /// Whether it is for the time when disks keep all readers: whoever has it must not wait for a disk.
    pub(super) fn is_spare(&self) -> bool {
        matches!(self.place, Place::Spare(_))
    }
}

impl Turns {
    /// For so many readers.
    pub(super) fn new(readers: usize) -> Self {
        Self {
            readers,
            active: AtomicUsize::new(readers),
            window_ends_us: AtomicU64::new(0),
            lines: (0..=readers).map(|_| Line::default()).collect(),
            taken: AtomicUsize::new(0),
            standby: Arc::default(),
            window: Mutex::new(Window {
                governor: Governor::new(readers),
                began_us: 0,
                served: 0,
            }),
            began: Instant::now(),
        }
    }

    /// For the calling thread: the readers', then the spare's. `None` when all are taken.
    pub(super) fn seat(&self) -> Option<Seat> {
        let index = self.taken.fetch_add(1, Relaxed);
        let place = match index.cmp(&self.readers) {
            Ordering::Less => Place::Reader { stuck: None },
            Ordering::Equal => {
                self.standby.spare.get_or_init(thread::current);
                Place::Spare(Watch {
                    looked: Instant::now(),
                    served: 0,
                    needed: false,
                })
            }
            Ordering::Greater => return None,
        };
        Some(Seat {
            index,
            served: 0,
            place,
            standby: self.standby.clone(),
        })
    }

    /// The thread has taken a request.
    pub(super) fn begins(&self, seat: &Seat) {
        self.lines[seat.index].busy.store(true, Relaxed);
    }

    /// The thread has served it. Returns when it is its turn to take another; `changed` is told another number of threads.
    pub(super) fn served(&self, seat: &mut Seat, changed: impl FnOnce(usize)) {
        seat.served += 1;
        let line = &self.lines[seat.index];
        line.served.store(seat.served, Relaxed);
        line.busy.store(false, Relaxed);
        if seat.served.is_multiple_of(LOOK) {
            self.look(changed);
        }
        if seat.index >= self.active.load(Relaxed) {
            self.wait_for_turn(seat);
        }
    }

    fn look(&self, changed: impl FnOnce(usize)) {
        if !self.window_is_over(self.now_us()) {
            return;
        }
        // Whoever has it does the same.
        if let Ok(mut window) = self.window.try_lock() {
            self.end_window(&mut window, changed);
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn window_is_over(&self, now_us: u64) -> bool {
        now_us >= self.window_ends_us.load(Relaxed)
    }

    /// Looks at the clock again: another thread may have ended the window that this one found over, and have begun the next one later than it looked.
    fn end_window(&self, window: &mut Window, changed: impl FnOnce(usize)) {
        let now_us = self.now_us();
        if !self.window_is_over(now_us) {
            return;
        }
        let number = window.end(now_us, self.served_by(self.lines.len()));
        let ends_us = now_us.saturating_add(u64::try_from(WINDOW.as_micros()).unwrap_or(u64::MAX));
        self.window_ends_us.store(ends_us, Relaxed);
        if self.active.swap(number, Relaxed) != number {
            changed(number);
        }
    }

    #[cold]
    fn wait_for_turn(&self, seat: &mut Seat) {
        match &mut seat.place {
            Place::Reader { stuck } => self.sit_out(seat.index, stuck),
            Place::Spare(watch) => {
                let is_over = &self.standby.is_over;
                while !is_over.load(Relaxed) && !self.needs_spare(watch) {
                    thread::park_timeout(PAUSE);
                }
            }
        }
    }

    fn sit_out(&self, index: usize, stuck: &mut Option<u64>) {
        loop {
            let active = self.active.load(Relaxed);
            let others = self.served_by(active);
            if index < active || *stuck == Some(others) {
                return;
            }
            thread::park_timeout(NAP);
            if self.served_by(active) == others {
                *stuck = Some(others);
                return;
            }
        }
    }

    /// Looks again once the pause is over.
    fn needs_spare(&self, watch: &mut Watch) -> bool {
        if watch.looked.elapsed() >= PAUSE {
            let served = self.served_by(self.readers);
            let are_busy = self.lines[..self.readers]
                .iter()
                .all(|line| line.busy.load(Relaxed));
            *watch = Watch {
                looked: Instant::now(),
                needed: are_busy && served - watch.served <= FEW,
                served,
            };
        }
        watch.needed
    }

    fn served_by(&self, threads: usize) -> u64 {
        self.lines[..threads]
            .iter()
            .map(|line| line.served.load(Relaxed))
            .sum()
    }
}

impl Window {
    /// Ends it, begins the next, and answers how many threads are to take requests in that.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
    fn end(&mut self, now_us: u64, served: u64) -> usize {
        let (took_us, more) = (
            now_us.saturating_sub(self.began_us),
            served.saturating_sub(self.served),
        );
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
    fn there_is_a_seat_for_each_reader_and_one_for_a_spare() {
        let turns = Turns::new(2);
        for is_spare in [false, false, true] {
            assert_eq!(turns.seat().map(|seat| seat.is_spare()), Some(is_spare));
        }
        assert!(turns.seat().is_none());
    }

    fn needs_spare(turns: &Turns, seat: &mut Seat, after: Duration) -> bool {
        let Place::Spare(watch) = &mut seat.place else {
            panic!("not the spare's seat");
        };
        watch.looked = Instant::now().checked_sub(after).unwrap();
        turns.needs_spare(watch)
    }

    #[test]
    fn the_spare_is_needed_while_all_readers_are_kept_by_one_request_each() {
        let turns = Turns::new(2);
        let [mut one, mut other, mut spare] = [0; 3].map(|_| turns.seat().unwrap());
        assert!(!needs_spare(&turns, &mut spare, PAUSE), "nothing to do");
        turns.begins(&one);
        assert!(!needs_spare(&turns, &mut spare, PAUSE), "one is free");
        turns.begins(&other);
        assert!(!needs_spare(&turns, &mut spare, Duration::ZERO), "not yet");
        assert!(needs_spare(&turns, &mut spare, PAUSE));
        turns.served(&mut one, |_| ());
        assert!(needs_spare(&turns, &mut spare, Duration::ZERO), "until it looks");
        assert!(!needs_spare(&turns, &mut spare, PAUSE), "one is free again");
        for _ in 0..=FEW {
            turns.begins(&one);
            turns.served(&mut one, |_| ());
        }
        turns.begins(&one);
        assert!(!needs_spare(&turns, &mut spare, PAUSE), "they get on");
        turns.served(&mut other, |_| ());
        turns.begins(&other);
        assert!(needs_spare(&turns, &mut spare, PAUSE), "hardly");
    }

    #[test]
    fn the_spare_takes_no_second_request_until_it_is_needed() {
        let turns = Turns::new(1);
        let (one, mut spare) = (turns.seat().unwrap(), turns.seat().unwrap());
        thread::scope(|scope| {
            let standing_by = scope.spawn(|| turns.served(&mut spare, |_| ()));
            turns.begins(&one);
            standing_by.join().unwrap();
        });
        assert!(matches!(spare.place, Place::Spare(Watch { needed: true, .. })));
    }

    #[test]
    fn the_spare_goes_when_a_reader_has_gone() {
        let turns = Turns::new(1);
        let (one, mut spare) = (turns.seat().unwrap(), turns.seat().unwrap());
        thread::scope(|scope| {
            let standing_by = scope.spawn(|| turns.served(&mut spare, |_| ()));
            drop(one);
            standing_by.join().unwrap();
        });
        assert!(matches!(spare.place, Place::Spare(Watch { needed: false, .. })));
    }

    #[test]
    fn who_sits_out_comes_back_when_the_others_do_not_get_on_and_stays() {
        let turns = with_active(2, 1);
        let (_first, mut second) = (turns.seat().unwrap(), turns.seat().unwrap());
        turns.served(&mut second, |_| ());
        assert!(matches!(second.place, Place::Reader { stuck: Some(0) }));
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
        turns.lines[0].served.store(1 << 40, Relaxed);
        turns.window_ends_us.store(0, Relaxed);
        turns.look(|number| told.push(number));
        assert_eq!(told, [3], "from all four to the first number of a load");
    }

    #[test]
    fn who_finds_the_window_over_after_another_has_ended_it_leaves_the_next_one_alone() {
        let turns = Turns::new(4);
        // Another thread has ended the window since this one looked, and the next has begun later than that.
        turns.window_ends_us.store(u64::MAX, Relaxed);
        let mut window = turns.window.lock().unwrap();
        window.began_us = u64::MAX - 1;
        turns.end_window(&mut window, |_| panic!("ended"));
        assert_eq!(window.began_us, u64::MAX - 1);
        // However the clock and the counts are read, a window takes no less than no time.
        window.served = 9;
        window.end(5, 8);
        assert_eq!((window.began_us, window.served), (5, 8));
    }
}
