//! The transitions of [`Controller`].

mod ending;
mod noting;

use super::{
    Answer, ChangeId, Commit, Controller, Effect, Event, Generation, HoldMode, MembershipVersion,
    Participant, Peer, PeerState, Plan, Reason, Refusal, Request, Slot, State, WAITS, Written,
};

impl Controller {
    /// Starts a change: the first effect prepares it in the store.
    #[must_use]
    pub fn new(plan: Plan) -> (Self, Vec<Effect>) {
        let asked = |&who: &Participant| Peer {
            who,
            state: PeerState::Asked,
            lost: false,
        };
        let machine = Self {
            state: State::Preparing,
            id: ChangeId(0),
            generation: plan.change.delta.from.next(),
            peers: plan.participants.iter().map(asked).collect(),
            membership: plan.membership,
            moved: false,
            fenced: Vec::new(),
            reason: None,
            withdrawn: false,
            copied: false,
            written: Written::All,
            waited: 0,
            parked: 0,
            longest_us: 0,
            plan,
        };
        (machine, vec![Effect::Prepare])
    }

    /// Returns the state of the change.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns its number; 0 until it is prepared.
    #[must_use]
    pub fn id(&self) -> ChangeId {
        self.id
    }

    /// Returns the plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the membership after this change, as far as this controller knows it: the members still in, and the version.
    /// `None` if another process changed it too. From Releasing on, the next change of a pipeline may start with it.
    #[must_use]
    pub fn membership(&self) -> Option<(MembershipVersion, Vec<Participant>)> {
        let inside = |peer: &&Peer| matches!(peer.state, PeerState::Asked | PeerState::Answered);
        (!self.moved).then(|| {
            (
                self.membership,
                self.peers.iter().filter(inside).map(|peer| peer.who).collect(),
            )
        })
    }

    /// Returns the apparatuses that this change has fenced so far.
    #[must_use]
    pub fn fenced(&self) -> &[Slot] {
        &self.fenced
    }

