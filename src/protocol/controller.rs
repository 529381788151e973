//! The controller's half of a change, as a pure state machine.
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
//! A change that copies ahead goes from Preparing to Holding by two more states, in which nothing is held:
//!
//! ```text
//!  Preparing --Prepared--> Noting --all Noting--> Copying --Copied--> Holding
//!      late writes possible: |                      | the copy failed
//!      |                     | still draining,      v
//!      |                     | refused         Cancelling
//!      +--> Holding <--------+ silent: nothing is copied ahead
//! ```
//!
//! In Noting every apparatus begins to note the writes to the range, and those in flight are done before it says so. So what the copy in Copying
//! lacks is in a note, and the work under the hold copies that alone. A note dies with its apparatus. So when one is fenced in Holding, the
//! change is given up and its range copied anew.
//!
//! An apparatus on another node that is silent in Holding has the change given up: its fence may take as long as a lease, and nothing is held for so long.
//! Any other apparatus that is silent in Holding or Applying (it shows no sign of life until the time-out, or its connection is lost)
//! is fenced: the machine emits [`Effect::Fence`] and goes on without it once [`Event::Fenced`] confirms that the fence word is
//! set. An apparatus that shows signs of life but is slow makes the controller give the change up in Holding; in Applying the
//! controller waits longer for it ([`WAITS`]), because a committed change cannot be given up. Silence in Releasing has no
//! consequence: the apparatus ends its hold itself.
//!
//! A change that is given up while no commit of it is under way will never be committed, so the apparatuses are told at once
//! (`Release{given_up}`) and the store after that: their hosts do not wait for the store.
//!
//! The drawing leaves out a store that fails. At the commit, the change is cancelled; if the answer is that it was committed
//! after all, the machine goes on to Applying. In any other state it ends as Done(Unfinished), and the next holder of the
//! controller lock finishes the change or rolls it back.
//!
//! Every state handles every event; an answer that is late, repeated, or from an apparatus that is out changes nothing.

use crate::model::change::{Cancel, Commit, HoldMode, NewChange};
use crate::model::records::DiskRecord;
use crate::model::units::{ChangeId, Generation, Incarnation, MembershipVersion, Slot};
use crate::rpc::message::{Answer, Refusal, Request};
use crate::rpc::written::Written;
use std::collections::BTreeSet;

/// An apparatus that takes part in a change, in the incarnation that the controller expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Participant {
    /// Its slot in the member table.
    pub slot: Slot,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// Input of a change. All resources that it needs have been acquired.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The change and the ranges to hold.
    pub change: NewChange,
    /// Disks that the change maps onto: each apparatus opens them before it confirms the hold.
    pub disks: Vec<DiskRecord>,
    /// The members of the control range, read together with `membership`.
    pub participants: Vec<Participant>,
    /// The version of the membership that `participants` reflects.
    pub membership: MembershipVersion,
    /// Whether some fenced apparatus still lives (`recovery::late_writes`, read together with `membership`): its late writes
    /// may still reach an old placement, so reads are held as well.
    pub late_writes: bool,
    /// Whether the ranges are copied before they are held, while the apparatuses note writes to them.
    pub copies_ahead: bool,
    /// The participants that are on other nodes than the controller. Nobody can set their fence words at once.
    pub elsewhere: BTreeSet<Slot>,
    /// Limits of each wait.
    pub patience: Patience,
}

impl Plan {
    /// Returns whether the ranges are copied ahead: not while late writes are possible, since one of them could be read at the
    /// old placement after the copy, and be missing at the new one.
    #[must_use]
    pub fn notes(&self) -> bool {
        self.copies_ahead && !self.late_writes && !self.change.spans.is_empty()
    }

    fn is_elsewhere(&self, peer: &Peer) -> bool {
        self.elsewhere.contains(&peer.who.slot)
    }

