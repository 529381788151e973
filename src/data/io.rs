//! What reads, writes and zeroing do inside the gate.

use super::cold::AHEAD;
use super::figures::Kind;
use super::request::{Progress, Summary};
use super::way::{Ready, Verdict};
use super::{Apparatus, Delivery, Failure, Operation, Reply, Request, Role, Tools};
use crate::disk::{Disk, View};
use crate::gate::Access;
use crate::table::{Missing, Piece};
use crate::units::{DiskId, Generation, VolumeId, VolumeOffset};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Zeroed in one go at most: a hold waits no longer than for this.
const STEP: u64 = 1 << 30;

impl Apparatus {
    pub(super) fn read<'d>(
        &'d self,
        tools: &mut Tools,
        disks: &'d View,
        role: Role,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
    ) -> Result<Verdict<'d>, Failure> {
        if self.locate(tools, Access::Read, volume, at, len)?.is_none() {
            return Ok(Verdict::Ready(Ready::Mapped(&[], None)));
        }
        let waiting = match role {
            Role::Worker => None,
            Role::Spare if is_resident(tools, disks) => None,
            Role::Spare => return Ok(Verdict::Waits),
            Role::Reader if !is_cold(tools, disks) => None,
            Role::Reader => match self.one_reader_waits() {
                None => return Ok(Verdict::Waits),
                waiting => waiting,
            },
        };
        if let [piece] = tools.pieces[..]
            && let Some(disk) = disks.get(piece.disk)
            && let Some(bytes) = disk.mapped(piece.at, to_usize(piece.len))
        {
            return Ok(Verdict::Ready(Ready::Mapped(bytes, waiting)));
        }
        let gathered = self.gather(tools, disks)?;
        Ok(Verdict::Ready(Ready::Gathered(gathered)))
    }

    /// Leave for a reader thread to wait for a disk itself, which is quicker than handing the request over: as long as another reader
    /// is there for hosts.
    fn one_reader_waits(&self) -> Option<Waiting<'_>> {
        let waiting = Waiting(&self.waiting_readers);
        let others = self.waiting_readers.fetch_add(1, Relaxed);
        (others + 1 < self.readers.load(Relaxed)).then_some(waiting)
    }

    /// Reads all pieces into the buffer.
    #[cold]
    fn gather(&self, tools: &mut Tools, disks: &View) -> Result<usize, Failure> {
        let total = to_usize(tools.pieces.iter().map(|piece| piece.len).sum());
        if tools.buffer.len() < total {
            tools.buffer.resize(total, 0);
        }
        let mut rest = &mut tools.buffer[..total];
        for piece in &tools.pieces {
            let (now, later) = rest.split_at_mut(to_usize(piece.len));
            let disk = self.open_disk(disks, piece.disk)?;
            if let Err(error) = disk.read_at(now, piece.at) {
                tools.tally.disk(piece.disk).failed();
                return Err(self.disk_failed(disk, "read", &error));
            }
            rest = later;
        }
        Ok(total)
    }

    /// A write or zeroing.
    pub(super) fn change<'d, R: Reply>(
        &self,
        tools: &mut Tools,
        disks: &View,
        role: Role,
        request: &mut Request<'_, R>,
    ) -> Result<Verdict<'d>, Failure> {
        if role == Role::Spare {
            let span = request.span();
            self.locate(
                tools,
                Access::Write,
                span.volume,
                span.start,
                span.end.0 - span.start.0,
            )?;
            return Ok(Verdict::Waits);
        }
        let bytes = match request.progress {
            Progress::Reached { generation, bytes } if self.is_unmoved(request, generation, bytes) => {
                tools.pieces.clear();
                bytes
            }
            _ => {
                let (generation, bytes) = self.put(tools, disks, request)?;
                request.progress = Progress::Reached { generation, bytes };
                bytes
            }
        };
        // Before the answer: whoever has it may ask for the time of modification at once.
        tools.tally.volume(request.volume).wrote(self.now_us());
        Ok(match request.operation {
            Operation::Write { durable: true, .. } => Verdict::FlushFirst(bytes),
            Operation::Write { .. } => Verdict::Ready(Ready::Written(bytes)),
            Operation::Zero { len, .. } if bytes == STEP && bytes < len => Verdict::Partly(bytes),
            _ => Verdict::Ready(Ready::Done(bytes)),
        })
    }

    fn is_unmoved<R: Reply>(&self, request: &Request<'_, R>, since: Generation, bytes: u64) -> bool {
        let start = request.span().start;
        self.table.unmoved(request.volume, start, bytes, since)
    }

    /// Carries it out on the disks. Answers by which table, and how many bytes lay inside the volume.
    fn put<R: Reply>(
        &self,
        tools: &mut Tools,
        disks: &View,
        request: &Request<'_, R>,
    ) -> Result<(Generation, u64), Failure> {
        let (at, len, partly) = match &request.operation {
            Operation::Write { at, data, .. } => (*at, data.len() as u64, true),
            Operation::Zero { at, len, clip, .. } => (*at, *len, *clip),
            _ => return Err(Failure::PastEnd),
        };
        let located = self.locate(tools, Access::Write, request.volume, at, len)?;
        let (generation, inside) = located.unwrap_or((self.table.generation(), 0));
        let is_write = matches!(request.operation, Operation::Write { .. });
        if inside < len && !partly || inside == 0 && is_write && len > 0 {
            return Err(Failure::PastEnd);
        }
        let inside = if !is_write && inside > STEP {
            self.locate(tools, Access::Write, request.volume, at, STEP)?
                .map_or(0, |part| part.1)
        } else {
            inside
        };
        let mut done = 0;
        for i in 0..tools.pieces.len() {
            let piece = tools.pieces[i];
            let disk = self.open_disk(disks, piece.disk)?;
            let put = match &request.operation {
                Operation::Write { data, .. } => disk.write_at(part(data, done, piece.len), piece.at),
                Operation::Zero { punch, .. } => disk.zero(piece.at, piece.len, *punch),
                _ => Ok(()),
            };
            // Also after a failure: something may have been written.
            self.marks(tools, piece.disk).written();
            if let Err(error) = put {
                tools.tally.disk(piece.disk).failed();
                return Err(self.disk_failed(disk, "write", &error));
            }
            done += piece.len;
        }
        Ok((generation, inside))
    }

    /// Gets space for the range from its disks.
    pub(super) fn allocate<'d>(
        &self,
        tools: &mut Tools,
        disks: &View,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
        clip: bool,
    ) -> Result<Verdict<'d>, Failure> {
        let inside = self
            .locate(tools, Access::Write, volume, at, len)?
            .map_or(0, |found| found.1);
        if inside < len && !clip {
            return Err(Failure::PastEnd);
        }
        for piece in &tools.pieces {
            let disk = self.open_disk(disks, piece.disk)?;
            disk.allocate(piece.at, piece.len)
                .map_err(|error| self.disk_failed(disk, "allocation", &error))?;
        }
        Ok(Verdict::Ready(Ready::Done(0)))
    }

    /// Where the part of the range lies that is inside the volume: by which table, and how long it is. `None`: no part is.
    pub(super) fn locate(
        &self,
        tools: &mut Tools,
        access: Access,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
    ) -> Result<Option<(Generation, u64)>, Failure> {
        let mut inside = len;
        while inside > 0 {
            let (table, reader, pieces) = (&self.table, &mut tools.reader, &mut tools.pieces);
            let located = match access {
                Access::Read => table.locate(reader, volume, at, inside, pieces),
                Access::Write => table.locate_to_write(reader, volume, at, inside, pieces),
            };
            match located {
                Ok(generation) => return Ok(Some((generation, inside))),
                Err(Missing::NoVolume) => return Err(Failure::NoVolume),
                Err(Missing::ReadOnly) => return Err(Failure::ReadOnly),
                Err(Missing::Unmapped(hole)) => {
                    log::error!("volume {volume}: no disk holds what is at {hole}: run vctl pool check");
                    return Err(Failure::Disk);
                }
                // Shorter each time, so this ends even if the volume is being resized.
                Err(Missing::PastEnd(size)) => inside = size.0.saturating_sub(at.0).min(inside - 1),
            }
        }
        tools.pieces.clear();
        Ok(None)
    }

    pub(super) fn open_disk<'d>(&self, disks: &'d View, id: DiskId) -> Result<&'d Arc<Disk>, Failure> {
        // The operator was told when it could not be opened.
        disks.get(id).ok_or(Failure::Disk)
    }

    pub(super) fn disk_failed(&self, disk: &Disk, what: &str, error: &io::Error) -> Failure {
        self.report.disk_failed(disk.name(), what, &error.to_string());
        match error.kind() {
            io::ErrorKind::StorageFull => Failure::NoRoom,
            io::ErrorKind::QuotaExceeded => Failure::Quota,
            _ => Failure::Disk,
        }
    }

    /// Counts a request that was not refused, for its volume and for each disk that it used.
    pub(super) fn count(&self, tools: &mut Tools, summary: &Summary, bytes: u64, delivery: Delivery) {
        let Some(kind) = summary.kind else { return };
        let took_us = micros(summary.since.elapsed());
        tools.tally.volume(summary.volume).finished(kind, bytes, took_us);
        if kind == Kind::Read {
            tools.cold.took(took_us, bytes);
        }
        for piece in &tools.pieces {
            tools.tally.disk(piece.disk).finished(kind, piece.len, took_us);
        }
        if delivery == Delivery::Unreadable {
            self.unreadable(tools, summary.volume);
        }
    }

    /// The kernel could not read the mapping it was handed, and has told the host so. Reading again says why, for the operator, and
    /// lets the disk see whether it has become shorter.
    #[cold]
    fn unreadable(&self, tools: &mut Tools, volume: VolumeId) {
        tools.tally.volume(volume).failed();
        if self.gather(tools, &self.disks.view()).is_ok() {
            // It can be read now: a passing error.
            for piece in &tools.pieces {
                tools.tally.disk(piece.disk).failed();
            }
        }
    }
}

