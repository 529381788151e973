//! The end of a hold: released, given up, out of time, or as the store decides.

use super::super::{ChangeId, ChangeRecord, Effect, Generation, HoldStage, Link, Machine, Timer};
use super::refuse;
use crate::rpc::message::Refusal;

impl Machine {
    /// Ends the hold of a change that its controller will never commit, and that is therefore not asked for in the store.
    pub(super) fn give_up(&mut self, link: Link, change: ChangeId, out: &mut Vec<Effect>) {
        match self.stage(change) {
            Some(HoldStage::Draining | HoldStage::Held | HoldStage::Ending) => {
                self.transition(change, HoldStage::Ended);
                out.push(Effect::Reopen(change, Some(link)));
            }
            _ => self.release(link, change, out),
        }
    }

    pub(super) fn release(&mut self, link: Link, change: ChangeId, out: &mut Vec<Effect>) {
        self.notes.remove(&change);
        match self.stage(change) {
            Some(HoldStage::Draining | HoldStage::Held) => {
                self.end(change, out);
                self.release_later(link, change);
            }
            Some(HoldStage::Ending) => self.release_later(link, change),
            Some(HoldStage::Opening | HoldStage::Applied | HoldStage::Awaiting) => {
                self.transition(change, HoldStage::Ended);
                out.push(Effect::Reopen(change, Some(link)));
            }
            Some(HoldStage::Ended) | None => out.push(Effect::Reopen(change, Some(link))),
        }
    }

    pub(super) fn release_later(&mut self, link: Link, change: ChangeId) {
        if let Some(hold) = self.holds.get_mut(&change) {
            hold.release = Some(link);
        }
    }

    /// Ends a hold that is not committed as far as this apparatus knows: the store decides.
    pub(super) fn end(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        self.transition(change, HoldStage::Ending);
        out.push(Effect::Cancel(change));
    }

    /// Handles the deadline, or the loss of the connection: whatever the controller does, this apparatus resolves the hold
    /// itself.
    pub(super) fn out_of_time(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        let Some(hold) = self.holds.get(&change) else {
            return;
        };
        let (link, generation) = (hold.link, hold.generation);
        match hold.stage {
            HoldStage::Opening => {
                self.end_note(change, out);
                self.transition(change, HoldStage::Ended);
                out.extend(link.map(|link| refuse(link, change, Refusal::NotHeld)));
            }
            HoldStage::Draining | HoldStage::Held => self.end(change, out),
            HoldStage::Applied => self.wait_for_others(change, generation, out),
            HoldStage::Ending | HoldStage::Awaiting | HoldStage::Ended => {}
        }
    }

    pub(super) fn wait_for_others(
        &mut self,
        change: ChangeId,
        generation: Generation,
        out: &mut Vec<Effect>,
    ) {
        self.transition(change, HoldStage::Awaiting);
        if let Some(hold) = self.holds.get_mut(&change) {
            hold.generation = generation;
        }
        let patience = Effect::Arm(change, Timer::Patience, self.bounds.patience_us);
        out.extend([Effect::AwaitOthers(generation), patience]);
    }

    pub(super) fn cancelled(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if self.stage(change) == Some(HoldStage::Ending) {
            let release = self.holds.get(&change).and_then(|hold| hold.release);
            self.transition(change, HoldStage::Ended);
            out.push(Effect::Reopen(change, release));
        }
    }

    pub(super) fn found_committed(&mut self, change: ChangeId, record: ChangeRecord, out: &mut Vec<Effect>) {
        let Some(hold) = self
            .holds
            .get(&change)
            .filter(|hold| hold.stage == HoldStage::Ending)
        else {
            return;
        };
        let delta = record.change.delta;
        let generation = delta.from.next();
        if !hold.held_sent || (generation > self.generation && !self.switch(change, delta, out)) {
            return self.leave(out);
        }
        self.wait_for_others(change, generation, out);
    }

    pub(super) fn cancel_failed(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if self.stage(change) == Some(HoldStage::Ending) {
            out.push(Effect::Arm(change, Timer::Patience, self.bounds.patience_us));
        }
    }

    /// Handles too many parked requests. Before the commit the hold ends; after it, only the others' switch can end it.
    pub(super) fn overflow(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if matches!(self.stage(change), Some(HoldStage::Draining | HoldStage::Held)) {
            self.end(change, out);
        }
    }
}
