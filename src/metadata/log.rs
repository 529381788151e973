//! The log behind a checkpoint. Changes that are persisted together share one record.

use super::codec::{Reader, Writer};
use super::contents::{Contents, Facts};
use super::header::{Position, at};
use super::{BLOCK, Fault, padded};
use crate::model::records::Edit;
use crate::model::units::Generation;

const MAGIC: [u8; 4] = *b"ALOG";
const HEAD: usize = 32;
const CHECKSUM: std::ops::Range<usize> = 12..16;

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position after the record.
    pub position: Position,
    /// Checksum of the record, which the next record has to carry.
    pub chain: u32,
    /// Distance to the next record in bytes.
    pub len: u64,
    payload: Vec<u8>,
}

/// Encodes a record. Returns its bytes, and the checksum that the next record has to carry.
///
/// # Errors
/// Fails when an edit cannot be encoded.
pub fn encode<'a>(
    chain: u32,
    position: Position,
    facts: &Facts,
    edits: impl Iterator<Item = &'a Edit> + Clone,
) -> Result<(Vec<u8>, u32), Fault> {
    let mut out = Writer::default();
    out.bytes.resize(HEAD, 0);
    out.record(facts)?;
    out.number(edits.clone().count() as u64);
    for edit in edits {
        out.edit(edit)?;
    }
    let mut bytes = out.bytes;
    let payload = u32::try_from(bytes.len() - HEAD).map_err(|_| Fault::Field("a record is too long"))?;
    let fields: [&[u8]; 6] = [
        &MAGIC,
        &payload.to_le_bytes(),
        &chain.to_le_bytes(),
        &[0; 4],
        &position.layout.to_le_bytes(),
        &position.generation.0.to_le_bytes(),
    ];
    bytes[..HEAD].copy_from_slice(&fields.concat());
    let checksum = checksum(&bytes);
    bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    Ok((bytes, checksum))
}

fn checksum(record: &[u8]) -> u32 {
    let head = crc32c::crc32c(&record[..CHECKSUM.start]);
    crc32c::crc32c_append(head, &record[CHECKSUM.end..])
}

/// Returns the record at `from` if it is valid and follows the record with this checksum. `read` returns exactly the requested bytes of the slot, all of
/// which lie before `end`.
///
/// # Errors
/// Returns the errors of `read`.
pub fn next<E>(
    read: &mut dyn FnMut(u64, usize) -> Result<Vec<u8>, E>,
    from: u64,
    end: u64,
    chain: u32,
) -> Result<Option<Record>, E> {
    let fits = |len: u64| from.checked_add(len).is_some_and(|to| to <= end);
    if !fits(BLOCK as u64) {
        return Ok(None);
    }
    let mut bytes = read(from, BLOCK)?;
    if bytes.len() < BLOCK || bytes[..4] != MAGIC || u32::from_le_bytes(at(&bytes, 8)) != chain {
        return Ok(None);
    }
    let used = HEAD + u32::from_le_bytes(at(&bytes, 4)) as usize;
    let len = padded(used as u64);
    if !fits(len) {
        return Ok(None);
    }
    if used > BLOCK {
        bytes.extend(read(from + BLOCK as u64, used.next_multiple_of(BLOCK) - BLOCK)?);
    }
    if bytes.len() < used {
        return Ok(None);
    }
    let padding_is_zero = bytes[used..].iter().all(|&byte| byte == 0);
    bytes.truncate(used);
    let checksum = checksum(&bytes);
    if !padding_is_zero || checksum.to_le_bytes() != bytes[CHECKSUM] {
        return Ok(None);
    }
    Ok(Some(Record {
        position: Position {
            layout: u64::from_le_bytes(at(&bytes, 16)),
            generation: Generation(u64::from_le_bytes(at(&bytes, 24))),
        },
        chain: checksum,
        len,
        payload: bytes.split_off(HEAD),
    }))
}

impl Record {
    /// Applies the edits of the record to the table.
    ///
    /// # Errors
    /// Fails when an edit does not fit the table, which may have been changed in part then.
    pub fn apply(&self, contents: &mut Contents) -> Result<(), Fault> {
        let mut from = Reader { rest: &self.payload };
        contents.facts = from.record()?;
        for _ in 0..from.count()? {
            contents.edit(from.edit()?)?;
        }
        from.end()
    }
}
