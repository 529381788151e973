//! What the next holder of the arbitration does with what the last one left, pure; and what the member table says.
//!
//! ```text
//!  Booting --BootRecovered--> Looking --Looked: something to set right--> (do it, look again)
//!                                |  ^
//!           somebody is behind   |  | TimedOut
//!                                v  |
//!                             Waiting        Looked: nothing to do, nobody behind --> Done
//! ```
//!
//! It needs no connection to anybody. A prepared change is cancelled. A committed one is applied by each apparatus on its own, as soon
//! as it has lost its controller; who does not get there in time is fenced. Fence words that the store has but the member table lacks are set,
//! and members whose process has ended are marked as left.

use crate::change::controller::Participant;
use crate::member::Line;
use crate::store::{Cancel, Member, MemberState};
use crate::units::{ChangeId, Generation, MembershipVersion, Slot};

/// A member as the store, the member table and its life lock show it together. Read in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The life that the store has.
    pub who: Participant,
    /// Where it stands in the store.
    pub state: MemberState,
    /// The table it serves by, or the one it loaded if its line is not of this life yet.
    pub generation: Generation,
    /// No request of it uses an older one.
    pub oldest: Generation,
    /// Its fence word names this life: it acknowledges nothing more.
    pub fenced: bool,
    /// Its process has not ended.
    pub alive: bool,
}

impl Seen {
    /// Puts the three together.
    #[must_use]
    pub fn new(member: &Member, line: &Line, alive: bool) -> Self {
        let begun = line.incarnation == member.incarnation;
        Self {
            who: Participant {
                slot: member.slot,
                incarnation: member.incarnation,
            },
            state: member.state,
            generation: if begun { line.generation } else { member.joined_at },
            oldest: if begun { line.oldest } else { member.joined_at },
            fenced: line.fenced >= member.incarnation,
            alive,
        }
    }

    /// Whether it may still acknowledge a request by a table older than `generation`.
    fn behind(&self, generation: Generation) -> bool {
        self.alive && !self.fenced && self.state != MemberState::Left && self.generation < generation
    }
}

/// Whether everyone in the control range is at this generation or later, fenced, or dead: nobody acknowledges by an older table any more.
#[must_use]
pub fn others_reached(members: &[Seen], generation: Generation) -> bool {
    !members.iter().any(|seen| seen.behind(generation))
}

/// The oldest table that somebody alive may still use, fenced or not; `current` when nobody uses an older one. What changes up to
/// this generation freed, nobody can read or write any more.
#[must_use]
pub fn oldest_in_use(members: &[Seen], current: Generation) -> Generation {
    members
        .iter()
        .filter(|seen| seen.alive)
        .map(|seen| seen.oldest)
        .fold(current, Generation::min)
}

/// Whether some fenced apparatus still lives, so that a late write of it may reach a disk: changes hold reads as well then.
#[must_use]
pub fn late_writes(members: &[Seen]) -> bool {
    members
        .iter()
        .any(|seen| seen.alive && seen.state == MemberState::Fenced)
}

/// Those in the control range: whom a change asks.
#[must_use]
pub fn participants(members: &[Seen]) -> Vec<Participant> {
    members
        .iter()
        .filter(|seen| seen.state == MemberState::Joined)
        .map(|seen| seen.who)
        .collect()
}

/// What there is to see. The store's part is read first, the member table and the life locks after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Of the store.
    pub current: Generation,
    /// Those who have not left.
    pub members: Vec<Seen>,
    /// Changes that are prepared and not committed.
    pub prepared: Vec<ChangeId>,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The store has taken these back: power was lost before they were hardened.
    BootRecovered(Vec<ChangeId>),
    /// The answer to `Look`.
    Looked(View),
    /// The store's answer to `Cancel`.
    Cancelled(ChangeId, Cancel),
    /// The answer to `Fence`.
    Fenced(Slot, Option<MembershipVersion>),
    /// The timer ran out.
    TimedOut,
}

