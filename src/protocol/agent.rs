//! The control side of an apparatus around its machine, pure: inputs in, calls of [`Services`] out.
//!
//! ```text
//!  frames, lost links ---+                    +---> answers, timers
//!  wake-ups, timers -----+--> Agent --calls---+---> data path (holds, notes, table, gate), entry among the members
//!  answers of the store -+      |  ^          +---> questions to the store: cancel, the others, rejoin
//!                               v  |
//!                        [`participant`](super::participant)
//! ```
//!
//! The agent passes events to its machine and carries out the effects in order. It knows which drains it watches, which generations the other
//! apparatuses have to reach, which `Quiesce` requests wait, and how far a rejoin is:
//!
//! ```text
//!  No --fenced--> Draining --nothing in flight--> Asked --the store has answered, the table is loaded--> No
//!                                                  ^  |
//!                                         timeout  |  | the store fails
//!                                                  +--+
//! ```
//!
//! A call of [`Services`] returns at once: what waits for a disk or the store is begun by a call, and its end is an input.
//! [`crate::agent`] is the production driver; the simulator and the explorer in `tests/` drive the same code.

use super::participant::{Bounds, Effect, Event, Link, Machine, OWN, Participation, Timer};
use crate::model::change::{Cancel, HoldMode};
use crate::model::member::Joined;
use crate::model::records::{Delta, DiskRecord, Edit, Span};
use crate::model::units::{ChangeId, Generation, Incarnation, Slot, Term, VolumeId};
use crate::rpc::message::{Answer, Refusal, Request};
use crate::rpc::written::Written;
use std::collections::{BTreeSet, VecDeque};

/// Interval at which the generations of the other apparatuses are read, in microseconds.
pub const OTHERS_US: u64 = 2_000;
/// Interval at which `Quiesce` requests are checked, in microseconds.
const QUIESCE_US: u64 = 1_000;
/// Interval between attempts to rejoin, in microseconds.
const REJOIN_US: u64 = 200_000;
/// Longest wait of a `Quiesce` request, whatever it asks for, in microseconds.
const LONGEST_US: u64 = 60_000_000;
/// Maximum number of `Quiesce` requests that wait.
const QUIESCES: usize = 256;

/// The name of a disk that could not be opened, and the reason.
pub type NotOpened = (String, String);

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// One of the requests `Note`, `Hold`, `Apply`, `Release`, `Quiesce` arrived.
    Asked(Link, Term, Request),
    /// A connection is lost.
    Lost(Link),
    /// Other threads or processes may have changed what the agent looks at: the fence word, requests in flight. The parked requests of these
    /// changes have exceeded the limit.
    Woken(BTreeSet<ChangeId>),
    /// A timer ran out.
    Due(Due),
    /// The disks that a hold waits for are open, or one is not.
    DisksOpen(ChangeId, Result<(), NotOpened>),
    /// The store's answer to [`Services::cancel`]; `None` if it could not be asked.
    CancelAnswered(ChangeId, Option<Cancel>),
    /// All other apparatuses have reached these generations: the answer to [`Services::find_others`].
    OthersReached(Vec<Generation>),
    /// The store's answer to [`Services::rejoin`]; `None` if that failed.
    Rejoined(Option<Rejoined>),
}

/// Purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    /// A timer of the machine.
    Change(ChangeId, Timer),
    /// Ask again which generations the other apparatuses have reached.
    Others,
    /// Check the `Quiesce` requests.
    Quiesce,
    /// Try again to rejoin.
    Rejoin,
}

/// The apparatus as the store has let it rejoin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejoined {
    /// Its slot in the member table.
    pub slot: Slot,
    /// Its new incarnation.
    pub incarnation: Incarnation,
    /// The generation of the table that it is to load.
    pub generation: Generation,
    /// The volumes of that table.
    pub volumes: Vec<VolumeId>,
}

impl Rejoined {
    /// Returns what the agent needs of the store's answer.
    #[must_use]
    pub fn of(joined: &Joined) -> Self {
        Self {
            slot: joined.member.slot,
            incarnation: joined.member.incarnation,
            generation: joined.snapshot.header.generation,
            volumes: joined.snapshot.volumes.iter().map(|volume| volume.id).collect(),
        }
    }
}

/// A step that tests may end or stop the process at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has seen that it is fenced.
    FenceSeen,
    /// A hold is drained.
    Drained,
    /// Nothing is in flight any more, so it may rejoin.
    DrainedForRejoin,
    /// It begins to wait for the other apparatuses.
    AwaitingOthers,
}

