//! The label at the head of every disk. Pure.
//!
//! Extent 0 of a disk is never allocated. It begins with two copies of the label, 4 KiB each, at byte 0 and byte 4096; the rest of it is zero. A
//! new label overwrites the older copy, so a torn write leaves the newer one intact.
//!
//! One copy has this layout; integers are little-endian:
//!
//! ```text
//! offset  size
//!      0     8  magic, "APPARLBL"
//!      8     4  format version, 3
//!     12     4  extent size in bytes, a power of two from 64 KiB to 64 MiB
//!     16    16  pool UUID, not nil
//!     32    16  disk UUID, not nil
//!     48     8  usable size in bytes, label included: at least two whole extents
//!     56     8  layout sequence number: the pool's persisted layout when the label was written
//!     64     8  label sequence number, from 1: the copy with the higher one is valid
//!     72    16  instance: UUID of the database that owns the disk, nil for none
//!     88     8  offset of the disk's copy of the pool's metadata, in bytes; zero for none
//!     96     8  length of each of its two slots, in bytes; zero for none
//!    104  3988  zero
//!   4092     4  crc32c of bytes 0 to 4091
//! ```
//!
//! Version 1 ends with the label sequence number, version 2 with the instance: a label of these versions is read as one without the rest, and rewritten as version 3. Every version
//! keeps magic, version and checksum at the same place, so that an older program can name the version of a newer label.

use crate::metadata::place::Place;
use crate::model::units::{ByteCount, ExtentSize};
use std::fmt;
use uuid::Uuid;

/// Size of one copy in bytes.
pub const COPY: usize = 4096;
/// Offsets of the two copies.
pub const COPIES: [u64; 2] = [0, COPY as u64];
/// Format version that is written. Earlier ones are read too.
pub const VERSION: u32 = 3;
/// Format version without an instance.
const FIRST_VERSION: u32 = 1;
/// Format version without a copy of the metadata.
const SECOND_VERSION: u32 = 2;

const MAGIC: [u8; 8] = *b"APPARLBL";
const CHECKSUM: usize = COPY - 4;
const USED: usize = 104;
const USED_FIRST: usize = 72;
const USED_SECOND: usize = 88;

/// Label of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The pool that the disk belongs to.
    pub pool: Uuid,
    /// The disk's own identity.
    pub disk: Uuid,
    /// Usable size, label included: a whole number of extents.
    pub size: ByteCount,
    /// The pool's unit of allocation.
    pub extent_size: ExtentSize,
    /// The pool's persisted layout number when the label was written.
    pub layout: u64,
    /// Sequence number, which grows by one with each write.
    pub sequence: u64,
    /// Instance of the database that owns the disk; copies of a database differ in it. Nil where no database has claimed the disk yet.
    pub instance: Uuid,
    /// Place of its copy of the pool's metadata.
    pub copy: Option<Place>,
}

/// Reason why bytes are not a usable label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelFault {
    /// There is no label.
    Absent,
    /// The checksum does not match.
    Checksum,
    /// The label is intact, but of this other format version.
    Version(u32),
    /// The label is intact, but this field has an invalid value.
    Field(&'static str),
    /// Both copies are intact, but of different disks or pools.
    Disagree,
}

impl fmt::Display for LabelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("has no label"),
            Self::Checksum => f.write_str("has a damaged label: its checksum does not match"),
            Self::Version(version) => {
                write!(
                    f,
                    "has a label of format {version}, and this program knows format {VERSION}"
                )
            }
            Self::Field(field) => write!(f, "has a label with an invalid field: {field}"),
            Self::Disagree => f.write_str("has two labels that belong to different disks"),
        }
    }
}

impl Label {
    /// Returns the label as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; COPY] {
        let mut bytes = [0; COPY];
        let place = self.copy.map_or((0, 0), |place| (place.at, place.slot));
        let fields: [&[u8]; 11] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &(1_u32 << self.extent_size.shift()).to_le_bytes(),
            self.pool.as_bytes(),
            self.disk.as_bytes(),
            &self.size.0.to_le_bytes(),
            &self.layout.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            self.instance.as_bytes(),
            &place.0.to_le_bytes(),
            &place.1.to_le_bytes(),
        ];
        bytes[..USED].copy_from_slice(&fields.concat());
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Parses a label, strictly: accepts only what [`Label::encode`] would write, and version 1.
    ///
    /// # Errors
    /// Fails with the reason why the bytes are not a usable label.
    pub fn decode(bytes: &[u8; COPY]) -> Result<Self, LabelFault> {
        let mut fields = Fields { rest: bytes };
        if fields.take::<8>() != MAGIC {
            return Err(LabelFault::Absent);
        }
        let (head, checksum) = bytes.split_at(CHECKSUM);
        if crc32c::crc32c(head).to_le_bytes() != checksum {
            return Err(LabelFault::Checksum);
        }
        let used = match u32::from_le_bytes(fields.take()) {
            VERSION => USED,
            SECOND_VERSION => USED_SECOND,
            FIRST_VERSION => USED_FIRST,
            other => return Err(LabelFault::Version(other)),
        };
        if head[used..].iter().any(|&byte| byte != 0) {
            return Err(LabelFault::Field("unused bytes are not zero"));
        }
        fields.label()
    }

    /// Returns the number of extents, including extent 0, which holds the label.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.size.0 / self.extent_size.bytes()
    }
}

