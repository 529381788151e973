//! Faults that are active, so that hosts know which errors are in order, and which fault a long wait belongs to.

use crate::plan::{APPARATUSES, VOLUMES};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Microseconds since the start; never 0.
pub(crate) type Moment = u64;

/// What a fault that has ended may still cause: an apparatus reads the rules of its disks a hundred times a second.
const AFTER: Moment = 1_000_000;

/// The time in which some errors are in order.
#[derive(Default)]
pub(crate) struct Window {
    active: AtomicUsize,
    opened: AtomicU64,
    ended: AtomicU64,
}

impl Window {
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.active.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn close(&self, now: Moment) {
        self.ended.store(now, Ordering::SeqCst);
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// Returns whether it is open.
    pub(crate) fn is_open(&self) -> bool {
        self.active.load(Ordering::SeqCst) > 0
    }

    /// Returns how often the window has been opened.
    pub(crate) fn times(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// Returns whether the window was open at some time since then.
    fn touches(&self, since: Moment) -> bool {
        let ended = self.ended.load(Ordering::SeqCst);
        self.active.load(Ordering::SeqCst) > 0 || ended > 0 && since <= ended + AFTER
    }
}

/// Asks the pool whether it has said lately that a disk lost writes.
pub(crate) type AskForLosses = Box<dyn Fn() -> bool + Send + Sync>;

/// The present faults.
pub(crate) struct Weather {
    start: Instant,
    ask_for_losses: AskForLosses,
    /// For each apparatus: it does not run.
    pub(crate) down: [Window; APPARATUSES],
    /// The file system of an image is full.
    pub(crate) full: Window,
    /// A disk answers with errors.
    pub(crate) failing: Window,
    /// For each volume and apparatus: flushes that reported a loss after the fault had ended.
    late_reports: Vec<[AtomicU64; APPARATUSES]>,
    label: AtomicUsize,
    last: AtomicUsize,
    label_ended: AtomicU64,
}

impl Weather {
    pub(crate) fn new(ask_for_losses: AskForLosses) -> Self {
        Self {
            start: Instant::now(),
            ask_for_losses,
            down: Default::default(),
            full: Window::default(),
            failing: Window::default(),
            late_reports: (0..VOLUMES).map(|_| Default::default()).collect(),
            label: AtomicUsize::new(0),
            last: AtomicUsize::new(0),
            label_ended: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    /// A fault of this label is active from now on.
    pub(crate) fn begin(&self, label: usize) {
        self.label.store(label, Ordering::SeqCst);
    }

    /// The fault has ended.
    pub(crate) fn end(&self) {
        self.label_ended.store(self.now(), Ordering::SeqCst);
        self.last
            .store(self.label.swap(0, Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Returns whether a flush may fail because a disk has lost writes of data that was moved to it. A disk may report that long after the fault has
    /// ended, and flushes fail until the data lies elsewhere.
    pub(crate) fn explains_failing_flushes(&self) -> bool {
        self.failing.times() > 0 && (self.ask_for_losses)()
    }

    /// Returns the label of a fault that was active since then, 0 for none.
    pub(crate) fn blame(&self, since: Moment) -> usize {
        match self.label.load(Ordering::SeqCst) {
            0 if since <= self.label_ended.load(Ordering::SeqCst) => self.last.load(Ordering::SeqCst),
            label => label,
        }
    }

    /// Returns whether a flush of a volume through an apparatus may fail with this error. The loss of a write is reported to the next flush,
    /// whenever that is, and once: after a disk has failed, as many flushes may fail as there were such faults.
    pub(crate) fn excuses_flush(&self, errno: i32, volume: u64, apparatus: usize, begun: Moment) -> bool {
        if errno != rustix::io::Errno::IO.raw_os_error() {
            return false;
        }
        let volume = usize::try_from(volume).unwrap_or(usize::MAX);
        let reported = self.late_reports.get(volume).map(|of| &of[apparatus]);
        self.failing.touches(begun)
            || reported.is_some_and(|reported| reported.fetch_add(1, Ordering::SeqCst) < self.failing.times())
    }

    /// Returns whether a file system on a loop device at this apparatus may fail that was mounted then: it passes on no errno of the
    /// volume, and may stay broken once a request of its own has failed.
    pub(crate) fn excuses_file_system(&self, apparatus: usize, mounted: Moment) -> bool {
        let windows = [&self.down[apparatus], &self.full, &self.failing];
        windows.iter().any(|window| window.touches(mounted))
    }

    /// Returns whether a request through this apparatus may fail with this error.
    pub(crate) fn excuses(&self, errno: i32, apparatus: usize, opened: Moment, begun: Moment) -> bool {
        use rustix::io::Errno;
        const GONE: [Errno; 4] = [Errno::NOTCONN, Errno::CONNABORTED, Errno::NOENT, Errno::IO];
        let errno = Errno::from_raw_os_error(errno);
        GONE.contains(&errno) && self.down[apparatus].touches(opened)
            || errno == Errno::NOSPC && self.full.touches(begun)
            || errno == Errno::IO && self.failing.touches(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn an_error_is_in_order_while_its_cause_lasts_and_shortly_after() {
        let weather = Weather::new(Box::new(|| false));
        let full = |begun| weather.excuses(Errno::NOSPC.raw_os_error(), 0, 1, begun);
        assert!(!full(1));
        weather.full.open();
        assert!(full(1));
        weather.full.close(10);
        assert!(full(9) && full(10 + AFTER) && !full(11 + AFTER));
        assert!(!weather.excuses(Errno::IO.raw_os_error(), 0, 1, 1));
    }

    #[test]
    fn a_file_that_was_opened_before_its_apparatus_died_may_fail_for_ever() {
        let weather = Weather::new(Box::new(|| false));
        weather.down[1].open();
        weather.down[1].close(10);
        let gone = Errno::NOTCONN.raw_os_error();
        assert!(weather.excuses(gone, 1, 5, 90 * AFTER));
        assert!(!weather.excuses(gone, 0, 5, 5));
        assert!(!weather.excuses(gone, 1, 11 + AFTER, 12 + AFTER));
    }

    #[test]
    fn a_loss_is_reported_late_by_one_flush_of_each_volume_at_each_apparatus() {
        let weather = Weather::new(Box::new(|| false));
        let late = 99 * AFTER;
        let excused = |volume, apparatus, begun| {
            weather.excuses_flush(Errno::IO.raw_os_error(), volume, apparatus, begun)
        };
        assert!(!excused(0, 0, late), "no disk has failed");
        let weather = Weather::new(Box::new(|| false));
        weather.failing.open();
        weather.failing.close(10);
        let excused = |volume, apparatus, begun| {
            weather.excuses_flush(Errno::IO.raw_os_error(), volume, apparatus, begun)
        };
        assert!(
            excused(1, 0, 9) && excused(1, 0, 9),
            "those of that time are not counted"
        );
        assert!(excused(1, 0, late) && !excused(1, 0, late));
        assert!(excused(1, 1, late) && excused(2, 0, late));
        assert!(!weather.excuses_flush(Errno::NOSPC.raw_os_error(), 0, 0, late));
        assert!(!weather.excuses(Errno::IO.raw_os_error(), 0, 1, late));
    }

    #[test]
    fn losses_explain_failing_flushes_once_a_disk_has_failed() {
        let weather = Weather::new(Box::new(|| true));
        assert!(!weather.explains_failing_flushes());
        weather.failing.open();
        weather.failing.close(10);
        assert!(weather.explains_failing_flushes());
        let weather = Weather::new(Box::new(|| false));
        weather.failing.open();
        assert!(!weather.explains_failing_flushes());
    }

    #[test]
    fn a_wait_belongs_to_the_fault_that_was_active_in_it() {
        let weather = Weather::new(Box::new(|| false));
        assert_eq!(weather.blame(1), 0);
        weather.begin(3);
        assert_eq!(weather.blame(1), 3);
        weather.end();
        assert_eq!(weather.blame(1), 3);
        assert_eq!(weather.blame(weather.now() + AFTER), 0);
    }
}
