//! Size and free space of the pool, for `statfs`.

use super::lock;
use crate::model::records::{Delta, DiskRecord, Edit, VolumeRecord};
use crate::model::units::{ByteCount, DiskId, ExtentSize};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Space of the whole pool, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Space that volumes can have in all.
    pub all: ByteCount,
    /// Space that no volume has.
    pub free: ByteCount,
}

/// Sizes of the disks, in extents.
#[derive(Debug)]
struct DiskSizes {
    disks: BTreeMap<DiskId, u64>,
}

impl DiskSizes {
    fn new(disks: &[DiskRecord]) -> Self {
        Self {
            disks: disks.iter().map(|disk| (disk.id, disk.extents)).collect(),
        }
    }

    fn follow(&mut self, edit: &Edit) {
        match edit {
            Edit::AddDisk(disk) | Edit::SetDisk(disk) => {
                self.disks.insert(disk.id, disk.extents);
            }
            Edit::RemoveDisk(id) => {
                self.disks.remove(id);
            }
            Edit::AddVolume(_)
            | Edit::SetVolume(_)
            | Edit::RemoveVolume(_)
            | Edit::Map { .. }
            | Edit::Unmap { .. } => (),
        }
    }

    /// Returns the extents that volumes can have. Extent 0 of each disk holds its label.
    fn extents(&self) -> u64 {
        self.disks.values().map(|extents| extents.saturating_sub(1)).sum()
    }
}

/// Size and free space of the pool.
pub(super) struct PoolSpace {
    sizes: Mutex<DiskSizes>,
    extent_size: ExtentSize,
}

impl PoolSpace {
    /// Makes it for a pool with these disks.
    pub(super) fn new(disks: &[DiskRecord], extent_size: ExtentSize) -> Self {
        Self {
            sizes: Mutex::new(DiskSizes::new(disks)),
            extent_size,
        }
    }

    /// Follows a delta that has been applied to the table.
    pub(super) fn follow(&self, delta: &Delta) {
        let mut sizes = lock(&self.sizes);
        delta.edits.iter().for_each(|edit| sizes.follow(edit));
    }

    /// Sets the disks of a new table.
    pub(super) fn reload(&self, disks: &[DiskRecord]) {
        *lock(&self.sizes) = DiskSizes::new(disks);
    }

    /// Returns the pool's space, given all its volumes.
    pub(super) fn of(&self, volumes: &[VolumeRecord]) -> Space {
        let size = self.extent_size;
        let all = lock(&self.sizes).extents();
        let used: u64 = volumes.iter().map(|volume| size.count_for(volume.size)).sum();
        let bytes = |extents: u64| ByteCount(extents.saturating_mul(size.bytes()));
        Space {
            all: bytes(all),
            free: bytes(all.saturating_sub(used)),
        }
    }
}
