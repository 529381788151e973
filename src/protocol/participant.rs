//! An apparatus's half of a change, as a pure state machine. One machine serves all changes of one apparatus.
//!
//! The stages of one hold:
//!
//! ```text
//!           Hold            disks open           drained           Apply              Release
//!  (none) --------> Opening ----------> Draining ------> Held --------------> Applied -------> (none), reopened
//!                      |                   |               |                     |
//!                      | Release,          | deadline, connection lost,          | deadline, connection lost
//!                      | deadline,         | overflow, Release without Apply     v
//!                      | lost              v               v                  Awaiting: each in the control range
//!                      v              Ending: try to cancel in the store         | is at this generation, fenced or dead;
//!                   (none)                 |               | committed           | or Release
//!                                          | cancelled     +-- apply it -------> |
//!                                          v                                     v
//!                                   (none), reopened                      (none), reopened
//!                                   with the old version                     with the new version
//! ```
//!
//! From Draining, Held and Ending, `Release{given_up}` in the term in which the hold was placed leads to (none), reopened with
//! the old version: only the controller that prepared a change commits it, and this one promises that it never will.
//!
//! Otherwise an apparatus never reopens with the old version before the store has confirmed that the change is cancelled, not
//! even when it is asked to release: the store decides. A hold that ends as committed although this apparatus never confirmed it
//! shows that this apparatus has been fenced.
//!
//! Before its hold a change may have a *note*, of the writes to ranges that are copied meanwhile:
//!
//! ```text
//!           Note               writes in flight done         Hold
//!  (none) ---------> Settling -----------------------> Noting ------> kept until the hold ends
//!                       |                                 |
//!                       +-- Hold, Release, connection lost, time over --> (none): `Held` says that all may have been written
//! ```
//!
//! An apparatus that waits too long in Awaiting takes the controller lock and finishes the change itself.
//!
//! The states of the apparatus:
//!
//! ```text
//!            joined                  others reached                     fenced, or the table does not fit
//!  (start) ----------> Waiting ---------------------> Serving   ....... from either: ---------------------> Out
//!                         ^   all writes held                   all holds are void, everything is parked     |
//!                         +--------------------------------------- rejoined ---------------------------------+
//! ```

use crate::model::change::{Cancel, ChangeRecord, HoldMode};
use crate::model::records::{Delta, DiskRecord, Span};
use crate::model::units::{ChangeId, Generation, Incarnation, Term};
use crate::rpc::message::{Answer, Refusal, Request};
use std::collections::{BTreeMap, VecDeque};

/// A connection to a controller or client, numbered by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// The change number of the apparatus's own timers (Waiting). No change has it.
pub const OWN: ChangeId = ChangeId(0);

/// Limits of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Largest number of holds.
    pub holds: usize,
    /// Time that the others may take, and time after which a store that failed is asked again, in microseconds.
    pub patience_us: u64,
}

/// Input of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// One of the requests `Note`, `Hold`, `Apply`, `Release` arrived.
    Asked(Link, Term, Request),
    /// The disks that a hold names are open (`Ok`), or one is not (its name and the reason).
    DisksOpen(ChangeId, Result<(), (String, String)>),
    /// No write that was in flight when this note was placed is any more.
    NoteSettled(ChangeId),
    /// There is no room for this note.
    NoteRefused(ChangeId),
    /// No request that overlaps this hold is in flight any more.
    Drained(ChangeId),
    /// A timer armed for this change ran out.
    TimedOut(ChangeId, Timer),
    /// The connection is lost.
    Lost(Link),
    /// The store's answer to `Effect::Cancel`.
    CancelAnswered(ChangeId, Cancel),
    /// The store could not be asked; it is asked again later.
    CancelFailed(ChangeId),
    /// All members of the control range are at this generation or later, fenced, or dead.
    OthersReached(Generation),
    /// The parked requests exceed the limit: the hold has to end now.
    Overflow(ChangeId),
    /// The fence word names this incarnation. A fence of an earlier incarnation has no effect.
    Fenced(Incarnation),
    /// The table did not accept a delta whose number fits (`Effect::Apply`): it is damaged. The driver drops the rest of that
    /// batch of effects.
    TableDamaged,
    /// The apparatus has rejoined and loaded the table of this generation; the gate is still closed.
    Rejoined(Incarnation, Generation),
}

/// Timers of one hold, or note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The wait of the hold, for disks or for requests in flight, is due to be reported.
    Drain,
    /// The wait of the note for writes in flight is due to be reported.
    Settling,
    /// The note has reached its time limit.
    NoteOver,
    /// The hold has reached its time limit.
    Deadline,
    /// The store is to be asked again, or the others are overdue.
    Patience,
}