/// Counts a reader thread that waits for a disk.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Whether a read would wait for a disk, as far as it is worth asking. Where it would, the disk has been told to read.
fn is_cold(tools: &mut Tools, disks: &View) -> bool {
    let len: u64 = tools.pieces.iter().map(|piece| piece.len).sum();
    if !tools.cold.suspects(len) {
        return false;
    }
    let mut cold = false;
    for piece in &tools.pieces {
        if let Some(disk) = disks.get(piece.disk)
            && !disk.resident(piece.at, to_usize(piece.len))
        {
            let more = if tools.cold.goes_on(piece.disk, piece.at, piece.len) {
                AHEAD
            } else {
                0
            };
            disk.prefetch(piece.at, piece.len + more);
            cold = true;
        }
    }
    tools.cold.looked(cold);
    cold
}

/// Whether a read would wait for no disk. Nothing is told to read: even that can wait, where a disk's queue is full.
#[cold]
fn is_resident(tools: &Tools, disks: &View) -> bool {
    let is_in_memory = |disk: &Disk, piece: &Piece| disk.resident(piece.at, to_usize(piece.len));
    let mut pieces = tools.pieces.iter();
    pieces.all(|piece| disks.get(piece.disk).is_none_or(|disk| is_in_memory(disk, piece)))
}

fn part(data: &[u8], from: u64, len: u64) -> &[u8] {
    &data[to_usize(from)..to_usize(from + len)]
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Lengths of one request fit in memory.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
