//! The way itself: in at the gate, what happens inside, and where a request goes that cannot be finished now.

use super::io::Waiting;
use super::request::Summary;
use super::{Answer, Apparatus, Delivery, Desk, Failure, Operation, Owned, Reply, Request, Role, Tools};
use crate::disk::View;
use crate::gate::{Access, Entry, Parked, Pass};
use crate::pool::model::Span;
use crate::units::{ChangeId, VolumeOffset};

/// What carrying a request out has come to. It has not been answered: the fence word is looked at first.
pub(super) enum Verdict<'d> {
    /// It can be answered.
    Ready(Ready<'d>),
    /// It would wait for its disks, or might: a worker is to.
    Waits,
    /// A write of so many bytes that is to be flushed before it is acknowledged.
    FlushFirst(u64),
    /// A flush that is to be tried again when this turn is over: see [`super::Hardening::Later`].
    FlushLater(u64),
    /// So many bytes of something long are done; the rest enters the gate anew, so that no hold waits for all of it.
    Partly(u64),
}

/// What is answered.
pub(super) enum Ready<'d> {
    /// A read, from one mapping. Whoever answers it may wait for the disk, and counts as waiting.
    Mapped(
        &'d [u8],
        #[expect(dead_code, reason = "held only to be dropped")] Option<Waiting<'d>>,
    ),
    /// A read of so many bytes, which are in the desk's buffer.
    Gathered(usize),
    /// A write of so many bytes.
    Written(u64),
    /// A flush, or zeroing of so many bytes.
    Done(u64),
    /// A seek.
    Found(VolumeOffset),
    /// None of these.
    Failed(Failure),
}

/// What is left to do once the gate has been left.
pub(super) enum After {
    Nothing,
    /// Enter again.
    Again(Owned),
    /// Enter again here and wait for the disk: the workers have too much to do.
    Here(Owned),
    /// Enter again when there is room to be parked; these holds have to end for it.
    Room(Owned, Vec<ChangeId>),
}

impl Apparatus {
    /// Serves a request: to its answer, or until a worker or the gate has it.
    pub fn serve<R: Reply>(&self, desk: &mut Desk, request: Request<'_, R>) {
        let role = desk.role;
        let after = match role {
            Role::Reader | Role::Spare if request.may_wait() => self.delegate(request.own()),
            _ => self.attempt(desk, role, request),
        };
        match after {
            After::Nothing => (),
            after => self.go_on(desk, after),
        }
    }

    #[cold]
    fn go_on(&self, desk: &mut Desk, mut after: After) {
        let role = desk.role;
        loop {
            after = match after {
                After::Nothing => return,
                After::Again(request) => self.attempt(desk, role, request),
                After::Here(request) => self.attempt(desk, Role::Worker, request),
                After::Room(request, holds) => {
                    let seen = self.keeper.moves();
                    self.bell.overflow(&holds);
                    self.keeper.wait_for_room(seen);
                    self.attempt(desk, role, request)
                }
            }
        }
    }

    /// Once through the gate. The lane is left when this returns, after the answer.
    fn attempt<R: Reply>(&self, desk: &mut Desk, role: Role, mut request: Request<'_, R>) -> After {
        let Desk { lane, tools, .. } = desk;
        let (span, access) = (request.span(), request.access());
        let Entry::Open(pass) = self.gate.enter(lane, span, access, self.table.generation()) else {
            return self.park(request.own(), span, access);
        };
        if self.line.fenced() {
            return self.park_fenced(pass, request.own(), span, access);
        }
        let disks = self.disks.view();
        let verdict = self.carry_out(tools, &disks, role, &mut request);
        if self.line.fenced() {
            return self.park_fenced(pass, request.own(), span, access);
        }
        match verdict {
            Verdict::Ready(ready) => {
                self.answer(tools, request, ready);
                After::Nothing
            }
            Verdict::Waits => {
                let disk = match tools.pieces[..] {
                    [piece] => Some(piece.disk),
                    _ => None,
                };
                self.elsewhere(pass, role, request.awaiting(disk))
            }
            Verdict::FlushLater(turn) => {
                drop(pass);
                self.flush_later(request.own(), turn)
            }
            Verdict::FlushFirst(bytes) => {
                self.count(tools, &request.summary(), bytes, Delivery::Taken);
                self.elsewhere(pass, role, request.then_flush(bytes))
            }
            Verdict::Partly(bytes) => self.elsewhere(pass, role, request.after(bytes)),
        }
    }

