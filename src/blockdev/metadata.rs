//! A disk's copy of the pool's metadata, brought up to date by whoever persists something.
//!
//! Each disk's copy is brought up to date on its own, whatever others do to it meanwhile: under a lock of that disk, what stands in its log is gone past, and what the store has
//! persisted since is appended. What cannot be appended becomes a checkpoint in the other slot, its body durably before its header. All writes are durable writes of
//! their own range, so they wait for nobody's data; their errors are theirs alone ([`Disk::write_metadata`]), so a copy that cannot be written is behind, and says
//! nothing of what hosts have written.
//!
//! The place of a copy is what the store says, and the label has to name the same one: under the lock, so that a copy that moves is written to at its former place by
//! nobody who has not seen the move. A record that somebody else has written, and that the store does not know, may not be durable: it is written again before
//! this process builds on it. So is the header of a checkpoint that the store does not know.

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

/// Space of an image is taken by pieces of this size, so that most records need no work of its file system.
const AHEAD: u64 = 64 << 10;

/// What the copies have to cover.
#[derive(Clone, Debug)]
pub struct Update {
    /// The pool.
    pub pool: Uuid,
    /// The history of its database.
    pub lineage: Uuid,
    /// The last change that is persisted.
    pub target: Position,
    /// What is one per pool.
    pub facts: Facts,
    /// The last persisted changes, in order, by the generation that each led to.
    pub steps: Vec<(Generation, Vec<Edit>)>,
    /// The body of a checkpoint of the target, where one may be needed.
    pub body: Option<Vec<u8>>,
}

/// What has become of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// It covers the target, or of more, durably.
    Current,
    /// It can only be replaced: by a checkpoint.
    WantsCheckpoint,
    /// The label names no place for it, or another one than the store.
    Unplaced,
}

/// What this opening of a disk knows of its copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    place: Place,
    slot: usize,
    number: u64,
    lineage: Uuid,
    /// Length of the checkpoint's body.
    body: u64,
    tail: Tail,
    /// Up to here in the slot it is known to be durable.
    durable: u64,
}

/// What the store knows of the disk's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Where it lies. The disk's label has to name the same place.
    pub place: Place,
    /// What it is known to cover, durably.
    pub position: Position,
}

impl Disk {
    /// Brings the disk's copy up to what `update` says.
    ///
    /// # Errors
    /// Names the disk: it cannot be written, or has no room.
    pub fn update_copy(&self, reported: CopyState, update: &Update) -> Result<Updated> {
        self.alone(|| {
            if self.named_place()? != Some(reported.place) {
                return Ok(Updated::Unplaced);
            }
            self.bring_up(reported, update)
        })
    }

    /// Writes a checkpoint of `body` at this place, whatever stands there, and has the label name the place. Returns the label's sequence number.
    ///
    /// # Errors
    /// Names the disk, as above.
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

    /// Makes the label name no place, so that nobody writes to the copy any more. Returns the label's sequence number.
    ///
    /// # Errors
    /// Names the disk, as above.
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

    /// Returns the place that the label names at present: another process may have written it since this opening.
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

    /// Goes past the records that others have appended.
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

    /// Returns the slot that counts, as this opening knows it or finds it; `None` where there is none that could be gone on with.
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

    /// Writes a checkpoint into the slot that does not count.
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