/// Requests that a hold had parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parked {
    /// Their number.
    pub requests: u64,
    /// Longest wait of one of them, in microseconds.
    pub longest_us: u64,
}

/// What the agent uses. Each call returns at once and waits for nothing.
pub trait Services {
    /// Queues an answer for a connection.
    fn answer(&mut self, link: Link, answer: Answer);
    /// Arms a timer, replacing an earlier one of the same purpose.
    fn arm(&mut self, due: Due, after_us: u64);
    /// Disarms the timers of a change; of all changes if none is given.
    fn disarm(&mut self, change: Option<ChangeId>);
    /// Returns the time on a clock that never goes back, in microseconds.
    fn now_us(&mut self) -> u64;
    /// Called at a step that has no other call.
    fn passed(&mut self, _step: Step) {}

    /// Returns whether the present incarnation is fenced.
    fn is_fenced(&mut self) -> bool;
    /// Shows the other members the oldest generation in use.
    fn show_oldest(&mut self, oldest: Generation);

    /// Notes writes to these spans from now on. Returns false when there are too many notes.
    fn place_note(&mut self, change: ChangeId, spans: &[Span]) -> bool;
    /// Returns what was written since the note of this change was placed, or `None` if it has no note.
    fn written(&mut self, change: ChangeId) -> Option<Vec<Span>>;
    /// Ends the note of a change.
    fn end_note(&mut self, change: ChangeId);
    /// Parks requests that overlap these spans from now on. Returns false when there are too many holds.
    fn place_hold(&mut self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool;
    /// Returns the answer `StillDraining` while requests that this hold or note has to wait for are in flight, and `None` when none is.
    fn lag(&mut self, change: ChangeId) -> Option<Answer>;
    /// Ends a hold and its note, and has other threads run the parked requests.
    fn release(&mut self, change: ChangeId) -> Parked;
    /// Parks all requests, and ends all holds and notes.
    fn close_gate(&mut self);
    /// Ends [`Services::close_gate`].
    fn open_gate(&mut self);
    /// Returns the number of requests in flight.
    fn in_flight(&mut self) -> u64;
    /// Returns the oldest generation that a request in flight may use.
    fn oldest(&mut self) -> Generation;
    /// Switches to the next version of the table, and shows the other members its generation. Returns false if the delta does not fit.
    fn apply(&mut self, delta: &Delta) -> bool;
    /// Loads the table with which the apparatus has rejoined, and begins that incarnation among the members. Returns false when the apparatus
    /// has to end instead.
    fn load(&mut self, rejoined: &Rejoined) -> bool;
    /// Ends this apparatus, whose slot belongs to another one.
    fn end(&mut self, slot: Slot);

    /// Opens disks that a hold needs. Returns whether they are open already; otherwise [`Input::DisksOpen`] follows.
    fn open_disks(&mut self, change: ChangeId, disks: Vec<DiskRecord>) -> bool;
    /// Forgets the disks that a hold waits for; that all holds wait for if none is given.
    fn forget_disks(&mut self, change: Option<ChangeId>);
    /// Returns the answer `StillOpening` for the disk that a hold has waited for longest.
    fn still_opening(&mut self, change: ChangeId) -> Option<Answer>;

    /// Asks the store to cancel a change. Returns false when nobody could be asked; otherwise [`Input::CancelAnswered`] follows.
    fn cancel(&mut self, change: ChangeId) -> bool;
    /// Asks which of these generations all other apparatuses have reached. Returns false when nobody could be asked; otherwise
    /// [`Input::OthersReached`] follows.
    fn find_others(&mut self, generations: &BTreeSet<Generation>) -> bool;
    /// Asks the store to rejoin, from this incarnation. Returns false when nobody could be asked; otherwise [`Input::Rejoined`] follows.
    fn rejoin(&mut self, from: Incarnation) -> bool;
    /// Takes the controller lock if it is free, and finishes what the last controller left.
    fn take_over(&mut self);
}

/// How far a rejoin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RejoinStage {
    /// The apparatus is in the control range, as far as it knows.
    No,
    /// The gate is closed; requests are still in flight.
    Draining,
    /// The store is asked, or will be again.
    Asked,
}

/// A request that waits until no request of a host uses a table older than `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Quiesce {
    link: Link,
    target: Generation,
    until_us: u64,
}

