//! An apparatus's half of a change, pure. One machine serves all changes of one apparatus.
//!
//! The life of one hold:
//!
//! ```text
//!            Hold                 drained              Apply                 Release
//!  (none) ---------> Draining -------------> Held ---------------> Applied ----------> (none), reopened
//!                       |                     |                       |
//!                       | deadline, connection lost, overflow         | deadline, connection lost
//!                       v                     v                       v
//!                    Ending: try to cancel in the store          AwaitingOthers
//!                       |                     |                       |
//!                       | cancelled           | committed             | everyone in the control range is at this
//!                       v                     v                       | generation, fenced, or dead
//!                (none), reopened         apply, then AwaitingOthers  v
//!                with the old face                              (none), reopened
//! ```
//!
//! Whoever waits too long in AwaitingOthers takes the arbitration and finishes the change itself.
//! Seen fenced, in any state: every hold is void, everything is parked, and the apparatus rejoins.

use crate::pool::model::{Difference, DiskRecord, Span};
use crate::store::{Cancel, HoldMode};
use crate::units::{ChangeId, Generation, Incarnation, Term};
use crate::wire::message::{Answer, Request};

/// A connection to a controller or client, numbered by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The fence word is set for this life.
    Fenced,
    /// Rejoined, with the table of this generation loaded and serving.
    Rejoined(Incarnation, Generation),
}

/// Timers of one hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// The drain is due to be reported.
    Drain,
    /// The hold is over.
    Deadline,
    /// Asking the store again, or the others are overdue.
    Patience,
}

/// What the machine wants done. In order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say this.
    Answer(Link, Answer),
    /// Open these disks, then `DisksOpen`.
    OpenDisks(ChangeId, Vec<DiskRecord>),
    /// Park what overlaps from now on; `Drained` when nothing that overlaps is in flight.
    PlaceHold(ChangeId, Vec<Span>, HoldMode),
    /// Build the idle face from the difference, switch, publish the generation in the member table. Infallible:
    /// the machine has checked that the difference fits.
    Apply(ChangeId, Difference),
    /// Take the hold away and let the parked requests run; then answer `Released` to the link, if there is one.
    Reopen(ChangeId, Option<Link>),
    /// Answer `StillDraining` to the link, with the gate's figures.
    ReportDraining(ChangeId, Link),
    /// Answer `Applied` to the link, with the oldest generation in use.
    ReportApplied(ChangeId, Link),
    /// `Store::cancel`.
    Cancel(ChangeId),
    /// Watch the member table; `OthersReached` when everyone is there.
    AwaitOthers(Generation),
    /// Take the arbitration, if it is free, and finish what the last controller left.
    TakeOver,
    /// Wake the machine with `TimedOut` after so many microseconds.
    Arm(ChangeId, Timer, u64),
    /// Park everything, drain our own, reload, rejoin; then `Rejoined`.
    Rejoin,
}
