//! Builders for the unit tests of this program.

use apparatus::model::records::{Area, Segment};
use apparatus::model::units::{DiskExtent, DiskId, VolumeExtent};

/// Returns `len` extents of a volume, from `start` on, that lie on a disk from `at` on.
pub(crate) fn segment(start: u64, disk: u32, at: u64, len: u64) -> Segment {
    Segment {
        start: VolumeExtent(start),
        placement: Area {
            disk: DiskId(disk),
            start: DiskExtent(at),
            len,
        },
    }
}
