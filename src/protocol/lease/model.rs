//! A model of two nodes and a store in true time, driven by seeds, with the shipped rules of the lease.
//!
//! One block of a volume moves from placement to placement. Two apparatuses serve it; the first is on a node of its own that gets into trouble: its clock has
//! another rate, it stands still, its messages and the store's answers are late or lost, its disk accesses arrive late. A controller copies the block; another
//! one takes over while it may still write. Each deliberate fault has to be caught by what hosts see, or by a write that lands in space of another.

mod apparatus;
mod controller;
mod history;
mod setup;
mod store;
mod takeover;
#[cfg(test)]
mod tests;
mod world;

use super::{Evidence, Life, has_ended};
use crate::model::names::Name;
use crate::model::units::{CacheEpoch, Incarnation};
use apparatus::{Apparatus, Message};
use controller::Controller;
use history::Record;
use std::collections::BTreeMap;
use store::{APPARATUSES, Answer, Store, Transaction};
use uuid::Uuid;
use world::{Clock, Dice, Owner, Queue, Time};

/// Length of the lease in the model.
const L: u64 = super::SHORTEST_US;
/// How long reads of a held range go on.
const READS: u64 = 500_000;
const MS: Time = 1000;
const END: Time = 60_000_000;
/// Rates of clocks that differ by almost two percent.
const SLOW: u64 = 1_000_000;
const FAST: u64 = 1_019_800;

/// A wrong lease, fence or takeover, or a machine that the lease is not made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Validity is counted from the answer to the renewal.
    LeaseFromReply,
    /// The lease is looked at before a write, not after it.
    LookBeforeOnly,
    /// The lease is looked at before a read, not after it: a read that is late sees a late write of its own apparatus, which no copy has.
    ReadLookBeforeOnly,
    /// Whoever fences goes on when the store has the fence.
    RestAtOnce,
    /// The wait for the lease is counted from the last answer of the silent one.
    WaitFromSilence,
    /// The wait for the lease is exactly the lease.
    DriftIgnored,
    /// The clock stands still while the machine does.
    HiddenPause,
    /// A lease that has run out counts as the end of the process.
    LapseIsDeath,
    /// The boot of any node ends the lives of all.
    BootOfAnother,
    /// Reads of a held range go on for ever.
    GraceIgnored,
    /// The controller counts the grace from when it sent the hold.
    GraceFromHold,
    /// The space of a change that a takeover cancels is given away at once.
    NoTaint,
    /// A chunk is copied ahead while a fenced apparatus may write.
    AheadWithLateWriter,
    /// An apparatus believes a controller of another term that a change was given up.
    GivenUpByAnother,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Apparatus(usize),
    Controller(usize),
}

/// What happens.
#[derive(Debug)]
enum Event {
    /// A host sends a request.
    Host {
        app: usize,
        is_write: bool,
    },
    /// An access of a request reaches its disk.
    Landed {
        request: usize,
    },
    /// The process learns that.
    AccessDone {
        request: usize,
    },
    /// The answer reaches the host.
    Replied {
        request: usize,
    },
    /// Requests that are parked are tried again.
    Resume {
        app: usize,
    },
    Renew {
        app: usize,
    },
    DrainOverdue {
        app: usize,
        change: u64,
    },
    ToApparatus {
        app: usize,
        message: Message,
    },
    ToController {
        ctl: usize,
        app: usize,
        report: Report,
    },
    /// A transaction reaches the store.
    Decide {
        by: Process,
        transaction: Transaction,
        renewal: Option<super::Renewal>,
    },
    Decided {
        to: Process,
        answer: Answer,
        renewal: Option<super::Renewal>,
    },
    /// The write of a copy reaches its disk.
    CopyLanded {
        placement: usize,
        value: u64,
    },
    CopyDone {
        ctl: usize,
        change: u64,
    },
    Timer {
        ctl: usize,
        number: u32,
    },
    TakeOver,
    /// A placement in quarantine may be given to another volume.
    Free {
        placement: usize,
    },
    /// The word that fences the first apparatus on its own node is set.
    Word,
    /// The first node boots anew and opens the disks.
    Boot,
}

