//! Updates a disk's metadata copy. Every process that persists changes does so.
//!
//! Each disk's copy is updated independently, whatever other processes do to it meanwhile: under a lock of that disk, the process reads the records that others have
//! appended, and appends the changes that the store has persisted since. If they cannot be appended, it writes a checkpoint into the other slot, the body durably before
//! the header. All writes are durable writes of their own range, so they wait for no data of hosts. Their errors concern the copy alone ([`Disk::write_metadata`]): a copy
//! that cannot be written lags, and no data of hosts counts as lost.
//!
//! The store records the place of a copy, and the label has to name the same place. The check is made under the lock, so that no process writes to the former place of a
//! copy that has moved. A record of another process that the store does not know may not be durable: it is written again before this process appends to it. The
//! header of a checkpoint that the store does not know is treated in the same way.

use super::Disk;
use super::claim::with_metadata_lock;
use super::device::read_exact_at;
use super::labelled;
use crate::cluster::FlushLedger;
use crate::held::may_wait;
use crate::metadata::contents::Facts;
use crate::metadata::copy::{Tail, checkpoint};
use crate::metadata::header::{Header, Identity, Position};
use crate::metadata::place::Place;
use crate::metadata::{BLOCK, log};
use crate::model::error::{Error, Result};
use crate::model::records::Edit;
use crate::model::units::Generation;
use std::io;
use std::sync::PoisonError;
use uuid::Uuid;

/// Granularity in bytes by which space of an image is allocated, so that most records need no allocation in its file system.
const AHEAD: u64 = 64 << 10;

/// The state that a copy has to cover.
#[derive(Clone, Debug)]
pub struct Update {
    /// UUID of the pool.
    pub pool: Uuid,
    /// UUID of the history of its database.
    pub lineage: Uuid,
    /// Position of the last persisted change.
    pub target: Position,
    /// Facts of the pool.
    pub facts: Facts,
    /// The last persisted changes in order, each with the generation that it produced.
    pub steps: Vec<(Generation, Vec<Edit>)>,
    /// The body of a checkpoint of the target, if one may be needed.
    pub body: Option<Vec<u8>>,
}

/// Result of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The copy durably covers the target, or more.
    Current,
    /// The log cannot be continued; the copy needs a checkpoint.
    WantsCheckpoint,
    /// The label names no place for the copy, or another one than the store.
    Unplaced,
}

/// State of the copy that this opening of the disk has cached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    place: Place,
    slot: usize,
    number: u64,
    lineage: Uuid,
    /// Length of the checkpoint's body.
    body: u64,
    tail: Tail,
    /// Offset in the slot up to which the log is known to be durable.
    durable: u64,
}

/// The store's record of the disk's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Place of the copy. The disk's label has to name the same one.
    pub place: Place,
    /// Position that the copy is known to cover durably.
    pub position: Position,
}

impl Disk {
    /// Brings the disk's copy to the state of `update`.
    ///
    /// # Errors
    /// Fails with the disk's name when the disk cannot be written or has no room.
    pub fn update_copy(&self, reported: CopyState, update: &Update) -> Result<Updated> {
        self.alone(|| {
            if self.named_place()? != Some(reported.place) {
                return Ok(Updated::Unplaced);
            }
            self.bring_up(reported, update)
        })
    }

    /// Writes a checkpoint of `body` at this place, whatever its bytes are, and makes the label name the place. Returns the label's sequence number.
    ///
    /// # Errors
    /// Fails with the disk's name when the disk cannot be written or has no room.
    pub fn place_copy(
        &self,
        place: Place,
        update: &Update,
        body: &[u8],
        ledger: &dyn FlushLedger,
    ) -> Result<u64> {
        let named = self.alone(|| {
            self.replace(place, update, body)?;
            if self.named_place()? == Some(place) {
                return Ok(Ok(self.label().sequence));
            }
            // Under the lock, so that nobody writes to the former place any more.
            Ok(self.set_copy(Some(place), ledger).map(|label| label.sequence))
        });
        named?
    }

    /// Makes the label name no place, so that no process writes to the copy any more. Returns the label's sequence number.
    ///
    /// # Errors
    /// Fails with the disk's name when the disk cannot be written or has no room.
    pub fn drop_copy(&self, ledger: &dyn FlushLedger) -> Result<u64> {
        let dropped = self.alone(|| {
            self.remember(None);
            Ok(self.set_copy(None, ledger).map(|label| label.sequence))
        });
        dropped?
    }

