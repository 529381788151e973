//! A whole table, extent by extent: a slow and obvious implementation, against which faster ones are tested.

use super::state::mapped;
use crate::model::error::{Error, Result};
use crate::model::records::{Area, DiskRecord, Edit, Segment, VolumeRecord};
use crate::model::units::{DiskExtent, DiskId, ExtentSize, VolumeExtent, VolumeId};
use crate::model::words::count;
use std::collections::{BTreeMap, BTreeSet};

/// One extent of a disk.
pub type Extent = (DiskId, DiskExtent);

/// Disks, volumes, and the placement of each extent that has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Placements {
    pub(super) disks: BTreeMap<DiskId, DiskRecord>,
    pub(super) volumes: BTreeMap<VolumeId, VolumeRecord>,
    placements: BTreeMap<(VolumeId, VolumeExtent), Extent>,
}

/// Result of applying edits.
pub(super) struct Applied {
    /// Extents that lost their volume.
    pub(super) freed: Vec<Extent>,
    /// The edits that take them back.
    pub(super) undo: Vec<Edit>,
}

/// Returns whether a claim or the quarantine has an extent of this disk at or after that one.
pub(super) type Claimed<'a> = &'a dyn Fn(DiskId, u64) -> bool;

impl Placements {
    /// Builds the table from segments.
    #[must_use]
    pub fn new(disks: &[DiskRecord], volumes: &[VolumeRecord], segments: &[(VolumeId, Segment)]) -> Self {
        let mut placements = BTreeMap::new();
        for &(volume, segment) in segments {
            placements.extend(pairs(volume, segment));
        }
        Self {
            disks: disks.iter().map(|disk| (disk.id, disk.clone())).collect(),
            volumes: volumes.iter().map(|volume| (volume.id, volume.clone())).collect(),
            placements,
        }
    }

    /// Returns the placement of an extent of a volume.
    #[must_use]
    pub fn placement(&self, volume: VolumeId, extent: VolumeExtent) -> Option<Extent> {
        self.placements.get(&(volume, extent)).copied()
    }

