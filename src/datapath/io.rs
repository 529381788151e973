//! Reads, writes, zeroing and allocation, as they run inside the gate.

use super::cold::AHEAD;
use super::context::Scratch;
use super::metrics::RequestKind;
use super::readers::{BlockedReader, Readers};
use super::request::{Progress, Summary};
use super::start_time::StartTime;
use super::submit::{Completion, Outcome};
use super::{Delivery, Failure, Operation, Reply, Report, Request, Role};
use crate::blockdev::device::Mapped;
use crate::blockdev::{Disk, Disks, OpenDisks};
use crate::gate::Access;
use crate::map::{Missing, Piece, Table};
use crate::model::records::DiskAccess;
use crate::model::units::{DiskId, Generation, VolumeId, VolumeOffset};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that one pass through the gate zeroes at most. It bounds how long a hold waits for zeroing.
const STEP: u64 = 1 << 30;

/// Locates requests in the table, and carries them out on disks.
pub(super) struct DiskIo {
    table: Arc<Table>,
    disks: Arc<Disks>,
    readers: Arc<Readers>,
    report: Arc<dyn Report>,
    start: StartTime,
    /// Reads of up to this many bytes are copied.
    copied: usize,
    access: DiskAccess,
}

/// Where a request waits for its disks.
enum Place<'d> {
    /// In this thread, which counts as blocked meanwhile.
    Here(Option<BlockedReader<'d>>),
    /// Here, as far as it does not wait for a disk.
    WithoutWaiting,
    /// In a worker.
    Elsewhere,
}

impl DiskIo {
    /// Makes it for this table and these disks.
    pub(super) fn new(
        table: Arc<Table>,
        disks: Arc<Disks>,
        readers: Arc<Readers>,
        report: Arc<dyn Report>,
        start: StartTime,
    ) -> Self {
        Self {
            table,
            disks,
            readers,
            report,
            start,
            copied: 0,
            access: DiskAccess::Cached,
        }
    }

    /// Has reads of up to this many bytes copied, and not answered from a mapping.
    pub(super) fn copying(self, copied: usize) -> Self {
        Self { copied, ..self }
    }

    /// Has disks used in this way.
    pub(super) fn accessing(self, access: DiskAccess) -> Self {
        Self { access, ..self }
    }

    /// Returns up to which length reads are copied and not answered from a mapping.
    pub(super) fn copied(&self) -> usize {
        self.copied
    }

