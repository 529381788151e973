//! The transitions of [`Machine`].

mod ending;
mod notes;

use super::{
    Answer, BTreeMap, Bounds, Cancel, ChangeId, Delta, DiskRecord, Effect, Event, Generation, Hold, HoldMode,
    HoldStage, Incarnation, Link, Machine, OWN, Participation, Refusal, Request, Span, Term, Timer, VecDeque,
};

/// Number of ended changes that are remembered: more than may be under way at once.
const REMEMBERED: usize = 64;

/// The fields of a `Hold` request.
struct HoldAsked {
    spans: Vec<Span>,
    mode: HoldMode,
    drain_us: u64,
    deadline_us: u64,
    incarnation: Incarnation,
    disks: Vec<DiskRecord>,
}

impl Machine {
    /// Returns the machine of an apparatus that has joined in this incarnation and loaded the table of this generation. The
    /// caller carries out its effects before it serves the first host request.
    #[must_use]
    pub fn joined(incarnation: Incarnation, generation: Generation, bounds: Bounds) -> (Self, Vec<Effect>) {
        let mut machine = Self {
            bounds,
            standing: Participation::Out,
            incarnation,
            generation,
            term: Term(0),
            holds: BTreeMap::new(),
            ended: VecDeque::new(),
            notes: BTreeMap::new(),
            noted: VecDeque::new(),
        };
        let effects = machine.on(Event::Rejoined(incarnation, generation));
        (machine, effects)
    }

    /// Returns the apparatus's participation in the control range.
    #[must_use]
    pub fn standing(&self) -> Participation {
        self.standing
    }

