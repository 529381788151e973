//! Serves requests: enters the gate, carries the request out, replies, and passes on requests that cannot be finished now.

use super::context::Scratch;
use super::flush::FlushPath;
use super::io::DiskIo;
use super::metrics::MetricsRegistry;
use super::occupied::Occupancies;
use super::parking::Parking;
use super::read_buffer::ReadBuffer;
use super::readers::BlockedReader;
use super::request::Summary;
use super::waiting_flushes::WaitingFlushes;
use super::workers::Workers;
use super::{Delivery, Failure, IoContext, Operation, Owned, Reply, Request, Response, Role, SMALL_READ};
use crate::blockdev::device::Mapped;
use crate::blockdev::{Disks, OpenDisks};
use crate::cluster::{FlushLedgers, OwnEntry};
use crate::gate::{Entry, Pass};
use crate::map::Table;
use crate::model::units::{ChangeId, VolumeOffset};
use std::sync::Arc;

/// Result of carrying a request out. The fence word is checked before it is answered.
pub(super) enum Outcome<'d> {
    /// The request can be answered.
    Completion(Completion<'d>),
    /// The request may wait for its disks, so a worker is to run it.
    Waits,
    /// A write of this many bytes, which needs a flush before it is acknowledged.
    FlushFirst(u64),
    /// A flush that is to be retried when [`super::Persist::completions`] differs from this number; see [`super::PersistState::Later`].
    FlushLater(u64),
    /// This many bytes of a long request are done. The rest enters the gate again, so that no hold waits for all of it.
    Partly(u64),
}

/// Reply of a request, with what it keeps.
pub(super) enum Completion<'d> {
    /// A read, from one mapping. The thread that sends the reply may wait for the disk, and counts as blocked until then.
    Mapped(
        Mapped<'d>,
        #[expect(dead_code, reason = "held only to be dropped")] Option<BlockedReader<'d>>,
    ),
    /// A read of this many bytes, which are in the context's buffer.
    Gathered(usize),
    /// A read of this many bytes, which are in the memory of its reply.
    Placed(usize),
    /// A write of this many bytes.
    Written(u64),
    /// A flush, or zeroing of this many bytes.
    Done(u64),
    /// A seek.
    Found(VolumeOffset),
    /// The request failed.
    Failed(Failure),
}

/// Next step for a request that has left the gate.
pub(super) enum NextStep {
    Nothing,
    /// Enter the gate again.
    Again(Owned),
    /// Enter the gate again on this thread and wait for the disk, because the workers' queue is full.
    Here(Owned),
    /// Enter the gate again when there is room to be parked, for which these holds have to end.
    Room(Owned, Vec<ChangeId>),
}

/// Parts that a request meets on its way. Serving one reads this and writes nothing in it.
pub(super) struct Submitter {
    table: Arc<Table>,
    entry: Arc<dyn OwnEntry>,
    disks: Arc<Disks>,
    io: DiskIo,
    parking: Arc<Parking>,
    workers: Arc<Workers>,
    flush: Arc<FlushPath>,
    flushes: Arc<WaitingFlushes>,
    occupied: Arc<Occupancies>,
    ledgers: Arc<dyn FlushLedgers>,
    metrics: Arc<MetricsRegistry>,
}

impl Submitter {
    /// Makes it of the parts that find and do a request's work, that park it or run it later, that flushes and counts use, and that it leaves
    /// marks in.
    pub(super) fn new(
        (table, disks, io): (Arc<Table>, Arc<Disks>, DiskIo),
        (parking, workers): (Arc<Parking>, Arc<Workers>),
        (flush, flushes, occupied): (Arc<FlushPath>, Arc<WaitingFlushes>, Arc<Occupancies>),
        (entry, ledgers, metrics): (Arc<dyn OwnEntry>, Arc<dyn FlushLedgers>, Arc<MetricsRegistry>),
    ) -> Self {
        Self {
            table,
            entry,
            disks,
            io,
            parking,
            workers,
            flush,
            flushes,
            occupied,
            ledgers,
            metrics,
        }
    }

    /// Returns a context for a thread, or `None` when there are as many as the limits allow.
    pub(super) fn io_context(&self, role: Role) -> Option<IoContext> {
        let lane = self.parking.lane()?;
        let (ledgers, metrics) = (self.ledgers.clone(), self.metrics.thread_metrics());
        let buffer = ReadBuffer::new(self.io.copied().min(SMALL_READ));
        let scratch = Scratch::new(self.table.reader(), ledgers, metrics, buffer);
        Some(IoContext { role, lane, scratch })
    }

    /// Serves a request until it is answered, or until a worker or the gate has it.
    pub(super) fn serve<R: Reply>(&self, context: &mut IoContext, request: Request<'_, R>) {
        let role = context.role;
        let next = match role {
            Role::Reader | Role::Spare | Role::Ring if request.may_wait() => self.delegate(request.own()),
            _ => self.attempt(context, role, request),
        };
        match next {
            NextStep::Nothing => (),
            next => self.resolve(context, next),
        }
    }

    #[cold]
    fn resolve(&self, context: &mut IoContext, mut next: NextStep) {
        let role = context.role;
        loop {
            next = match next {
                NextStep::Nothing => return,
                NextStep::Again(request) => self.attempt(context, role, request),
                NextStep::Here(request) => self.attempt(context, Role::Worker, request),
                NextStep::Room(request, holds) => {
                    self.parking.make_room(&holds);
                    self.attempt(context, role, request)
                }
            }
        }
    }