    /// Returns the length of the copy's checkpoint if its place leaves too little room for a log, as far as this opening knows.
    #[must_use]
    pub fn cramped_copy(&self) -> Option<u64> {
        let known = *self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        let cramped = known.filter(|known| !known.place.has_room_for(known.body));
        cramped.map(|known| known.body)
    }

    fn alone<T>(&self, work: impl FnOnce() -> io::Result<T>) -> Result<T> {
        may_wait("metadata");
        let failed = |why: io::Error| Error::because(format!("{}: the pool's metadata", self.what()), why);
        if self.read_only {
            return Err(Error::failed(
                self.what(),
                "is read-only, so the pool's metadata cannot be written to it",
            ));
        }
        let _turn = self.copy_turn.lock().unwrap_or_else(PoisonError::into_inner);
        with_metadata_lock(self.device.handle(), work).map_err(failed)
    }

    /// Reads the place that the label names now: another process may have written the label since this opening.
    fn named_place(&self) -> io::Result<Option<Place>> {
        let label = labelled::read(self.device.handle())?;
        let label = label.map_err(|fault| io::Error::other(fault.to_string()))?;
        let own = self.label();
        Ok(label
            .copy
            .filter(|_| (label.pool, label.disk) == (own.pool, own.disk)))
    }

    fn bring_up(&self, reported: CopyState, update: &Update) -> io::Result<Updated> {
        let place = reported.place;
        let Some(mut known) = self.look(reported, update)? else {
            return self.replace_if_given(place, update);
        };
        let slot = place.slots()[known.slot].start;
        self.read_on(slot, reported, &mut known)?;
        let rest = usize::try_from(known.tail.at - known.durable).map_err(io::Error::other)?;
        if rest > 0 {
            // Somebody else has written these records, and may have died before they were durable.
            let records = self.bytes(slot + known.durable, rest)?;
            self.write_metadata(&records, slot + known.durable)?;
            known.durable = known.tail.at;
        }
        self.remember(Some(known));
        if known.tail.position.layout >= update.target.layout {
            return Ok(Updated::Current);
        }
        let Some(edits) = missing(known.tail.position, update) else {
            return self.replace_if_given(place, update);
        };
        let written = log::encode(
            known.tail.chain,
            update.target,
            &update.facts,
            edits.iter().copied(),
        );
        let (mut record, chain) = written.map_err(|fault| io::Error::other(fault.to_string()))?;
        let len = record.len() as u64;
        if known.tail.at + len > place.slot {
            return self.replace_if_given(place, update);
        }
        take_ahead(&mut record, known.tail.at, place.slot);
        self.write_metadata(&record, slot + known.tail.at)?;
        let at = known.tail.at + len;
        known.tail = Tail {
            at,
            chain,
            position: update.target,
        };
        known.durable = at;
        self.remember(Some(known));
        Ok(Updated::Current)
    }

    /// Advances past the records that other processes have appended.
    fn read_on(&self, slot: u64, reported: CopyState, known: &mut Known) -> io::Result<()> {
        let (mut at, mut durable) = (known.tail.at, known.durable);
        known.tail.pass(
            &mut |at, len| self.bytes(slot + at, len),
            reported.place.slot,
            &mut |record| {
                if durable == at && record.position.layout <= reported.position.layout {
                    durable += record.len;
                }
                at += record.len;
                Ok(())
            },
        )?;
        known.durable = durable;
        Ok(())
    }