    /// Returns the volumes, by id.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values()
    }

    /// Returns every placement, by volume and extent.
    pub fn iter(&self) -> impl Iterator<Item = (VolumeId, VolumeExtent, Extent)> {
        self.placements
            .iter()
            .map(|(&(volume, extent), &placement)| (volume, extent, placement))
    }

    /// Returns a volume's segments, in order, merged.
    #[must_use]
    pub fn segments(&self, volume: VolumeId) -> Vec<Segment> {
        let all = (volume, VolumeExtent(0))..=(volume, VolumeExtent(u64::MAX));
        merged(
            self.placements
                .range(all)
                .map(|(&(_, start), &placement)| (start, placement)),
        )
    }

    /// Applies edits that are known to fit.
    ///
    /// # Errors
    /// Fails if they do not fit; the table must not be used then.
    pub fn apply(&mut self, unit: ExtentSize, edits: &[Edit]) -> Result<()> {
        self.edit_all(unit, edits, &|_, _| false).map(|_| ())
    }

    /// Applies all edits, or returns why it cannot; the table must not be used then.
    pub(super) fn edit_all(
        &mut self,
        unit: ExtentSize,
        edits: &[Edit],
        claimed: Claimed<'_>,
    ) -> Result<Applied> {
        let before: BTreeSet<Extent> = self.placements.values().copied().collect();
        let mut undo = Vec::new();
        for edit in edits {
            let back = self.edit(edit, claimed)?;
            undo.splice(0..0, back);
        }
        self.sound(unit)?;
        mapped(edits).try_for_each(|area| self.inside(area))?;
        let after: BTreeSet<Extent> = self.placements.values().copied().collect();
        let freed = before.difference(&after).copied().collect();
        Ok(Applied { freed, undo })
    }

    fn edit(&mut self, edit: &Edit, claimed: Claimed<'_>) -> Result<Vec<Edit>> {
        match edit {
            Edit::AddDisk(disk) => self.add_disk(disk),
            Edit::SetDisk(disk) => self.set_disk(disk, claimed),
            Edit::RemoveDisk(id) => self.remove_disk(*id, claimed),
            Edit::AddVolume(volume) => self.add_volume(volume),
            Edit::SetVolume(volume) => self.set_volume(volume),
            Edit::RemoveVolume(id) => self.remove_volume(*id),
            Edit::Map { volume, segments } => self.map(*volume, segments),
            Edit::Unmap { volume, start, end } => self.unmap(*volume, *start, *end),
        }
    }

    fn add_disk(&mut self, disk: &DiskRecord) -> Result<Vec<Edit>> {
        if self.disks.contains_key(&disk.id) {
            return Err(taken("disk number", &disk.id));
        }
        self.disk_is_unique(disk)?;
        self.disks.insert(disk.id, disk.clone());
        Ok(vec![Edit::RemoveDisk(disk.id)])
    }

    /// Records the label's sequence number, which only grows.
    pub(super) fn label_written(&mut self, id: DiskId, sequence: u64) {
        if let Some(disk) = self.disks.get_mut(&id) {
            disk.label = disk.label.max(sequence);
        }
    }

    fn set_disk(&mut self, disk: &DiskRecord, claimed: Claimed<'_>) -> Result<Vec<Edit>> {
        self.disk(disk.id)?;
        self.disk_is_unique(disk)?;
        self.unused_from(disk.id, disk.extents, claimed)?;
        let old = self.disks.insert(disk.id, disk.clone());
        self.label_written(disk.id, old.as_ref().map_or(0, |old| old.label));
        Ok(old.map(Edit::SetDisk).into_iter().collect())
    }

    fn remove_disk(&mut self, id: DiskId, claimed: Claimed<'_>) -> Result<Vec<Edit>> {
        self.disk(id)?;
        self.unused_from(id, 0, claimed)?;
        Ok(self.disks.remove(&id).map(Edit::AddDisk).into_iter().collect())
    }

    fn add_volume(&mut self, volume: &VolumeRecord) -> Result<Vec<Edit>> {
        if self.volumes.contains_key(&volume.id) {
            return Err(taken("volume number", &volume.id));
        }
        self.put_volume(volume)?;
        Ok(vec![Edit::RemoveVolume(volume.id)])
    }

    fn set_volume(&mut self, volume: &VolumeRecord) -> Result<Vec<Edit>> {
        self.volume(volume.id)?;
        let old = self.put_volume(volume)?;
        Ok(old.map(Edit::SetVolume).into_iter().collect())
    }

    fn put_volume(&mut self, volume: &VolumeRecord) -> Result<Option<VolumeRecord>> {
        let same = |other: &VolumeRecord| other.id != volume.id && other.name == volume.name;
        if self.volumes.values().any(same) {
            return Err(taken("volume name", &volume.name));
        }
        Ok(self.volumes.insert(volume.id, volume.clone()))
    }

    fn remove_volume(&mut self, id: VolumeId) -> Result<Vec<Edit>> {
        self.volume(id)?;
        let segments = self.segments(id);
        self.placements.retain(|&(volume, _), _| volume != id);
        let volume = self.volumes.remove(&id).map(Edit::AddVolume);
        Ok(volume.into_iter().chain(map_back(id, segments)).collect())
    }

    fn map(&mut self, volume: VolumeId, segments: &[Segment]) -> Result<Vec<Edit>> {
        self.volume(volume)?;
        let mut back = Vec::new();
        let mut old = BTreeMap::new();
        for &segment in segments {
            for (place, placement) in pairs(volume, segment) {
                old.extend(
                    self.placements
                        .insert(place, placement)
                        .map(|placement| (place.1, placement)),
                );
            }
            back.push(Edit::Unmap {
                volume,
                start: segment.start,
                end: segment.end(),
            });
        }
        back.extend(map_back(volume, merged(old.into_iter())));
        Ok(back)
    }

    fn unmap(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Edit>> {
        self.volume(volume)?;
        let range = (volume, start)..(volume, end);
        let old: Vec<_> = self
            .placements
            .range(range)
            .map(|(&(_, at), &placement)| (at, placement))
            .collect();
        self.placements
            .retain(|&(other, at), _| other != volume || at < start || at >= end);
        Ok(map_back(volume, merged(old.into_iter())).into_iter().collect())
    }

    fn volume(&self, id: VolumeId) -> Result<&VolumeRecord> {
        self.volumes
            .get(&id)
            .ok_or_else(|| Error::not_found("volume", &format!("number {id}")))
    }

    fn disk(&self, id: DiskId) -> Result<&DiskRecord> {
        self.disks
            .get(&id)
            .ok_or_else(|| Error::not_found("disk", &format!("number {id}")))
    }

    fn disk_is_unique(&self, disk: &DiskRecord) -> Result<()> {
        let others = || self.disks.values().filter(|other| other.id != disk.id);
        if others().any(|other| other.name == disk.name) {
            return Err(taken("disk name", &disk.name));
        }
        if others().any(|other| other.uuid == disk.uuid) {
            return Err(taken("disk UUID", &disk.uuid));
        }
        Ok(())
    }

    fn unused_from(&self, disk: DiskId, extent: u64, claimed: Claimed<'_>) -> Result<()> {
        let beyond = |&(other, at): &Extent| other == disk && at.0 >= extent;
        if self.placements.values().any(beyond) || claimed(disk, extent) {
            return Err(Error::failed(
                format!("disk number {disk}"),
                "still has owned extents there",
            ));
        }
        Ok(())
    }

    /// Checks that the disk exists and has these extents.
    pub(super) fn inside(&self, area: Area) -> Result<()> {
        let extents = self.disk(area.disk)?.extents;
        let end = area.start.0.checked_add(area.len);
        if area.start.0 > 0 && area.len > 0 && end.is_some_and(|end| end <= extents) {
            return Ok(());
        }
        let why = format!("has no area of {} at {}", count(area.len, "extent"), area.start);
        Err(Error::failed(format!("disk number {}", area.disk), why))
    }

    /// Checks that no segment ends past its volume or disk, and that no extent has two owners.
    fn sound(&self, unit: ExtentSize) -> Result<()> {
        let mut seen = BTreeSet::new();
        for (&(volume, at), &(disk, start)) in &self.placements {
            if at.0 >= unit.count_for(self.volume(volume)?.size) {
                let why = format!("would have a segment at extent {at}, past its end");
                return Err(Error::failed(format!("volume number {volume}"), why));
            }
            self.inside(Area { disk, start, len: 1 })?;
            if !seen.insert((disk, start)) {
                return Err(Error::failed(
                    format!("disk number {disk}"),
                    format!("extent {start} is mapped twice"),
                ));
            }
        }
        Ok(())
    }
}