/// Output of the machine: actions for the driver, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send this answer.
    Answer(Link, Answer),
    /// Open these disks, then send `DisksOpen`.
    OpenDisks(ChangeId, Vec<DiskRecord>),
    /// Note the writes to these spans from now on; send `NoteSettled` when none that was in flight is any more.
    PlaceNote(ChangeId, Vec<Span>),
    /// Forget the note of this change.
    EndNote(ChangeId),
    /// Answer `Held` to the link, with what the note of this change has: all, if it has none.
    ReportHeld(ChangeId, Link),
    /// Park requests that overlap from now on; send `Drained` when none that overlaps is in flight.
    PlaceHold(ChangeId, Vec<Span>, HoldMode),
    /// Build the next version from the delta, switch, and publish the generation in the member table. The machine has checked
    /// that the delta starts from the current generation; see [`Event::TableDamaged`].
    Apply(ChangeId, Delta),
    /// Remove the hold and the note, if there are any, and let the parked requests run; then answer `Released` to the link, if one is given.
    Reopen(ChangeId, Option<Link>),
    /// Answer `StillDraining` to the link, with the gate's counts.
    ReportDraining(ChangeId, Link),
    /// Answer `StillOpening` to the link, with the disk whose opening has taken longest.
    ReportOpening(ChangeId, Link),
    /// Answer `Applied` to the link, with the oldest generation in use.
    ReportApplied(ChangeId, Link),
    /// Call `Store::cancel`.
    Cancel(ChangeId),
    /// Watch the member table for this generation, with `recovery::others_reached`; then send `OthersReached`.
    AwaitOthers(Generation),
    /// Take the controller lock if it is free, and finish the changes that the last controller left.
    TakeOver,
    /// Wake the machine with `TimedOut` after this many microseconds.
    Arm(ChangeId, Timer, u64),
    /// Park all writes from now on, whatever their range.
    HoldWrites,
    /// End `HoldWrites`.
    ReleaseWrites,
    /// Close the gate (all holds are void), drain this apparatus's requests, reload the table and rejoin (in the store:
    /// `rejoin`, or `leave` and `join` if this incarnation was not fenced); then send `Rejoined`. The driver repeats this until
    /// it succeeds.
    Rejoin,
    /// Open the gate that `Rejoin` closed.
    Open,
}

/// Stage of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum HoldStage {
    Opening,
    Draining,
    Held,
    Ending,
    Applied,
    Awaiting,
    Ended,
}

impl HoldStage {
    /// The transitions of the drawing.
    fn leads_to(self, next: Self) -> bool {
        use HoldStage::{Applied, Awaiting, Draining, Ended, Ending, Held, Opening};
        matches!(
            (self, next),
            (Opening, Draining | Ended)
                | (Draining, Held | Ending | Ended)
                | (Held, Applied | Ending | Ended)
                | (Ending, Awaiting | Ended)
                | (Applied, Awaiting | Ended)
                | (Awaiting, Ended)
        )
    }
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hold {
    stage: HoldStage,
    /// The connection that requested it last, as long as that connection stands.
    link: Option<Link>,
    /// The connection that requested its release, while the store is asked.
    release: Option<Link>,
    /// The term in which it was placed: that of the controller that prepared the change.
    term: Term,
    spans: Vec<Span>,
    mode: HoldMode,
    /// Whether `Held` was sent, so that the change may have been committed counting on this hold.
    held_sent: bool,
    /// The generation that the change leads to; known from Awaiting on.
    generation: Generation,
}

/// The note of a change that has no hold yet, or whose hold is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Note {
    /// Whether the writes that were in flight when it was placed are done.
    settled: bool,
    /// The connection that requested it last.
    link: Link,
}

/// Participation of an apparatus in the control range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Participation {
    /// It is in the control range; writes wait until the others are at this generation.
    Waiting(Generation),
    /// It is in the control range and serves.
    Serving,
    /// It is out of the control range and is rejoining.
    Out,
}

/// The machine of one apparatus.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    bounds: Bounds,
    standing: Participation,
    incarnation: Incarnation,
    generation: Generation,
    term: Term,
    holds: BTreeMap<ChangeId, Hold>,
    /// The latest changes that ended here, so that a late `Hold` of one of them places nothing.
    ended: VecDeque<ChangeId>,
    notes: BTreeMap<ChangeId, Note>,
    /// The latest changes that had a note. A note is not placed a second time: it would lack what was written between the two.
    noted: VecDeque<ChangeId>,
}

mod machine;
#[cfg(test)]
mod tests;
