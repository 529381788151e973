//! The way itself: in at the gate, what happens inside, and where a request goes that cannot be finished now.

use super::{Answer, Apparatus, Desk, Operation, Owned, Reply, Request, Role, Tools};
use crate::gate::{Access, Entry, Parked};
use crate::pool::model::Span;
use crate::units::ChangeId;

/// What became of a request inside the gate.
pub(super) enum Step<'a, R> {
    /// It is answered.
    Over,
    /// The fence word was seen set before it was acknowledged.
    Fenced(Request<'a, R>),
    /// This goes on in its place, on a worker.
    Elsewhere(Owned),
}

/// What is left to do once the gate has been left.
enum After {
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
        let mut after = match role {
            Role::Reader if request.may_wait() => self.delegate(request.own()),
            _ => self.attempt(desk, role, request),
        };
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

    fn attempt<R: Reply>(&self, desk: &mut Desk, role: Role, request: Request<'_, R>) -> After {
        let Desk { lane, tools, .. } = desk;
        let (span, access) = (request.span(), request.access());
        match self.gate.enter(lane, span, access, self.table.generation()) {
            Entry::Held => self.park(request.own(), span, access),
            Entry::Open(pass) => match self.inside(tools, role, request) {
                Step::Over => After::Nothing,
                Step::Fenced(request) => {
                    // Closed and parked before the lane is left: the gate opens again only when all lanes have been left, so
                    // this cannot close it behind the back of a rejoin.
                    self.saw_fence();
                    let after = self.park(request.own(), span, access);
                    drop(pass);
                    after
                }
                Step::Elsewhere(request) => {
                    drop(pass);
                    match role {
                        Role::Reader => self.delegate(request),
                        Role::Worker => After::Again(request),
                    }
                }
            },
        }
    }

    fn delegate(&self, request: Owned) -> After {
        match self.offer(request) {
            Ok(()) => After::Nothing,
            Err(request) => After::Here(request),
        }
    }

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

    /// Fenced, as far as a request has seen: nothing goes in any more, and the control thread is to rejoin.
    fn saw_fence(&self) {
        self.gate.close();
        self.keeper.closed();
        self.bell.ring();
    }

    fn inside<'a, R: Reply>(&self, tools: &mut Tools, role: Role, request: Request<'a, R>) -> Step<'a, R> {
        if self.line.fenced() {
            return Step::Fenced(request);
        }
        match request.operation {
            Operation::Read { at, len } => self.read(tools, role, request, at, len),
            Operation::Write { .. } | Operation::Zero { .. } => self.change(tools, request),
            Operation::Flush => self.flush(tools, request),
            Operation::Seek { at, to } => self.seek(tools, request, at, to),
        }
    }
}
