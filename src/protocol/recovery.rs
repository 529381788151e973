//! Recovery by the next holder of the controller lock, pure: it settles what the last one left, and evaluates the member table.
//!
//! ```text
//!  TakingBack --EpochRecovered--> Looking --Looked: something to settle--> (do it, look again)
//!                                |  ^
//!        an apparatus is behind   |  | TimedOut
//!                                v  |
//!                             Waiting        Looked: nothing to do, none behind --> Done
//! ```
//!
//! It needs no connection. A prepared change is cancelled. Each apparatus applies a committed change by itself, as soon as it
//! has lost its controller; one that does not do so in time is fenced. Fence words that the store has but the member table does
//! not are set, and members whose process has ended are marked as left.

use crate::model::change::Cancel;
use crate::model::member::{Member, MemberEntry, MemberState};
use crate::model::units::{ChangeId, Generation, MembershipVersion, Slot};
use crate::protocol::controller::Participant;

/// State of a member from the store, its published entry and the cluster, read in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberView {
    /// The incarnation that the store has.
    pub who: Participant,
    /// Its state in the store.
    pub state: MemberState,
    /// The generation of the table that it serves, or of the one that it loaded if its entry does not belong to this
    /// incarnation yet.
    pub generation: Generation,
    /// The oldest generation that a request of it may use.
    pub oldest: Generation,
    /// Whether its fence word names this incarnation: it acknowledges no request any more.
    pub fenced: bool,
    /// Whether its process has not ended.
    pub alive: bool,
}

impl MemberView {
    /// Combines the three sources.
    #[must_use]
    pub fn new(member: &Member, entry: &MemberEntry, alive: bool) -> Self {
        let begun = entry.incarnation == member.incarnation;
        Self {
            who: Participant {
                slot: member.slot,
                incarnation: member.incarnation,
            },
            state: member.state,
            generation: if begun { entry.generation } else { member.joined_at },
            oldest: if begun { entry.oldest } else { member.joined_at },
            fenced: entry.fenced >= member.incarnation,
            alive,
        }
    }

    /// Returns whether it may still acknowledge a request by a table older than `generation`.
    fn behind(&self, generation: Generation) -> bool {
        self.alive && !self.fenced && self.state != MemberState::Left && self.generation < generation
    }
}

/// Returns whether all members of the control range are at this generation or later, fenced, or dead: no apparatus acknowledges
/// by an older table any more.
#[must_use]
pub fn others_reached(members: &[MemberView], generation: Generation) -> bool {
    !members.iter().any(|member| member.behind(generation))
}

/// Returns the oldest generation that a living apparatus may still use, fenced or not; `current` if none uses an older one.
/// Extents that changes up to this generation freed cannot be read or written any more.
#[must_use]
pub fn oldest_in_use(members: &[MemberView], current: Generation) -> Generation {
    members
        .iter()
        .filter(|member| member.alive)
        .map(|member| member.oldest)
        .fold(current, Generation::min)
}

/// Returns whether some fenced apparatus still lives, so that a late write of it may reach a disk: changes then hold reads as
/// well.
#[must_use]
pub fn late_writes(members: &[MemberView]) -> bool {
    members
        .iter()
        .any(|member| member.alive && member.state == MemberState::Fenced)
}

/// Returns the members of the control range, which take part in a change.
#[must_use]
pub fn participants(members: &[MemberView]) -> Vec<Participant> {
    members
        .iter()
        .filter(|member| member.state == MemberState::Joined)
        .map(|member| member.who)
        .collect()
}

/// State of the pool at one time. The store's part is read first, what members publish and who has ended after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolObservation {
    /// The current generation in the store.
    pub current: Generation,
    /// The members that have not left.
    pub members: Vec<MemberView>,
    /// Changes that are prepared and not committed.
    pub prepared: Vec<ChangeId>,
}

/// Input of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The store has taken these changes back: power was lost before they were persisted.
    EpochRecovered(Vec<ChangeId>),
    /// The answer to `Look`.
    Looked(PoolObservation),
    /// The store's answer to `Cancel`.
    Cancelled(ChangeId, Cancel),
    /// The answer to `Fence`.
    Fenced(Slot, Option<MembershipVersion>),
    /// The timer ran out.
    TimedOut,
}

/// Output of the machine: actions for the driver, in order. If the store fails, the recovery has failed, and the controller
/// lock is given back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Call `Store::recover_epoch`, then send `EpochRecovered`.
    RecoverEpoch,
    /// Read the store, then what members publish, then who has ended; then send `Looked`.
    Look,
    /// Call `Store::cancel`, then send `Cancelled`.
    Cancel(ChangeId),
    /// Set the fence word of a member that is fenced in the store. There is no answer.
    SetWord(Participant),
    /// Call `Store::leave` for a member whose process has ended. There is no answer.
    Leave(Participant),
    /// Call `Store::fence`, then set the fence word; then send `Fenced`.
    Fence(Participant),
    /// Wake the machine with `TimedOut` after this many microseconds.
    Arm(u64),
    /// The recovery is complete.
    Finish(Vec<RecoveryAction>),
}

