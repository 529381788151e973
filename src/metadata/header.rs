//! The header block at the start of a slot.

use super::{BLOCK, Fault};
use crate::model::units::Generation;
use uuid::Uuid;

/// Format version that is written and read.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"APPARMET";
const CHECKSUM: usize = BLOCK - 4;
const USED: usize = 100;

/// Identifies the pool, disk and database history that a copy belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// UUID of the pool.
    pub pool: Uuid,
    /// UUID of the disk that carries the copy.
    pub disk: Uuid,
    /// UUID of the database's history. A database that is restored from a backup begins another history.
    pub lineage: Uuid,
}

/// Position in the pool's history of persisted changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of changes that had been persisted (the layout number).
    pub layout: u64,
    /// Generation that the last of these changes produced, or a later one.
    pub generation: Generation,
}

/// The header of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Owner of the copy.
    pub identity: Identity,
    /// Number of the checkpoint, from 1. Of two slots, the one with the higher number is current.
    pub number: u64,
    /// Position that the body covers.
    pub position: Position,
    /// Length of the body in bytes.
    pub body: u64,
    /// CRC-32C of the body.
    pub checksum: u32,
}

impl Header {
    /// Encodes the header block.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let fields: [&[u8]; 11] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &[0; 4],
            self.identity.pool.as_bytes(),
            self.identity.disk.as_bytes(),
            self.identity.lineage.as_bytes(),
            &self.number.to_le_bytes(),
            &self.position.layout.to_le_bytes(),
            &self.position.generation.0.to_le_bytes(),
            &self.body.to_le_bytes(),
            &self.checksum.to_le_bytes(),
        ];
        let mut bytes = [0; BLOCK];
        bytes[..USED].copy_from_slice(&fields.concat());
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes a header block. Every byte is checked.
    ///
    /// # Errors
    /// Returns what is wrong with the bytes.
    pub fn decode(bytes: &[u8; BLOCK]) -> Result<Self, Fault> {
        if bytes[..8] != MAGIC {
            return Err(Fault::Absent);
        }
        if crc32c::crc32c(&bytes[..CHECKSUM]).to_le_bytes() != bytes[CHECKSUM..] {
            return Err(Fault::Checksum);
        }
        match u32::from_le_bytes(at(bytes, 8)) {
            VERSION => {}
            other => return Err(Fault::Version(other)),
        }
        let unused = bytes[12..16].iter().chain(&bytes[USED..CHECKSUM]);
        if unused.into_iter().any(|&byte| byte != 0) {
            return Err(Fault::Field("unused bytes are not zero"));
        }
        let number = |offset| u64::from_le_bytes(at(bytes, offset));
        let header = Self {
            identity: Identity {
                pool: Uuid::from_bytes(at(bytes, 16)),
                disk: Uuid::from_bytes(at(bytes, 32)),
                lineage: Uuid::from_bytes(at(bytes, 48)),
            },
            number: number(64),
            position: Position {
                layout: number(72),
                generation: Generation(number(80)),
            },
            body: number(88),
            checksum: u32::from_le_bytes(at(bytes, 96)),
        };
        if header.number == 0 {
            return Err(Fault::Field("number"));
        }
        Ok(header)
    }

    /// Returns the checksum that the first record of the log has to carry.
    #[must_use]
    pub fn chain(&self) -> u32 {
        crc32c::crc32c(&self.encode())
    }

    /// Returns the offset of the log from the start of the slot, or `None` if no slot is that long.
    #[must_use]
    pub fn log(&self) -> Option<u64> {
        let body = self.body.checked_next_multiple_of(BLOCK as u64)?;
        body.checked_add(BLOCK as u64)
    }
}

/// Returns a field at a fixed offset. The caller makes sure that the field lies inside the block.
pub(super) fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.copied().unwrap_or([0; N])
}