    fn carry_out<'d, R: Reply>(
        &'d self,
        tools: &mut Tools,
        disks: &'d View,
        role: Role,
        request: &mut Request<'_, R>,
    ) -> Verdict<'d> {
        let verdict = match request.operation {
            Operation::Read { at, len } => self.read(tools, disks, role, request.volume, at, len),
            Operation::Write { .. } | Operation::Zero { .. } => self.change(tools, disks, role, request),
            Operation::Allocate { at, len, clip } => {
                self.allocate(tools, disks, request.volume, at, len, clip)
            }
            Operation::Count(ref mut count) => self.count_data(tools, disks, request.volume, count),
            Operation::Flush => self.flush(tools, request.volume),
            Operation::Seek { at, to } => self.seek(tools, disks, request.volume, at, to),
        };
        verdict.unwrap_or_else(|failure| Verdict::Ready(Ready::Failed(failure)))
    }

    fn answer<R: Reply>(&self, tools: &mut Tools, request: Request<'_, R>, ready: Ready<'_>) {
        let summary = request.summary();
        let (answer, bytes) = match &ready {
            Ready::Mapped(bytes, _) => (Answer::Data(bytes), bytes.len() as u64),
            Ready::Gathered(len) => (Answer::Data(&tools.buffer[..*len]), *len as u64),
            Ready::Written(bytes) => (Answer::Written(*bytes), *bytes),
            Ready::Done(bytes) => (Answer::Done, *bytes),
            Ready::Found(at) => (Answer::Found(*at), 0),
            Ready::Failed(failure) => return self.fail(tools, &summary, request.reply, *failure),
        };
        let delivery = request.reply.send(answer);
        self.count(tools, &summary, bytes, delivery);
    }

    #[cold]
    fn fail<R: Reply>(&self, tools: &mut Tools, summary: &Summary, reply: R, failure: Failure) {
        if matches!(
            failure,
            Failure::Disk | Failure::NoRoom | Failure::Quota | Failure::NotHardened
        ) {
            tools.tally.volume(summary.volume).failed();
        }
        reply.send(Answer::Failed(failure));
    }

    /// This goes on in the place of a request that cannot be finished here.
    #[cold]
    fn elsewhere(&self, pass: Pass<'_>, role: Role, request: Owned) -> After {
        drop(pass);
        match role {
            Role::Reader | Role::Spare => self.delegate(request),
            Role::Worker => After::Again(request),
        }
    }

    #[cold]
    fn delegate(&self, request: Owned) -> After {
        match self.offer(request) {
            Ok(()) => After::Nothing,
            Err(request) => After::Here(request),
        }
    }

    #[cold]
    fn park(&self, request: Owned, span: Span, access: Access) -> After {
        if let Some(failure) = self.keeper.given_up() {
            request.reply.send(Answer::Failed(failure));
            return After::Nothing;
        }
        match self.gate.park(request, span, access) {
            Parked::Waits => After::Nothing,
            Parked::Retry(request) => After::Again(request),
            Parked::Full(request, holds) => After::Room(request, holds),
        }
    }

    /// Fenced, as far as a request has seen: nothing goes in any more, and the control thread is to rejoin. Closed and parked before the
    /// lane is left: the gate opens again only when all lanes have been left, so this cannot close it behind the back of a rejoin.
    #[cold]
    fn park_fenced(&self, pass: Pass<'_>, request: Owned, span: Span, access: Access) -> After {
        self.gate.close();
        self.keeper.closed();
        self.bell.ring();
        let after = self.park(request, span, access);
        drop(pass);
        after
    }
}