    /// Returns which requests are held: those that the change names, and all of them while late writes are possible, or while there are participants on
    /// other nodes. One of these that falls silent after it has confirmed the hold serves nothing by the old table then, so nobody waits for its lease.
    #[must_use]
    pub fn mode(&self) -> HoldMode {
        if self.late_writes || !self.elsewhere.is_empty() {
            HoldMode::All
        } else {
            self.change.mode
        }
    }
}

/// Limits of each wait, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patience {
    /// Time for requests in flight to finish; after it the change is given up.
    pub drain_us: u64,
    /// Time for an apparatus to answer, beyond the drain; after it the apparatus counts as silent and is fenced.
    pub answer_us: u64,
    /// Time limit of the whole hold, which the apparatus receives. It is longer than all the others together.
    pub hold_us: u64,
}

/// Input of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The store has recorded the change under this number.
    Prepared(ChangeId),
    /// The store refused the change.
    PrepareFailed(String),
    /// An apparatus answered.
    Answered(Slot, Answer),
    /// The connection to an apparatus broke, or cannot be made.
    Lost(Slot),
    /// The timer armed last ran out. The list names the apparatuses with an answer due that have shown signs of life since it
    /// was armed.
    TimedOut(Vec<Slot>),
    /// The fence is recorded in the store and set in the member table.
    Fenced {
        /// The apparatus that is out.
        slot: Slot,
        /// The version of the membership after the fence. `None` if it was not joined in that incarnation any more.
        version: Option<MembershipVersion>,
        /// Whether its process is known to have ended: none of its writes can reach a disk any more.
        ended: bool,
    },
    /// The fence could not be recorded in the store.
    FenceFailed(Slot, String),
    /// The ranges are copied ahead, durably.
    Copied,
    /// They could not be copied: the change is given up.
    CopyFailed(String),
    /// The work under the hold is done.
    WorkDone,
    /// The work under the hold failed: the change is given up.
    WorkFailed(String),
    /// The store's answer to `Effect::Commit`.
    Committed(Commit),
    /// The store failed at the commit: it is not known whether the commit took place.
    CommitFailed(String),
    /// The store's answer to `Effect::Cancel`.
    Cancelled(Cancel),
    /// The store failed at the cancel.
    CancelFailed(String),
    /// The operator or the caller gives up: before the commit this cancels (once running work has ended), after it this has no
    /// effect.
    Abandon(String),
}

/// Output of the machine: actions for the driver, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Call `Store::prepare`.
    Prepare,
    /// Send this request to that apparatus; requests of one batch of effects travel in one frame.
    Send(Slot, Request),
    /// Wake the machine with `TimedOut` after this many microseconds, unless the timer is armed again or disarmed.
    Arm(u64),
    /// Disarm the timer.
    Disarm,
    /// Copy the ranges; nothing is held.
    Copy,
    /// Do the work under the hold: for a change that was copied ahead, copy what was [`Controller::written`] meanwhile.
    Work,
    /// Call `Store::commit` with this version.
    Commit(MembershipVersion),
    /// Call `Store::cancel`.
    Cancel,
    /// Call `Store::fence`, then set the fence word, whatever the store answered; then send `Event::Fenced`.
    Fence(Participant),
    /// The change is over.
    Finish(Outcome),
}

/// Result of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The new table is in use.
    Finished {
        /// Its generation.
        generation: Generation,
        /// Apparatuses that were fenced on the way.
        fenced: Vec<Slot>,
        /// Number of requests that had been parked.
        parked: u64,
        /// The longest time that one of them waited, in microseconds.
        longest_us: u64,
    },
    /// Nothing changed.
    GaveUp {
        /// Apparatuses that were fenced on the way.
        fenced: Vec<Slot>,
        /// The reason.
        reason: Reason,
    },
    /// The store failed, or another controller holds the lock: this one cannot end the change. The next holder of the lock
    /// does.
    Unfinished {
        /// Apparatuses that were fenced on the way.
        fenced: Vec<Slot>,
        /// The failure.
        why: String,
    },
}