/// Bytes that have not been parsed yet.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    /// Takes the next field. The fields together are shorter than a copy, so there always is one.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.rest.split_first_chunk() else {
            return [0; N];
        };
        self.rest = rest;
        *field
    }

    fn label(mut self) -> Result<Label, LabelFault> {
        let extent_size = ExtentSize::new(u32::from_le_bytes(self.take()).into())
            .ok_or(LabelFault::Field("extent size"))?;
        let label = Label {
            extent_size,
            pool: Uuid::from_bytes(self.take()),
            disk: Uuid::from_bytes(self.take()),
            size: ByteCount(u64::from_le_bytes(self.take())),
            layout: u64::from_le_bytes(self.take()),
            sequence: u64::from_le_bytes(self.take()),
            // These bytes are zero in version 1.
            instance: Uuid::from_bytes(self.take()),
            copy: self.place(),
        };
        if label.pool.is_nil() {
            Err(LabelFault::Field("pool UUID"))
        } else if label.disk.is_nil() {
            Err(LabelFault::Field("disk UUID"))
        } else if label.extents() < 2 || !label.size.0.is_multiple_of(extent_size.bytes()) {
            Err(LabelFault::Field("size"))
        } else if label.sequence == 0 {
            Err(LabelFault::Field("sequence number"))
        } else if label.copy.is_some_and(|place| !place.fits(label.size)) {
            Err(LabelFault::Field("place of the metadata"))
        } else {
            Ok(label)
        }
    }

    fn place(&mut self) -> Option<Place> {
        let (at, slot) = (u64::from_le_bytes(self.take()), u64::from_le_bytes(self.take()));
        ((at, slot) != (0, 0)).then_some(Place { at, slot })
    }
}

