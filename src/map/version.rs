//! One version: a whole table of one generation, which never changes.

use super::segments::SegmentMap;
use super::tree::Tree;
use super::{Missing, Piece};
use crate::model::names::Name;
use crate::model::records::{DiskRecord, Segment, VolumeRecord};
use crate::model::units::{
    DiskExtent, DiskId, DiskOffset, ExtentSize, Generation, VolumeExtent, VolumeId, VolumeOffset,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A table. Cloning is cheap: a changed copy shares with it everything that is equal.
#[derive(Clone, Debug)]
pub(super) struct TableVersion {
    pub(super) generation: Generation,
    pub(super) extent_size: ExtentSize,
    pub(super) disks: Arc<BTreeMap<DiskId, DiskRecord>>,
    pub(super) volumes: Tree<VolumeId, Arc<Volume>>,
    pub(super) names: Tree<Name, VolumeId>,
}

/// A volume and its segments.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub(super) record: VolumeRecord,
    pub(super) map: SegmentMap,
    /// Whether it is being created or removed: hosts do not see it.
    pub(super) hidden: bool,
}

impl Volume {
    pub(super) fn new(record: VolumeRecord, map: SegmentMap) -> Self {
        let hidden = record.name.is_hidden();
        Self { record, map, hidden }
    }
}

impl TableVersion {
    pub(super) fn empty(generation: Generation, extent_size: ExtentSize) -> Self {
        Self {
            generation,
            extent_size,
            disks: Arc::default(),
            volumes: Tree::default(),
            names: Tree::default(),
        }
    }

    pub(super) fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(&id).map(|volume| &**volume)
    }

    /// Returns a volume that hosts can see.
    pub(super) fn served(&self, id: VolumeId) -> Option<&Volume> {
        self.volume(id).filter(|volume| !volume.hidden)
    }

    pub(super) fn by_name(&self, name: &Name) -> Option<&Volume> {
        self.served(*self.names.get(name)?)
    }

    pub(super) fn all_volumes(&self) -> Vec<Arc<Volume>> {
        let mut all = Vec::new();
        self.volumes.each(|_, volume| all.push(Arc::clone(volume)));
        all
    }

    /// Appends the pieces of `[at, at + len)`.
    pub(super) fn locate(
        &self,
        id: VolumeId,
        at: VolumeOffset,
        len: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Missing> {
        self.pieces(self.served(id).ok_or(Missing::NoVolume)?, at, len, pieces)
    }

    /// Appends the pieces of `[at, at + len)` for a write; refuses a read-only volume.
    pub(super) fn locate_to_write(
        &self,
        id: VolumeId,
        at: VolumeOffset,
        len: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Missing> {
        let volume = self.served(id).ok_or(Missing::NoVolume)?;
        if volume.record.read_only {
            return Err(Missing::ReadOnly);
        }
        self.pieces(volume, at, len, pieces)
    }

    fn pieces(
        &self,
        volume: &Volume,
        at: VolumeOffset,
        len: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Missing> {
        let size = volume.record.size;
        let end =
            at.0.checked_add(len)
                .filter(|end| *end <= size.0)
                .ok_or(Missing::PastEnd(size))?;
        let shift = self.extent_size.shift();
        let mut next = at.0;
        while next < end {
            let segment = volume
                .map
                .at(VolumeExtent(next >> shift))
                .ok_or(Missing::Unmapped(VolumeOffset(next)))?;
            let piece = self.piece(segment, next, end);
            next += piece.len;
            push(pieces, piece);
        }
        Ok(())
    }

    /// Returns the part of the segment that is in `[next, end)` of the volume; `next` is inside it.
    fn piece(&self, segment: Segment, next: u64, end: u64) -> Piece {
        let shift = self.extent_size.shift();
        let skip = next - (segment.start.0 << shift);
        let len = ((segment.placement.len << shift) - skip).min(end - next);
        let at = DiskOffset((segment.placement.start.0 << shift) + skip);
        Piece {
            disk: segment.placement.disk,
            at,
            len,
        }
    }

    /// Returns the extent of this disk behind the last one that any volume uses. It visits all segments of the volumes on the
    /// disk.
    pub(super) fn end_on(&self, disk: DiskId) -> DiskExtent {
        let mut end = DiskExtent(0);
        self.volumes.each(|_, volume| {
            if volume.map.placements().contains_key(&disk) {
                end = end.max(volume.map.end_on(disk));
            }
        });
        end
    }

    /// Returns the names of the first few volumes that use this disk.
    pub(super) fn users_of(&self, disk: DiskId) -> Vec<Name> {
        let mut users = Vec::new();
        self.volumes.each(|_, volume| {
            if users.len() < 3 && volume.map.placements().contains_key(&disk) {
                users.push(volume.record.name.clone());
            }
        });
        users
    }
}

fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last) if last.disk == piece.disk && last.at.0 + last.len == piece.at.0 => last.len += piece.len,
        _ => pieces.push(piece),
    }
}
