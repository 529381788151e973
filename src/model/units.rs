//! Units as types: a volume offset, a disk offset, an extent number and a byte count cannot be mixed up.
//!
//! All are unsigned 64-bit numbers unless their description says otherwise. Arithmetic that can leave the range is checked and
//! returns `None`.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit! {
    /// A number of bytes.
    ByteCount(u64)
}
unit! {
    /// A byte offset from the start of a volume.
    VolumeOffset(u64)
}
unit! {
    /// A byte offset from the start of a disk, label included.
    DiskOffset(u64)
}
unit! {
    /// The number of an extent-sized piece of a volume's address range, from 0.
    VolumeExtent(u64)
}
unit! {
    /// The number of an extent on a disk, from 0; extent 0 holds the label and is never allocated.
    DiskExtent(u64)
}
unit! {
    /// The id of a disk; it is never reused within a pool.
    DiskId(u32)
}
unit! {
    /// The id of a volume; it is never reused within a pool.
    VolumeId(u64)
}
unit! {
    /// The id of a change of the table; it grows and is never reused.
    ChangeId(u64)
}
unit! {
    /// The id of a job; it grows and is never reused.
    JobId(u64)
}
unit! {
    /// The number of a table: a change leads from generation g to g+1.
    Generation(u64)
}
unit! {
    /// The number of a leadership, raised each time the controller lock is taken. It only grows; an apparatus refuses a lower
    /// one.
    Term(u64)
}
unit! {
    /// The number of one life of an apparatus in the control range: each join and each rejoin takes a new, higher one.
    Incarnation(u64)
}
unit! {
    /// An apparatus's slot in the member table, 0 to `model::member::SLOTS - 1`.
    Slot(u32)
}
unit! {
    /// The version of the membership: every join, rejoin, fence and leave raises it; a commit names the version by which its
    /// holds were counted.
    MembershipVersion(u64)
}

impl Generation {
    /// Returns the generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The unit of allocation: a power of two from 64 KiB to 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ExtentSize {
    shift: u32,
}

impl ExtentSize {
    /// 1 MiB.
    pub const DEFAULT: Self = Self { shift: 20 };
    /// 64 KiB.
    pub const MIN: Self = Self { shift: 16 };
    /// 64 MiB.
    pub const MAX: Self = Self { shift: 26 };

    /// Returns the extent size of `bytes`; `None` unless that is a power of two in the allowed range.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let shift = bytes.trailing_zeros();
        let allowed = bytes.is_power_of_two() && (Self::MIN.shift..=Self::MAX.shift).contains(&shift);
        allowed.then_some(Self { shift })
    }

    /// Returns the size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// Returns the base-two logarithm of the size in bytes.
    #[must_use]
    pub fn shift(self) -> u32 {
        self.shift
    }

    /// Returns the number of extents needed for `bytes`.
    #[must_use]
    pub fn count_for(self, bytes: ByteCount) -> u64 {
        bytes.0.div_ceil(self.bytes())
    }

    /// Returns the extent that has the byte at `offset`, and the offset within the extent.
    #[must_use]
    pub fn locate(self, offset: VolumeOffset) -> (VolumeExtent, u64) {
        (
            VolumeExtent(offset.0 >> self.shift),
            offset.0 & (self.bytes() - 1),
        )
    }

    /// Returns the offset of the first byte of a volume's extent; `None` past 2^64.
    #[must_use]
    pub fn volume_offset(self, extent: VolumeExtent) -> Option<VolumeOffset> {
        extent.0.checked_mul(self.bytes()).map(VolumeOffset)
    }

    /// Returns the offset of the first byte of a disk's extent; `None` past 2^64.
    #[must_use]
    pub fn disk_offset(self, extent: DiskExtent) -> Option<DiskOffset> {
        extent.0.checked_mul(self.bytes()).map(DiskOffset)
    }
}

impl TryFrom<u64> for ExtentSize {
    type Error = String;
    fn try_from(bytes: u64) -> Result<Self, String> {
        Self::new(bytes).ok_or_else(|| format!("{bytes} is not a power of two from 64 KiB to 64 MiB"))
    }
}

impl From<ExtentSize> for u64 {
    fn from(size: ExtentSize) -> Self {
        size.bytes()
    }
}

/// Wall-clock time in microseconds since 1970-01-01T00:00:00Z. It is for display and logs; no decision depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns the current time of the system's clock.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_microsecond())
    }
}

impl fmt::Display for Timestamp {
    /// Formats as RFC 3339 in UTC, with the requested number of digits behind the seconds, by default microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.*}", f.precision().unwrap_or(6)),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

/// The time within which page caches survive: what was written and not flushed in one epoch is lost in every other. The cluster of a
/// pool knows the current one, and the code that opens a store names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheEpoch(pub uuid::Uuid);
