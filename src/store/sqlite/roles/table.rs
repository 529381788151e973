//! [`TableStore`] of this store.

use crate::model::change::UsedArea;
use crate::model::error::Result;
use crate::model::records::{Delta, DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::model::units::{DiskId, Generation, VolumeExtent, VolumeId};
use crate::store::TableStore;
use crate::store::sqlite::{SqliteStore, change, space, table};

impl TableStore for SqliteStore {
    fn header(&mut self) -> Result<PoolHeader> {
        self.read(table::header)
    }

    fn snapshot(&mut self) -> Result<Snapshot> {
        self.read(table::snapshot)
    }

    fn deltas_since(&mut self, known: Generation) -> Result<Option<Vec<Delta>>> {
        self.read(|db, _| change::deltas_since(db, known))
    }

    fn disks(&mut self) -> Result<Vec<DiskRecord>> {
        table::disks(self.current()?)
    }

    fn label_written(&mut self, disk: DiskId, sequence: u64) -> Result<()> {
        self.write(|db| table::label_written(db, disk, sequence))
    }

    fn volumes(&mut self) -> Result<Vec<VolumeRecord>> {
        table::volumes(self.current()?)
    }

    fn segments(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Segment>> {
        self.read(|db, _| table::segments(db, volume, start, end))
    }

    fn uses(&mut self, disk: DiskId) -> Result<Vec<UsedArea>> {
        self.read(|db, _| space::uses(db, disk))
    }

    fn next_disk_id(&mut self) -> Result<DiskId> {
        let sql = "SELECT disk + 1 FROM pool";
        Ok(DiskId(self.current()?.query_row(sql, [], |row| row.get(0))?))
    }

    fn next_volume_id(&mut self) -> Result<VolumeId> {
        let sql = "SELECT volume + 1 FROM pool";
        Ok(VolumeId(self.current()?.query_row(sql, [], |row| row.get(0))?))
    }
}
