//! The transitions of [`Machine`].

use super::{
    Answer, BTreeMap, Bounds, Cancel, ChangeId, ChangeRecord, Difference, DiskRecord, Effect, Event,
    Generation, Hold, HoldMode, Incarnation, Link, Machine, OWN, Refusal, Request, Span, Stage, Standing,
    Term, Timer, VecDeque,
};

/// How many ended changes are remembered: more than may be under way at once.
const REMEMBERED: usize = 64;

/// A `Hold` request, taken apart.
struct Asked {
    spans: Vec<Span>,
    mode: HoldMode,
    drain_us: u64,
    deadline_us: u64,
    incarnation: Incarnation,
    disks: Vec<DiskRecord>,
}

impl Machine {
    /// An apparatus that has joined in this life, with the table of this generation loaded. To be called, and its effects carried out,
    /// before the first host request is served.
    #[must_use]
    pub fn joined(incarnation: Incarnation, generation: Generation, bounds: Bounds) -> (Self, Vec<Effect>) {
        let mut machine = Self {
            bounds,
            standing: Standing::Out,
            incarnation,
            generation,
            term: Term(0),
            holds: BTreeMap::new(),
            ended: VecDeque::new(),
        };
        let effects = machine.on(Event::Rejoined(incarnation, generation));
        (machine, effects)
    }