/// Returns the valid label, and the index of its copy.
///
/// # Errors
/// Fails when neither copy is usable, or one is of a version that this program does not know.
pub fn choose(copies: &[[u8; COPY]; 2]) -> Result<(Label, usize), LabelFault> {
    match copies.each_ref().map(Label::decode) {
        [Ok(first), Ok(second)] if (first.pool, first.disk) != (second.pool, second.disk) => {
            Err(LabelFault::Disagree)
        }
        [Ok(first), Ok(second)] if second.sequence > first.sequence => Ok((second, 1)),
        [Err(fault @ LabelFault::Version(_)), _] | [_, Err(fault @ LabelFault::Version(_))] => Err(fault),
        [Ok(first), _] => Ok((first, 0)),
        [Err(_), Ok(second)] => Ok((second, 1)),
        [Err(LabelFault::Absent), Err(fault)] | [Err(fault), Err(_)] => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn label(sequence: u64) -> Label {
        Label {
            pool: Uuid::from_u128(1),
            disk: Uuid::from_u128(2),
            size: ByteCount(8 << 20),
            extent_size: ExtentSize::DEFAULT,
            layout: 7,
            sequence,
            instance: Uuid::from_u128(3),
            copy: Some(PLACE),
        }
    }

    const PLACE: Place = Place {
        at: 8192,
        slot: 0x5000,
    };

    fn resealed(mut bytes: [u8; COPY]) -> [u8; COPY] {
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn lies_where_the_table_says() {
        let mut bytes = label(0x0102_0304_0506_0708).encode();
        assert_eq!(&bytes[..8], b"APPARLBL");
        assert_eq!(bytes[8..12], 3_u32.to_le_bytes());
        assert_eq!(bytes[12..16], (1_u32 << 20).to_le_bytes());
        assert_eq!(bytes[16..32], *Uuid::from_u128(1).as_bytes());
        assert_eq!(bytes[32..48], *Uuid::from_u128(2).as_bytes());
        assert_eq!(bytes[48..56], (8_u64 << 20).to_le_bytes());
        assert_eq!(bytes[56..64], 7_u64.to_le_bytes());
        assert_eq!(bytes[64..72], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[72..88], *Uuid::from_u128(3).as_bytes());
        assert_eq!(bytes[88..96], 8192_u64.to_le_bytes());
        assert_eq!(bytes[96..104], 0x5000_u64.to_le_bytes());
        bytes[104] = 1;
        assert_eq!(
            Label::decode(&resealed(bytes)),
            Err(LabelFault::Field("unused bytes are not zero"))
        );
    }

    #[test]
    fn labels_of_earlier_versions_are_read_as_having_nothing_of_what_came_later() {
        let none = Label {
            copy: None,
            ..label(4)
        };
        let nobodys = Label {
            instance: Uuid::nil(),
            ..none
        };
        for (version, wanted) in [(1, nobodys), (2, none)] {
            let mut bytes = wanted.encode();
            bytes[8] = version;
            let bytes = resealed(bytes);
            assert_eq!(Label::decode(&bytes), Ok(wanted));
            let copies = [bytes, label(5).encode()];
            assert_eq!(choose(&copies), Ok((label(5), 1)));
        }
    }

    #[test]
    fn refuses_sealed_nonsense_by_field() {
        let with = |at: usize, field: &[u8]| {
            let mut bytes = label(1).encode();
            bytes[at..at + field.len()].copy_from_slice(field);
            Label::decode(&resealed(bytes)).unwrap_err()
        };
        assert_eq!(with(0, b"x"), LabelFault::Absent);
        assert_eq!(with(8, &4_u32.to_le_bytes()), LabelFault::Version(4));
        for earlier in [1_u32, 2] {
            assert_eq!(
                with(8, &earlier.to_le_bytes()),
                LabelFault::Field("unused bytes are not zero")
            );
        }
        assert_eq!(
            with(88, &1_u64.to_le_bytes()),
            LabelFault::Field("place of the metadata")
        );
        assert_eq!(
            with(12, &(3_u32 << 20).to_le_bytes()),
            LabelFault::Field("extent size")
        );
        assert_eq!(with(16, &[0; 16]), LabelFault::Field("pool UUID"));
        assert_eq!(with(32, &[0; 16]), LabelFault::Field("disk UUID"));
        assert_eq!(with(48, &(1_u64 << 20).to_le_bytes()), LabelFault::Field("size"));
        assert_eq!(
            with(48, &(1_u64 << 20 | 512).to_le_bytes()),
            LabelFault::Field("size")
        );
        assert_eq!(with(64, &[0; 8]), LabelFault::Field("sequence number"));
        assert_eq!(Label::decode(&[0; COPY]), Err(LabelFault::Absent));
    }

    #[test]
    fn the_newer_whole_copy_counts() {
        let (old, new) = (label(4).encode(), label(5).encode());
        let mut torn = label(6).encode();
        torn[4000..].fill(0);
        let foreign = Label {
            pool: Uuid::from_u128(9),
            ..label(9)
        }
        .encode();
        let mut later = label(9).encode();
        later[8] = 4;
        let later = resealed(later);
        assert_eq!(choose(&[old, new]), Ok((label(5), 1)));
        assert_eq!(choose(&[new, old]), Ok((label(5), 0)));
        assert_eq!(choose(&[old, old]), Ok((label(4), 0)));
        assert_eq!(choose(&[torn, new]), Ok((label(5), 1)));
        assert_eq!(choose(&[new, torn]), Ok((label(5), 0)));
        assert_eq!(choose(&[[0; COPY], new]), Ok((label(5), 1)));
        assert_eq!(choose(&[torn, [0; COPY]]), Err(LabelFault::Checksum));
        assert_eq!(choose(&[[0; COPY], torn]), Err(LabelFault::Checksum));
        assert_eq!(choose(&[[0; COPY], [0; COPY]]), Err(LabelFault::Absent));
        assert_eq!(choose(&[old, foreign]), Err(LabelFault::Disagree));
        assert_eq!(choose(&[old, later]), Err(LabelFault::Version(4)));
        assert_eq!(choose(&[later, [0; COPY]]), Err(LabelFault::Version(4)));
    }

    fn labels() -> impl Strategy<Value = Label> {
        let ids = (1..u128::MAX, 1..u128::MAX);
        (ids, 16_u32..=26, 2_u64..1 << 36, any::<u64>(), 1..u64::MAX).prop_map(
            |(ids, shift, extents, layout, sequence)| Label {
                pool: Uuid::from_u128(ids.0),
                disk: Uuid::from_u128(ids.1),
                size: ByteCount(extents << shift),
                extent_size: ExtentSize::new(1 << shift).unwrap(),
                layout,
                sequence,
                instance: Uuid::from_u128(ids.0 ^ ids.1),
                copy: (layout % 2 == 0)
                    .then(|| Place::behind_the_label(ExtentSize::new(1 << shift).unwrap())),
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(label in labels()) {
            prop_assert_eq!(Label::decode(&label.encode()), Ok(label));
        }

        #[test]
        fn up_to_three_flipped_bits_are_noticed(
            label in labels(),
            flips in proptest::collection::btree_set(0..COPY * 8, 1..=3),
        ) {
            let mut bytes = label.encode();
            for bit in flips {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            prop_assert!(Label::decode(&bytes).is_err());
        }

        #[test]
        fn a_write_torn_at_any_sector_leaves_the_old_label_or_the_new(
            old in labels(),
            sectors in 0_usize..=8,
            rest in any::<u8>(),
        ) {
            let new = Label { layout: old.layout ^ 1, sequence: old.sequence + 1, ..old };
            let mut written = [rest; COPY];
            written[..sectors * 512].copy_from_slice(&new.encode()[..sectors * 512]);
            let found = choose(&[old.encode(), written]).map(|(label, _)| label);
            prop_assert_eq!(found, Ok(if sectors == 8 { new } else { old }));
        }
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        let whole = label(1).encode();
        for bit in 0..COPY * 8 {
            let mut bytes = whole;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Label::decode(&bytes).is_err(), "bit {bit}");
        }
    }
}