    /// Returns the current slot, from the cache or from the disk, or `None` if no slot can be continued.
    fn look(&self, reported: CopyState, update: &Update) -> io::Result<Option<Known>> {
        let place = reported.place;
        let headers = self.headers(place)?;
        let newest = newest(&headers);
        let known = self.copy.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(known), Some((slot, header))) = (known, newest)
            && (known.slot, known.number) == (slot, header.number)
            && (known.place, known.lineage) == (place, update.lineage)
        {
            return Ok(Some(known));
        }
        let Some((slot, header)) = newest.filter(|(_, header)| self.is_ours(header, update)) else {
            return Ok(None);
        };
        let start = place.slots()[slot].start;
        let body = usize::try_from(header.body.min(place.slot)).unwrap_or(usize::MAX);
        let sound = crc32c::crc32c(&self.bytes(start + BLOCK as u64, body)?) == header.checksum;
        if sound && header.position.layout > reported.position.layout {
            // The store did not know this checkpoint when it was asked, so its header need not be durable; its body is, because that comes first. It is not
            // replaced: another process may have gone on behind it meanwhile, further than this one is to go.
            self.write_metadata(&header.encode(), start)?;
        }
        Ok(Tail::behind(&header).filter(|_| sound).map(|tail| Known {
            place,
            slot,
            number: header.number,
            lineage: header.identity.lineage,
            body: header.body,
            durable: tail.at,
            tail,
        }))
    }

    fn is_ours(&self, header: &Header, update: &Update) -> bool {
        let disk = self.label().disk;
        let Identity {
            pool,
            disk: on,
            lineage,
        } = header.identity;
        (pool, on, lineage) == (update.pool, disk, update.lineage)
    }

    fn headers(&self, place: Place) -> io::Result<[Option<Header>; 2]> {
        let mut headers = [None; 2];
        for (header, slot) in headers.iter_mut().zip(place.slots()) {
            *header = self
                .bytes(slot.start, BLOCK)?
                .first_chunk()
                .and_then(|block| Header::decode(block).ok());
        }
        Ok(headers)
    }

    fn replace_if_given(&self, place: Place, update: &Update) -> io::Result<Updated> {
        match &update.body {
            Some(body) => self.replace(place, update, body),
            None => Ok(Updated::WantsCheckpoint),
        }
    }

    /// Writes a checkpoint into the slot that is not current.
    fn replace(&self, place: Place, update: &Update, body: &[u8]) -> io::Result<Updated> {
        let newest = newest(&self.headers(place)?);
        let (slot, number) = newest.map_or((0, 1), |(slot, header)| {
            (1 - slot, header.number.saturating_add(1))
        });
        let start = place.slots()[slot].start;
        let identity = Identity {
            pool: update.pool,
            disk: self.label().disk,
            lineage: update.lineage,
        };
        let made = checkpoint(identity, number, update.target, body, place.slot);
        let (header, mut padded) = made.map_err(|_| too_long(body.len(), place.slot))?;
        self.remember(None);
        take_ahead(&mut padded, BLOCK as u64, place.slot);
        self.write_metadata(&padded, start + BLOCK as u64)?;
        self.write_metadata(&header.encode(), start)?;
        self.remember(Tail::behind(&header).map(|tail| Known {
            place,
            slot,
            number,
            lineage: update.lineage,
            body: header.body,
            durable: tail.at,
            tail,
        }));
        Ok(Updated::Current)
    }

    fn bytes(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        read_exact_at(&*self.device, &mut bytes, at)?;
        Ok(bytes)
    }

    fn remember(&self, known: Option<Known>) {
        *self.copy.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

fn too_long(body: usize, slot: u64) -> io::Error {
    io::Error::other(format!(
        "the table takes {body} bytes, and there are {slot} for it and its log"
    ))
}

/// Returns the sound header with the highest number, and its slot.
fn newest(headers: &[Option<Header>; 2]) -> Option<(usize, Header)> {
    let found = (0..)
        .zip(headers)
        .filter_map(|(slot, header)| Some((slot, (*header)?)));
    found.max_by_key(|(_, header)| header.number)
}

/// Returns the edits that lead from there to the target; `None` where they are not all known.
fn missing(from: Position, update: &Update) -> Option<Vec<&Edit>> {
    let first = update
        .steps
        .partition_point(|(led_to, _)| *led_to <= from.generation);
    let steps = &update.steps[first..];
    let all = steps.len() as u64 == update.target.layout.checked_sub(from.layout)?;
    all.then(|| steps.iter().flat_map(|(_, edits)| edits).collect())
}

/// Zeroes up to where the next piece of space begins, if the bytes begin a piece or reach into one.
fn take_ahead(bytes: &mut Vec<u8>, at: u64, slot: u64) {
    let end = at + bytes.len() as u64;
    if at.is_multiple_of(AHEAD) || at / AHEAD != (end - 1) / AHEAD || at == BLOCK as u64 {
        let piece = end.next_multiple_of(AHEAD).min(slot);
        bytes.resize(usize::try_from(piece.max(end) - at).unwrap_or(bytes.len()), 0);
    }
}
