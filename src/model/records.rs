//! Records of a pool, and the delta that leads from one table to the next.

use super::dir::PoolDir;
use super::names::Name;
use crate::model::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, MembershipVersion, Term, VolumeExtent, VolumeId,
    VolumeOffset,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Volume sizes are multiples of this many bytes: the sector of a loop device or a guest's disk.
pub const SECTOR: u64 = 512;

/// Properties of the pool as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PoolHeader {
    /// Written to every disk's label.
    pub uuid: Uuid,
    /// Unit of allocation; it is fixed when the pool is created.
    pub extent_size: ExtentSize,
    /// How its disks are read and written; it is fixed when the pool is created.
    #[serde(default, skip_serializing_if = "DiskAccess::is_cached")]
    pub access: DiskAccess,
    /// Number of the current table.
    pub generation: Generation,
    /// Number of the persisted layout. Every persisted change of the layout raises it and writes it to the labels, which shows
    /// that a database is an older copy.
    pub layout: u64,
    /// Version of the membership; every join, rejoin, fence and leave raises it.
    pub membership: MembershipVersion,
    /// Term of the last controller.
    pub term: Term,
    /// Identity of this database among the databases of the pool.
    pub instance: Instance,
}

impl PoolHeader {
    /// Returns the header of a pool that does not exist yet.
    #[must_use]
    pub fn before(new: impl Into<NewPool>) -> Self {
        let NewPool { extent_size, access } = new.into();
        Self {
            uuid: Uuid::nil(),
            extent_size,
            access,
            generation: Generation(0),
            layout: 0,
            membership: MembershipVersion(0),
            term: Term(0),
            instance: Instance::default(),
        }
    }

    /// Returns the path of a disk on this machine.
    #[must_use]
    pub fn path_of<'a>(&'a self, disk: &'a DiskRecord) -> &'a Path {
        self.instance.paths.get(&disk.uuid).unwrap_or(&disk.path)
    }

    /// Returns the record of a disk with its path on this machine.
    #[must_use]
    pub fn here(&self, disk: &DiskRecord) -> DiskRecord {
        DiskRecord {
            path: self.path_of(disk).to_owned(),
            ..disk.clone()
        }
    }
}

/// What is fixed when a pool is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPool {
    /// Unit of allocation.
    pub extent_size: ExtentSize,
    /// How its disks are read and written.
    pub access: DiskAccess,
}

impl From<ExtentSize> for NewPool {
    fn from(extent_size: ExtentSize) -> Self {
        Self {
            extent_size,
            access: DiskAccess::Cached,
        }
    }
}

/// How the processes of a pool read and write its disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskAccess {
    /// Through the page cache.
    #[default]
    Cached,
    /// Past the page cache, with `O_DIRECT`.
    Direct,
}

impl DiskAccess {
    /// Returns its name in tables and descriptions.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Direct => "direct",
        }
    }

    /// Returns whether it goes through the page cache. Serde passes the field by reference.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub fn is_cached(&self) -> bool {
        *self == Self::Cached
    }
}

/// Identity that distinguishes a pool's database from its copies: disks are opened and labelled in its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Written to every disk's label.
    pub id: Uuid,
    /// The instance that this database had before it adopted the disks: labels that still have it belong to it. Nil for none.
    pub former: Uuid,
    /// The directory that the database was opened in; empty for a store without one.
    pub dir: PoolDir,
    /// This machine's name, if the pool knows its machines by name: their databases are copies of one, and all of them have the disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// Paths of disks that are other ones on this machine than in their records, by the disk's identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub paths: BTreeMap<Uuid, PathBuf>,
}

impl Instance {
    /// Returns whether a disk with a label of this instance belongs to this database. A label of the first format names no
    /// instance.
    #[must_use]
    pub fn has(&self, instance: Uuid) -> bool {
        instance.is_nil() || instance == self.id || instance == self.former
    }
}

/// A disk of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecord {
    /// Its number in the table.
    pub id: DiskId,
    /// Its name.
    pub name: Name,
    /// Written to its label.
    pub uuid: Uuid,
    /// Absolute path of the block device or image file.
    pub path: PathBuf,
    /// Usable size in extents, extent 0 (the label) included.
    pub extents: u64,
    /// The tags by which `@TAG` selects it.
    pub tags: BTreeSet<Name>,
    /// False if nothing new is placed on it (`no-allocate`).
    pub allocate: bool,
    /// Number of extents that stay free: only an evacuation that asks for it, and the rollback of a job, may take them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserve: u64,
    /// The label's sequence number when it was last written, as far as the store knows. It only grows, whatever an edit has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub label: u64,
}

// Serde passes the field by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A virtual volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// Its number in the table.
    pub id: VolumeId,
    /// Its file name in every mount.
    pub name: Name,
    /// Size in bytes, a multiple of [`SECTOR`]; the last extent may be used in part.
    pub size: ByteCount,
    /// Permission bits of its file, 0 to 0o777.
    pub mode: u16,
    /// Owner of its file.
    pub uid: u32,
    /// Group of its file.
    pub gid: u32,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A run of extents on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// The disk.
    pub disk: DiskId,
    /// First extent; never 0.
    pub start: DiskExtent,
    /// Number of extents; never 0.
    pub len: u64,
}

