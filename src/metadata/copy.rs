//! A whole metadata copy: the choice of the current one of its two slots, and its contents.

use super::contents::Contents;
use super::header::{Header, Identity, Position};
use super::{BLOCK, Fault, log};

/// Reads bytes of a slot: takes an offset and a length. Returns fewer bytes at the end of the slot.
pub type Read<'a, E> = dyn FnMut(u64, usize) -> Result<Vec<u8>, E> + 'a;

/// The contents of a metadata copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Header of the current slot.
    pub header: Header,
    /// Position after the last record of the log.
    pub position: Position,
    /// The table at that position.
    pub contents: Contents,
}

/// End of a slot's log, where the next record is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Offset from the start of the slot, in bytes.
    pub at: u64,
    /// Checksum of the last record, or of the header; the next record carries it.
    pub chain: u32,
    /// Position that the slot covers.
    pub position: Position,
}

impl Tail {
    /// Returns the end of a checkpoint with an empty log, or `None` if no slot is that long.
    #[must_use]
    pub fn behind(header: &Header) -> Option<Self> {
        Some(Self {
            at: header.log()?,
            chain: header.chain(),
            position: header.position,
        })
    }

    /// Advances past all valid records, and calls `each` for each of them.
    ///
    /// # Errors
    /// Returns the errors of `read` and of `each`.
    pub fn pass<E>(
        &mut self,
        read: &mut Read<'_, E>,
        end: u64,
        each: &mut dyn FnMut(&log::Record) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(record) = log::next(read, self.at, end, self.chain)? {
            each(&record)?;
            self.at += record.len;
            self.chain = record.chain;
            self.position = record.position;
        }
        Ok(())
    }
}

/// Encodes a checkpoint: its header, and its body padded to a whole block.
///
/// # Errors
/// Fails when the checkpoint is longer than a slot.
pub fn checkpoint(
    identity: Identity,
    number: u64,
    position: Position,
    body: &[u8],
    slot: u64,
) -> Result<(Header, Vec<u8>), Fault> {
    let header = Header {
        identity,
        number,
        position,
        body: body.len() as u64,
        checksum: crc32c::crc32c(body),
    };
    if header.log().is_none_or(|log| log > slot) {
        return Err(Fault::Field("it is longer than its place"));
    }
    let mut padded = body.to_vec();
    padded.resize(body.len().next_multiple_of(BLOCK), 0);
    Ok((header, padded))
}

/// Error of reading a metadata copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread<E> {
    /// Reading the disk failed.
    Bytes(E),
    /// The bytes are not a usable copy.
    Fault(Fault),
}

impl<E> From<Fault> for Unread<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Reads bytes of a metadata copy: takes the slot, an offset in it, and a length. Returns fewer bytes at the end of the file.
pub type ReadSlot<'a, E> = dyn FnMut(usize, u64, usize) -> Result<Vec<u8>, E> + 'a;

/// Reads the contents of a copy from its two slots of this length. Of the slots, only the headers and the parts that are current are read.
///
/// # Errors
/// Returns the errors of `read`. Fails when neither slot is usable, or one has another format version.
pub fn read_with<E>(slot: u64, read: &mut ReadSlot<'_, E>) -> Result<Copy, Unread<E>> {
    let mut headers = Vec::new();
    let mut worst = Fault::Absent;
    for index in 0..2 {
        let block = read(index, 0, BLOCK).map_err(Unread::Bytes)?;
        match block.first_chunk().ok_or(Fault::Absent).and_then(Header::decode) {
            Ok(header) => headers.push((index, header)),
            Err(fault @ Fault::Version(_)) => return Err(fault.into()),
            Err(Fault::Absent) => {}
            Err(fault) => worst = fault,
        }
    }
    headers.sort_by_key(|(_, header)| std::cmp::Reverse(header.number));
    for (index, header) in headers {
        match replay(header, slot, &mut |at, len| read(index, at, len)) {
            Err(Unread::Fault(fault)) => worst = fault,
            read => return read,
        }
    }
    Err(worst.into())
}

fn replay<E>(header: Header, slot: u64, read: &mut Read<'_, E>) -> Result<Copy, Unread<E>> {
    const TOO_LONG: Fault = Fault::Field("the body is longer than its place");
    let mut tail = Tail::behind(&header)
        .filter(|tail| tail.at <= slot)
        .ok_or(TOO_LONG)?;
    let len = usize::try_from(header.body).map_err(|_| TOO_LONG)?;
    let body = read(BLOCK as u64, len).map_err(Unread::Bytes)?;
    if body.len() != len {
        return Err(TOO_LONG.into());
    }
    if crc32c::crc32c(&body) != header.checksum {
        return Err(Fault::Checksum.into());
    }
    let mut contents = Contents::decode(&body)?;
    drop(body);
    tail.pass(
        &mut |at, len| read(at, len).map_err(Unread::Bytes),
        slot,
        &mut |record| Ok(record.apply(&mut contents)?),
    )?;
    Ok(Copy {
        header,
        position: tail.position,
        contents,
    })
}

/// Decodes the contents of a copy from the bytes of its two slots.
///
/// # Errors
/// Fails when neither slot is usable, or one has another format version.
pub fn read(slots: [&[u8]; 2]) -> Result<Copy, Fault> {
    let longest = slots.map(<[u8]>::len).into_iter().max().unwrap_or(0);
    let copy = read_with(longest as u64, &mut |index, at, len| {
        let rest = usize::try_from(at).ok().and_then(|at| slots[index].get(at..));
        let rest = rest.unwrap_or_default();
        Ok::<_, std::convert::Infallible>(rest[..rest.len().min(len)].to_vec())
    });
    copy.map_err(|unread| match unread {
        Unread::Fault(fault) => fault,
        Unread::Bytes(never) => match never {},
    })
}
