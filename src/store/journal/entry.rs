//! An entry of the log and its encoding, in little-endian order:
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 8 | `VAPPLOG1` |
//! | 8 | 8 | number of the entry before |
//! | 16 | 4 | chain of the entry before |
//! | 20 | 4 | format of the database |
//! | 24 | 16 | nonce |
//! | 40 | 4 | CRC-32C of the rows |
//! | 44 | | the rows |

use crate::model::error::{Error, Result};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of an encoded entry.
const MAGIC: [u8; 8] = *b"VAPPLOG1";

/// A place in the log: the number of an entry, and a checksum over it and all entries before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the last entry; 0 before the first.
    pub number: u64,
    /// CRC-32C over the previous chain and the entry; 0 before the first.
    pub chain: u32,
}

/// The rows that one transaction has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The position that this entry follows.
    pub after: Position,
    /// Format of the database that the rows belong to.
    pub format: u32,
    /// Distinguishes this attempt from all others.
    pub nonce: u128,
    /// The rows, one on each line, in the order in which they were written.
    pub rows: Vec<u8>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    number: U64,
    chain: U32,
    format: U32,
    nonce: [u8; 16],
    /// CRC-32C over the rows.
    checksum: U32,
}

impl Entry {
    /// Returns the position of the log after this entry.
    #[must_use]
    pub fn position(&self) -> Position {
        let chain = crc32c::crc32c(&self.after.chain.to_le_bytes());
        Position {
            number: self.after.number + 1,
            chain: crc32c::crc32c_append(chain, &self.encode()),
        }
    }

    /// Returns the entry's encoding: a head of 44 bytes, and the rows.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head = Head {
            magic: MAGIC,
            number: self.after.number.into(),
            chain: self.after.chain.into(),
            format: self.format.into(),
            nonce: self.nonce.to_le_bytes(),
            checksum: crc32c::crc32c(&self.rows).into(),
        };
        [head.as_bytes(), &self.rows].concat()
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// Fails if the bytes are no undamaged entry.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::failed("log of the pool", "has a damaged entry");
        let (head, rows) = Head::ref_from_prefix(bytes).map_err(|_| damaged())?;
        if head.magic != MAGIC || head.checksum.get() != crc32c::crc32c(rows) {
            return Err(damaged());
        }
        Ok(Self {
            after: Position {
                number: head.number.get(),
                chain: head.chain.get(),
            },
            format: head.format.get(),
            nonce: u128::from_le_bytes(head.nonce),
            rows: rows.to_vec(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            after: Position { number: 6, chain: 77 },
            format: 8,
            nonce: 1 << 100,
            rows: b"i\tdisks\t[1]\n".to_vec(),
        }
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let encoded = entry().encode();
        assert_eq!(encoded[..8], *b"VAPPLOG1");
        assert_eq!(encoded[8..16], 6_u64.to_le_bytes());
        assert_eq!(encoded[16..20], 77_u32.to_le_bytes());
        assert_eq!(encoded[20..24], 8_u32.to_le_bytes());
        assert_eq!(encoded[24..40], (1_u128 << 100).to_le_bytes());
        assert_eq!(encoded[40..44], crc32c::crc32c(b"i\tdisks\t[1]\n").to_le_bytes());
        assert_eq!(encoded[44..], *b"i\tdisks\t[1]\n");
    }

    #[test]
    fn an_entry_is_decoded_as_it_was_encoded() {
        let entry = entry();
        assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
        assert_eq!(entry.position().number, 7);
    }

    #[test]
    fn a_damaged_entry_is_refused_or_has_another_chain() {
        let entry = entry();
        let good = entry.encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let refused = Entry::decode(&bad).map_or(true, |found| found.position() != entry.position());
            assert!(refused, "byte {at}");
        }
        for len in 0..good.len() {
            assert!(Entry::decode(&good[..len]).is_err(), "{len} bytes");
        }
    }
}