    /// Handles an event and returns the effects to carry out.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Prepared(id) => self.prepared(id, &mut out),
            Event::PrepareFailed(why) => self.prepare_failed(why, &mut out),
            Event::Answered(slot, answer) => self.answered(slot, answer, &mut out),
            Event::Lost(slot) => self.lost(slot, &mut out),
            Event::TimedOut(alive) => self.timed_out(&alive, &mut out),
            Event::Fenced { slot, version, ended } => self.fence_set(slot, version, ended, &mut out),
            Event::FenceFailed(slot, why) => self.fence_failed(slot, why, &mut out),
            Event::Copied => self.copied(None, &mut out),
            Event::CopyFailed(why) => self.copied(Some(Reason::Work(why)), &mut out),
            Event::WorkDone => self.worked(None, &mut out),
            Event::WorkFailed(why) => self.worked(Some(Reason::Work(why)), &mut out),
            Event::Committed(answer) => self.committed(answer, &mut out),
            Event::CommitFailed(why) => self.commit_failed(why, &mut out),
            Event::Cancelled(answer) => self.cancelled(answer, &mut out),
            Event::CancelFailed(why) => self.cancel_failed(why, &mut out),
            Event::Abandon(why) => self.abandon(why, &mut out),
        }
        out
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

    fn prepared(&mut self, id: ChangeId, out: &mut Vec<Effect>) {
        if self.state != State::Preparing {
            return;
        }
        self.id = id;
        if self.reason.is_some() {
            return self.cancel(out);
        }
        if self.plan.notes() {
            self.note(out);
        } else {
            self.hold(out);
        }
    }

    fn hold(&mut self, out: &mut Vec<Effect>) {
        let id = self.id;
        self.transition(State::Holding);
        let lost = self
            .peers
            .iter()
            .find(|peer| peer.lost && self.plan.is_elsewhere(peer));
        if let Some(slot) = lost.map(|peer| peer.who.slot) {
            return self.give_up(Reason::Silent(slot), out);
        }
        self.ask_all(|plan, who| hold(plan, id, who), self.plan.patience.drain_us, out);
        self.advance(out);
    }

    fn prepare_failed(&mut self, why: String, out: &mut Vec<Effect>) {
        if self.state == State::Preparing {
            self.reason.get_or_insert(Reason::Store(why));
            self.finish_given_up(out);
        }
    }

    /// Sends the request to all apparatuses that are in and arms the timer; fences those whose connection is lost.
    fn ask_all(
        &mut self,
        request: impl Fn(&Plan, Participant) -> Request,
        beyond_us: u64,
        out: &mut Vec<Effect>,
    ) {
        for peer in self.peers.iter_mut().filter(|peer| peer.state != PeerState::Out) {
            if peer.lost {
                peer.state = PeerState::Fencing;
                out.push(Effect::Fence(peer.who));
            } else {
                peer.state = PeerState::Asked;
                out.push(Effect::Send(peer.who.slot, request(&self.plan, peer.who)));
            }
        }
        out.push(Effect::Arm(self.plan.patience.answer_us + beyond_us));
    }

    /// Goes on when no answer and no fence is due any more.
    fn advance(&mut self, out: &mut Vec<Effect>) {
        if self
            .peers
            .iter()
            .any(|peer| matches!(peer.state, PeerState::Asked | PeerState::Fencing))
        {
            return;
        }
        match self.state {
            State::Noting => self.copy(out),
            State::Holding => {
                self.transition(State::Working);
                out.extend([Effect::Disarm, Effect::Work]);
            }
            State::Applying => self.release(out),
            State::Releasing => self.finish(out),
            _ => {}
        }
    }

    fn release(&mut self, out: &mut Vec<Effect>) {
        self.transition(State::Releasing);
        let change = self.id;
        for peer in self.peers.iter_mut().filter(|peer| peer.state != PeerState::Out) {
            peer.state = if peer.lost {
                PeerState::Answered
            } else {
                PeerState::Asked
            };
            if !peer.lost {
                let release = Request::Release {
                    change,
                    given_up: false,
                };
                out.push(Effect::Send(peer.who.slot, release));
            }
        }
        out.push(Effect::Arm(self.plan.patience.answer_us));
        self.advance(out);
    }

    fn peer(&mut self, slot: Slot) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.who.slot == slot)
    }

    fn answered(&mut self, slot: Slot, answer: Answer, out: &mut Vec<Effect>) {
        let id = self.id;
        let Some(peer) = self.peer(slot).filter(|peer| peer.state == PeerState::Asked) else {
            return;
        };
        let who = peer.who;
        match (self.state, answer) {
            (State::Noting, Answer::Noting { change }) if change == id => self.answer_received(slot, out),
            (State::Holding, Answer::Held { change, written }) if change == id => {
                self.written.add(written);
                self.answer_received(slot, out);
            }
            (
                State::Noting | State::Holding,
                answer @ (Answer::StillDraining { .. } | Answer::StillOpening { .. }),
            ) => self.still_waiting(slot, answer, out),
            (State::Noting, Answer::Refused { change, refusal }) if change == Some(id) => {
                self.note_refused(slot, refusal, out);
            }
            (State::Holding, Answer::Refused { change, refusal }) if change == Some(id) => {
                self.give_up(reason_of(slot, refusal), out);
            }
            (State::Applying, Answer::Applied { change, .. }) if change == id => {
                self.answer_received(slot, out)
            }
            (State::Applying, Answer::Refused { change, refusal }) if change == Some(id) => {
                self.apply_refused(who, &refusal, out);
            }
            (
                State::Releasing,
                Answer::Released {
                    change,
                    parked,
                    longest_us,
                    ..
                },
            ) if change == id => {
                self.parked += parked;
                self.longest_us = self.longest_us.max(longest_us);
                self.answer_received(slot, out);
            }
            (State::Releasing, Answer::Refused { change, .. }) if change == Some(id) => {
                self.answer_received(slot, out)
            }
            _ => {}
        }
    }

    /// Gives the change up because requests in flight, or the opening of a disk, take too long.
    fn still_waiting(&mut self, slot: Slot, answer: Answer, out: &mut Vec<Effect>) {
        let (of, reason) = match answer {
            Answer::StillDraining {
                change,
                in_flight,
                oldest_us,
                disk,
            } => {
                let draining = Reason::Draining {
                    slot,
                    in_flight,
                    oldest_us,
                    disk,
                };
                (change, draining)
            }
            Answer::StillOpening {
                change,
                disk,
                waited_us,
            } => {
                let opening = Reason::Opening {
                    slot,
                    disk,
                    waited_us,
                };
                (change, opening)
            }
            _ => return,
        };
        if of == self.id {
            self.give_up(reason, out);
        }
    }

    fn answer_received(&mut self, slot: Slot, out: &mut Vec<Effect>) {
        if let Some(peer) = self.peer(slot) {
            peer.state = PeerState::Answered;
        }
        self.advance(out);
    }

    /// Fences an apparatus that cannot switch to the new table, since it must not serve at all; unless it obeys a higher term,
    /// whose controller then finishes the change.
    fn apply_refused(&mut self, who: Participant, refusal: &Refusal, out: &mut Vec<Effect>) {
        if let Refusal::StaleTerm(term) = refusal {
            return self.unfinished(format!("another controller holds the lock, term {term}"), out);
        }
        self.fence(who.slot, out);
    }

    fn fence(&mut self, slot: Slot, out: &mut Vec<Effect>) {
        if let Some(peer) = self.peer(slot) {
            peer.state = PeerState::Fencing;
            out.push(Effect::Fence(peer.who));
        }
    }

    fn lost(&mut self, slot: Slot, out: &mut Vec<Effect>) {
        let Some(peer) = self.peer(slot) else { return };
        peer.lost = true;
        let asked = peer.state == PeerState::Asked;
        match self.state {
            // An apparatus that has answered already is not fenced now: it ends its hold, and the store decides which was
            // first, its cancel or the commit.
            State::Noting if asked => self.hold(out),
            State::Holding if asked && self.plan.elsewhere.contains(&slot) => {
                self.give_up(Reason::Silent(slot), out);
            }
            State::Holding | State::Applying if asked => self.fence(slot, out),
            State::Releasing if asked => self.answer_received(slot, out),
            _ => {}
        }
    }

    fn timed_out(&mut self, alive: &[Slot], out: &mut Vec<Effect>) {
        match self.state {
            State::Noting => self.hold(out),
            State::Holding | State::Applying => self.answers_overdue(alive, out),
            State::Releasing => self.finish(out),
            _ => {}
        }
    }

    /// Fences the apparatuses that show no signs of life. The others are slow, which is no reason to cut off their hosts.
    fn answers_overdue(&mut self, alive: &[Slot], out: &mut Vec<Effect>) {
        let silent = |peer: &&Peer| peer.state == PeerState::Asked && self.plan.is_elsewhere(peer);
        let silent = self.peers.iter().find(silent).map(|peer| peer.who.slot);
        if let Some(slot) = silent.filter(|slot| self.state == State::Holding && !alive.contains(slot)) {
            return self.give_up(Reason::Silent(slot), out);
        }
        let patient = self.state == State::Holding || self.waited < WAITS;
        let (mut slow, mut silent) = (None, false);
        for peer in self
            .peers
            .iter_mut()
            .filter(|peer| peer.state == PeerState::Asked)
        {
            if patient && alive.contains(&peer.who.slot) {
                slow = Some(peer.who.slot);
            } else {
                silent = true;
                peer.state = PeerState::Fencing;
                out.push(Effect::Fence(peer.who));
            }
        }
        match slow {
            // The answer may have come by the time the silent ones are out.
            Some(_) if silent || self.state == State::Applying => {
                self.waited += 1;
                out.push(Effect::Arm(self.plan.patience.answer_us));
            }
            Some(slot) => self.give_up(Reason::Slow(slot), out),
            None => {}
        }
    }

    fn fence_set(
        &mut self,
        slot: Slot,
        version: Option<MembershipVersion>,
        ended: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.peer(slot).filter(|peer| peer.state == PeerState::Fencing) else {
            return;
        };
        peer.state = PeerState::Out;
        match version {
            Some(version) => {
                self.moved |= version != MembershipVersion(self.membership.0 + 1);
                self.membership = version;
                self.fenced.push(slot);
            }
            None => self.moved = true,
        }
        // It has not confirmed the hold, so a write of it may reach the old placement after the copy, where others would read
        // it.
        let late_writes =
            !ended && self.plan.mode() == HoldMode::Writes && !self.plan.change.spans.is_empty();
        // Its note of writes is lost with it.
        if self.state == State::Holding && (self.moved || late_writes || self.copied) {
            self.give_up(Reason::MembershipMoved, out);
        } else {
            self.advance(out);
        }
    }

    fn fence_failed(&mut self, slot: Slot, why: String, out: &mut Vec<Effect>) {
        let Some(peer) = self.peer(slot).filter(|peer| peer.state == PeerState::Fencing) else {
            return;
        };
        peer.state = PeerState::Out;
        self.moved = true;
        match self.state {
            State::Holding => self.give_up(Reason::Store(why), out),
            State::Applying => self.unfinished(why, out),
            _ => {}
        }
    }

    fn worked(&mut self, failure: Option<Reason>, out: &mut Vec<Effect>) {
        if self.state != State::Working {
            return;
        }
        if let Some(reason) = self.reason.take().or(failure) {
            return self.give_up(reason, out);
        }
        self.transition(State::Committing);
        out.push(Effect::Commit(self.membership));
    }

    fn committed(&mut self, answer: Commit, out: &mut Vec<Effect>) {
        if self.state != State::Committing {
            return;
        }
        match answer {
            Commit::Committed(generation) => self.apply(generation, out),
            Commit::Cancelled => {
                self.reason = Some(Reason::HoldRanOut);
                self.finish_given_up(out);
            }
            Commit::MembershipMoved(_) => {
                self.moved = true;
                self.give_up(Reason::MembershipMoved, out);
            }
            Commit::GenerationMoved(_) => self.give_up(Reason::GenerationMoved, out),
            Commit::StaleTerm(_) => self.give_up(Reason::StaleTerm, out),
        }
    }

    fn apply(&mut self, generation: Generation, out: &mut Vec<Effect>) {
        self.transition(State::Applying);
        self.generation = generation;
        let change = self.id;
        let request = |plan: &Plan, _| Request::Apply {
            change,
            generation,
            delta: plan.change.delta.clone(),
        };
        self.ask_all(request, 0, out);
        self.advance(out);
    }

    fn commit_failed(&mut self, why: String, out: &mut Vec<Effect>) {
        if self.state == State::Committing {
            // It may be committed, so nobody is told that it is given up before the store has answered the cancel.
            self.reason = Some(Reason::Store(why));
            self.cancel(out);
        }
    }
}

fn hold(plan: &Plan, change: ChangeId, who: Participant) -> Request {
    Request::Hold {
        change,
        spans: plan.change.spans.clone(),
        mode: plan.mode(),
        drain_us: plan.patience.drain_us,
        deadline_us: plan.patience.hold_us,
        incarnation: who.incarnation,
        disks: plan.disks.clone(),
    }
}

/// Translates a refusal of a hold: it means that the controller's view is outdated or that this apparatus cannot hold, never
/// that it is silent.
fn reason_of(slot: Slot, refusal: Refusal) -> Reason {
    match refusal {
        Refusal::StaleTerm(_) => Reason::StaleTerm,
        Refusal::Fenced | Refusal::Incarnation(_) => Reason::MembershipMoved,
        Refusal::Generation(_) => Reason::GenerationMoved,
        Refusal::NotHeld => Reason::HoldRanOut,
        Refusal::Disk { name, why } => Reason::Refused(slot, format!("disk {name}: {why}")),
        Refusal::Failed(why) | Refusal::Malformed(why) => Reason::Refused(slot, why),
        other => Reason::Refused(slot, format!("{other:?}")),
    }
}