    /// Carries out a read, unless it is to wait for its disks elsewhere.
    #[expect(clippy::too_many_arguments, reason = "a read, where it runs, and for whom")]
    pub(super) fn read<'d, R: Reply>(
        &'d self,
        scratch: &mut Scratch,
        disks: &'d OpenDisks,
        role: Role,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
        reply: &mut R,
    ) -> Result<Outcome<'d>, Failure> {
        if self.locate(scratch, Access::Read, volume, at, len)?.is_none() {
            return Ok(Outcome::Completion(Completion::Mapped(Mapped::default(), None)));
        }
        let waiting = match self.place_of_read(scratch, disks, role) {
            Place::Here(waiting) => waiting,
            Place::WithoutWaiting => return Self::read_now(scratch, disks, reply),
            Place::Elsewhere => return Ok(Outcome::Waits),
        };
        if let [piece] = scratch.pieces[..]
            && to_usize(piece.len) > self.copied
            && let Some(disk) = disks.get(piece.disk)
            && let Some(bytes) = disk.mapped(piece.at, to_usize(piece.len))
        {
            return Ok(Outcome::Completion(Completion::Mapped(bytes, waiting)));
        }
        // A worker, and a reader that may have to wait, read what is not in memory, for which a read of the file is the better way.
        let is_in_memory = role != Role::Worker && waiting.is_none();
        let gathered = self.gather(scratch, disks, is_in_memory)?;
        Ok(Outcome::Completion(Completion::Gathered(gathered)))
    }

    fn place_of_read(&self, scratch: &mut Scratch, disks: &OpenDisks, role: Role) -> Place<'_> {
        if self.access == DiskAccess::Direct {
            return self.place_of_direct(role);
        }
        match role {
            Role::Ring => Place::WithoutWaiting,
            Role::Worker => Place::Here(None),
            Role::Spare if is_resident(scratch, disks) => Place::Here(None),
            Role::Spare => Place::Elsewhere,
            Role::Reader if !is_cold(scratch, disks) => Place::Here(None),
            Role::Reader => Place::with(self.readers.permit_to_wait()),
        }
    }

    fn place_of_write(&self, role: Role) -> Place<'_> {
        match (self.access, role) {
            (DiskAccess::Direct, role) => self.place_of_direct(role),
            (DiskAccess::Cached, Role::Spare) => Place::Elsewhere,
            (DiskAccess::Cached, Role::Worker | Role::Reader | Role::Ring) => Place::Here(None),
        }
    }

    /// Every request waits for disks that are used directly.
    fn place_of_direct(&self, role: Role) -> Place<'_> {
        match role {
            Role::Worker => Place::Here(None),
            Role::Spare | Role::Ring => Place::Elsewhere,
            Role::Reader => Place::with(self.readers.permit_to_wait_always()),
        }
    }

    /// Reads all pieces into the buffer, and returns their length in bytes. Copies what is probably in memory from the mapping: that takes no
    /// system call.
    fn gather(&self, scratch: &mut Scratch, disks: &OpenDisks, is_in_memory: bool) -> Result<usize, Failure> {
        let total = to_usize(scratch.pieces.iter().map(|piece| piece.len).sum());
        let mut rest = scratch.buffer.space(total);
        for piece in &scratch.pieces {
            let (now, later) = rest.split_at_mut(to_usize(piece.len));
            let disk = open_disk(disks, piece.disk)?;
            let mapped = if is_in_memory {
                disk.mapped(piece.at, now.len())
            } else {
                None
            };
            if mapped.is_some_and(|bytes| bytes.copy_to(now)) {
                rest = later;
                continue;
            }
            if let Err(error) = disk.read_at(now, piece.at) {
                scratch.thread_metrics.disk(piece.disk).failed();
                return Err(self.disk_failed(disk, "read", &error));
            }
            rest = later;
        }
        Ok(total)
    }

    /// Carries out a read without waiting for a disk, as far as that is possible.
    fn read_now<'d, R: Reply>(
        scratch: &mut Scratch,
        disks: &OpenDisks,
        reply: &mut R,
    ) -> Result<Outcome<'d>, Failure> {
        let total = to_usize(scratch.pieces.iter().map(|piece| piece.len).sum());
        let (mut rest, done) = match reply.space(total) {
            Some(space) => (space, Completion::Placed(total)),
            None => (scratch.buffer.space(total), Completion::Gathered(total)),
        };
        for piece in &scratch.pieces {
            let (now, later) = rest.split_at_mut(to_usize(piece.len));
            let disk = open_disk(disks, piece.disk)?;
            if !disk.read_now(now, piece.at) {
                return Ok(Outcome::Waits);
            }
            rest = later;
        }
        Ok(Outcome::Completion(done))
    }

    /// Carries out a write or zeroing.
    pub(super) fn change<'d, R: Reply>(
        &self,
        scratch: &mut Scratch,
        disks: &OpenDisks,
        role: Role,
        request: &mut Request<'_, R>,
    ) -> Result<Outcome<'d>, Failure> {
        let Place::Here(_waiting) = self.place_of_write(role) else {
            let span = request.span();
            self.locate(
                scratch,
                Access::Write,
                span.volume,
                span.start,
                span.end.0 - span.start.0,
            )?;
            return Ok(Outcome::Waits);
        };
        let bytes = match request.progress {
            Progress::Reached { generation, bytes } if self.is_unmoved(request, generation, bytes) => {
                scratch.pieces.clear();
                bytes
            }
            _ => {
                let Some((generation, bytes)) = self.put(scratch, disks, role, request)? else {
                    return Ok(Outcome::Waits);
                };
                request.progress = Progress::Reached { generation, bytes };
                bytes
            }
        };
        // This comes before the reply: a host that has the reply may ask for the time of modification at once.
        scratch
            .thread_metrics
            .volume(request.volume)
            .wrote(self.start.elapsed_us());
        Ok(match request.operation {
            Operation::Write { durable: true, .. } => Outcome::FlushFirst(bytes),
            Operation::Write { .. } => Outcome::Completion(Completion::Written(bytes)),
            Operation::Zero { len, .. } if bytes == STEP && bytes < len => Outcome::Partly(bytes),
            _ => Outcome::Completion(Completion::Done(bytes)),
        })
    }

    fn is_unmoved<R: Reply>(&self, request: &Request<'_, R>, since: Generation, bytes: u64) -> bool {
        let start = request.span().start;
        self.table.unmoved(request.volume, start, bytes, since)
    }

    /// Carries a write or zeroing out on the disks. Returns the generation of the table that located it, and how many of its bytes are
    /// inside the volume; `None` where it would wait for a disk and the role is not to. Some of the bytes may be written then.
    fn put<R: Reply>(
        &self,
        scratch: &mut Scratch,
        disks: &OpenDisks,
        role: Role,
        request: &Request<'_, R>,
    ) -> Result<Option<(Generation, u64)>, Failure> {
        let (at, len, partly) = match &request.operation {
            Operation::Write { at, data, .. } => (*at, data.len() as u64, true),
            Operation::Zero { at, len, clip, .. } => (*at, *len, *clip),
            _ => return Err(Failure::PastEnd),
        };
        let located = self.locate(scratch, Access::Write, request.volume, at, len)?;
        let (generation, inside) = located.unwrap_or((self.table.generation(), 0));
        let is_write = matches!(request.operation, Operation::Write { .. });
        if inside < len && !partly || inside == 0 && is_write && len > 0 {
            return Err(Failure::PastEnd);
        }
        let inside = if !is_write && inside > STEP {
            self.locate(scratch, Access::Write, request.volume, at, STEP)?
                .map_or(0, |part| part.1)
        } else {
            inside
        };
        let mut done = 0;
        for i in 0..scratch.pieces.len() {
            let piece = scratch.pieces[i];
            let disk = open_disk(disks, piece.disk)?;
            let put = match &request.operation {
                Operation::Write { data, .. } if role == Role::Ring => {
                    Ok(disk.write_now(part(data, done, piece.len), piece.at))
                }
                Operation::Write { data, .. } => disk
                    .write_at(part(data, done, piece.len), piece.at)
                    .map(|()| true),
                Operation::Zero { punch, .. } => disk.zero(piece.at, piece.len, *punch).map(|()| true),
                _ => Ok(true),
            };
            // The ledger is marked after a failure too: some bytes may have been written.
            scratch.ledgers.of(piece.disk).written();
            match put {
                Ok(true) => done += piece.len,
                Ok(false) => return Ok(None),
                Err(error) => {
                    scratch.thread_metrics.disk(piece.disk).failed();
                    return Err(self.disk_failed(disk, "write", &error));
                }
            }
        }
        Ok(Some((generation, inside)))
    }

    /// Allocates space for the range on its disks.
    pub(super) fn allocate<'d>(
        &self,
        scratch: &mut Scratch,
        disks: &OpenDisks,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
        clip: bool,
    ) -> Result<Outcome<'d>, Failure> {
        let inside = self
            .locate(scratch, Access::Write, volume, at, len)?
            .map_or(0, |found| found.1);
        if inside < len && !clip {
            return Err(Failure::PastEnd);
        }
        for piece in &scratch.pieces {
            let disk = open_disk(disks, piece.disk)?;
            disk.allocate(piece.at, piece.len)
                .map_err(|error| self.disk_failed(disk, "allocation", &error))?;
        }
        Ok(Outcome::Completion(Completion::Done(0)))
    }

    /// Locates the part of the range that is inside the volume, and puts its pieces into `scratch`. Returns the generation of the table
    /// and the length of that part in bytes, or `None` where no part is inside.
    pub(super) fn locate(
        &self,
        scratch: &mut Scratch,
        access: Access,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
    ) -> Result<Option<(Generation, u64)>, Failure> {
        let mut inside = len;
        while inside > 0 {
            let (table, reader, pieces) = (&self.table, &mut scratch.reader, &mut scratch.pieces);
            let located = match access {
                Access::Read => table.locate(reader, volume, at, inside, pieces),
                Access::Write => table.locate_to_write(reader, volume, at, inside, pieces),
            };
            match located {
                Ok(generation) => return Ok(Some((generation, inside))),
                Err(Missing::NoVolume) => return Err(Failure::NoVolume),
                Err(Missing::ReadOnly) => return Err(Failure::ReadOnly),
                Err(Missing::Unmapped(hole)) => {
                    log::error!("volume {volume}: no disk is mapped at offset {hole}: run vctl pool check");
                    return Err(Failure::Disk);
                }
                // The range becomes shorter each time, so the loop ends even if the volume is being resized.
                Err(Missing::PastEnd(size)) => inside = size.0.saturating_sub(at.0).min(inside - 1),
            }
        }
        scratch.pieces.clear();
        Ok(None)
    }

    /// Reports that an operation on a disk failed, and returns the failure of its request.
    pub(super) fn disk_failed(&self, disk: &Disk, what: &str, error: &io::Error) -> Failure {
        report_failure(&*self.report, disk, what, error)
    }

    /// Counts a request that was not refused, for its volume and for each disk that it used.
    pub(super) fn count(&self, scratch: &mut Scratch, summary: &Summary, bytes: u64, delivery: Delivery) {
        let Some(kind) = summary.kind else { return };
        let took_us = micros(summary.since.elapsed());
        scratch
            .thread_metrics
            .volume(summary.volume)
            .finished(kind, bytes, took_us);
        if kind == RequestKind::Read {
            scratch.cold.took(took_us, bytes);
        }
        for piece in &scratch.pieces {
            scratch
                .thread_metrics
                .disk(piece.disk)
                .finished(kind, piece.len, took_us);
        }
        if delivery == Delivery::Unreadable {
            self.unreadable(scratch, summary.volume);
        }
    }

    /// Handles a reply whose mapping the kernel could not read; the host got EIO. Reading the range again tells the operator why it failed,
    /// and lets the disk check whether it has become shorter.
    #[cold]
    fn unreadable(&self, scratch: &mut Scratch, volume: VolumeId) {
        scratch.thread_metrics.volume(volume).failed();
        if self.gather(scratch, &self.disks.view(), false).is_ok() {
            // The range can be read now, so the error was transient.
            for piece in &scratch.pieces {
                scratch.thread_metrics.disk(piece.disk).failed();
            }
        }
    }
}

