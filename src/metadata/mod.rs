//! The format of the copies of the table that disks carry: a checkpoint, and behind it a log of what was persisted since. Pure.
//!
//! A *copy* is two slots of one length. Each begins with a header block, then comes the body of the checkpoint, then the log:
//!
//! ```text
//! | header, 4096 | body, to the next multiple of 4096 | record | record | …            the end of the slot |
//! ```
//!
//! The slot with the sound header of the higher number counts. Its log ends before the first record that is not sound or does not follow the one before it, so a
//! write that was cut short leaves the state before it. A checkpoint is written into the slot that does not count, the body durably before the
//! header; nothing that counts is written over.
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
//!     64     8  number of the checkpoint: of two slots the higher one counts
//!     72     8  layout: how many changes had been persisted
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
//!     32        payload: what is one per pool, and the edits
//! ```
//!
//! [`contents`] and [`codec`] say what bodies and payloads are made of.

pub mod codec;
pub mod contents;
pub mod copy;
pub mod header;
pub mod log;
pub mod place;
#[cfg(test)]
mod tests;

use std::fmt;

/// What headers, bodies and records begin at a multiple of.
pub const BLOCK: usize = 4096;

/// Why bytes are not metadata that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing there claims to be metadata.
    Absent,
    /// A checksum does not match.
    Checksum,
    /// Whole, but of this other format version.
    Version(u32),
    /// Whole, but this makes no sense.
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

/// Rounds up to the next multiple of [`BLOCK`].
#[must_use]
pub fn padded(len: u64) -> u64 {
    len.next_multiple_of(BLOCK as u64)
}
