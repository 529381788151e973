//! The format of the metadata copies on disks: a checkpoint of the table, followed by a log of the changes persisted since. Pure.
//!
//! A *copy* consists of two slots of the same length. A slot has a header block, the body of a checkpoint, and a log:
//!
//! ```text
//! | header, 4096 | body, to the next multiple of 4096 | record | record | …            the end of the slot |
//! ```
//!
//! The slot whose valid header has the higher number is *current*. Its log ends before the first record that is invalid or does not follow its predecessor, so a
//! torn write leaves the state before it. A checkpoint is written into the other slot, the body durably before the header; the current checkpoint and
//! its log are never overwritten.
//!
//! Header, integers little-endian ([`header`]):
//!
//! ```text
//! offset  size
//!      0     8  magic, "APPARMET"
//!      8     4  format version, 1
//!     12     4  zero
//!     16    16  pool UUID
//!     32    16  disk UUID
//!     48    16  lineage: UUID of the database's history
//!     64     8  number of the checkpoint: the slot with the higher one is current
//!     72     8  layout number: changes persisted so far
//!     80     8  generation of that table
//!     88     8  length of the body
//!     96     4  crc32c of the body
//!    100  3992  zero
//!   4092     4  crc32c of bytes 0 to 4091
//! ```
//!
//! Record, at a multiple of 4096, padded with zeroes ([`log`]):
//!
//! ```text
//!      0     4  magic, "ALOG"
//!      4     4  length of the payload
//!      8     4  crc32c of the record before it, or of the header
//!     12     4  crc32c of bytes 0 to 11, of those from 16 to the end of the payload
//!     16     8  layout after it
//!     24     8  generation after it
//!     32        payload: facts of the pool, and the edits
//! ```
//!
//! [`contents`] and [`codec`] define the encoding of bodies and payloads.

pub mod codec;
pub mod contents;
pub mod copy;
pub mod header;
pub mod log;
pub mod place;
#[cfg(test)]
mod tests;

use std::fmt;

/// Alignment of headers, bodies and records in bytes.
pub const BLOCK: usize = 4096;

/// Reason why bytes are not usable metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes have no magic.
    Absent,
    /// A checksum does not match its bytes.
    Checksum,
    /// The bytes are whole, and have this other format version.
    Version(u32),
    /// The bytes are whole, and a value in them is invalid.
    Field(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is none"),
            Self::Checksum => f.write_str("it is damaged: a checksum does not match"),
            Self::Version(found) => write!(
                f,
                "it has format {found}, and this program knows format {}",
                header::VERSION
            ),
            Self::Field(field) => write!(f, "it makes no sense: {field}"),
        }
    }
}

/// Rounds a length up to the next multiple of [`BLOCK`].
#[must_use]
pub fn padded(len: u64) -> u64 {
    len.next_multiple_of(BLOCK as u64)
}
