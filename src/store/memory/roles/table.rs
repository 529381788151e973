//! [`TableStore`] of this store.

use crate::model::change::UsedArea;
use crate::model::error::Result;
use crate::model::records::{Delta, DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::model::units::{DiskId, Generation, VolumeExtent, VolumeId};
use crate::store::TableStore;
use crate::store::memory::MemoryStore;
use std::sync::Arc;

impl TableStore for MemoryStore {
    fn header(&mut self) -> Result<PoolHeader> {
        Ok(self.read().header.clone())
    }

    fn snapshot(&mut self) -> Result<Snapshot> {
        Ok(self.read().snapshot())
    }

    fn deltas_since(&mut self, known: Generation) -> Result<Option<Vec<Delta>>> {
        Ok(self.read().deltas_since(known))
    }

    fn disks(&mut self) -> Result<Vec<DiskRecord>> {
        Ok(self.read().placements.disks.values().cloned().collect())
    }

    fn label_written(&mut self, disk: DiskId, sequence: u64) -> Result<()> {
        self.write(|state, _| {
            Arc::make_mut(&mut state.placements).label_written(disk, sequence);
            Ok(())
        })
    }

    fn volumes(&mut self) -> Result<Vec<VolumeRecord>> {
        Ok(self.read().placements.volumes.values().cloned().collect())
    }

    fn segments(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Segment>> {
        let mut all = self.read().placements.segments(volume);
        all.retain(|segment| start < end && segment.start < end && start < segment.end());
        Ok(all)
    }

    fn uses(&mut self, disk: DiskId) -> Result<Vec<UsedArea>> {
        Ok(self.read().uses(disk))
    }

    fn next_disk_id(&mut self) -> Result<DiskId> {
        Ok(self.read().next_disk)
    }

    fn next_volume_id(&mut self) -> Result<VolumeId> {
        Ok(self.read().next_volume)
    }
}