fn taken(what: &str, value: &dyn std::fmt::Display) -> Error {
    Error::failed(format!("{what} {value}"), "is taken")
}

fn map_back(volume: VolumeId, segments: Vec<Segment>) -> Option<Edit> {
    (!segments.is_empty()).then_some(Edit::Map { volume, segments })
}

fn pairs(volume: VolumeId, segment: Segment) -> impl Iterator<Item = ((VolumeId, VolumeExtent), Extent)> {
    let Segment { start, placement } = segment;
    (0..placement.len).map(move |i| {
        (
            (volume, VolumeExtent(start.0 + i)),
            (placement.disk, DiskExtent(placement.start.0 + i)),
        )
    })
}

/// Returns the extents of an area.
pub(super) fn extents(area: Area) -> impl Iterator<Item = Extent> {
    (area.start.0..area.start.0.saturating_add(area.len)).map(move |at| (area.disk, DiskExtent(at)))
}

/// Merges sorted extents into segments.
fn merged(extents: impl Iterator<Item = (VolumeExtent, Extent)>) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for (start, (disk, at)) in extents {
        let next = Segment {
            start,
            placement: Area {
                disk,
                start: at,
                len: 1,
            },
        };
        match segments.last_mut() {
            Some(last) if last.continues_as(next) => last.placement.len += 1,
            _ => segments.push(next),
        }
    }
    segments
}

/// Merges sorted extents into areas.
pub(super) fn areas(extents: impl Iterator<Item = Extent>) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::new();
    for (disk, start) in extents {
        match areas.last_mut() {
            Some(last) if last.disk == disk && last.end() == start => last.len += 1,
            _ => areas.push(Area { disk, start, len: 1 }),
        }
    }
    areas
}
