//! What reads, writes and zeroing do inside the gate.

use super::figures::Kind;
use super::request::{Progress, Summary};
use super::way::Step;
use super::{
    Answer, Apparatus, BoxedReply, Delivery, Failure, Operation, Owned, Reply, Request, Role, Tools,
};
use crate::disk::{Disk, View};
use crate::table::Missing;
use crate::units::{DiskId, Generation, VolumeId, VolumeOffset};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

impl Apparatus {
    pub(super) fn read<'a, R: Reply>(
        &self,
        tools: &mut Tools,
        role: Role,
        request: Request<'a, R>,
        at: VolumeOffset,
        len: u64,
    ) -> Step<'a, R> {
        match self.locate(tools, request.volume, at, len) {
            Err(failure) => return self.fail(tools, request, failure),
            Ok(None) => return self.answer(tools, request, Answer::Data(&[]), 0),
            Ok(Some(_)) => (),
        }
        let disks = self.disks.view();
        if role == Role::Reader && is_cold(tools, &disks) {
            match self.one_reader_waits() {
                Some(waiting) => {
                    let step = self.reply(tools, &disks, request);
                    drop(waiting);
                    return step;
                }
                None => {
                    return Step::Elsewhere(Request {
                        fetched: true,
                        ..request.own()
                    });
                }
            }
        }
        self.reply(tools, &disks, request)
    }

    /// Answers a read from where it was located.
    fn reply<'a, R: Reply>(&self, tools: &mut Tools, disks: &View, request: Request<'a, R>) -> Step<'a, R> {
        if let [piece] = tools.pieces[..]
            && let Some(disk) = disks.get(piece.disk)
            && let Some(bytes) = disk.mapped(piece.at, to_usize(piece.len))
        {
            return self.answer(tools, request, Answer::Data(bytes), piece.len);
        }
        match self.gather(tools, disks) {
            Err(failure) => self.fail(tools, request, failure),
            Ok(len) => {
                let buffer = std::mem::take(&mut tools.buffer);
                let step = self.answer(tools, request, Answer::Data(&buffer[..len]), len as u64);
                tools.buffer = buffer;
                step
            }
        }
    }

    /// Leave for a reader thread to wait for a disk itself, which is quicker than handing the request over: as long as another reader
    /// is there for hosts.
    fn one_reader_waits(&self) -> Option<Waiting<'_>> {
        let waiting = Waiting(&self.waiting_readers);
        let others = self.waiting_readers.fetch_add(1, Relaxed);
        (others + 1 < self.readers.load(Relaxed)).then_some(waiting)
    }

    /// Reads all pieces into the buffer.
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
    pub(super) fn change<'a, R: Reply>(&self, tools: &mut Tools, mut request: Request<'a, R>) -> Step<'a, R> {
        if let Progress::Reached { generation, bytes } = request.progress
            && self
                .table
                .unmoved(request.volume, request.span().start, bytes, generation)
        {
            tools.pieces.clear();
            return self.changed(tools, request, bytes);
        }
        match self.put(tools, &request) {
            Err(failure) => self.fail(tools, request, failure),
            Ok((generation, bytes)) => {
                request.progress = Progress::Reached { generation, bytes };
                self.changed(tools, request, bytes)
            }
        }
    }

    /// Carries it out on the disks. Answers by which table, and how many bytes lay inside the volume.
    fn put<R: Reply>(
        &self,
        tools: &mut Tools,
        request: &Request<'_, R>,
    ) -> Result<(Generation, u64), Failure> {
        let (at, len, partly) = match &request.operation {
            Operation::Write { at, data, .. } => (*at, data.len() as u64, true),
            Operation::Zero { at, len, clip, .. } => (*at, *len, *clip),
            Operation::Read { .. } | Operation::Flush | Operation::Seek { .. } => {
                return Err(Failure::PastEnd);
            }
        };
        let located = self.locate(tools, request.volume, at, len)?;
        let (generation, inside) = located.unwrap_or((self.table.generation(), 0));
        let is_write = matches!(request.operation, Operation::Write { .. });
        if inside < len && !partly || inside == 0 && is_write && len > 0 {
            return Err(Failure::PastEnd);
        }
        let disks = self.disks.view();
        let mut done = 0;
        for i in 0..tools.pieces.len() {
            let piece = tools.pieces[i];
            let disk = self.open_disk(&disks, piece.disk)?;
            let put = match &request.operation {
                Operation::Write { data, .. } => disk.write_at(part(data, done, piece.len), piece.at),
                Operation::Zero { punch, .. } => disk.zero(piece.at, piece.len, *punch),
                Operation::Read { .. } | Operation::Flush | Operation::Seek { .. } => Ok(()),
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

    /// The end of a write or zeroing that has reached its disks.
    fn changed<'a, R: Reply>(&self, tools: &mut Tools, request: Request<'a, R>, bytes: u64) -> Step<'a, R> {
        // Before the answer: whoever has it may ask for the time of modification at once.
        let at = self.began.0.elapsed();
        tools.tally.volume(request.volume).wrote(micros(at));
        match request.operation {
            Operation::Write { durable: true, .. } if self.line.fenced() => Step::Fenced(request),
            Operation::Write { durable: true, .. } => {
                self.count(tools, &request.summary(), bytes, Delivery::Taken);
                Step::Elsewhere(then_flush(request, bytes))
            }
            Operation::Write { .. } => self.answer(tools, request, Answer::Written(bytes), bytes),
            _ => self.answer(tools, request, Answer::Done, bytes),
        }
    }

    /// Where the part of the range lies that is inside the volume: by which table, and how long it is. `None`: no part is.
    pub(super) fn locate(
        &self,
        tools: &mut Tools,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
    ) -> Result<Option<(Generation, u64)>, Failure> {
        let mut inside = len;
        while inside > 0 {
            match self
                .table
                .locate(&mut tools.reader, volume, at, inside, &mut tools.pieces)
            {
                Ok(generation) => return Ok(Some((generation, inside))),
                Err(Missing::NoVolume) => return Err(Failure::NoVolume),
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

    /// Answers, unless fenced.
    pub(super) fn answer<'a, R: Reply>(
        &self,
        tools: &mut Tools,
        request: Request<'a, R>,
        answer: Answer<'_>,
        bytes: u64,
    ) -> Step<'a, R> {
        if self.line.fenced() {
            return Step::Fenced(request);
        }
        let summary = request.summary();
        let delivery = request.reply.send(answer);
        self.count(tools, &summary, bytes, delivery);
        Step::Over
    }

    /// Answers that it cannot be done, unless fenced: a fenced apparatus's table may be old.
    pub(super) fn fail<'a, R: Reply>(
        &self,
        tools: &mut Tools,
        request: Request<'a, R>,
        failure: Failure,
    ) -> Step<'a, R> {
        if self.line.fenced() {
            return Step::Fenced(request);
        }
        if matches!(failure, Failure::Disk | Failure::NotHardened) {
            tools.tally.volume(request.volume).failed();
        }
        request.reply.send(Answer::Failed(failure));
        Step::Over
    }

    pub(super) fn open_disk<'d>(&self, disks: &'d View, id: DiskId) -> Result<&'d Arc<Disk>, Failure> {
        // The operator was told when it could not be opened.
        disks.get(id).ok_or(Failure::Disk)
    }

    pub(super) fn disk_failed(&self, disk: &Disk, what: &str, error: &io::Error) -> Failure {
        self.report.disk_failed(disk.name(), what, &error.to_string());
        Failure::Disk
    }

    /// Counts a request that was not refused, for its volume and for each disk that it used.
    fn count(&self, tools: &mut Tools, summary: &Summary, bytes: u64, delivery: Delivery) {
        let Some(kind) = summary.kind else { return };
        let took = summary.since.elapsed();
        let counters = tools.tally.volume(summary.volume);
        counters.finished(kind, bytes, took);
        match kind {
            Kind::Read => tools.cold.took(took, bytes),
            Kind::Write | Kind::Flush => (),
        }
        for piece in &tools.pieces {
            tools.tally.disk(piece.disk).finished(kind, piece.len, took);
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
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Whether a read would wait for a disk. Where it would, the disk has been told to read.
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
            disk.prefetch(piece.at, piece.len);
            cold = true;
        }
    }
    tools.cold.looked(cold);
    cold
}

/// A flush that ends as the write does that it belongs to. The write could be acknowledged now as any other, so what it wrote stays,
/// whatever happens before the flush is done.
fn then_flush<R: Reply>(request: Request<'_, R>, bytes: u64) -> Owned {
    let (volume, reply) = (request.volume, request.reply);
    let reply = BoxedReply::new(move |answer| match answer {
        Answer::Failed(failure) => reply.send(Answer::Failed(failure)),
        _ => reply.send(Answer::Written(bytes)),
    });
    Request::new(volume, Operation::Flush, reply)
}

fn part(data: &[u8], from: u64, len: u64) -> &[u8] {
    &data[to_usize(from)..to_usize(from + len)]
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Lengths of one request fit in memory.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
