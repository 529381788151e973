//! Builds a version from a snapshot, or from another version and a delta. No reader uses a version before it is complete, so an
//! edit that does not fit costs only the attempt.

use super::segments::SegmentMap;
use super::version::{TableVersion, Volume};
use crate::model::error::{Error, Result};
use crate::model::records::{Delta, DiskRecord, Edit, SECTOR, Segment, Snapshot, VolumeRecord};
use crate::model::units::{DiskId, ExtentSize, VolumeExtent, VolumeId};
use crate::model::words::count;
use std::collections::BTreeSet;
use std::sync::Arc;

impl TableVersion {
    /// Builds the version of a snapshot.
    ///
    /// # Errors
    /// Fails if the snapshot contradicts itself; the error names the contradiction.
    pub(super) fn from_snapshot(snapshot: &Snapshot) -> Result<Self> {
        let header = &snapshot.header;
        let what = format!("table of generation {}", header.generation);
        let mut builder = Builder::new(Self::empty(header.generation, header.extent_size), what);
        for disk in &snapshot.disks {
            builder.add_disk(disk)?;
        }
        for volume in &snapshot.volumes {
            builder.add_volume(volume)?;
        }
        for of_one in snapshot.segments.chunk_by(|(a, _), (b, _)| a == b) {
            if let [(volume, _), ..] = of_one {
                builder.load(*volume, of_one.iter().map(|(_, segment)| *segment))?;
            }
        }
        builder.finish()
    }

    /// Builds the next version, in time proportional to the delta, whatever the size of the table.
    ///
    /// # Errors
    /// Fails on the first edit that does not fit.
    pub(super) fn patched(&self, delta: &Delta) -> Result<Self> {
        let what = format!("delta from generation {}", delta.from);
        let next = Self {
            generation: self.generation.next(),
            ..self.clone()
        };
        let mut builder = Builder::new(next, what);
        for edit in &delta.edits {
            builder.edit(edit)?;
        }
        builder.finish()
    }
}

struct Builder {
    version: TableVersion,
    /// Volumes whose segments and size have to be checked at the end.
    touched: BTreeSet<VolumeId>,
    /// Segments whose placements have to be checked at the end, when all disks are known.
    mapped: Vec<Segment>,
    what: String,
}

impl Builder {
    fn new(version: TableVersion, what: String) -> Self {
        Self {
            version,
            touched: BTreeSet::new(),
            mapped: Vec::new(),
            what,
        }
    }

    fn edit(&mut self, edit: &Edit) -> Result<()> {
        match edit {
            Edit::AddDisk(disk) => self.add_disk(disk),
            Edit::SetDisk(disk) => self.set_disk(disk),
            Edit::RemoveDisk(id) => self.remove_disk(*id),
            Edit::AddVolume(volume) => self.add_volume(volume),
            Edit::SetVolume(volume) => self.set_volume(volume),
            Edit::RemoveVolume(id) => self.remove_volume(*id),
            Edit::Map { volume, segments } => self.map(*volume, segments),
            Edit::Unmap { volume, start, end } => self.unmap(*volume, *start, *end),
        }
    }

    fn add_disk(&mut self, disk: &DiskRecord) -> Result<()> {
        if self.version.disks.contains_key(&disk.id) {
            return Err(self.wrong(format!("disk {} is in the pool already", disk.id)));
        }
        self.put_disk(disk)
    }

    fn set_disk(&mut self, disk: &DiskRecord) -> Result<()> {
        let old = self.disk(disk.id)?.extents;
        if disk.extents < old && self.version.end_on(disk.id).0 > disk.extents {
            let why = format!(
                "disk {} has segments beyond its new size, {}",
                disk.name,
                count(disk.extents, "extent")
            );
            return Err(self.wrong(why));
        }
        self.put_disk(disk)
    }

    fn remove_disk(&mut self, id: DiskId) -> Result<()> {
        self.disk(id)?;
        let users = self.version.users_of(id);
        if let Some(user) = users.first() {
            return Err(self.wrong(format!("disk {id} still has segments of volume {user}")));
        }
        Arc::make_mut(&mut self.version.disks).remove(&id);
        Ok(())
    }

    fn put_disk(&mut self, disk: &DiskRecord) -> Result<()> {
        if disk
            .extents
            .checked_mul(self.version.extent_size.bytes())
            .is_none()
        {
            return Err(self.wrong(format!(
                "disk {} is too large: {}",
                disk.name,
                count(disk.extents, "extent")
            )));
        }
        Arc::make_mut(&mut self.version.disks).insert(disk.id, disk.clone());
        Ok(())
    }

    fn add_volume(&mut self, record: &VolumeRecord) -> Result<()> {
        if self.version.volume(record.id).is_some() {
            return Err(self.wrong(format!("volume {} is in the pool already", record.id)));
        }
        self.put_volume(Volume::new(record.clone(), SegmentMap::default()))
    }

    fn set_volume(&mut self, record: &VolumeRecord) -> Result<()> {
        let old = self.volume(record.id)?;
        let (old_name, map) = (old.record.name.clone(), old.map.clone());
        if old_name != record.name {
            self.version.names.remove(&old_name);
        }
        self.put_volume(Volume::new(record.clone(), map))
    }

