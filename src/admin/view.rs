//! The pool as users see it: records with what is derived from them.

use crate::model::change::{Owner, UsedArea};
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::options::Capacity;
use crate::model::records::{DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::model::units::{ByteCount, DiskId, ExtentSize, VolumeId};
use crate::store::TableStore;
use std::collections::BTreeMap;

/// The use of a disk's extents, in bytes. The label's extent counts as used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All extents.
    pub size: ByteCount,
    /// Extents of volumes, and the label.
    pub used: ByteCount,
    /// Extents reserved for changes and jobs under way.
    pub reserved: ByteCount,
    /// Freed extents that an apparatus may still read or write.
    pub quarantined: ByteCount,
    /// Free extents.
    pub free: ByteCount,
    /// Longest run of free extents.
    pub largest_free: ByteCount,
}

impl Usage {
    /// Computes the use of a disk with `extents` extents, of which these areas (sorted by start) are not free.
    #[must_use]
    pub fn of(extents: u64, uses: &[UsedArea], extent_size: ExtentSize) -> Self {
        let (mut used, mut reserved, mut quarantined) = (1, 0, 0);
        let (mut largest, mut next) = (0, 1);
        for each in uses {
            match each.owner {
                Owner::Volume(_) | Owner::Metadata => used += each.area.len,
                Owner::Change(_) | Owner::Job(_) => reserved += each.area.len,
                Owner::Quarantine(_) => quarantined += each.area.len,
            }
            largest = largest.max(each.area.start.0.saturating_sub(next));
            next = next.max(each.area.end().0);
        }
        largest = largest.max(extents.saturating_sub(next));
        let free = extents.saturating_sub(used + reserved + quarantined);
        let bytes = |extents: u64| ByteCount(extents.saturating_mul(extent_size.bytes()));
        Self {
            size: bytes(extents),
            used: bytes(used),
            reserved: bytes(reserved),
            quarantined: bytes(quarantined),
            free: bytes(free),
            largest_free: bytes(largest),
        }
    }

    /// Adds two uses.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let add = |a: ByteCount, b: ByteCount| ByteCount(a.0.saturating_add(b.0));
        Self {
            size: add(self.size, other.size),
            used: add(self.used, other.used),
            reserved: add(self.reserved, other.reserved),
            quarantined: add(self.quarantined, other.quarantined),
            free: add(self.free, other.free),
            largest_free: self.largest_free.max(other.largest_free),
        }
    }
}

/// A disk and its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskView {
    /// Its record in the store.
    pub record: DiskRecord,
    /// The use of its extents.
    pub usage: Usage,
    /// Number of volumes that have extents on it.
    pub volumes: u64,
}

/// A volume and its placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeView {
    /// Its record in the store.
    pub record: VolumeRecord,
    /// Its segments, in order.
    pub segments: Vec<Segment>,
    /// Bytes on each disk, by disk.
    pub on: Vec<(Name, ByteCount)>,
}

/// The whole pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// The pool's header.
    pub header: PoolHeader,
    /// The disks, by id.
    pub disks: Vec<DiskView>,
    /// The volumes, by id.
    pub volumes: Vec<VolumeView>,
}

