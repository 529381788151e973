//! An apparatus's half of a change, pure. One machine serves all changes of one apparatus.
//!
//! The life of one hold:
//!
//! ```text
//!           Hold            disks open           drained           Apply              Release
//!  (none) --------> Opening ----------> Draining ------> Held --------------> Applied -------> (none), reopened
//!                      |                   |               |                     |
//!                      | Release,          | deadline, connection lost,          | deadline, connection lost
//!                      | deadline,         | overflow, Release without Apply     v
//!                      | lost              v               v                  Awaiting: everyone in the control range
//!                      v              Ending: try to cancel in the store         | is at this generation, fenced or dead;
//!                   (none)                 |               | committed           | or Release
//!                                          | cancelled     +-- apply it -------> |
//!                                          v                                     v
//!                                   (none), reopened                      (none), reopened
//!                                   with the old face                     with the new face
//! ```
//!
//! Nobody reopens with the old face before the store has said that the change is cancelled, not even when told to release: the
//! store decides. A hold that ends as committed though it never was `Held` tells that this apparatus has been fenced.
//!
//! Whoever waits too long in Awaiting takes the arbitration and finishes the change itself.
//!
//! The life of the apparatus:
//!
//! ```text
//!            joined                  others reached                     fenced, or the table does not fit
//!  (start) ----------> Waiting ---------------------> Serving   ....... from either: ---------------------> Out
//!                         ^   all writes held                   all holds are void, everything is parked     |
//!                         +--------------------------------------- rejoined ---------------------------------+
//! ```

use crate::pool::model::{Difference, DiskRecord, Span};
use crate::store::{Cancel, ChangeRecord, HoldMode};
use crate::units::{ChangeId, Generation, Incarnation, Term};
use crate::wire::message::{Answer, Refusal, Request};
use std::collections::{BTreeMap, VecDeque};

/// A connection to a controller or client, numbered by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// The change that timers of the apparatus itself (Waiting) go by. No change has this number.
pub const OWN: ChangeId = ChangeId(0);

/// Bounds of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Holds at once.
    pub holds: usize,
    /// How long the others may take, and after what time a store that failed is asked again, in microseconds.
    pub patience_us: u64,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// One of `Hold`, `Apply`, `Release` arrived.
    Asked(Link, Term, Request),
    /// The disks named by a hold are open (`Ok`), or one is not (its name and why).
    DisksOpen(ChangeId, Result<(), (String, String)>),
    /// Nothing that overlaps this hold is in flight any more.
    Drained(ChangeId),
    /// A timer armed for this change ran out.
    TimedOut(ChangeId, Timer),
    /// The connection is gone.
    Lost(Link),
    /// The store's answer to `Effect::Cancel`.
    CancelAnswered(ChangeId, Cancel),
    /// The store could not be asked; it is asked again.
    CancelFailed(ChangeId),
    /// Everyone in the control range is at this generation or later, fenced, or dead.
    OthersReached(Generation),
    /// The parked requests do not fit: the hold has to end now.
    Overflow(ChangeId),
    /// The fence word names this life. Of an earlier life, it means nothing.
    Fenced(Incarnation),
    /// The table did not take a difference that fits by its number (`Effect::Apply`): it is damaged. The driver drops the
    /// rest of that batch of effects.
    TableDamaged,
    /// Rejoined, with the table of this generation loaded; the gate is still closed.
    Rejoined(Incarnation, Generation),
}

/// Timers of one hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// What the hold still waits for, disks or requests in flight, is due to be reported.
    Drain,
    /// The hold is over.
    Deadline,
    /// Asking the store again, or the others are overdue.
    Patience,
}

/// What the machine wants done. In order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say this.
    Answer(Link, Answer),
    /// Open these disks, then `DisksOpen`.
    OpenDisks(ChangeId, Vec<DiskRecord>),
    /// Park what overlaps from now on; `Drained` when nothing that overlaps is in flight.
    PlaceHold(ChangeId, Vec<Span>, HoldMode),
    /// Build the idle face from the difference, switch, publish the generation in the member table. The machine has checked
    /// that it starts from the current generation; see [`Event::TableDamaged`].
    Apply(ChangeId, Difference),
    /// Take the hold away, if there is one, and let the parked requests run; then answer `Released` to the link, if there is one.
    Reopen(ChangeId, Option<Link>),
    /// Answer `StillDraining` to the link, with the gate's figures.
    ReportDraining(ChangeId, Link),
    /// Answer `StillOpening` to the link, with the disk that has been waited for longest.
    ReportOpening(ChangeId, Link),
    /// Answer `Applied` to the link, with the oldest generation in use.
    ReportApplied(ChangeId, Link),
    /// `Store::cancel`.
    Cancel(ChangeId),
    /// Watch the member table for this generation too, with `recovery::others_reached`; then `OthersReached`.
    AwaitOthers(Generation),
    /// Take the arbitration, if it is free, and finish what the last controller left.
    TakeOver,
    /// Wake the machine with `TimedOut` after so many microseconds.
    Arm(ChangeId, Timer, u64),
    /// Park all writes, whatever their range, from now on.
    HoldWrites,
    /// The end of `HoldWrites`.
    LetWrites,
    /// Close the gate (all holds are void), drain our own requests, reload, rejoin (in the store: `rejoin`, or `leave` and `join` when
    /// this life was not fenced); then `Rejoined`. Tried until it works.
    Rejoin,
    /// Open the gate that `Rejoin` closed.
    Open,
}

/// Where a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Opening,
    Draining,
    Held,
    Ending,
    Applied,
    Awaiting,
    Ended,
}

impl Stage {
    /// The arrows of the drawing.
    fn leads_to(self, next: Self) -> bool {
        use Stage::{Applied, Awaiting, Draining, Ended, Ending, Held, Opening};
        matches!(
            (self, next),
            (Opening, Draining | Ended)
                | (Draining, Held | Ending)
                | (Held, Applied | Ending)
                | (Ending, Awaiting | Ended)
                | (Applied, Awaiting | Ended)
                | (Awaiting, Ended)
        )
    }
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hold {
    stage: Stage,
    /// Who asked for it last, while that connection stands.
    link: Option<Link>,
    /// Who asked for its release, while the store is asked.
    release: Option<Link>,
    spans: Vec<Span>,
    mode: HoldMode,
    /// `Held` was said, so the change may have been committed with us.
    said_held: bool,
    /// The generation it leads to; known from Awaiting on.
    generation: Generation,
}

/// Where the apparatus stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// In the control range; writes wait until the others are at this generation.
    Waiting(Generation),
    /// In the control range.
    Serving,
    /// Out of it, rejoining.
    Out,
}

/// The machine of one apparatus.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    bounds: Bounds,
    standing: Standing,
    incarnation: Incarnation,
    generation: Generation,
    term: Term,
    holds: BTreeMap<ChangeId, Hold>,
    /// The latest that ended here, so that a late `Hold` of one of them places nothing.
    ended: VecDeque<ChangeId>,
}

mod machine;
#[cfg(test)]
mod tests;
