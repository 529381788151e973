//! The store: transactions, each decided at one moment.

use super::Fault;
use super::world::{Owner, Placement};

/// Number of apparatuses; the first is the one that gets into trouble.
pub(super) const APPARATUSES: usize = 2;
const PLACEMENTS: usize = 10;

/// A transaction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transaction {
    Renew {
        app: usize,
        life: u64,
    },
    Acquire,
    /// A plain read of the change that is under way.
    Peek,
    Prepare {
        term: u64,
    },
    Commit {
        change: u64,
        term: u64,
        version: u64,
    },
    Cancel {
        change: u64,
    },
    /// The controller that prepared it cancels it, and has no write under way.
    GiveUp {
        change: u64,
    },
    Fence {
        app: usize,
        life: u64,
    },
}

/// What the store answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Renewed(bool),
    /// The term, and the last change of the controller before.
    Acquired(u64, Option<u64>),
    Peeked(Option<u64>),
    Prepared(Prepared),
    Stale,
    Committed {
        change: u64,
        placement: usize,
    },
    Cancelled {
        change: u64,
    },
    Refused,
    Fenced,
}

#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) change: u64,
    pub(super) placement: usize,
    pub(super) from: usize,
    pub(super) version: u64,
    pub(super) joined: [bool; APPARATUSES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Prepared,
    Committed,
    Cancelled,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    state: State,
    term: u64,
    placement: usize,
}

pub(super) struct Store {
    fault: Option<Fault>,
    term: u64,
    pub(super) joined: [bool; APPARATUSES],
    version: u64,
    changes: Vec<Change>,
    pub(super) placement: usize,
    pub(super) placements: [Placement; PLACEMENTS],
}

impl Store {
    pub(super) fn new(fault: Option<Fault>) -> Self {
        let mut placements = [Placement::FREE; PLACEMENTS];
        placements[0].owner = Owner::Volume;
        Self {
            fault,
            term: 0,
            joined: [true; APPARATUSES],
            version: 1,
            changes: Vec::new(),
            placement: 0,
            placements,
        }
    }

    pub(super) fn decide(&mut self, transaction: Transaction) -> Answer {
        match transaction {
            Transaction::Renew { app, life } => Answer::Renewed(self.joined[app] && life == 1),
            Transaction::Acquire => self.acquire(),
            Transaction::Peek => {
                let open = |change: &Change| change.state == State::Prepared;
                Answer::Peeked(self.changes.iter().rposition(open).map(|at| at as u64))
            }
            Transaction::Prepare { term } => self.prepare(term),
            Transaction::Commit {
                change,
                term,
                version,
            } => self.commit(change, term, version),
            Transaction::Cancel { change } => self.cancel(change),
            Transaction::GiveUp { change } => {
                let answer = self.cancel(change);
                if let Answer::Cancelled { .. } = answer {
                    self.release(change);
                }
                answer
            }
            Transaction::Fence { app, life } => {
                if self.joined[app] && life == 1 {
                    self.joined[app] = false;
                    self.version += 1;
                }
                Answer::Fenced
            }
        }
    }

    /// Takes over: what the last controller may still write to is nobody's until that controller is known to have ended.
    fn acquire(&mut self) -> Answer {
        self.term += 1;
        for (at, change) in self.changes.iter_mut().enumerate() {
            if change.state == State::Prepared {
                change.state = State::Cancelled;
            }
            let placement = &mut self.placements[change.placement];
            if placement.owner != Owner::Change(at as u64) {
                continue;
            }
            match self.fault {
                Some(Fault::NoTaint) => placement.owner = Owner::Another,
                _ => {
                    placement.owner = Owner::Quarantine;
                    placement.is_tainted = true;
                }
            }
        }
        Answer::Acquired(self.term, (self.changes.len() as u64).checked_sub(1))
    }

    fn prepare(&mut self, term: u64) -> Answer {
        let free = self
            .placements
            .iter()
            .position(|placement| placement.owner == Owner::Free);
        let Some(placement) = free.filter(|_| term == self.term) else {
            return Answer::Stale;
        };
        let change = self.changes.len() as u64;
        self.placements[placement].owner = Owner::Change(change);
        self.changes.push(Change {
            state: State::Prepared,
            term,
            placement,
        });
        Answer::Prepared(Prepared {
            change,
            placement,
            from: self.placement,
            version: self.version,
            joined: self.joined,
        })
    }

    fn of(&mut self, change: u64) -> Option<&mut Change> {
        usize::try_from(change)
            .ok()
            .and_then(|at| self.changes.get_mut(at))
    }

    fn commit(&mut self, number: u64, term: u64, version: u64) -> Answer {
        let (now, counted) = (self.term, self.version);
        let Some(change) = self.of(number) else {
            return Answer::Refused;
        };
        let placement = change.placement;
        if change.state == State::Committed {
            return Answer::Committed {
                change: number,
                placement,
            };
        }
        if change.state == State::Cancelled || change.term != term || term != now || version != counted {
            return Answer::Refused;
        }
        change.state = State::Committed;
        self.placements[self.placement].owner = Owner::Quarantine;
        self.placements[placement].owner = Owner::Volume;
        self.placement = placement;
        Answer::Committed {
            change: number,
            placement,
        }
    }

    /// The compare-and-set of an apparatus that asks. The space stays the change's: its controller may be writing to it.
    fn cancel(&mut self, number: u64) -> Answer {
        let Some(change) = self.of(number) else {
            return Answer::Refused;
        };
        if change.state == State::Committed {
            let placement = change.placement;
            return Answer::Committed {
                change: number,
                placement,
            };
        }
        change.state = State::Cancelled;
        Answer::Cancelled { change: number }
    }

    fn release(&mut self, number: u64) {
        let Some(placement) = self.of(number).map(|change| change.placement) else {
            return;
        };
        if self.placements[placement].owner == Owner::Change(number) {
            self.placements[placement].owner = Owner::Free;
        }
    }
}