/// What an apparatus says to a controller.
#[derive(Clone, Copy, Debug)]
enum Report {
    Noting(u64),
    /// With whether the block was written since it was noted.
    Held(u64, bool),
    StillDraining(u64),
    Applied(u64),
}

/// Situations that the runs have to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    Moved,
    MovedAfterWait,
    MovedAhead,
    SilentAtHold,
    SilentAtApply,
    ByNeighbour,
    Lapsed,
    WentOnAfterLapse,
    LateWrite,
    LateCopy,
    TookOver,
    Tainted,
    Reused,
    ReusedAfterBoot,
}

/// The model of one run.
struct Model {
    fault: Option<Fault>,
    dice: Dice,
    queue: Queue<Event>,
    store: Store,
    apps: [Apparatus; APPARATUSES],
    ctls: [Controller; 2],
    requests: Vec<apparatus::HostRequest>,
    history: Vec<Record>,
    values: u64,
    /// Chance in a hundred that an access of the first apparatus takes long.
    long_access: u64,
    /// Chance in a hundred that a request is a write, for the hosts of each apparatus.
    writes: [u64; APPARATUSES],
    /// Time in which the first apparatus and controllers do not reach each other.
    cut: (Time, Time),
    /// Time in which the first apparatus and the store do not.
    store_cut: (Time, Time),
    /// Whether the first apparatus does not reach the store from the moment on at which it is fenced.
    is_cut_by_fence: bool,
    takes_over: bool,
    has_neighbour: bool,
    boots: Option<Time>,
    /// Whether the store knows of the first node's new boot.
    has_booted: bool,
    lapse_waited: bool,
    lost: Option<String>,
    /// Whether each event is printed.
    traces: bool,
    met: BTreeMap<Met, u64>,
}

fn node(name: &str) -> Option<Name> {
    Name::new("node", name).ok()
}

impl Model {
    fn met(&mut self, what: Met) {
        *self.met.entry(what).or_default() += 1;
    }

    fn clock(&self, process: Process) -> &Clock {
        match process {
            Process::Apparatus(app) => &self.apps[app].clock,
            Process::Controller(ctl) => &self.ctls[ctl].clock,
        }
    }

    /// Returns what the clock of a process shows.
    fn local(&self, process: Process) -> u64 {
        self.clock(process).at(self.queue.now)
    }

    /// Lets something happen at a process after a time, or when it goes on.
    fn at_process(&mut self, process: Process, after: Time, event: Event) {
        let time = self.clock(process).awake(self.queue.now + after);
        self.queue.at(time, event);
    }

    /// Returns how long a message takes; now and then it is slow.
    fn way(&mut self) -> Time {
        match self.dice.chance(15) {
            true => self.dice.within(MS, 280 * MS),
            false => self.dice.within(MS / 10, 2 * MS),
        }
    }

    fn transact(&mut self, by: Process, transaction: Transaction, renewal: Option<super::Renewal>) {
        let time = self.queue.now + self.way();
        let event = Event::Decide {
            by,
            transaction,
            renewal,
        };
        self.queue.at(time, event);
    }

    fn act(&mut self, ctl: usize, transaction: Transaction) {
        self.transact(Process::Controller(ctl), transaction, None);
    }

    fn is_cut(&self, (from, to): (Time, Time)) -> bool {
        from <= self.queue.now && self.queue.now < to
    }

    fn decide(&mut self, by: Process, transaction: Transaction, renewal: Option<super::Renewal>) {
        let answer = self.store.decide(transaction);
        let is_renewal = renewal.is_some();
        let first = by == Process::Apparatus(0);
        let mut way = self.way();
        if is_renewal && first {
            if self.is_cut(self.store_cut) || self.dice.chance(10) {
                return;
            }
            if self.dice.chance(20) {
                way = self.dice.within(MS, L);
            }
        }
        if matches!(transaction, Transaction::Commit { .. }) && self.dice.chance(5) {
            way = self.dice.within(MS, 2000 * MS);
        }
        let to = by;
        self.at_process(to, way, Event::Decided { to, answer, renewal });
    }