    /// Takes a request through the gate once. It leaves the lane when this returns, after the reply.
    fn attempt<R: Reply>(
        &self,
        context: &mut IoContext,
        role: Role,
        mut request: Request<'_, R>,
    ) -> NextStep {
        let IoContext { lane, scratch, .. } = context;
        let (span, access) = (request.span(), request.access());
        let Entry::Open(pass) = self.parking.enter(lane, span, access, self.table.generation()) else {
            return self.parking.park(request.own(), span, access);
        };
        if self.entry.is_fenced() {
            return self.parking.park_fenced(pass, request.own(), span, access);
        }
        if self.entry.has_lapsed() {
            return self
                .parking
                .park_lapsed(pass, request.own(), (span, access), &*self.entry);
        }
        let disks = self.disks.view();
        let outcome = self.carry_out(scratch, &disks, role, &mut request);
        if self.entry.is_fenced() {
            return self.parking.park_fenced(pass, request.own(), span, access);
        }
        // A read too: one that is late may have seen a late write of this apparatus, which nobody else will see.
        if self.entry.has_lapsed() {
            return self
                .parking
                .park_lapsed(pass, request.own(), (span, access), &*self.entry);
        }
        match outcome {
            Outcome::Completion(completion) => {
                self.answer(scratch, request, completion);
                NextStep::Nothing
            }
            Outcome::Waits => {
                let disk = match scratch.pieces[..] {
                    [piece] => Some(piece.disk),
                    _ => None,
                };
                self.pass_on(pass, role, request.awaiting(disk))
            }
            Outcome::FlushLater(completions) => {
                drop(pass);
                self.flushes.add(request.own(), completions)
            }
            Outcome::FlushFirst(bytes) => {
                self.io.count(scratch, &request.summary(), bytes, Delivery::Taken);
                self.pass_on(pass, role, request.then_flush(bytes))
            }
            Outcome::Partly(bytes) => self.pass_on(pass, role, request.after(bytes)),
        }
    }

    fn carry_out<'d, R: Reply>(
        &'d self,
        scratch: &mut Scratch,
        disks: &'d OpenDisks,
        role: Role,
        request: &mut Request<'_, R>,
    ) -> Outcome<'d> {
        let outcome = match request.operation {
            Operation::Read { at, len } => {
                let reply = &mut request.reply;
                self.io.read(scratch, disks, role, request.volume, at, len, reply)
            }
            Operation::Write { .. } | Operation::Zero { .. } => self.io.change(scratch, disks, role, request),
            Operation::Allocate { at, len, clip } => {
                self.io.allocate(scratch, disks, request.volume, at, len, clip)
            }
            Operation::Count(ref mut count) => {
                let counted = self.io.count_data(scratch, disks, request.volume, count);
                counted.map(|complete| {
                    if !complete {
                        return Outcome::Partly(0);
                    }
                    self.occupied.counted(request.volume, count);
                    Outcome::Completion(Completion::Done(0))
                })
            }
            Operation::Flush => self.flush.flush(scratch, request.volume),
            Operation::Seek { at, to } => self.io.seek(scratch, disks, request.volume, at, to),
        };
        outcome.unwrap_or_else(|failure| Outcome::Completion(Completion::Failed(failure)))
    }

    fn answer<R: Reply>(&self, scratch: &mut Scratch, request: Request<'_, R>, completion: Completion<'_>) {
        let summary = request.summary();
        let (answer, bytes) = match &completion {
            Completion::Mapped(bytes, _) => (Response::Data(bytes.for_system_call()), bytes.len() as u64),
            Completion::Gathered(len) => (Response::Data(scratch.buffer.bytes(*len)), *len as u64),
            Completion::Placed(len) => (Response::Placed(*len), *len as u64),
            Completion::Written(bytes) => (Response::Written(*bytes), *bytes),
            Completion::Done(bytes) => (Response::Done, *bytes),
            Completion::Found(at) => (Response::Found(*at), 0),
            Completion::Failed(failure) => return self.fail(scratch, &summary, request.reply, *failure),
        };
        let delivery = request.reply.send(answer);
        self.io.count(scratch, &summary, bytes, delivery);
    }

    #[cold]
    fn fail<R: Reply>(&self, scratch: &mut Scratch, summary: &Summary, reply: R, failure: Failure) {
        if matches!(
            failure,
            Failure::Disk | Failure::NoRoom | Failure::Quota | Failure::NotPersisted
        ) {
            scratch.thread_metrics.volume(summary.volume).failed();
        }
        reply.send(Response::Failed(failure));
    }

    /// Passes a request on that cannot be finished in this pass.
    #[cold]
    fn pass_on(&self, pass: Pass<'_>, role: Role, request: Owned) -> NextStep {
        drop(pass);
        match role {
            Role::Reader | Role::Spare | Role::Ring => self.delegate(request),
            Role::Worker => NextStep::Again(request),
        }
    }

    #[cold]
    fn delegate(&self, request: Owned) -> NextStep {
        match self.workers.offer(request) {
            Ok(()) => NextStep::Nothing,
            Err(request) => NextStep::Here(request),
        }
    }
}
