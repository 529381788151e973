//! The controller's half of a change, pure.
//!
//! ```text
//!  Preparing --Prepared--> Holding --all Held--> Working --WorkDone--> Committing --Committed--> Applying
//!      |                      |                     |                      |                        | all Applied
//!      |                      | still draining,     | work failed          | cancelled,             v
//!      |                      | refused             |                      | version moved      Releasing
//!      v                      v                     v                      v                        | all Released
//!  Done(GaveUp) <--------- Cancelling <-------------+----------------------+                        v
//!                                                                                          Done(Finished)
//! ```
//!
//! Who is silent in Holding or Applying (time-out, or its connection is lost) is fenced: the machine asks for
//! [`Effect::Fence`] and goes on without it once [`Event::Fenced`] says that the word is set. Silence in Releasing costs
//! nothing: the apparatus ends its hold itself.

use crate::store::{Cancel, Commit, NewChange};
use crate::units::{ChangeId, Generation, Incarnation, MembershipVersion, Slot};
use crate::wire::message::{Answer, Request};

/// An apparatus that takes part, in the life that the controller counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    /// Its line in the member table.
    pub slot: Slot,
    /// Its life.
    pub incarnation: Incarnation,
}

/// What a change is started with. All resources that it needs have been acquired.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is changed and held.
    pub change: NewChange,
    /// The control range, as read together with `membership`.
    pub participants: Vec<Participant>,
    /// The version of the membership that `participants` is.
    pub membership: MembershipVersion,
    /// Bounds of each wait.
    pub patience: Patience,
}

/// Bounds of each wait, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patience {
    /// For requests in flight to finish; past it the change is given up.
    pub drain_us: u64,
    /// For an answer of an apparatus beyond the drain; past it the apparatus is silent and is fenced.
    pub answer_us: u64,
    /// For the whole hold: what the apparatus is told. More than all the others together.
    pub hold_us: u64,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The store has the change, under this number.
    Prepared(ChangeId),
    /// The store would not have it.
    PrepareFailed(String),
    /// An apparatus answered.
    Answered(Slot, Answer),
    /// The connection to it broke, or cannot be made.
    Lost(Slot),
    /// The timer armed last ran out.
    TimedOut,
    /// The fence is in the store and in the member table. `None`: it was not joined in that life any more.
    Fenced(Slot, Option<MembershipVersion>),
    /// The work under the hold is done.
    WorkDone,
    /// The work under the hold failed: the change is given up.
    WorkFailed(String),
    /// The store's answer to `Effect::Commit`.
    Committed(Commit),
    /// The store's answer to `Effect::Cancel`.
    Cancelled(Cancel),
    /// The operator or the caller gives up; before the commit this cancels, after it has no effect.
    Abandon(String),
}

/// What the machine wants done. In order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `Store::prepare`.
    Prepare,
    /// Send this to that apparatus; requests of one batch of effects travel in one frame.
    Send(Slot, Request),
    /// Wake the machine with `TimedOut` after so many microseconds, unless armed again or disarmed.
    Arm(u64),
    /// No timer.
    Disarm,
    /// Do the work under the hold.
    Work,
    /// `Store::commit` with this version.
    Commit(MembershipVersion),
    /// `Store::cancel`.
    Cancel,
    /// `Store::fence`, then the fence word; then `Event::Fenced`.
    Fence(Participant),
    /// The change is over.
    Finish(Outcome),
}

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new table serves.
    Finished {
        /// Its number.
        generation: Generation,
        /// Those put out of the control range on the way.
        fenced: Vec<Slot>,
        /// Requests that had been parked.
        parked: u64,
        /// The longest that one of them waited, in microseconds.
        longest_us: u64,
    },
    /// Nothing changed.
    GaveUp {
        /// Those put out of the control range on the way.
        fenced: Vec<Slot>,
        /// Why.
        reason: Reason,
    },
}

/// Why a change was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Requests in flight did not finish in time.
    Draining {
        /// On this apparatus.
        slot: Slot,
        /// How many.
        in_flight: u64,
        /// Age of the oldest, in microseconds.
        oldest_us: u64,
        /// The disk that the oldest waits for.
        disk: String,
    },
    /// Somebody joined, left or rejoined meanwhile: read the members and ask again.
    MembershipMoved,
    /// The table moved on meanwhile: plan again.
    GenerationMoved,
    /// A hold ran out before the commit.
    HoldRanOut,
    /// Another controller acts.
    StaleTerm,
    /// An apparatus would not: its refusal, as text.
    Refused(Slot, String),
    /// The work under the hold failed.
    Work(String),
    /// The store would not have it.
    Store(String),
    /// The caller gave up.
    Abandoned(String),
}
