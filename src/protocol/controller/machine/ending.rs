//! The end of a change: given up, cancelled, finished or left unfinished.

use super::super::{Cancel, ChangeId, Controller, Effect, Outcome, Peer, PeerState, Reason, Request, State};

impl Controller {
    /// Gives up a change of which no commit is under way.
    pub(super) fn give_up(&mut self, reason: Reason, out: &mut Vec<Effect>) {
        self.reason = Some(reason);
        self.withdrawn = true;
        self.release_given_up(out);
        self.cancel(out);
    }

    /// Tells the apparatuses that hold that the change will never be committed.
    fn release_given_up(&self, out: &mut Vec<Effect>) {
        let reached =
            |peer: &&Peer| !peer.lost && matches!(peer.state, PeerState::Asked | PeerState::Answered);
        let release = Request::Release {
            change: self.id,
            given_up: true,
        };
        let sends = self.peers.iter().filter(reached).map(|peer| peer.who.slot);
        out.extend(sends.map(|slot| Effect::Send(slot, release.clone())));
    }

    pub(super) fn cancel(&mut self, out: &mut Vec<Effect>) {
        self.transition(State::Cancelling);
        out.extend([Effect::Disarm, Effect::Cancel]);
    }

    pub(super) fn cancelled(&mut self, answer: Cancel, out: &mut Vec<Effect>) {
        if self.state != State::Cancelling {
            return;
        }
        match answer {
            Cancel::Cancelled => self.finish_given_up(out),
            Cancel::Committed(_) if self.withdrawn => {
                self.unfinished(
                    "the store has a change as committed that was given up".to_owned(),
                    out,
                );
            }
            Cancel::Committed(record) => {
                self.reason = None;
                self.apply(record.change.delta.from.next(), out);
            }
        }
    }

    pub(super) fn cancel_failed(&mut self, why: String, out: &mut Vec<Effect>) {
        if self.state == State::Cancelling {
            self.unfinished(why, out);
        }
    }

    pub(super) fn abandon(&mut self, why: String, out: &mut Vec<Effect>) {
        match self.state {
            State::Noting | State::Holding => self.give_up(Reason::Abandoned(why), out),
            // The store's answer, or the end of the copy, comes first: until then the destination must not be freed.
            State::Preparing | State::Copying | State::Working => {
                self.reason.get_or_insert(Reason::Abandoned(why));
            }
            _ => {}
        }
    }

    /// Ends a change that the store has as cancelled (or never had): releases the apparatuses that hold for it.
    pub(super) fn finish_given_up(&mut self, out: &mut Vec<Effect>) {
        if self.id != ChangeId(0) && !self.withdrawn {
            self.release_given_up(out);
        }
        let reason = self.reason.clone().unwrap_or(Reason::HoldRanOut);
        self.end(
            Outcome::GaveUp {
                fenced: self.fenced.clone(),
                reason,
            },
            out,
        );
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Effect>) {
        let outcome = Outcome::Finished {
            generation: self.generation,
            fenced: self.fenced.clone(),
            parked: self.parked,
            longest_us: self.longest_us,
        };
        self.end(outcome, out);
    }

    pub(super) fn unfinished(&mut self, why: String, out: &mut Vec<Effect>) {
        self.end(
            Outcome::Unfinished {
                fenced: self.fenced.clone(),
                why,
            },
            out,
        );
    }

    pub(super) fn end(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.transition(State::Done);
        out.extend([Effect::Disarm, Effect::Finish(outcome)]);
    }
}
