//! Copying ahead: the states between Preparing and Holding in which nothing is held.

use super::super::{
    ChangeId, Controller, Effect, Participant, Plan, Reason, Refusal, Request, Slot, State, Written,
};
use super::reason_of;

/// How many times longer a note may last than a hold: no host waits for it, and the ranges are copied meanwhile.
const LONGER: u64 = 12;

impl Controller {
    /// Returns what was written to the ranges since they were copied; all, where they were not.
    #[must_use]
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// Asks all apparatuses to note writes. Where one cannot be reached nothing is copied ahead: the hold finds it silent.
    pub(super) fn note(&mut self, out: &mut Vec<Effect>) {
        if self.peers.iter().any(|peer| peer.lost) {
            return self.hold(out);
        }
        self.transition(State::Noting);
        let id = self.id;
        self.ask_all(|plan, who| note(plan, id, who), self.plan.patience.drain_us, out);
        self.advance(out);
    }

    pub(super) fn note_refused(&mut self, slot: Slot, refusal: Refusal, out: &mut Vec<Effect>) {
        match refusal {
            Refusal::TooMany => self.hold(out),
            refusal => self.give_up(reason_of(slot, refusal), out),
        }
    }

    /// Goes on when all participants note writes.
    pub(super) fn copy(&mut self, out: &mut Vec<Effect>) {
        self.transition(State::Copying);
        out.extend([Effect::Disarm, Effect::Copy]);
    }

    pub(super) fn copied(&mut self, failure: Option<Reason>, out: &mut Vec<Effect>) {
        if self.state != State::Copying {
            return;
        }
        if let Some(reason) = self.reason.take().or(failure) {
            return self.give_up(reason, out);
        }
        self.copied = true;
        self.written = Written::NOTHING;
        self.hold(out);
    }
}

fn note(plan: &Plan, change: ChangeId, who: Participant) -> Request {
    Request::Note {
        change,
        spans: plan.change.spans.clone(),
        drain_us: plan.patience.drain_us,
        deadline_us: plan.patience.hold_us.saturating_mul(LONGER),
        incarnation: who.incarnation,
    }
}
