//! Locks of ranges for writes to one device: a block that is read, changed and written back belongs to nobody else meanwhile.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How a write shares its range with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// With other writes of whole blocks, in any order.
    Shared,
    /// With no other write: the range is read first, and partly written back as it was.
    Exclusive,
}

/// Writes in flight, and those that wait for them. A write waits for the earlier ones that overlap it where one of the two is exclusive. So
/// none waits for a later one, and each gets its lock.
#[derive(Default)]
pub(super) struct RangeLocks {
    writes: Mutex<Writes>,
    ended: Condvar,
}

#[derive(Default)]
struct Writes {
    /// In the order of arrival.
    all: Vec<Write>,
    next: u64,
    waiting: usize,
}

struct Write {
    number: u64,
    range: Range<u64>,
    share: Share,
}

impl Writes {
    fn add(&mut self, range: Range<u64>, share: Share) -> u64 {
        let number = self.next;
        self.next += 1;
        self.all.push(Write { number, range, share });
        number
    }

    fn has_to_wait(&self, number: u64) -> bool {
        let mut earlier = self.all.iter().take_while(|write| write.number < number);
        let own = self.all.iter().find(|write| write.number == number);
        own.is_some_and(|own| earlier.any(|write| write.excludes(own)))
    }
}

impl Write {
    fn excludes(&self, other: &Self) -> bool {
        let overlap = self.range.start < other.range.end && other.range.start < self.range.end;
        overlap && (self.share == Share::Exclusive || other.share == Share::Exclusive)
    }
}

/// The lock of one write; dropping it releases the range.
pub(super) struct RangeLock<'a> {
    of: &'a RangeLocks,
    number: u64,
}

impl RangeLocks {
    /// Locks a range for a write, and waits for the writes that exclude it.
    pub(super) fn lock(&self, range: Range<u64>, share: Share) -> RangeLock<'_> {
        let mut writes = self.state();
        let number = writes.add(range, share);
        while writes.has_to_wait(number) {
            writes.waiting += 1;
            writes = self.ended.wait(writes).unwrap_or_else(PoisonError::into_inner);
            writes.waiting -= 1;
        }
        RangeLock { of: self, number }
    }

    /// Returns the number of writes that wait for others.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting
    }

    fn state(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RangeLock<'_> {
    fn drop(&mut self) {
        let mut writes = self.of.state();
        writes.all.retain(|write| write.number != self.number);
        let waiting = writes.waiting > 0;
        drop(writes);
        if waiting {
            self.of.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Share::{Exclusive, Shared};

    #[test]
    fn a_write_waits_for_earlier_ones_that_overlap_it_if_one_is_exclusive() {
        for (range, share, waits) in [
            (0..512, Shared, false),
            (0..512, Exclusive, true),
            (512..1024, Exclusive, false),
        ] {
            let mut writes = Writes::default();
            writes.add(0..512, Shared);
            let number = writes.add(range.clone(), share);
            assert_eq!(writes.has_to_wait(number), waits, "{range:?} {share:?}");
        }
        let mut writes = Writes::default();
        let first = writes.add(0..4096, Exclusive);
        let second = writes.add(4095..8192, Shared);
        let third = writes.add(8191..8192, Exclusive);
        assert!(!writes.has_to_wait(first) && writes.has_to_wait(second) && writes.has_to_wait(third));
        writes.all.remove(0);
        assert!(!writes.has_to_wait(second) && writes.has_to_wait(third));
    }

    #[test]
    fn exclusive_locks_of_a_range_follow_each_other() {
        let locks = RangeLocks::default();
        let counter = Mutex::new(());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let _lock = locks.lock(0..512, Exclusive);
                        assert!(counter.try_lock().is_ok(), "nobody else is in");
                    }
                });
            }
        });
        assert!(locks.state().all.is_empty());
    }
}