/// One action of the recovery, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecoveryAction {
    /// This change was taken back after power loss.
    Undone(ChangeId),
    /// This change was prepared by the last holder and never committed; it was cancelled.
    Cancelled(ChangeId),
    /// The last holder fenced this apparatus but did not set its fence word; it was set.
    SetWord(Slot),
    /// The process of this apparatus had ended; it was marked as left.
    Left(Slot),
    /// This apparatus did not reach the current table in time; it was fenced.
    Fenced(Slot),
}

/// State of the recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The store takes back the changes of another epoch.
    TakingBack,
    /// The driver reads the state of the pool.
    Looking,
    /// The recovery waits for apparatuses that are behind.
    Waiting,
    /// The recovery is over.
    Done,
}

impl State {
    /// The transitions of the drawing.
    fn leads_to(self, next: Self) -> bool {
        use State::{Done, Looking, TakingBack, Waiting};
        matches!(
            (self, next),
            (TakingBack, Looking) | (Looking, Looking | Waiting | Done) | (Waiting, Looking)
        )
    }
}

/// One recovery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovery {
    state: State,
    poll_us: u64,
    /// Number of times that it still waits for apparatuses that are behind.
    polls: u32,
    did: Vec<RecoveryAction>,
}

impl Recovery {
    /// Starts a recovery. It reads the state every `poll_us` microseconds, `polls` times, before it fences apparatuses that are
    /// behind.
    #[must_use]
    pub fn new(poll_us: u64, polls: u32) -> (Self, Vec<Effect>) {
        let machine = Self {
            state: State::TakingBack,
            poll_us,
            polls,
            did: Vec::new(),
        };
        (machine, vec![Effect::RecoverEpoch])
    }

    /// Returns the state of the recovery.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Handles an event and returns the effects to carry out.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (State::TakingBack, Event::EpochRecovered(undone)) => {
                self.did.extend(undone.into_iter().map(RecoveryAction::Undone));
                self.look(Vec::new())
            }
            (State::Looking, Event::Looked(view)) => self.looked(&view),
            (State::Looking, Event::Cancelled(id, Cancel::Cancelled)) => {
                self.note(RecoveryAction::Cancelled(id))
            }
            (State::Looking, Event::Fenced(slot, Some(_))) => self.note(RecoveryAction::Fenced(slot)),
            (State::Waiting, Event::TimedOut) => self.look(Vec::new()),
            _ => Vec::new(),
        }
    }

    /// Performs every transition between states. A transition that the protocol does not have is a fault of the program and ends
    /// it in every build: to go on from an unforeseen state could lose data.
    fn transition(&mut self, next: State) {
        assert!(
            self.state.leads_to(next),
            "{:?} does not lead to {next:?}",
            self.state
        );
        self.state = next;
    }

    fn note(&mut self, did: RecoveryAction) -> Vec<Effect> {
        self.did.push(did);
        Vec::new()
    }

    fn look(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        self.transition(State::Looking);
        effects.push(Effect::Look);
        effects
    }

    fn looked(&mut self, view: &PoolObservation) -> Vec<Effect> {
        let mut todo: Vec<Effect> = view.prepared.iter().map(|&id| Effect::Cancel(id)).collect();
        for member in view
            .members
            .iter()
            .filter(|member| member.state != MemberState::Left)
        {
            if !member.alive {
                self.did.push(RecoveryAction::Left(member.who.slot));
                todo.push(Effect::Leave(member.who));
            } else if member.state == MemberState::Fenced && !member.fenced {
                self.did.push(RecoveryAction::SetWord(member.who.slot));
                todo.push(Effect::SetWord(member.who));
            }
        }
        if !todo.is_empty() {
            return self.look(todo);
        }
        let behind = view
            .members
            .iter()
            .filter(|member| member.behind(view.current))
            .map(|member| Effect::Fence(member.who));
        let behind: Vec<Effect> = behind.collect();
        if behind.is_empty() {
            self.transition(State::Done);
            vec![Effect::Finish(std::mem::take(&mut self.did))]
        } else if self.polls == 0 {
            self.look(behind)
        } else {
            self.polls -= 1;
            self.transition(State::Waiting);
            vec![Effect::Arm(self.poll_us)]
        }
    }
}

#[cfg(test)]
mod tests;
