//! The table: disks, volumes and segments in their current state.

use crate::model::change::UsedArea;
use crate::model::error::Result;
use crate::model::records::{Delta, DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::model::units::{DiskId, Generation, VolumeExtent, VolumeId};

/// Reads the table. [`ChangeStore`](super::ChangeStore) changes it.
pub trait TableStore: Send {
    /// Returns the header.
    fn header(&mut self) -> Result<PoolHeader>;
    /// Returns the whole table, from one transaction.
    fn snapshot(&mut self) -> Result<Snapshot>;
    /// Returns the deltas that lead from the table of generation `known` to the current one, in order. `None` if one of them is not
    /// kept any more, or was taken back.
    fn deltas_since(&mut self, known: Generation) -> Result<Option<Vec<Delta>>>;
    /// Returns the disks, by id.
    fn disks(&mut self) -> Result<Vec<DiskRecord>>;
    /// Records that a disk's label has been written with this sequence number, durably. The record keeps the highest.
    fn label_written(&mut self, disk: DiskId, sequence: u64) -> Result<()>;
    /// Returns the volumes, by id.
    fn volumes(&mut self) -> Result<Vec<VolumeRecord>>;
    /// Returns a volume's segments that touch `[start, end)`, in order, not clipped.
    fn segments(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Segment>>;
    /// Returns every run of extents that is not free on `disk`, by start; adjacent runs of one owner are merged.
    fn uses(&mut self, disk: DiskId) -> Result<Vec<UsedArea>>;
    /// Returns the id for the next disk. It is used up when a change that adds that disk commits, and never reused; the call
    /// changes nothing (a dry run calls it too).
    fn next_disk_id(&mut self) -> Result<DiskId>;
    /// Returns the id for the next volume, in the same way.
    fn next_volume_id(&mut self) -> Result<VolumeId>;
}