impl PoolView {
    /// Reads the whole pool from the store.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn load(store: &mut dyn TableStore) -> Result<Self> {
        let snapshot = store.snapshot()?;
        let disks = snapshot
            .disks
            .iter()
            .map(|record| disk_view(store, record, snapshot.header.extent_size));
        let disks = disks.collect::<Result<_>>()?;
        let volumes = volume_views(&snapshot);
        Ok(Self {
            header: snapshot.header,
            disks,
            volumes,
        })
    }

    /// Returns the use of all disks together.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.disks
            .iter()
            .map(|disk| disk.usage)
            .fold(Usage::default(), Usage::and)
    }

    /// Returns the capacity for new volumes, and how much of it is in use.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let extents = |bytes: ByteCount| bytes.0 / self.header.extent_size.bytes();
        let open = self.disks.iter().filter(|disk| disk.record.allocate);
        open.map(|disk| Capacity::of(disk.record.extents, extents(disk.usage.free), disk.record.reserve))
            .fold(Capacity::default(), Capacity::and)
    }

    /// Returns a disk by name.
    ///
    /// # Errors
    /// Fails with `NotFound`.
    pub fn disk(&self, name: &str) -> Result<&DiskView> {
        let found = self.disks.iter().find(|disk| disk.record.name.as_str() == name);
        found.ok_or_else(|| no_disk(name, self.disks.iter().map(|disk| &disk.record)))
    }

    /// Returns a volume by name.
    ///
    /// # Errors
    /// Fails with `NotFound`.
    pub fn volume(&self, name: &str) -> Result<&VolumeView> {
        let found = self
            .volumes
            .iter()
            .find(|volume| volume.record.name.as_str() == name);
        found.ok_or_else(|| no_volume(name, self.volumes.iter().map(|volume| &volume.record)))
    }

    /// Returns whether the pool has this disk.
    #[must_use]
    pub fn has_disk(&self, id: DiskId) -> bool {
        self.disks.iter().any(|disk| disk.record.id == id)
    }

    /// Returns whether the pool has this volume.
    #[must_use]
    pub fn has_volume(&self, id: VolumeId) -> bool {
        self.volumes.iter().any(|volume| volume.record.id == id)
    }

    /// Returns a disk's name; its number where there is no such disk.
    #[must_use]
    pub fn disk_name(&self, id: DiskId) -> String {
        let found = self.disks.iter().find(|disk| disk.record.id == id);
        found.map_or_else(|| format!("#{id}"), |disk| disk.record.name.to_string())
    }

    /// Returns a volume's name; its number where there is no such volume.
    #[must_use]
    pub fn volume_name(&self, id: VolumeId) -> String {
        let found = self.volumes.iter().find(|volume| volume.record.id == id);
        found.map_or_else(|| format!("#{id}"), |volume| volume.record.name.to_string())
    }
}

fn disk_view(store: &mut dyn TableStore, record: &DiskRecord, extent_size: ExtentSize) -> Result<DiskView> {
    let uses = store.uses(record.id)?;
    let mut volumes: Vec<VolumeId> = uses
        .iter()
        .filter_map(|each| match each.owner {
            Owner::Volume(volume) => Some(volume),
            _ => None,
        })
        .collect();
    volumes.sort_unstable();
    volumes.dedup();
    let volumes = u64::try_from(volumes.len()).unwrap_or(u64::MAX);
    Ok(DiskView {
        record: record.clone(),
        usage: Usage::of(record.extents, &uses, extent_size),
        volumes,
    })
}

fn volume_views(snapshot: &Snapshot) -> Vec<VolumeView> {
    let names: BTreeMap<DiskId, &Name> = snapshot.disks.iter().map(|disk| (disk.id, &disk.name)).collect();
    let mut segments: BTreeMap<VolumeId, Vec<Segment>> = BTreeMap::new();
    for (volume, segment) in &snapshot.segments {
        segments.entry(*volume).or_default().push(*segment);
    }
    let view = |record: &VolumeRecord| {
        let segments = segments.remove(&record.id).unwrap_or_default();
        let mut on: BTreeMap<DiskId, u64> = BTreeMap::new();
        for segment in &segments {
            *on.entry(segment.placement.disk).or_default() +=
                segment.placement.len * snapshot.header.extent_size.bytes();
        }
        let named = |(id, bytes)| names.get(&id).map(|name| ((*name).clone(), ByteCount(bytes)));
        let on = on.into_iter().filter_map(named).collect();
        VolumeView {
            record: record.clone(),
            segments,
            on,
        }
    };
    let seen = snapshot.volumes.iter().filter(|record| !record.name.is_hidden());
    seen.map(view).collect()
}

/// Returns the error for an unknown disk; the hint names the existing ones.
pub fn no_disk<'a>(name: &str, disks: impl Iterator<Item = &'a DiskRecord>) -> Error {
    with_names(
        Error::not_found("disk", name),
        "disks",
        disks.map(|disk| disk.name.to_string()).collect(),
    )
}

/// Returns the error for an unknown volume; the hint names the existing ones.
pub fn no_volume<'a>(name: &str, volumes: impl Iterator<Item = &'a VolumeRecord>) -> Error {
    with_names(
        Error::not_found("volume", name),
        "volumes",
        volumes.map(|volume| volume.name.to_string()).collect(),
    )
}

/// Adds a hint with the existing names, up to eight.
pub(crate) fn with_names(error: Error, nouns: &str, names: Vec<String>) -> Error {
    const MOST: usize = 8;
    match names.len() {
        0 => error.hint(format!("there are no {nouns} yet")),
        1..=MOST => error.hint(format!("{nouns}: {}", names.join(", "))),
        count => error.hint(format!(
            "{nouns}: {}, and {} more",
            names[..MOST].join(", "),
            count - MOST
        )),
    }
}
