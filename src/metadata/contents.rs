//! The contents of a checkpoint (the pool's options, disks, volumes and segments), and how the edits of a log change them.

use super::Fault;
use super::codec::{Reader, Writer};
use crate::model::records::{DiskAccess, DiskRecord, Edit, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::model::units::{DiskId, VolumeExtent, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Facts of the pool that are not part of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The pool's directory, which has the database.
    pub directory: PathBuf,
    /// The highest disk number given so far.
    pub last_disk: u32,
    /// The highest volume number given so far.
    pub last_volume: u64,
    /// Name of the allocation policy.
    pub policy: String,
    /// A threshold in per cent.
    pub nearfull: u8,
    /// A threshold in per cent.
    pub full: u8,
    /// Whether the disks are used through the page cache or directly.
    #[serde(default, skip_serializing_if = "DiskAccess::is_cached")]
    pub access: DiskAccess,
    /// For each disk, the highest sequence number that its label is known to have.
    #[serde(default)]
    pub labels: BTreeMap<DiskId, u64>,
    /// Disks whose metadata copies were kept current.
    #[serde(default)]
    pub carriers: BTreeSet<DiskId>,
}

/// A whole table in a form that edits can be applied to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Facts of the pool.
    pub facts: Facts,
    disks: BTreeMap<DiskId, DiskRecord>,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    /// Segments, by first extent.
    segments: BTreeMap<VolumeId, BTreeMap<u64, Segment>>,
}

impl Contents {
    /// Makes the contents of a table.
    #[must_use]
    pub fn of(facts: Facts, snapshot: Snapshot) -> Self {
        let mut segments: BTreeMap<VolumeId, BTreeMap<u64, Segment>> = BTreeMap::new();
        for volume in &snapshot.volumes {
            segments.insert(volume.id, BTreeMap::new());
        }
        for of_volume in snapshot.segments.chunk_by(|(a, _), (b, _)| a == b) {
            let by_start = of_volume.iter().map(|(_, segment)| (segment.start.0, *segment));
            if let Some((volume, _)) = of_volume.first() {
                segments.insert(*volume, by_start.collect());
            }
        }
        Self {
            facts,
            disks: snapshot.disks.into_iter().map(|disk| (disk.id, disk)).collect(),
            volumes: snapshot
                .volumes
                .into_iter()
                .map(|volume| (volume.id, volume))
                .collect(),
            segments,
        }
    }

    /// Encodes the body of a checkpoint, which is the same for all disks; the header differs.
    ///
    /// # Errors
    /// Fails when a record cannot be encoded.
    pub fn body(&self) -> Result<Vec<u8>, Fault> {
        let none = BTreeMap::new();
        let of = |id: &VolumeId| self.segments.get(id).unwrap_or(&none);
        let volumes = self.volumes.iter().map(|(id, volume)| (volume, of(id)));
        let volumes = volumes.map(|(volume, of)| (volume, of.len(), of.values().copied()));
        encode(&self.facts, &self.disks.values().collect::<Vec<_>>(), volumes)
    }

    /// Decodes the body of a checkpoint.
    ///
    /// # Errors
    /// Returns what is wrong with the bytes.
    pub fn decode(body: &[u8]) -> Result<Self, Fault> {
        let mut from = Reader { rest: body };
        let mut contents = Self {
            facts: from.record()?,
            ..Self::default()
        };
        for _ in 0..from.count()? {
            contents.edit(Edit::AddDisk(from.record()?))?;
        }
        for _ in 0..from.count()? {
            let volume: VolumeRecord = from.record()?;
            let (id, segments) = (volume.id, from.segments()?);
            contents.edit(Edit::AddVolume(volume))?;
            let by_start = segments.into_iter().map(|segment| (segment.start.0, segment));
            contents.segments.insert(id, by_start.collect());
        }
        from.end()?;
        Ok(contents)
    }

