//! Volumes that were removed and may still be had back: their extents are free, but are given to others last and not discarded.

use super::records::{Segment, VolumeRecord};
use super::units::{ChangeId, ExtentSize, Timestamp};
use serde::Serialize;
use std::time::Duration;

/// Largest number of segments of a volume that is remembered: it is removed, and had back, in one change.
pub const MOST_SEGMENTS: usize = 4096;
/// Number of removed volumes that are remembered.
pub const KEPT: usize = 32;
/// How long a removed volume is remembered.
pub const KEPT_FOR: Duration = Duration::from_hours(7 * 24);

/// A volume that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemovedVolume {
    /// The change that removed it.
    pub change: ChangeId,
    /// When that was committed.
    pub at: Timestamp,
    /// Its record as it was.
    pub volume: VolumeRecord,
    /// What nothing else has been given of its extents.
    pub left: Vec<Segment>,
}

impl RemovedVolume {
    /// Returns how many of its extents have been given away: it can be had back if there are none.
    #[must_use]
    pub fn lost(&self, unit: ExtentSize) -> u64 {
        let left = self.left.iter().map(|segment| segment.placement.len).sum();
        unit.count_for(self.volume.size).saturating_sub(left)
    }
}