    /// Returns its incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Returns the generation of the table that it serves.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the highest term that it has obeyed.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Returns the number of holds, in any stage.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.holds.len()
    }

    /// Handles an event and returns the effects to carry out.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Rejoined(incarnation, generation) => self.rejoined(incarnation, generation, &mut out),
            Event::Asked(link, term, request) => self.asked(link, term, request, &mut out),
            _ if self.standing == Participation::Out => {}
            Event::DisksOpen(change, result) => self.disks_open(change, result, &mut out),
            Event::NoteSettled(change) => self.note_settled(change, &mut out),
            Event::NoteRefused(change) => self.note_refused(change, &mut out),
            Event::Drained(change) => self.drained(change, &mut out),
            Event::TimedOut(change, timer) => self.timed_out(change, timer, &mut out),
            Event::Lost(link) => self.lost(link, &mut out),
            Event::CancelAnswered(change, Cancel::Cancelled) => self.cancelled(change, &mut out),
            Event::CancelAnswered(change, Cancel::Committed(record)) => {
                self.found_committed(change, *record, &mut out)
            }
            Event::CancelFailed(change) => self.cancel_failed(change, &mut out),
            Event::OthersReached(generation) => self.others_reached(generation, &mut out),
            Event::Overflow(change) => self.overflow(change, &mut out),
            Event::Fenced(incarnation) if incarnation != self.incarnation => {}
            Event::Fenced(_) | Event::TableDamaged => self.leave(&mut out),
        }
        out
    }

    /// Performs every transition between the stages of a hold. The hold is removed from the machine if `next` is `Ended`. A
    /// transition that the protocol does not have is a fault of the program and ends it in every build.
    fn transition(&mut self, change: ChangeId, next: HoldStage) {
        let Some(hold) = self.holds.get_mut(&change) else {
            return;
        };
        assert!(
            hold.stage.leads_to(next),
            "{:?} does not lead to {next:?}",
            hold.stage
        );
        hold.stage = next;
        if next == HoldStage::Ended {
            self.holds.remove(&change);
            self.notes.remove(&change);
            self.ended.push_back(change);
            if self.ended.len() > REMEMBERED {
                self.ended.pop_front();
            }
        }
    }

    fn stage(&self, change: ChangeId) -> Option<HoldStage> {
        self.holds.get(&change).map(|hold| hold.stage)
    }

    fn rejoined(&mut self, incarnation: Incarnation, generation: Generation, out: &mut Vec<Effect>) {
        if self.standing != Participation::Out {
            return;
        }
        self.standing = Participation::Waiting(generation);
        self.incarnation = incarnation;
        self.generation = generation;
        let patience = Effect::Arm(OWN, Timer::Patience, self.bounds.patience_us);
        out.extend([
            Effect::HoldWrites,
            Effect::Open,
            Effect::AwaitOthers(generation),
            patience,
        ]);
    }

    /// Drops all holds: everything else is up to [`Effect::Rejoin`].
    fn leave(&mut self, out: &mut Vec<Effect>) {
        self.standing = Participation::Out;
        self.holds.clear();
        self.notes.clear();
        out.push(Effect::Rejoin);
    }

    fn asked(&mut self, link: Link, term: Term, request: Request, out: &mut Vec<Effect>) {
        let (Request::Note { change, .. }
        | Request::Hold { change, .. }
        | Request::Apply { change, .. }
        | Request::Release { change, .. }) = request
        else {
            return;
        };
        if let Some(refusal) = self.refusal(term) {
            return out.push(refuse(link, change, refusal));
        }
        self.term = term;
        match request {
            Request::Note {
                spans,
                drain_us,
                deadline_us,
                incarnation,
                ..
            } => match incarnation == self.incarnation {
                true => self.note(link, change, spans, (drain_us, deadline_us), out),
                false => out.push(refuse(link, change, Refusal::Incarnation(self.incarnation))),
            },
            Request::Hold {
                spans,
                mode,
                drain_us,
                deadline_us,
                incarnation,
                disks,
                ..
            } => {
                let asked = HoldAsked {
                    spans,
                    mode,
                    drain_us,
                    deadline_us,
                    incarnation,
                    disks,
                };
                self.hold(link, change, asked, out);
            }
            Request::Apply {
                generation, delta, ..
            } => self.apply(link, change, generation, delta, out),
            Request::Release { given_up: true, .. } if self.was_placed_in(change, term) => {
                self.give_up(link, change, out);
            }
            _ => self.release(link, change, out),
        }
    }

    fn was_placed_in(&self, change: ChangeId, term: Term) -> bool {
        self.holds.get(&change).is_some_and(|hold| hold.term == term)
    }

    fn refusal(&self, term: Term) -> Option<Refusal> {
        if term < self.term {
            Some(Refusal::StaleTerm(self.term))
        } else {
            (self.standing == Participation::Out).then_some(Refusal::Fenced)
        }
    }

    fn hold(&mut self, link: Link, change: ChangeId, asked: HoldAsked, out: &mut Vec<Effect>) {
        if asked.incarnation != self.incarnation {
            out.push(refuse(link, change, Refusal::Incarnation(self.incarnation)));
        } else if self.holds.contains_key(&change) {
            self.hold_again(link, change, out);
        } else if self.ended.contains(&change) || change == OWN {
            out.push(refuse(link, change, Refusal::NotHeld));
        } else if self.holds.len() >= self.bounds.holds {
            out.push(refuse(link, change, Refusal::TooMany));
        } else {
            self.hold_new(link, change, asked, out);
        }
    }

    fn hold_new(&mut self, link: Link, change: ChangeId, asked: HoldAsked, out: &mut Vec<Effect>) {
        let hold = Hold {
            stage: HoldStage::Opening,
            link: Some(link),
            release: None,
            term: self.term,
            spans: asked.spans,
            mode: asked.mode,
            held_sent: false,
            generation: Generation(0),
        };
        self.holds.insert(change, hold);
        self.drop_unsettled_note(change, out);
        out.push(Effect::Arm(change, Timer::Deadline, asked.deadline_us));
        // One limit covers opening and draining: the controller takes an apparatus that has sent no answer for longer to be
        // silent.
        out.push(Effect::Arm(change, Timer::Drain, asked.drain_us));
        if asked.disks.is_empty() {
            self.place(change, out);
        } else {
            out.push(Effect::OpenDisks(change, asked.disks));
        }
    }

    /// Handles a repeated request for the same hold, perhaps from a new connection: it is answered when the hold is drained, or
    /// at once if it was.
    fn hold_again(&mut self, link: Link, change: ChangeId, out: &mut Vec<Effect>) {
        let Some(hold) = self.holds.get_mut(&change) else {
            return;
        };
        match hold.stage {
            HoldStage::Ending | HoldStage::Ended => out.push(refuse(link, change, Refusal::NotHeld)),
            HoldStage::Opening | HoldStage::Draining => hold.link = Some(link),
            HoldStage::Held | HoldStage::Applied | HoldStage::Awaiting => {
                hold.link = Some(link);
                out.push(Effect::ReportHeld(change, link));
            }
        }
    }

    fn disks_open(&mut self, change: ChangeId, result: Result<(), (String, String)>, out: &mut Vec<Effect>) {
        if self.stage(change) != Some(HoldStage::Opening) {
            return;
        }
        match result {
            Ok(()) => self.place(change, out),
            Err((name, why)) => {
                let link = self.holds.get(&change).and_then(|hold| hold.link);
                self.end_note(change, out);
                self.transition(change, HoldStage::Ended);
                out.extend(link.map(|link| refuse(link, change, Refusal::Disk { name, why })));
            }
        }
    }

    fn place(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        self.transition(change, HoldStage::Draining);
        let Some(hold) = self.holds.get(&change) else {
            return;
        };
        out.push(Effect::PlaceHold(change, hold.spans.clone(), hold.mode));
    }

    fn drained(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if self.stage(change) != Some(HoldStage::Draining) {
            return;
        }
        self.transition(change, HoldStage::Held);
        if let Some(hold) = self.holds.get_mut(&change) {
            hold.held_sent = true;
            out.extend(hold.link.map(|link| Effect::ReportHeld(change, link)));
        }
    }

    fn apply(
        &mut self,
        link: Link,
        change: ChangeId,
        generation: Generation,
        delta: Delta,
        out: &mut Vec<Effect>,
    ) {
        if generation <= self.generation {
            return out.push(Effect::ReportApplied(change, link));
        }
        match self.holds.get(&change) {
            Some(hold) if hold.held_sent && matches!(hold.stage, HoldStage::Held | HoldStage::Ending) => {}
            _ => return out.push(refuse(link, change, Refusal::NotHeld)),
        }
        if generation != delta.from.next() || !self.switch(change, delta, out) {
            out.push(refuse(link, change, Refusal::Generation(self.generation)));
            return self.leave(out);
        }
        out.push(Effect::ReportApplied(change, link));
        if self.stage(change) == Some(HoldStage::Ending) {
            self.wait_for_others(change, generation, out);
        } else {
            self.transition(change, HoldStage::Applied);
            if let Some(hold) = self.holds.get_mut(&change) {
                hold.generation = generation;
                hold.link = Some(link);
            }
        }
    }

    /// Makes the new version current if the delta starts from the current one; returns whether it does.
    fn switch(&mut self, change: ChangeId, delta: Delta, out: &mut Vec<Effect>) -> bool {
        let fits = delta.from == self.generation;
        if fits {
            self.generation = delta.from.next();
            out.push(Effect::Apply(change, delta));
        }
        fits
    }

    fn timed_out(&mut self, change: ChangeId, timer: Timer, out: &mut Vec<Effect>) {
        let waiting = matches!(self.standing, Participation::Waiting(_));
        match (timer, self.stage(change)) {
            (Timer::Settling, _) => self.report_settling(change, out),
            (Timer::NoteOver, _) => self.end_note(change, out),
            (Timer::Drain, Some(HoldStage::Opening)) => {
                let link = self.holds.get(&change).and_then(|hold| hold.link);
                out.extend(link.map(|link| Effect::ReportOpening(change, link)));
            }
            (Timer::Drain, Some(HoldStage::Draining)) => {
                let link = self.holds.get(&change).and_then(|hold| hold.link);
                out.extend(link.map(|link| Effect::ReportDraining(change, link)));
            }
            (Timer::Deadline, Some(_)) => self.out_of_time(change, out),
            (Timer::Patience, Some(HoldStage::Ending)) => out.push(Effect::Cancel(change)),
            (Timer::Patience, Some(HoldStage::Awaiting)) => self.overdue(change, out),
            (Timer::Patience, None) if change == OWN && waiting => self.overdue(change, out),
            _ => {}
        }
    }

    fn overdue(&self, change: ChangeId, out: &mut Vec<Effect>) {
        out.extend([
            Effect::TakeOver,
            Effect::Arm(change, Timer::Patience, self.bounds.patience_us),
        ]);
    }

    fn lost(&mut self, link: Link, out: &mut Vec<Effect>) {
        self.end_notes_of(link, out);
        let mut theirs = Vec::new();
        for (&change, hold) in &mut self.holds {
            hold.release = hold.release.filter(|&asker| asker != link);
            if hold.link == Some(link) {
                hold.link = None;
                theirs.push(change);
            }
        }
        for change in theirs {
            self.out_of_time(change, out);
        }
    }

    fn others_reached(&mut self, generation: Generation, out: &mut Vec<Effect>) {
        let reached = |hold: &Hold| hold.stage == HoldStage::Awaiting && hold.generation <= generation;
        let free: Vec<ChangeId> = self
            .holds
            .iter()
            .filter(|(_, hold)| reached(hold))
            .map(|(&change, _)| change)
            .collect();
        for change in free {
            self.transition(change, HoldStage::Ended);
            out.push(Effect::Reopen(change, None));
        }
        if matches!(self.standing, Participation::Waiting(awaited) if awaited <= generation) {
            self.standing = Participation::Serving;
            out.push(Effect::ReleaseWrites);
        }
    }
}

fn refuse(link: Link, change: ChangeId, refusal: Refusal) -> Effect {
    Effect::Answer(
        link,
        Answer::Refused {
            change: Some(change),
            refusal,
        },
    )
}