/// What the machine wants done. In order; where the store fails, the recovery has failed, and the arbitration is given back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// `Store::recover_boot`, then `BootRecovered`.
    RecoverBoot,
    /// Read the store, then the member table and life locks; then `Looked`.
    Look,
    /// `Store::cancel`, then `Cancelled`.
    Cancel(ChangeId),
    /// Set the fence word of one whom the store has as fenced. No answer.
    SetWord(Participant),
    /// `Store::leave` for one whose process has ended. No answer.
    Leave(Participant),
    /// `Store::fence`, then the fence word; then `Fenced`.
    Fence(Participant),
    /// Wake the machine with `TimedOut` after so many microseconds.
    Arm(u64),
    /// All is set right.
    Finish(Vec<Did>),
}

/// One thing that was done, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Did {
    /// Taken back after power loss.
    Undone(ChangeId),
    /// Announced by the last holder and never committed: cancelled.
    Cancelled(ChangeId),
    /// Fenced by the last holder, who did not get to set the word: set.
    SetWord(Slot),
    /// Its process had ended: marked as left.
    Left(Slot),
    /// Did not reach the current table in time: fenced.
    Fenced(Slot),
}

/// Where the recovery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The store is asked to take back what another boot left.
    Booting,
    /// Somebody looks.
    Looking,
    /// For those who are behind.
    Waiting,
    /// Over.
    Done,
}

impl State {
    /// The arrows of the drawing.
    fn leads_to(self, next: Self) -> bool {
        use State::{Booting, Done, Looking, Waiting};
        matches!(
            (self, next),
            (Booting, Looking) | (Looking, Looking | Waiting | Done) | (Waiting, Looking)
        )
    }
}

/// One recovery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovery {
    state: State,
    poll_us: u64,
    /// How many times it still waits for those who are behind.
    polls: u32,
    did: Vec<Did>,
}

impl Recovery {
    /// Looks every `poll_us` microseconds, `polls` times, before it fences who is behind.
    #[must_use]
    pub fn new(poll_us: u64, polls: u32) -> (Self, Vec<Effect>) {
        let machine = Self {
            state: State::Booting,
            poll_us,
            polls,
            did: Vec::new(),
        };
        (machine, vec![Effect::RecoverBoot])
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes an event in, and answers what is to be done.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (State::Booting, Event::BootRecovered(undone)) => {
                self.did.extend(undone.into_iter().map(Did::Undone));
                self.look(Vec::new())
            }
            (State::Looking, Event::Looked(view)) => self.looked(&view),
            (State::Looking, Event::Cancelled(id, Cancel::Cancelled)) => self.note(Did::Cancelled(id)),
            (State::Looking, Event::Fenced(slot, Some(_))) => self.note(Did::Fenced(slot)),
            (State::Waiting, Event::TimedOut) => self.look(Vec::new()),
            _ => Vec::new(),
        }
    }

    /// The one door between states.
    fn go(&mut self, next: State) {
        debug_assert!(
            self.state.leads_to(next),
            "{:?} does not lead to {next:?}",
            self.state
        );
        self.state = next;
    }

    fn note(&mut self, did: Did) -> Vec<Effect> {
        self.did.push(did);
        Vec::new()
    }

    fn look(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        self.go(State::Looking);
        effects.push(Effect::Look);
        effects
    }

    fn looked(&mut self, view: &View) -> Vec<Effect> {
        let mut todo: Vec<Effect> = view.prepared.iter().map(|&id| Effect::Cancel(id)).collect();
        for seen in view.members.iter().filter(|seen| seen.state != MemberState::Left) {
            if !seen.alive {
                self.did.push(Did::Left(seen.who.slot));
                todo.push(Effect::Leave(seen.who));
            } else if seen.state == MemberState::Fenced && !seen.fenced {
                self.did.push(Did::SetWord(seen.who.slot));
                todo.push(Effect::SetWord(seen.who));
            }
        }
        if !todo.is_empty() {
            return self.look(todo);
        }
        let behind = view
            .members
            .iter()
            .filter(|seen| seen.behind(view.current))
            .map(|seen| Effect::Fence(seen.who));
        let behind: Vec<Effect> = behind.collect();
        if behind.is_empty() {
            self.go(State::Done);
            vec![Effect::Finish(std::mem::take(&mut self.did))]
        } else if self.polls == 0 {
            self.look(behind)
        } else {
            self.polls -= 1;
            self.go(State::Waiting);
            vec![Effect::Arm(self.poll_us)]
        }
    }
}

#[cfg(test)]
mod tests;
