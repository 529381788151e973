//! The records of a pool, and the difference that leads from one table to the next.

use super::names::Name;
use crate::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, MembershipVersion, Term, VolumeExtent, VolumeId,
    VolumeOffset,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use uuid::Uuid;

/// Volume sizes are multiples of this many bytes: the sector of a loop device or a guest's disk.
pub const SECTOR: u64 = 512;

/// What is one per pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PoolHeader {
    /// Written to every disk's label.
    pub uuid: Uuid,
    /// Unit of allocation, fixed when the pool is created.
    pub extent_size: ExtentSize,
    /// Number of the current table.
    pub generation: Generation,
    /// Raised by every hardened change of the layout and written to the labels: tells an older database.
    pub layout: u64,
    /// Raised by every join, rejoin, fence and leave.
    pub membership: MembershipVersion,
    /// The last arbitration.
    pub term: Term,
    /// Which of the databases of this pool it is.
    pub instance: Instance,
}

impl PoolHeader {
    /// Of a pool that is yet to be made.
    #[must_use]
    pub fn before(extent_size: ExtentSize) -> Self {
        Self {
            uuid: Uuid::nil(),
            extent_size,
            generation: Generation(0),
            layout: 0,
            membership: MembershipVersion(0),
            term: Term(0),
            instance: Instance::default(),
        }
    }
}

/// Tells a pool's database from its copies: disks are opened and labelled in its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Written to every disk's label.
    pub id: Uuid,
    /// The instance that this database had before it adopted the disks: labels that still have it are its own. Nil for none.
    pub former: Uuid,
    /// The directory that the database was opened in; empty for a store without one.
    pub dir: PathBuf,
}

impl Instance {
    /// Whether a disk with a label of this instance belongs to this database. A label of the first format names none.
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
    /// What people call it.
    pub name: Name,
    /// Written to its label.
    pub uuid: Uuid,
    /// Absolute path of the block device or image file.
    pub path: PathBuf,
    /// Usable size: a whole number of extents, extent 0 (the label) included.
    pub extents: u64,
    /// Tags that `@TAG` selects by.
    pub tags: BTreeSet<Name>,
    /// False: nothing new is placed here (`no-allocate`).
    pub allocate: bool,
    /// Extents that stay free: only an evacuation that is told so, and the way back of a job, may take them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserve: u64,
    /// The label's sequence number when it was last written, as far as the store has been told. It only grows, whatever an edit says.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub label: u64,
}

// What is passed over is compared by reference.
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
    /// A multiple of [`SECTOR`]; the last extent may be used in part.
    pub size: ByteCount,
    /// Permission bits of its file, 0 to 0o777.
    pub mode: u16,
    /// Owner of its file.
    pub uid: u32,
    /// Group of its file.
    pub gid: u32,
    /// Writes are refused.
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
    /// One past the last extent.
    #[must_use]
    pub fn end(self) -> DiskExtent {
        DiskExtent(self.start.0 + self.len)
    }

    /// Whether the two share an extent.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.disk == other.disk && self.start < other.end() && other.start < self.end()
    }
}

/// A run of a volume's address range and the area that is its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// First extent of the volume's range.
    pub start: VolumeExtent,
    /// Where it lies; its length is the segment's.
    pub home: Area,
}

impl Segment {
    /// One past the last extent of the volume's range.
    #[must_use]
    pub fn end(self) -> VolumeExtent {
        VolumeExtent(self.start.0 + self.home.len)
    }

    /// The part of this segment inside `[start, end)` of the volume, if any.
    #[must_use]
    pub fn clip(self, start: VolumeExtent, end: VolumeExtent) -> Option<Self> {
        let from = self.start.max(start);
        let to = self.end().min(end);
        (from < to).then(|| Self {
            start: from,
            home: Area {
                disk: self.home.disk,
                start: DiskExtent(self.home.start.0 + (from.0 - self.start.0)),
                len: to.0 - from.0,
            },
        })
    }

    /// Whether `next` continues this segment both in the volume and on the disk, so that the two are one.
    #[must_use]
    pub fn continues_as(self, next: Self) -> bool {
        self.end() == next.start && self.home.disk == next.home.disk && self.home.end() == next.home.start
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
    /// The whole of a volume, whatever its size.
    #[must_use]
    pub fn whole(volume: VolumeId) -> Self {
        Self {
            volume,
            start: VolumeOffset(0),
            end: VolumeOffset(u64::MAX),
        }
    }

    /// Whether the two share a byte; an empty range shares none.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.volume == other.volume && self.start.max(other.start) < self.end.min(other.end)
    }
}

/// One step of a difference. Steps apply in order, and all or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Edit {
    /// A disk joins the pool.
    AddDisk(DiskRecord),
    /// A disk's record is replaced (rename, tags, no-allocate, reserve, grown size).
    SetDisk(DiskRecord),
    /// A disk without segments leaves the pool.
    RemoveDisk(DiskId),
    /// A volume appears, empty: `Map` gives it its segments.
    AddVolume(VolumeRecord),
    /// A volume's record is replaced (rename, size, owner, mode).
    SetVolume(VolumeRecord),
    /// A volume and all its segments disappear.
    RemoveVolume(VolumeId),
    /// These segments replace whatever lay in their ranges.
    Map {
        /// Of this volume.
        volume: VolumeId,
        /// In order, not overlapping.
        segments: Vec<Segment>,
    },
    /// The range `[start, end)` has no home any more.
    Unmap {
        /// Of this volume.
        volume: VolumeId,
        /// First extent.
        start: VolumeExtent,
        /// One past the last.
        end: VolumeExtent,
    },
}

impl Edit {
    /// The volume whose record or places it changes.
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

/// What a change sends: the edits that lead from generation `from` to `from + 1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The generation it applies to.
    pub from: Generation,
    /// The steps.
    pub edits: Vec<Edit>,
}

impl Difference {
    /// The most that one change may weigh ([`weight`](Self::weight)). What is more has to be done in several changes: an apparatus
    /// has to have applied each while the controller waits for its answer, the message has to fit a frame, and no other transaction should have to wait long
    /// for the store.
    pub const HEAVIEST: usize = 16_384;

    /// How much there is to send and to apply: edits and segments.
    #[must_use]
    pub fn weight(&self) -> usize {
        let segments = |edit: &Edit| match edit {
            Edit::Map { segments, .. } => segments.len(),
            _ => 0,
        };
        self.edits.iter().map(|edit| 1 + segments(edit)).sum()
    }
}

/// A whole table as the store has it: what an apparatus loads when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What is one per pool; `header.generation` is the table's number.
    pub header: PoolHeader,
    /// By id.
    pub disks: Vec<DiskRecord>,
    /// By id.
    pub volumes: Vec<VolumeRecord>,
    /// By volume, then start; adjacent ones are merged.
    pub segments: Vec<(VolumeId, Segment)>,
}
