//! The operator's settings of a pool, and the thresholds of its fullness. Pure.

use super::alloc::Policy;
use crate::model::error::{Error, Result};
use serde::Serialize;

/// Hysteresis in percentage points: usage must drop this far below a threshold before the alert clears, so a pool near it is
/// reported once.
const HYSTERESIS: u8 = 3;

/// The operator's settings of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Options {
    /// Order in which disks are taken if the request does not say.
    pub policy: Policy,
    /// Usage from which the pool counts as nearly full, and as full.
    pub thresholds: Thresholds,
}

/// Shares of the space for new volumes, in percent: 0 < nearfull < full <= 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Thresholds {
    nearfull: u8,
    full: u8,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            nearfull: 85,
            full: 95,
        }
    }
}

impl Thresholds {
    /// Creates the two thresholds, in percent.
    ///
    /// # Errors
    /// Fails with `Usage` if they are not in order.
    pub fn new(nearfull: u8, full: u8) -> Result<Self> {
        if 0 < nearfull && nearfull < full && full <= 100 {
            return Ok(Self { nearfull, full });
        }
        let what = format!("thresholds {nearfull} % and {full} %");
        Err(Error::usage(what, "are not in order").hint("0 < nearfull < full <= 100, usually 85 and 95"))
    }

    /// Returns the usage, in percent, from which the pool is nearly full.
    #[must_use]
    pub fn nearfull(self) -> u8 {
        self.nearfull
    }

    /// Returns the usage, in percent, from which the pool is full.
    #[must_use]
    pub fn full(self) -> u8 {
        self.full
    }

    fn reached(self, percent: u8) -> Fullness {
        match percent {
            percent if percent >= self.full => Fullness::Full,
            percent if percent >= self.nearfull => Fullness::Nearfull,
            _ => Fullness::Room,
        }
    }
}

/// Fullness of a pool by its thresholds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fullness {
    /// Usage is below both thresholds.
    #[default]
    Room,
    /// Usage is at or above the lower threshold.
    Nearfull,
    /// Usage is at or above the higher threshold.
    Full,
}

impl Fullness {
    /// Returns the fullness at `percent` that follows this one: it rises at a threshold and falls well below it.
    #[must_use]
    pub fn after(self, percent: u8, thresholds: Thresholds) -> Self {
        let risen = thresholds.reached(percent);
        let kept = thresholds.reached(percent.saturating_add(HYSTERESIS).min(100));
        if risen >= self { risen } else { kept.min(self) }
    }
}

/// Space for ordinary allocations, of one disk or of several together, in extents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    usable: u64,
    room: u64,
}

impl Capacity {
    /// Returns the capacity of a disk that allows allocation and has `extents` extents (including the label), `free` of them
    /// free, and a reserve.
    #[must_use]
    pub fn of(extents: u64, free: u64, reserve: u64) -> Self {
        let usable = extents.saturating_sub(1).saturating_sub(reserve);
        Self {
            usable,
            room: free.saturating_sub(reserve).min(usable),
        }
    }

    /// Returns the sum of the two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            usable: self.usable.saturating_add(other.usable),
            room: self.room.saturating_add(other.room),
        }
    }

    /// Returns the usage in whole percent, rounded down; `None` if nothing could be placed anyway.
    #[must_use]
    pub fn percent(self) -> Option<u8> {
        let used = u128::from(self.usable - self.room) * 100;
        used.checked_div(self.usable.into())
            .and_then(|percent| u8::try_from(percent).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_reported_once_until_usage_has_fallen_well_below() {
        let thresholds = Thresholds::default();
        let mut now = Fullness::Room;
        let mut reports = Vec::new();
        for percent in [84, 85, 84, 85, 83, 82, 81, 85, 95, 94, 93, 92, 91, 100, 82, 81] {
            let next = now.after(percent, thresholds);
            if next != now {
                reports.push((percent, next));
            }
            now = next;
        }
        use Fullness::{Full, Nearfull, Room};
        assert_eq!(
            reports,
            [
                (85, Nearfull),
                (81, Room),
                (85, Nearfull),
                (95, Full),
                (91, Nearfull),
                (100, Full),
                (82, Nearfull),
                (81, Room),
            ]
        );
    }

    #[test]
    fn a_pool_that_is_not_even_nearly_full_falls_at_once() {
        assert_eq!(Fullness::Full.after(10, Thresholds::default()), Fullness::Room);
    }

    #[test]
    fn thresholds_are_in_order() {
        for (nearfull, full) in [(0, 50), (50, 50), (60, 50), (50, 101)] {
            assert!(Thresholds::new(nearfull, full).is_err(), "{nearfull} {full}");
        }
        assert!(Thresholds::new(1, 100).is_ok());
    }

    #[test]
    fn the_reserve_does_not_count_as_room() {
        let percent = |extents, free, reserve| Capacity::of(extents, free, reserve).percent();
        assert_eq!(percent(101, 100, 0), Some(0));
        assert_eq!(percent(101, 50, 0), Some(50));
        assert_eq!(percent(101, 50, 50), Some(100));
        assert_eq!(percent(101, 75, 50), Some(50));
        assert_eq!(percent(101, 10, 100), None);
        assert_eq!(percent(0, 0, 0), None);
        let two = Capacity::of(101, 100, 0).and(Capacity::of(101, 0, 0));
        assert_eq!(two.percent(), Some(50));
    }
}