    /// Returns whether the first apparatus's life is known to have ended, by what everybody can know.
    fn is_known_to_have_ended(&self, app: usize) -> bool {
        let (Some(n1), Some(n2)) = (node("n1"), node("n2")) else {
            return false;
        };
        let epoch = |number: u128| CacheEpoch(Uuid::from_u128(number));
        let life = Life {
            incarnation: Incarnation(1),
            node: if app == 0 { n1.clone() } else { n2.clone() },
            boot: epoch(1),
        };
        let booted = |node, number| Evidence::Booted {
            node,
            boot: epoch(number),
            has_opened_disks: true,
        };
        let mut evidence = vec![booted(n2, 2), booted(n1, if self.has_booted { 2 } else { 1 })];
        if self.lapse_waited {
            evidence.push(Evidence::LeaseRanOut);
        }
        let any_boot = |evidence: &Evidence| matches!(evidence, Evidence::Booted { .. });
        match self.fault {
            Some(Fault::LapseIsDeath) if evidence.contains(&Evidence::LeaseRanOut) => true,
            Some(Fault::BootOfAnother) if evidence.iter().any(any_boot) => true,
            _ => has_ended(&life, &evidence),
        }
    }

    fn has_late_writer(&self) -> bool {
        (0..APPARATUSES).any(|app| !self.store.joined[app] && !self.is_known_to_have_ended(app))
    }

    /// Gives a placement to another volume if nobody of ours can reach it any more.
    fn free(&mut self, placement: usize) {
        if self.store.placements[placement].owner != Owner::Quarantine
            || self.store.placements[placement].is_tainted
        {
            return;
        }
        let uses = |app: usize| {
            let joined = self.store.joined[app];
            let in_flight = self
                .requests
                .iter()
                .any(|request| request.is_in_flight_on(app, placement));
            (joined && (self.apps[app].placement == placement || in_flight))
                || (!joined && !self.is_known_to_have_ended(app))
        };
        if (0..APPARATUSES).any(uses) {
            let time = self.queue.now + 500 * MS;
            return if time < END {
                self.queue.at(time, Event::Free { placement })
            };
        }
        self.met(if self.has_booted {
            Met::ReusedAfterBoot
        } else {
            Met::Reused
        });
        self.store.placements[placement].owner = Owner::Another;
    }

    /// Writes to a placement, unless it belongs to another by now.
    fn land(&mut self, placement: usize, value: u64, what: &str) {
        if self.store.placements[placement].owner == Owner::Another {
            self.lost
                .get_or_insert(format!("{what} landed in another's placement {placement}"));
        }
        self.store.placements[placement].value = value;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Host { app, is_write } => self.host(app, is_write),
            Event::Landed { request } => self.landed(request),
            Event::AccessDone { request } => self.access_done(request),
            Event::Replied { request } => self.replied(request),
            Event::Resume { app } => self.resume(app),
            Event::Renew { app } => self.renew(app),
            Event::DrainOverdue { app, change } => self.drain_overdue(app, change),
            Event::ToApparatus { app, message } => self.receive(app, message),
            Event::ToController { ctl, app, report } => self.received(ctl, app, report),
            Event::Decide {
                by,
                transaction,
                renewal,
            } => self.decide(by, transaction, renewal),
            Event::Decided { to, answer, renewal } => match to {
                Process::Apparatus(app) => self.store_answered(app, answer, renewal),
                Process::Controller(ctl) => self.decided(ctl, answer),
            },
            Event::CopyLanded { placement, value } => self.copy_landed(placement, value),
            Event::CopyDone { ctl, change } => self.copy_done(ctl, change),
            Event::Timer { ctl, number } => self.timer(ctl, number),
            Event::TakeOver => self.take_over(),
            Event::Free { placement } => self.free(placement),
            Event::Word => self.apps[0].word = true,
            Event::Boot => self.boot(),
        }
    }

    /// The first node boots anew: its processes have ended, and so have their accesses.
    fn boot(&mut self) {
        self.apps[0].is_dead = true;
        self.has_booted = true;
    }

    fn run(mut self) -> (Result<(), String>, BTreeMap<Met, u64>) {
        while let Some(event) = self.queue.take() {
            if self.queue.now > END {
                break;
            }
            if self.traces {
                println!("{} {event:?}", self.queue.now);
            }
            self.handle(event);
        }
        let seen = history::check(&self.history);
        (self.lost.map_or(seen, Err), self.met)
    }
}