    /// Where the apparatus stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Its life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The table it serves by.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The highest term it has obeyed.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Holds, in whatever stage.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.holds.len()
    }

    /// Takes an event in, and answers what is to be done.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Rejoined(incarnation, generation) => self.rejoined(incarnation, generation, &mut out),
            Event::Asked(link, term, request) => self.asked(link, term, request, &mut out),
            _ if self.standing == Standing::Out => {}
            Event::DisksOpen(change, result) => self.disks_open(change, result, &mut out),
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

    /// The one door between the stages of a hold. Answers the hold, which is gone from the machine if `next` is `Ended`.
    fn go(&mut self, change: ChangeId, next: Stage) {
        let Some(hold) = self.holds.get_mut(&change) else {
            return;
        };
        debug_assert!(
            hold.stage.leads_to(next),
            "{:?} does not lead to {next:?}",
            hold.stage
        );
        hold.stage = next;
        if next == Stage::Ended {
            self.holds.remove(&change);
            self.ended.push_back(change);
            if self.ended.len() > REMEMBERED {
                self.ended.pop_front();
            }
        }
    }

    fn stage(&self, change: ChangeId) -> Option<Stage> {
        self.holds.get(&change).map(|hold| hold.stage)
    }

    fn rejoined(&mut self, incarnation: Incarnation, generation: Generation, out: &mut Vec<Effect>) {
        if self.standing != Standing::Out {
            return;
        }
        self.standing = Standing::Waiting(generation);
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

    /// Everything here is void: the rest is for [`Effect::Rejoin`].
    fn leave(&mut self, out: &mut Vec<Effect>) {
        self.standing = Standing::Out;
        self.holds.clear();
        out.push(Effect::Rejoin);
    }

    fn asked(&mut self, link: Link, term: Term, request: Request, out: &mut Vec<Effect>) {
        let (Request::Hold { change, .. } | Request::Apply { change, .. } | Request::Release { change }) =
            request
        else {
            return;
        };
        if let Some(refusal) = self.refusal(term) {
            return out.push(refuse(link, change, refusal));
        }
        self.term = term;
        match request {
            Request::Hold {
                spans,
                mode,
                drain_us,
                deadline_us,
                incarnation,
                disks,
                ..
            } => {
                let asked = Asked {
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
                generation,
                difference,
                ..
            } => self.apply(link, change, generation, difference, out),
            _ => self.release(link, change, out),
        }
    }

    fn refusal(&self, term: Term) -> Option<Refusal> {
        if term < self.term {
            Some(Refusal::StaleTerm(self.term))
        } else {
            (self.standing == Standing::Out).then_some(Refusal::Fenced)
        }
    }

    fn hold(&mut self, link: Link, change: ChangeId, asked: Asked, out: &mut Vec<Effect>) {
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

    fn hold_new(&mut self, link: Link, change: ChangeId, asked: Asked, out: &mut Vec<Effect>) {
        let hold = Hold {
            stage: Stage::Opening,
            link: Some(link),
            release: None,
            spans: asked.spans,
            mode: asked.mode,
            said_held: false,
            generation: Generation(0),
        };
        self.holds.insert(change, hold);
        out.push(Effect::Arm(change, Timer::Deadline, asked.deadline_us));
        // One bound for opening and draining: the controller takes whoever has answered nothing for longer to be silent.
        out.push(Effect::Arm(change, Timer::Drain, asked.drain_us));
        if asked.disks.is_empty() {
            self.place(change, out);
        } else {
            out.push(Effect::OpenDisks(change, asked.disks));
        }
    }

    /// The same hold asked for again, perhaps by a new connection: answered when it is due, or at once if it was.
    fn hold_again(&mut self, link: Link, change: ChangeId, out: &mut Vec<Effect>) {
        let Some(hold) = self.holds.get_mut(&change) else {
            return;
        };
        match hold.stage {
            Stage::Ending | Stage::Ended => out.push(refuse(link, change, Refusal::NotHeld)),
            Stage::Opening | Stage::Draining => hold.link = Some(link),
            Stage::Held | Stage::Applied | Stage::Awaiting => {
                hold.link = Some(link);
                out.push(Effect::Answer(link, Answer::Held { change }));
            }
        }
    }

    fn disks_open(&mut self, change: ChangeId, result: Result<(), (String, String)>, out: &mut Vec<Effect>) {
        if self.stage(change) != Some(Stage::Opening) {
            return;
        }
        match result {
            Ok(()) => self.place(change, out),
            Err((name, why)) => {
                let link = self.holds.get(&change).and_then(|hold| hold.link);
                self.go(change, Stage::Ended);
                out.extend(link.map(|link| refuse(link, change, Refusal::Disk { name, why })));
            }
        }
    }

    fn place(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        self.go(change, Stage::Draining);
        let Some(hold) = self.holds.get(&change) else {
            return;
        };
        out.push(Effect::PlaceHold(change, hold.spans.clone(), hold.mode));
    }

    fn drained(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if self.stage(change) != Some(Stage::Draining) {
            return;
        }
        self.go(change, Stage::Held);
        if let Some(hold) = self.holds.get_mut(&change) {
            hold.said_held = true;
            out.extend(
                hold.link
                    .map(|link| Effect::Answer(link, Answer::Held { change })),
            );
        }
    }

    fn apply(
        &mut self,
        link: Link,
        change: ChangeId,
        generation: Generation,
        difference: Difference,
        out: &mut Vec<Effect>,
    ) {
        if generation <= self.generation {
            return out.push(Effect::ReportApplied(change, link));
        }
        match self.holds.get(&change) {
            Some(hold) if hold.said_held && matches!(hold.stage, Stage::Held | Stage::Ending) => {}
            _ => return out.push(refuse(link, change, Refusal::NotHeld)),
        }
        if generation != difference.from.next() || !self.switch(change, difference, out) {
            out.push(refuse(link, change, Refusal::Generation(self.generation)));
            return self.leave(out);
        }
        out.push(Effect::ReportApplied(change, link));
        if self.stage(change) == Some(Stage::Ending) {
            self.wait_for_others(change, generation, out);
        } else {
            self.go(change, Stage::Applied);
            if let Some(hold) = self.holds.get_mut(&change) {
                hold.generation = generation;
                hold.link = Some(link);
            }
        }
    }

    /// Makes the new face current, if the difference leads on from it.
    fn switch(&mut self, change: ChangeId, difference: Difference, out: &mut Vec<Effect>) -> bool {
        let fits = difference.from == self.generation;
        if fits {
            self.generation = difference.from.next();
            out.push(Effect::Apply(change, difference));
        }
        fits
    }

    fn release(&mut self, link: Link, change: ChangeId, out: &mut Vec<Effect>) {
        match self.stage(change) {
            Some(Stage::Draining | Stage::Held) => {
                self.end(change, out);
                self.release_later(link, change);
            }
            Some(Stage::Ending) => self.release_later(link, change),
            Some(Stage::Opening | Stage::Applied | Stage::Awaiting) => {
                self.go(change, Stage::Ended);
                out.push(Effect::Reopen(change, Some(link)));
            }
            Some(Stage::Ended) | None => out.push(Effect::Reopen(change, Some(link))),
        }
    }

    fn release_later(&mut self, link: Link, change: ChangeId) {
        if let Some(hold) = self.holds.get_mut(&change) {
            hold.release = Some(link);
        }
    }

    /// Not committed as far as we know: the store has the word.
    fn end(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        self.go(change, Stage::Ending);
        out.push(Effect::Cancel(change));
    }

    fn timed_out(&mut self, change: ChangeId, timer: Timer, out: &mut Vec<Effect>) {
        let waiting = matches!(self.standing, Standing::Waiting(_));
        match (timer, self.stage(change)) {
            (Timer::Drain, Some(Stage::Opening)) => {
                let link = self.holds.get(&change).and_then(|hold| hold.link);
                out.extend(link.map(|link| Effect::ReportOpening(change, link)));
            }
            (Timer::Drain, Some(Stage::Draining)) => {
                let link = self.holds.get(&change).and_then(|hold| hold.link);
                out.extend(link.map(|link| Effect::ReportDraining(change, link)));
            }
            (Timer::Deadline, Some(_)) => self.out_of_time(change, out),
            (Timer::Patience, Some(Stage::Ending)) => out.push(Effect::Cancel(change)),
            (Timer::Patience, Some(Stage::Awaiting)) => self.overdue(change, out),
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

    /// The deadline, or the end of the connection: whatever the controller does, this apparatus finds its own way out.
    fn out_of_time(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        let Some(hold) = self.holds.get(&change) else {
            return;
        };
        let (link, generation) = (hold.link, hold.generation);
        match hold.stage {
            Stage::Opening => {
                self.go(change, Stage::Ended);
                out.extend(link.map(|link| refuse(link, change, Refusal::NotHeld)));
            }
            Stage::Draining | Stage::Held => self.end(change, out),
            Stage::Applied => self.wait_for_others(change, generation, out),
            Stage::Ending | Stage::Awaiting | Stage::Ended => {}
        }
    }

    fn wait_for_others(&mut self, change: ChangeId, generation: Generation, out: &mut Vec<Effect>) {
        self.go(change, Stage::Awaiting);
        if let Some(hold) = self.holds.get_mut(&change) {
            hold.generation = generation;
        }
        let patience = Effect::Arm(change, Timer::Patience, self.bounds.patience_us);
        out.extend([Effect::AwaitOthers(generation), patience]);
    }

    fn lost(&mut self, link: Link, out: &mut Vec<Effect>) {
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

    fn cancelled(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if self.stage(change) == Some(Stage::Ending) {
            let release = self.holds.get(&change).and_then(|hold| hold.release);
            self.go(change, Stage::Ended);
            out.push(Effect::Reopen(change, release));
        }
    }

    fn found_committed(&mut self, change: ChangeId, record: ChangeRecord, out: &mut Vec<Effect>) {
        let Some(hold) = self.holds.get(&change).filter(|hold| hold.stage == Stage::Ending) else {
            return;
        };
        let difference = record.change.difference;
        let generation = difference.from.next();
        if !hold.said_held || (generation > self.generation && !self.switch(change, difference, out)) {
            return self.leave(out);
        }
        self.wait_for_others(change, generation, out);
    }

    fn cancel_failed(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if self.stage(change) == Some(Stage::Ending) {
            out.push(Effect::Arm(change, Timer::Patience, self.bounds.patience_us));
        }
    }

    fn others_reached(&mut self, generation: Generation, out: &mut Vec<Effect>) {
        let reached = |hold: &Hold| hold.stage == Stage::Awaiting && hold.generation <= generation;
        let free: Vec<ChangeId> = self
            .holds
            .iter()
            .filter(|(_, hold)| reached(hold))
            .map(|(&change, _)| change)
            .collect();
        for change in free {
            self.go(change, Stage::Ended);
            out.push(Effect::Reopen(change, None));
        }
        if matches!(self.standing, Standing::Waiting(awaited) if awaited <= generation) {
            self.standing = Standing::Serving;
            out.push(Effect::LetWrites);
        }
    }

    /// Before the commit the hold ends; after it, nothing but the others' switch can end it.
    fn overflow(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if matches!(self.stage(change), Some(Stage::Draining | Stage::Held)) {
            self.end(change, out);
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
