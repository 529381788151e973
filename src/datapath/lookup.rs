//! Looks volumes and disks up for threads that have no reader of the table of their own; no request of a host does that.

use super::lock;
use crate::map::{Reader, Table};
use crate::model::records::{Span, VolumeRecord};
use crate::model::units::{DiskId, VolumeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Table, with a reader that threads share.
pub(super) struct Lookup {
    table: Arc<Table>,
    reader: Mutex<Reader>,
}

impl Lookup {
    /// Makes the shared reader of this table.
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self {
            reader: Mutex::new(table.reader()),
            table,
        }
    }

    /// Returns the volume of this number.
    pub(super) fn volume(&self, id: VolumeId) -> Option<VolumeRecord> {
        self.table.volume(&mut lock(&self.reader), id)
    }

    /// Returns all volumes, by number.
    pub(super) fn volumes(&self) -> Vec<VolumeRecord> {
        self.table.volumes(&mut lock(&self.reader))
    }

    /// Returns the disks of a volume; none if it does not exist.
    pub(super) fn disks_of(&self, id: VolumeId) -> Vec<DiskId> {
        let mut disks = Vec::new();
        let found = self.table.disks_of(&mut lock(&self.reader), id, &mut disks);
        found.map_or_else(|_| Vec::new(), |_| disks)
    }

    /// Returns the disks of each volume.
    pub(super) fn disks_by_volume(&self) -> BTreeMap<VolumeId, Vec<DiskId>> {
        let mut reader = lock(&self.reader);
        let volumes = self.table.volumes(&mut reader).into_iter();
        let with_disks = volumes.map(|volume| {
            let mut disks = Vec::new();
            let _ = self.table.disks_of(&mut reader, volume.id, &mut disks);
            (volume.id, disks)
        });
        with_disks.collect()
    }

    /// Returns the disk that the first byte of the span lies on.
    pub(super) fn first_disk(&self, span: &Span) -> Option<DiskId> {
        let mut pieces = Vec::new();
        let mut reader = lock(&self.reader);
        let found = self
            .table
            .locate(&mut reader, span.volume, span.start, 1, &mut pieces);
        found.ok()?;
        Some(pieces.first()?.disk)
    }
}