/// The control side of one apparatus.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    machine: Machine,
    slot: Slot,
    /// Effects of a new machine.
    first: Vec<Effect>,
    events: VecDeque<Event>,
    /// The volumes of the table.
    volumes: Vec<VolumeId>,
    /// Holds whose drains are watched.
    draining: BTreeSet<ChangeId>,
    /// Notes whose drains are watched.
    settling: BTreeSet<ChangeId>,
    /// Generations that the other apparatuses have to reach.
    awaited: BTreeSet<Generation>,
    /// Whether the store is asked which of them are reached.
    checking: bool,
    rejoin: RejoinStage,
    quiesces: Vec<Quiesce>,
}

impl Agent {
    /// Makes the agent of an apparatus that has joined and loaded its table. [`Agent::begin`] comes before anything else.
    #[must_use]
    pub fn new(joined: Rejoined, bounds: Bounds) -> Self {
        let (machine, first) = Machine::joined(joined.incarnation, joined.generation, bounds);
        Self {
            machine,
            slot: joined.slot,
            first,
            events: VecDeque::new(),
            volumes: joined.volumes,
            draining: BTreeSet::new(),
            settling: BTreeSet::new(),
            awaited: BTreeSet::new(),
            checking: false,
            rejoin: RejoinStage::No,
            quiesces: Vec::new(),
        }
    }

    /// Carries out the effects of the new machine, before hosts are served.
    pub fn begin(&mut self, services: &mut dyn Services) {
        let first = std::mem::take(&mut self.first);
        self.carry_out_all(first, services);
        self.run(services);
    }

    /// Returns the machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Returns the generations that the other apparatuses have to reach.
    #[must_use]
    pub fn awaited(&self) -> &BTreeSet<Generation> {
        &self.awaited
    }

    /// Handles an input.
    pub fn on(&mut self, input: Input, services: &mut dyn Services) {
        match input {
            Input::Asked(link, _, Request::Quiesce { wait_us }) => self.quiesce(link, wait_us, services),
            Input::Asked(link, term, request) => {
                self.events.push_back(Event::Asked(link, term, request));
            }
            Input::Lost(link) => {
                self.quiesces.retain(|quiesce| quiesce.link != link);
                self.events.push_back(Event::Lost(link));
            }
            Input::Woken(overflowed) => self.look(overflowed, services),
            Input::Due(due) => self.due(due, services),
            Input::DisksOpen(change, result) => self.events.push_back(Event::DisksOpen(change, result)),
            Input::CancelAnswered(change, Some(answer)) => {
                self.events.push_back(Event::CancelAnswered(change, answer));
            }
            Input::CancelAnswered(change, None) => self.events.push_back(Event::CancelFailed(change)),
            Input::OthersReached(generations) => self.others_reached(generations, services),
            Input::Rejoined(Some(rejoined)) => self.rejoined(rejoined, services),
            Input::Rejoined(None) => {
                if self.rejoin == RejoinStage::Asked {
                    services.arm(Due::Rejoin, REJOIN_US);
                }
            }
        }
        self.run(services);
    }

    /// Passes all events to the machine, and carries out its effects.
    fn run(&mut self, services: &mut dyn Services) {
        while let Some(event) = self.events.pop_front() {
            let effects = self.machine.on(event);
            self.carry_out_all(effects, services);
        }
    }

    /// Looks at everything that other threads and processes change.
    fn look(&mut self, overflowed: BTreeSet<ChangeId>, services: &mut dyn Services) {
        if self.machine.standing() != Participation::Out && services.is_fenced() {
            services.passed(Step::FenceSeen);
            self.events.push_back(Event::Fenced(self.machine.incarnation()));
        }
        self.events.extend(overflowed.into_iter().map(Event::Overflow));
        self.look_at_drains(services);
        self.answer_quiesces(services);
        self.check_rejoin(services);
    }

    fn look_at_drains(&mut self, services: &mut dyn Services) {
        for change in self.settling.clone() {
            self.check_note(change, services);
        }
        for change in self.draining.clone() {
            self.check_hold(change, services);
        }
    }

    fn due(&mut self, due: Due, services: &mut dyn Services) {
        match due {
            Due::Change(change, timer) => self.events.push_back(Event::TimedOut(change, timer)),
            Due::Others => self.check_others(services),
            Due::Quiesce => self.answer_quiesces(services),
            Due::Rejoin => self.ask_to_rejoin(services),
        }
    }
}

mod effects;
#[cfg(test)]
mod tests;
