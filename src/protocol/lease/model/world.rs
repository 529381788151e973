//! Time, clocks, disks and events of the model.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// True time in microseconds, which no process can read.
pub(super) type Time = u64;

/// A generator of random numbers (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from `from` up to, and without, `to`.
    pub(super) fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from).max(1)
    }

    /// Returns true with a chance of so many in a hundred.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.within(0, 100) < percent
    }
}

/// Clock of a process, and the times in which the process stands still.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// Microseconds that it counts in a second.
    pub(super) rate: u64,
    pub(super) pauses: Vec<(Time, Time)>,
    /// Whether the clock stands still with the process.
    pub(super) hides_pauses: bool,
}

const SECOND: u64 = 1_000_000;

impl Clock {
    /// Returns what the clock shows at a time.
    pub(super) fn at(&self, now: Time) -> u64 {
        let hidden = match self.hides_pauses {
            true => self.stood_still_before(now),
            false => 0,
        };
        (now - hidden) * self.rate / SECOND
    }

    fn stood_still_before(&self, now: Time) -> Time {
        let before = |&(from, to): &(Time, Time)| to.min(now).saturating_sub(from);
        self.pauses.iter().map(before).sum()
    }

    /// Returns the time at which the process does what is due now.
    pub(super) fn awake(&self, now: Time) -> Time {
        let inside = self.pauses.iter().find(|&&(from, to)| from <= now && now < to);
        inside.map_or(now, |&(_, to)| to)
    }

    /// Returns the time at which the clock will show at least this.
    pub(super) fn when(&self, now: Time, shown: u64) -> Time {
        let mut time = now;
        loop {
            let left = shown.saturating_sub(self.at(time));
            if left == 0 {
                return self.awake(time);
            }
            time += (left * SECOND).div_ceil(self.rate);
        }
    }
}

/// Events in the order of their times.
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Time, u64)>>,
    events: Vec<Option<E>>,
    pub(super) now: Time,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            events: Vec::new(),
            now: 0,
        }
    }

    pub(super) fn at(&mut self, time: Time, event: E) {
        self.heap
            .push(Reverse((time.max(self.now), self.events.len() as u64)));
        self.events.push(Some(event));
    }

    pub(super) fn take(&mut self) -> Option<E> {
        let Reverse((time, number)) = self.heap.pop()?;
        self.now = time;
        usize::try_from(number)
            .ok()
            .and_then(|number| self.events.get_mut(number)?.take())
    }
}

/// Who may write to a placement of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Free,
    /// A change that is not committed, by number.
    Change(u64),
    Volume,
    /// Taken from the volume by a commit, or from a controller by the next one.
    Quarantine,
    /// Another volume: any write of ours that lands here is a loss.
    Another,
}

/// A place of the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub(super) value: u64,
    pub(super) owner: Owner,
    /// Whether it is in quarantine because of a controller, not of readers.
    pub(super) is_tainted: bool,
}

impl Placement {
    pub(super) const FREE: Self = Self {
        value: 0,
        owner: Owner::Free,
        is_tainted: false,
    };
}