/// Why a change was given up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Requests in flight did not finish in time.
    Draining {
        /// The apparatus.
        slot: Slot,
        /// Number of these requests.
        in_flight: u64,
        /// Age of the oldest one, in microseconds.
        oldest_us: u64,
        /// The disk that the oldest one waits for.
        disk: String,
    },
    /// A disk of the change could not be opened in time.
    Opening {
        /// The apparatus.
        slot: Slot,
        /// The disk.
        disk: String,
        /// How long the opening has taken so far, in microseconds.
        waited_us: u64,
    },
    /// This apparatus shows signs of life but did not answer in time.
    Slow(Slot),
    /// This apparatus is on another node and did not answer in time, or its connection is lost. It is fenced with nothing held, and the change tried again when
    /// it is known to acknowledge nothing any more.
    Silent(Slot),
    /// An apparatus joined, left, rejoined or was fenced meanwhile, or one that was just fenced may have writes in flight that
    /// a hold of writes alone does not cover: the members have to be read and the holds requested again.
    MembershipMoved,
    /// Another change was committed meanwhile: this one has to be planned again.
    GenerationMoved,
    /// A hold ran out before the commit.
    HoldRanOut,
    /// Another controller holds the lock.
    StaleTerm,
    /// An apparatus refused; the text is its refusal.
    Refused(Slot, String),
    /// The work under the hold failed.
    Work(String),
    /// The store refused the change or failed.
    Store(String),
    /// The caller gave up.
    Abandoned(String),
}

/// State of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The store records the change as prepared.
    Preparing,
    /// Every apparatus has been asked to note writes.
    Noting,
    /// The ranges are copied ahead.
    Copying,
    /// Every apparatus has been asked to hold and drain.
    Holding,
    /// The work is done under the holds.
    Working,
    /// The store commits the change.
    Committing,
    /// Every apparatus has been sent the delta.
    Applying,
    /// Every apparatus has been asked to release.
    Releasing,
    /// The store cancels the change.
    Cancelling,
    /// The change is over.
    Done,
}

impl State {
    /// The transitions of the drawing.
    fn leads_to(self, next: Self) -> bool {
        use State::{
            Applying, Cancelling, Committing, Copying, Done, Holding, Noting, Preparing, Releasing, Working,
        };
        matches!(
            (self, next),
            (Preparing, Noting | Holding | Cancelling | Done)
                | (Noting, Copying | Holding | Cancelling)
                | (Copying, Holding | Cancelling)
                | (Holding, Working | Cancelling)
                | (Working, Committing | Cancelling)
                | (Committing, Applying | Cancelling | Done)
                | (Cancelling, Applying | Done)
                | (Applying, Releasing | Done)
                | (Releasing, Done)
        )
    }
}

/// Number of times that the controller waits again for an apparatus that shows signs of life but has not applied a committed
/// change, before it fences the apparatus.
pub const WAITS: u32 = 8;

/// State of a participant, from the controller's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PeerState {
    /// Its answer to the last request is due.
    Asked,
    /// It has answered; nothing is due.
    Answered,
    /// Its fence is being set.
    Fencing,
    /// It is out of the control range; nothing is due.
    Out,
}

/// A participant and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Peer {
    who: Participant,
    state: PeerState,
    /// Whether its connection broke, so that no request reaches it.
    lost: bool,
}

/// One change, from its preparation to its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    plan: Plan,
    state: State,
    id: ChangeId,
    generation: Generation,
    peers: Vec<Peer>,
    /// The version after this controller's own fences; `moved` is set if another process raised it too.
    membership: MembershipVersion,
    moved: bool,
    fenced: Vec<Slot>,
    /// Why the change is given up, once it is.
    reason: Option<Reason>,
    /// The apparatuses have been told that it is, before the store was asked to cancel it.
    withdrawn: bool,
    /// Whether the ranges were copied while all participants noted writes.
    copied: bool,
    /// What was written to the ranges since, or all if they were not copied.
    written: Written,
    /// Number of times that slow apparatuses have been given more time.
    waited: u32,
    parked: u64,
    longest_us: u64,
}

mod machine;
#[cfg(test)]
mod tests;
