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
//! Who is silent in Holding or Applying (it shows no life until the time-out, or its connection is lost) is fenced: the machine asks for
//! [`Effect::Fence`] and goes on without it once [`Event::Fenced`] says that the word is set. Who shows life and is only slow costs the change
//! in Holding, which is given up; in Applying it is waited for longer ([`WAITS`]), because a committed change cannot be given up.
//! Silence in Releasing costs nothing: the apparatus ends its hold itself.
//!
//! Not drawn: a store that fails. At the commit, the change is cancelled, and where that answers that it was committed after
//! all, the machine goes on to Applying. Anywhere else it ends Done(Unfinished), and the next holder of the arbitration
//! finishes the change or rolls it back.
//!
//! Every state answers every event; an answer that is late, double, or of somebody who is out changes nothing.

use crate::pool::model::DiskRecord;
use crate::store::{Cancel, Commit, HoldMode, NewChange};
use crate::units::{ChangeId, Generation, Incarnation, MembershipVersion, Slot};
use crate::wire::message::{Answer, Refusal, Request};

/// An apparatus that takes part, in the life that the controller counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Participant {
    /// Its line in the member table.
    pub slot: Slot,
    /// Its life.
    pub incarnation: Incarnation,
}

/// What a change is started with. All resources that it needs have been acquired.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What is changed and held.
    pub change: NewChange,
    /// Disks that the change maps onto: each apparatus opens them before it holds.
    pub disks: Vec<DiskRecord>,
    /// The control range, as read together with `membership`.
    pub participants: Vec<Participant>,
    /// The version of the membership that `participants` is.
    pub membership: MembershipVersion,
    /// Some fenced apparatus still lives (`recovery::late_writes`, read together with `membership`): its late writes may still
    /// reach an old home, so reads are held as well.
    pub late_writes: bool,
    /// Bounds of each wait.
    pub patience: Patience,
}

impl Plan {
    /// Which requests are held: what the change asks for, and all while somebody's late writes are possible.
    #[must_use]
    pub fn mode(&self) -> HoldMode {
        if self.late_writes {
            HoldMode::All
        } else {
            self.change.mode
        }
    }
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The store has the change, under this number.
    Prepared(ChangeId),
    /// The store would not have it.
    PrepareFailed(String),
    /// An apparatus answered.
    Answered(Slot, Answer),
    /// The connection to it broke, or cannot be made.
    Lost(Slot),
    /// The timer armed last ran out. Of those whose answer is awaited, these have shown life since it was armed.
    TimedOut(Vec<Slot>),
    /// The fence is in the store and in the member table.
    Fenced {
        /// Who is out.
        slot: Slot,
        /// The version of the membership after it. `None`: it was not joined in that life any more.
        version: Option<MembershipVersion>,
        /// Its process has ended, as its life lock tells: nothing of it can reach a disk any more.
        ended: bool,
    },
    /// The fence could not be recorded in the store.
    FenceFailed(Slot, String),
    /// The work under the hold is done.
    WorkDone,
    /// The work under the hold failed: the change is given up.
    WorkFailed(String),
    /// The store's answer to `Effect::Commit`.
    Committed(Commit),
    /// The store failed at the commit: whether it took place is not known.
    CommitFailed(String),
    /// The store's answer to `Effect::Cancel`.
    Cancelled(Cancel),
    /// The store failed at the cancel.
    CancelFailed(String),
    /// The operator or the caller gives up; before the commit this cancels (once running work has ended), after it has no effect.
    Abandon(String),
}

/// What the machine wants done. In order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// `Store::fence`, then the fence word, whatever the store answered; then `Event::Fenced`.
    Fence(Participant),
    /// The change is over.
    Finish(Outcome),
}

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// The store failed, or another controller acts: this one cannot end the change. The next holder of the arbitration does.
    Unfinished {
        /// Those put out of the control range on the way.
        fenced: Vec<Slot>,
        /// What failed.
        why: String,
    },
}

/// Why a change was given up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// A disk of the change could not be opened in time.
    Opening {
        /// On this apparatus.
        slot: Slot,
        /// The disk.
        disk: String,
        /// Since when it has been asked, in microseconds.
        waited_us: u64,
    },
    /// This apparatus shows life and did not answer in time.
    Slow(Slot),
    /// Somebody joined, left, rejoined or was fenced meanwhile, or somebody fenced just now may have writes in the air that this hold
    /// of writes alone does not cover: read the members and ask again.
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

/// Where a change stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The store is asked to announce it.
    Preparing,
    /// Every apparatus is asked to hold and drain.
    Holding,
    /// The work is done, under the holds.
    Working,
    /// The store is asked to commit it.
    Committing,
    /// Every apparatus is told the difference.
    Applying,
    /// Every apparatus is told to let go.
    Releasing,
    /// The store is asked to cancel it.
    Cancelling,
    /// Over.
    Done,
}

impl State {
    /// The arrows of the drawing.
    fn leads_to(self, next: Self) -> bool {
        use State::{Applying, Cancelling, Committing, Done, Holding, Preparing, Releasing, Working};
        matches!(
            (self, next),
            (Preparing, Holding | Cancelling | Done)
                | (Holding, Working | Cancelling)
                | (Working, Committing | Cancelling)
                | (Committing, Applying | Cancelling | Done)
                | (Cancelling, Applying | Done)
                | (Applying, Releasing | Done)
                | (Releasing, Done)
        )
    }
}

/// How often an apparatus that shows life and has not applied a committed change is waited for anew before it is fenced.
pub const WAITS: u32 = 8;

/// What is awaited of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Seat {
    /// Its answer to what it was asked last.
    Asked,
    /// Nothing: it has answered.
    Answered,
    /// The word that it is fenced.
    Fencing,
    /// Nothing: it is out of the control range.
    Out,
}

/// A participant and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Peer {
    who: Participant,
    seat: Seat,
    /// Its connection broke: nothing reaches it.
    lost: bool,
}

/// One change, from its announcement to its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    plan: Plan,
    state: State,
    id: ChangeId,
    generation: Generation,
    peers: Vec<Peer>,
    /// The version after our own fences; `moved` when somebody else raised it too.
    membership: MembershipVersion,
    moved: bool,
    fenced: Vec<Slot>,
    /// Why it is given up, once it is.
    reason: Option<Reason>,
    /// How often those who show life and do not answer have been waited for anew.
    waited: u32,
    parked: u64,
    longest_us: u64,
}

mod machine;
#[cfg(test)]
mod tests;