impl<'d> Place<'d> {
    fn with(permit: Option<BlockedReader<'d>>) -> Self {
        permit.map_or(Self::Elsewhere, |waiting| Self::Here(Some(waiting)))
    }
}

/// Returns an open disk.
pub(super) fn open_disk(disks: &OpenDisks, id: DiskId) -> Result<&Arc<Disk>, Failure> {
    // The failure to open it was reported when it happened.
    disks.get(id).ok_or(Failure::Disk)
}

/// Reports that an operation on a disk failed, and returns the failure of its request.
pub(super) fn report_failure(report: &dyn Report, disk: &Disk, what: &str, error: &io::Error) -> Failure {
    report.disk_failed(disk.name(), what, &error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull => Failure::NoRoom,
        io::ErrorKind::QuotaExceeded => Failure::Quota,
        _ => Failure::Disk,
    }
}

/// Returns whether a read would wait for a disk, as far as that is worth checking. Where it would, the disk prefetches the bytes.
fn is_cold(scratch: &mut Scratch, disks: &OpenDisks) -> bool {
    let len: u64 = scratch.pieces.iter().map(|piece| piece.len).sum();
    if !scratch.cold.is_suspect(len) {
        return false;
    }
    let mut cold = false;
    for piece in &scratch.pieces {
        if let Some(disk) = disks.get(piece.disk)
            && !disk.resident(piece.at, to_usize(piece.len))
        {
            let more = if scratch.cold.is_sequential(piece.disk, piece.at, piece.len) {
                AHEAD
            } else {
                0
            };
            disk.prefetch(piece.at, piece.len + more);
            cold = true;
        }
    }
    scratch.cold.checked(cold);
    cold
}

/// Returns whether a read would wait for no disk. It starts no prefetch: even that can wait where a disk's queue is full.
#[cold]
fn is_resident(scratch: &Scratch, disks: &OpenDisks) -> bool {
    let is_in_memory = |disk: &Disk, piece: &Piece| disk.resident(piece.at, to_usize(piece.len));
    let mut pieces = scratch.pieces.iter();
    pieces.all(|piece| disks.get(piece.disk).is_none_or(|disk| is_in_memory(disk, piece)))
}

fn part(data: &[u8], from: u64, len: u64) -> &[u8] {
    &data[to_usize(from)..to_usize(from + len)]
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Converts a length of one request, which always fits in memory.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