    fn put_volume(&mut self, volume: Volume) -> Result<()> {
        let VolumeRecord { id, name, size, .. } = &volume.record;
        if let Some(other) = self.version.names.get(name).filter(|other| *other != id) {
            return Err(self.wrong(format!("the name {name} belongs to volume {other}")));
        }
        let extents = VolumeExtent(self.version.extent_size.count_for(*size));
        if size.0 % SECTOR != 0 || self.version.extent_size.volume_offset(extents).is_none() {
            return Err(self.wrong(format!("volume {name} cannot have {size} bytes")));
        }
        if self.version.names.get(name).is_none() {
            self.version.names.insert(name.clone(), *id);
        }
        self.touched.insert(*id);
        self.version.volumes.insert(*id, Arc::new(volume));
        Ok(())
    }

    fn remove_volume(&mut self, id: VolumeId) -> Result<()> {
        let name = self.volume(id)?.record.name.clone();
        self.version.names.remove(&name);
        self.version.volumes.remove(&id);
        self.touched.remove(&id);
        Ok(())
    }

    fn map(&mut self, id: VolumeId, segments: &[Segment]) -> Result<()> {
        let mut volume = self.ordered(id, segments.iter().copied())?.clone();
        for run in segments.chunk_by(|a, b| a.end() == b.start) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                volume.map.replace(first.start, last.end(), run);
            }
        }
        self.remapped(volume, segments);
        Ok(())
    }

    /// Sets the segments of a volume that has none yet.
    fn load(&mut self, id: VolumeId, segments: impl Iterator<Item = Segment> + Clone) -> Result<()> {
        let volume = self.ordered(id, segments.clone())?;
        let record = volume.record.clone();
        if volume.map.extents() > 0 {
            return Err(self.wrong(format!(
                "the segments of volume {} are not in one place",
                record.name
            )));
        }
        segments
            .clone()
            .try_for_each(|segment| self.check_placement(&segment))?;
        self.remapped(Volume::new(record, SegmentMap::from_sorted(segments)), &[]);
        Ok(())
    }

    fn unmap(&mut self, id: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<()> {
        let mut volume = self.volume(id)?.clone();
        volume.map.replace(start, end, &[]);
        self.remapped(volume, &[]);
        Ok(())
    }

    fn remapped(&mut self, volume: Volume, segments: &[Segment]) {
        let id = volume.record.id;
        self.mapped.extend_from_slice(segments);
        self.touched.insert(id);
        self.version.volumes.insert(id, Arc::new(volume));
    }

    /// Returns the volume if these can be its segments, whatever its size and the disks.
    fn ordered(&self, id: VolumeId, segments: impl Iterator<Item = Segment>) -> Result<&Volume> {
        let volume = self.volume(id)?;
        let mut free = VolumeExtent(0);
        for segment in segments {
            let fits = |start: u64| start.checked_add(segment.placement.len).is_some();
            let sound = segment.placement.len > 0 && fits(segment.start.0) && fits(segment.placement.start.0);
            if !sound || segment.start < free {
                let name = &volume.record.name;
                let why = "is empty, or is not after the one before it";
                return Err(self.wrong(format!(
                    "the segment of volume {name} at extent {} {why}",
                    segment.start
                )));
            }
            free = segment.end();
        }
        Ok(volume)
    }

    fn finish(self) -> Result<TableVersion> {
        for segment in &self.mapped {
            self.check_placement(segment)?;
        }
        for &id in &self.touched {
            let volume = self.volume(id)?;
            let extents = volume_extents(self.version.extent_size, &volume.record);
            let end = volume.map.end();
            if end > extents {
                let name = &volume.record.name;
                let why = format!(
                    "volume {name} would have segments up to extent {end}, but has {}",
                    count(extents.0, "extent")
                );
                return Err(self.wrong(why));
            }
        }
        Ok(self.version)
    }

    fn check_placement(&self, segment: &Segment) -> Result<()> {
        let disk = self.disk(segment.placement.disk)?;
        if segment.placement.start.0 > 0 && segment.placement.end().0 <= disk.extents {
            return Ok(());
        }
        let (start, end) = (segment.placement.start, segment.placement.end());
        let why = format!(
            "disk {} has extents 1 to {}, not {start}..{end}",
            disk.name,
            disk.extents.saturating_sub(1)
        );
        Err(self.wrong(why))
    }

    fn disk(&self, id: DiskId) -> Result<&DiskRecord> {
        self.version
            .disks
            .get(&id)
            .ok_or_else(|| self.wrong(format!("there is no disk {id}")))
    }

    fn volume(&self, id: VolumeId) -> Result<&Volume> {
        self.version
            .volume(id)
            .ok_or_else(|| self.wrong(format!("there is no volume {id}")))
    }

    fn wrong(&self, why: String) -> Error {
        Error::failed(&self.what, why)
            .hint("the database and this table disagree: restart the apparatus, and run vctl pool check")
    }
}

fn volume_extents(extent_size: ExtentSize, record: &VolumeRecord) -> VolumeExtent {
    VolumeExtent(extent_size.count_for(record.size))
}
