//! How large the pool is and how full, as `statfs` tells it.

use super::{Apparatus, lock};
use crate::pool::model::{DiskRecord, Edit, VolumeRecord};
use crate::units::{ByteCount, DiskId};
use std::collections::BTreeMap;

/// Of the whole pool, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What volumes can have altogether.
    pub all: ByteCount,
    /// What no volume has.
    pub free: ByteCount,
}

/// The disks' sizes, in extents.
#[derive(Debug)]
pub(super) struct Room {
    disks: BTreeMap<DiskId, u64>,
}

impl Room {
    pub(super) fn new(disks: &[DiskRecord]) -> Self {
        Self {
            disks: disks.iter().map(|disk| (disk.id, disk.extents)).collect(),
        }
    }

    pub(super) fn follow(&mut self, edit: &Edit) {
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

    /// Extent 0 of each disk holds its label.
    fn extents(&self) -> u64 {
        self.disks.values().map(|extents| extents.saturating_sub(1)).sum()
    }
}

impl Apparatus {
    /// The pool's space when it has these volumes.
    #[must_use]
    pub fn space(&self, volumes: &[VolumeRecord]) -> Space {
        let size = self.table.extent_size();
        let all = lock(&self.room).extents();
        let used: u64 = volumes.iter().map(|volume| size.count_for(volume.size)).sum();
        let bytes = |extents: u64| ByteCount(extents.saturating_mul(size.bytes()));
        Space {
            all: bytes(all),
            free: bytes(all.saturating_sub(used)),
        }
    }
}
