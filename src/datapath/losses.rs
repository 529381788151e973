//! Failures of disks that have been reported to the hosts of volumes.

use super::lock;
use crate::model::units::{DiskId, VolumeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

/// Number of failures of a disk that have been reported to each volume's hosts. The kernel reports a write-back error only to the first flush
/// after it; hosts of other volumes on that disk, and of other apparatuses, may have lost as much, so the next flush of each volume fails too.
#[derive(Default)]
pub(super) struct Losses {
    reported: Mutex<HashMap<(VolumeId, DiskId), u64>>,
    /// Volumes that have left a disk before its failures were reported to their hosts.
    pending: Mutex<BTreeSet<VolumeId>>,
    /// Failures of each disk that had any, when this apparatus was last known not to be fenced.
    before_fence: Mutex<BTreeMap<DiskId, u64>>,
}

impl Losses {
    /// Returns whether the disk has failures that have not been reported to the volume's hosts, and counts them as reported.
    pub(super) fn has_unreported(&self, volume: VolumeId, disk: DiskId, failures: u64) -> bool {
        if failures == 0 {
            return false;
        }
        let before = lock(&self.reported).insert((volume, disk), failures);
        before.unwrap_or(0) < failures
    }

    /// Counts the disk's past failures as reported, for a volume that is new there.
    pub(super) fn set_baseline(&self, volume: VolumeId, disk: DiskId, failures: u64) {
        let mut reported = lock(&self.reported);
        let known = reported.entry((volume, disk)).or_default();
        *known = failures.max(*known);
    }

    /// Records the failures of disks when this apparatus was last known not to be fenced.
    pub(super) fn set_before_fence(&self, failures: BTreeMap<DiskId, u64>) {
        *lock(&self.before_fence) = failures;
    }

    /// Counts the failures before the fence as reported, for a volume that came to the disk after it.
    pub(super) fn set_baseline_before_fence(&self, volume: VolumeId, disk: DiskId) {
        let failures = lock(&self.before_fence).get(&disk).copied();
        self.set_baseline(volume, disk, failures.unwrap_or(0));
    }

    /// Makes unreported failures pending, for a volume that may leave the disk.
    pub(super) fn note_pending(&self, volume: VolumeId, disk: DiskId, failures: u64) {
        if self.has_unreported(volume, disk, failures) {
            lock(&self.pending).insert(volume);
        }
    }

    /// Returns whether an error is pending for the volume's hosts, and clears it.
    pub(super) fn take_pending(&self, volume: VolumeId) -> bool {
        lock(&self.pending).remove(&volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_before_a_fence_are_not_reported_to_a_volume_that_came_after_it() {
        let losses = Losses::default();
        let (arrives, returns, disk, other) = (VolumeId(1), VolumeId(2), DiskId(3), DiskId(4));
        losses.set_before_fence(BTreeMap::from([(disk, 2)]));
        assert!(losses.has_unreported(returns, disk, 3), "it lay there until then");
        for volume in [arrives, returns] {
            losses.set_baseline_before_fence(volume, disk);
        }
        losses.set_baseline_before_fence(arrives, other);
        assert!(!losses.has_unreported(arrives, disk, 2));
        assert!(!losses.has_unreported(returns, disk, 3), "reported already");
        assert!(losses.has_unreported(arrives, disk, 3), "it may have been there");
        assert!(losses.has_unreported(arrives, other, 1), "it may have been there");
    }

    #[test]
    fn failures_are_reported_since_the_volume_came_to_the_disk() {
        let losses = Losses::default();
        let (here, arrives, disk) = (VolumeId(1), VolumeId(2), DiskId(3));
        losses.set_baseline(arrives, disk, 2);
        assert!(losses.has_unreported(here, disk, 2), "it lay there all the time");
        assert!(!losses.has_unreported(here, disk, 2), "once");
        assert!(!losses.has_unreported(arrives, disk, 2), "lost before it came");
        assert!(losses.has_unreported(arrives, disk, 3));
        losses.note_pending(here, disk, 3);
        assert!(losses.take_pending(here) && !losses.take_pending(here));
    }
}