impl Area {
    /// Returns the extent behind the last one.
    #[must_use]
    pub fn end(self) -> DiskExtent {
        DiskExtent(self.start.0 + self.len)
    }

    /// Returns whether the two share an extent.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.disk == other.disk && self.start < other.end() && other.start < self.end()
    }
}

/// A run of a volume's address range and the area that is its placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// First extent of the volume's range.
    pub start: VolumeExtent,
    /// The area that holds it; its length is the segment's.
    #[serde(rename = "home")]
    pub placement: Area,
}

impl Segment {
    /// Returns the extent behind the last one of the volume's range.
    #[must_use]
    pub fn end(self) -> VolumeExtent {
        VolumeExtent(self.start.0 + self.placement.len)
    }

    /// Returns the part of this segment inside `[start, end)` of the volume, if any.
    #[must_use]
    pub fn clip(self, start: VolumeExtent, end: VolumeExtent) -> Option<Self> {
        let from = self.start.max(start);
        let to = self.end().min(end);
        (from < to).then(|| Self {
            start: from,
            placement: Area {
                disk: self.placement.disk,
                start: DiskExtent(self.placement.start.0 + (from.0 - self.start.0)),
                len: to.0 - from.0,
            },
        })
    }

    /// Returns whether `next` continues this segment both in the volume and on the disk, so that the two can be merged.
    #[must_use]
    pub fn continues_as(self, next: Self) -> bool {
        self.end() == next.start
            && self.placement.disk == next.placement.disk
            && self.placement.end() == next.placement.start
    }
}

/// A byte range of one volume, `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The volume.
    pub volume: VolumeId,
    /// First byte.
    pub start: VolumeOffset,
    /// One past the last byte.
    pub end: VolumeOffset,
}

impl Span {
    /// Returns the span of a whole volume, whatever its size.
    #[must_use]
    pub fn whole(volume: VolumeId) -> Self {
        Self {
            volume,
            start: VolumeOffset(0),
            end: VolumeOffset(u64::MAX),
        }
    }

    /// Returns whether the two share a byte; an empty range shares none.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.volume == other.volume && self.start.max(other.start) < self.end.min(other.end)
    }
}

/// One edit of a delta. The edits of a delta apply in order, all or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Edit {
    /// A disk joins the pool.
    AddDisk(DiskRecord),
    /// A disk's record is replaced (rename, tags, no-allocate, reserve, grown size).
    SetDisk(DiskRecord),
    /// A disk without segments leaves the pool.
    RemoveDisk(DiskId),
    /// A volume appears without segments; `Map` adds them.
    AddVolume(VolumeRecord),
    /// A volume's record is replaced (rename, size, owner, mode).
    SetVolume(VolumeRecord),
    /// A volume and all its segments disappear.
    RemoveVolume(VolumeId),
    /// These segments replace the previous ones in their ranges.
    Map {
        /// The volume.
        volume: VolumeId,
        /// In order, not overlapping.
        segments: Vec<Segment>,
    },
    /// The range `[start, end)` loses its placement.
    Unmap {
        /// The volume.
        volume: VolumeId,
        /// First extent.
        start: VolumeExtent,
        /// The extent behind the last one.
        end: VolumeExtent,
    },
}

impl Edit {
    /// Returns the volume whose record or placement it changes.
    #[must_use]
    pub fn volume(&self) -> Option<VolumeId> {
        match self {
            Self::AddVolume(of) | Self::SetVolume(of) => Some(of.id),
            Self::RemoveVolume(of) | Self::Map { volume: of, .. } | Self::Unmap { volume: of, .. } => {
                Some(*of)
            }
            Self::AddDisk(_) | Self::SetDisk(_) | Self::RemoveDisk(_) => None,
        }
    }
}

/// The edits that lead from generation `from` to `from + 1`: what a change sends to the apparatuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {
    /// The generation it applies to.
    pub from: Generation,
    /// The edits.
    pub edits: Vec<Edit>,
}

impl Delta {
    /// Largest [`weight`](Self::weight) of one change. A heavier one has to be split into several changes: an apparatus has to
    /// apply each one while the controller waits for its answer, the message has to fit a frame, and no other transaction
    /// should wait long for the store.
    pub const HEAVIEST: usize = 16_384;

    /// Returns the amount to send and to apply: the number of edits and segments.
    #[must_use]
    pub fn weight(&self) -> usize {
        let segments = |edit: &Edit| match edit {
            Edit::Map { segments, .. } => segments.len(),
            _ => 0,
        };
        self.edits.iter().map(|edit| 1 + segments(edit)).sum()
    }
}

/// A whole table as the store has it; an apparatus loads it when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Properties of the pool; `header.generation` is the table's number.
    pub header: PoolHeader,
    /// The disks, sorted by id.
    pub disks: Vec<DiskRecord>,
    /// The volumes, sorted by id.
    pub volumes: Vec<VolumeRecord>,
    /// The segments, sorted by volume, then start; adjacent ones are merged.
    pub segments: Vec<(VolumeId, Segment)>,
}