    /// Applies one edit.
    ///
    /// # Errors
    /// Fails when the edit does not fit the table.
    pub fn edit(&mut self, edit: Edit) -> Result<(), Fault> {
        let fits = match edit {
            Edit::AddDisk(record) => self.disks.insert(record.id, record).is_none(),
            Edit::SetDisk(record) => self.disks.insert(record.id, record).is_some(),
            Edit::RemoveDisk(id) => self.disks.remove(&id).is_some(),
            Edit::AddVolume(record) => {
                self.segments.insert(record.id, BTreeMap::new());
                self.volumes.insert(record.id, record).is_none()
            }
            Edit::SetVolume(record) => self.volumes.insert(record.id, record).is_some(),
            Edit::RemoveVolume(id) => {
                self.segments.remove(&id);
                self.volumes.remove(&id).is_some()
            }
            Edit::Map { volume, segments } => segments
                .into_iter()
                .all(|segment| self.map(volume, segment).is_some()),
            Edit::Unmap { volume, start, end } => self.clear(volume, start, end).is_some(),
        };
        if fits {
            Ok(())
        } else {
            Err(Fault::Field("an edit does not fit the table"))
        }
    }

    fn map(&mut self, volume: VolumeId, segment: Segment) -> Option<()> {
        self.clear(volume, segment.start, segment.end())?;
        self.segments.get_mut(&volume)?.insert(segment.start.0, segment);
        Some(())
    }

    /// Removes the segments of a range of a volume. Returns `None` if there is no such volume.
    fn clear(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Option<()> {
        let all = self.segments.get_mut(&volume)?;
        if start >= end {
            return Some(());
        }
        let before = all.range(..start.0).next_back().map(|(at, _)| *at);
        let within = all.range(start.0..end.0).map(|(at, _)| *at);
        let touched: Vec<u64> = before.into_iter().chain(within).collect();
        for at in touched {
            let Some(segment) = all.remove(&at) else { continue };
            let left = segment.clip(VolumeExtent(0), start);
            let right = segment.clip(end, VolumeExtent(u64::MAX));
            all.extend(left.into_iter().chain(right).map(|part| (part.start.0, part)));
        }
        Some(())
    }

    /// Returns the table with this header. Adjacent segments that continue each other are merged.
    #[must_use]
    pub fn into_snapshot(self, header: PoolHeader) -> Snapshot {
        let count = self.segments.values().map(BTreeMap::len).sum();
        let mut segments: Vec<(VolumeId, Segment)> = Vec::with_capacity(count);
        for (volume, of_volume) in self.segments {
            for segment in of_volume.into_values() {
                match segments.last_mut() {
                    Some((last_of, last)) if *last_of == volume && last.continues_as(segment) => {
                        last.placement.len += segment.placement.len;
                    }
                    _ => segments.push((volume, segment)),
                }
            }
        }
        Snapshot {
            header,
            disks: self.disks.into_values().collect(),
            volumes: self.volumes.into_values().collect(),
            segments,
        }
    }
}

/// Encodes the body of a checkpoint directly from a table, whose segments are sorted by volume and start, as a store returns them.
///
/// # Errors
/// Fails when a record cannot be encoded.
pub fn body_of(facts: &Facts, table: &Snapshot) -> Result<Vec<u8>, Fault> {
    let of_volumes = table.segments.chunk_by(|(a, _), (b, _)| a == b);
    let by_volume: BTreeMap<VolumeId, &[(VolumeId, Segment)]> = of_volumes
        .filter_map(|of_volume| Some((of_volume.first()?.0, of_volume)))
        .collect();
    let disks: BTreeMap<DiskId, &DiskRecord> = table.disks.iter().map(|disk| (disk.id, disk)).collect();
    let volumes: BTreeMap<VolumeId, &VolumeRecord> =
        table.volumes.iter().map(|volume| (volume.id, volume)).collect();
    let volumes = volumes.into_iter().map(|(id, volume)| {
        let of_volume = by_volume.get(&id).copied().unwrap_or_default();
        (
            volume,
            of_volume.len(),
            of_volume.iter().map(|(_, segment)| *segment),
        )
    });
    encode(facts, &disks.into_values().collect::<Vec<_>>(), volumes)
}

fn encode<'a, S: Iterator<Item = Segment>>(
    facts: &Facts,
    disks: &[&DiskRecord],
    volumes: impl ExactSizeIterator<Item = (&'a VolumeRecord, usize, S)>,
) -> Result<Vec<u8>, Fault> {
    let mut out = Writer::default();
    out.record(facts)?;
    out.number(disks.len() as u64);
    for disk in disks {
        out.record(disk)?;
    }
    out.number(volumes.len() as u64);
    for (volume, count, segments) in volumes {
        out.record(volume)?;
        out.segments(count, segments);
    }
    Ok(out.bytes)
}
