//! The block at the head of a slot.

use super::{BLOCK, Fault};
use crate::model::units::Generation;
use uuid::Uuid;

/// The format that is written and read.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"APPARMET";
const CHECKSUM: usize = BLOCK - 4;
const USED: usize = 100;

/// Whose a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The pool.
    pub pool: Uuid,
    /// The disk that it lies on.
    pub disk: Uuid,
    /// The history of the database that it covers: a database that was put back goes on with another one.
    pub lineage: Uuid,
}

/// Which state of the pool something covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// How many changes had been persisted.
    pub layout: u64,
    /// The generation that the last of them led to, or a later one.
    pub generation: Generation,
}

/// What a slot says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose it is.
    pub identity: Identity,
    /// Of two slots the one with the higher number counts. From 1.
    pub number: u64,
    /// What the body covers.
    pub position: Position,
    /// Length of the body.
    pub body: u64,
    /// The body's checksum.
    pub checksum: u32,
}

impl Header {
    /// Encodes it.
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

    /// Decodes bytes, strictly.
    ///
    /// # Errors
    /// What is wrong with it.
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

    /// Returns what the first record behind it has to name as the checksum before it.
    #[must_use]
    pub fn chain(&self) -> u32 {
        crc32c::crc32c(&self.encode())
    }

    /// Returns where the log begins, from the head of the slot; `None` where no slot is that long.
    #[must_use]
    pub fn log(&self) -> Option<u64> {
        let body = self.body.checked_next_multiple_of(BLOCK as u64)?;
        body.checked_add(BLOCK as u64)
    }
}

/// Returns a field, of which the caller knows that it lies inside.
pub(super) fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.copied().unwrap_or([0; N])
}
