//! What the agent does for its machine: each effect, and what follows from it.

use super::{
    Agent, Answer, ChangeId, Delta, Due, Edit, Effect, Event, Generation, HoldMode, LONGEST_US, Link,
    OTHERS_US, OWN, QUIESCE_US, QUIESCES, Quiesce, REJOIN_US, Refusal, RejoinStage, Rejoined, Services, Span,
    Step, VolumeId, Written,
};

impl Agent {
    pub(super) fn carry_out_all(&mut self, effects: Vec<Effect>, services: &mut dyn Services) {
        for effect in effects {
            if !self.carry_out(effect, services) {
                // The other effects depend on the table that could not be made.
                self.events.push_front(Event::TableDamaged);
                return;
            }
        }
    }

    /// Carries out an effect. Returns false when a delta could not be applied to the table.
    fn carry_out(&mut self, effect: Effect, services: &mut dyn Services) -> bool {
        match effect {
            Effect::Answer(link, answer) => services.answer(link, answer),
            Effect::OpenDisks(change, disks) => {
                if services.open_disks(change, disks) {
                    self.events.push_back(Event::DisksOpen(change, Ok(())));
                }
            }
            Effect::PlaceNote(change, spans) => self.place_note(change, &spans, services),
            Effect::EndNote(change) => {
                self.settling.remove(&change);
                services.end_note(change);
            }
            Effect::ReportHeld(change, link) => {
                let written = Written::of_note(services.written(change));
                services.answer(link, Answer::Held { change, written });
            }
            Effect::PlaceHold(change, spans, mode) => self.place_hold(change, &spans, mode, services),
            Effect::Apply(_, delta) => return self.apply(&delta, services),
            Effect::Reopen(change, link) => self.reopen(change, link, services),
            // The wake-up causes `Drained` if the drain has just ended.
            Effect::ReportDraining(change, link) => answer_if(link, services.lag(change), services),
            Effect::ReportOpening(change, link) => {
                answer_if(link, services.still_opening(change), services);
            }
            Effect::ReportApplied(change, link) => self.report_applied(change, link, services),
            Effect::Cancel(change) => self.cancel(change, services),
            Effect::AwaitOthers(generation) => self.await_others(generation, services),
            Effect::TakeOver => services.take_over(),
            Effect::Arm(change, timer, us) => services.arm(Due::Change(change, timer), us),
            Effect::HoldWrites => self.hold_writes(services),
            Effect::ReleaseWrites => _ = services.release(OWN),
            Effect::Rejoin => self.begin_rejoin(services),
            Effect::Open => services.open_gate(),
        }
        true
    }

    fn place_note(&mut self, change: ChangeId, spans: &[Span], services: &mut dyn Services) {
        if services.place_note(change, spans) {
            self.settling.insert(change);
            self.check_note(change, services);
        } else {
            self.events.push_back(Event::NoteRefused(change));
        }
    }

    pub(super) fn check_note(&mut self, change: ChangeId, services: &mut dyn Services) {
        if services.lag(change).is_none() {
            self.settling.remove(&change);
            self.events.push_back(Event::NoteSettled(change));
        }
    }

    fn place_hold(&mut self, change: ChangeId, spans: &[Span], mode: HoldMode, services: &mut dyn Services) {
        if services.place_hold(change, spans, mode) {
            self.draining.insert(change);
            self.check_hold(change, services);
        } else {
            self.events.push_back(Event::Overflow(change));
        }
    }

    pub(super) fn check_hold(&mut self, change: ChangeId, services: &mut dyn Services) {
        if services.lag(change).is_none() {
            self.draining.remove(&change);
            services.passed(Step::Drained);
            self.events.push_back(Event::Drained(change));
        }
    }

    /// Holds the writes of all volumes, until the other apparatuses have reached this one's table.
    fn hold_writes(&mut self, services: &mut dyn Services) {
        let spans: Vec<Span> = self.volumes.iter().map(|volume| Span::whole(*volume)).collect();
        services.place_hold(OWN, &spans, HoldMode::Writes);
    }

    fn reopen(&mut self, change: ChangeId, link: Option<Link>, services: &mut dyn Services) {
        services.forget_disks(Some(change));
        services.disarm(Some(change));
        self.draining.remove(&change);
        self.settling.remove(&change);
        let parked = services.release(change);
        if let Some(link) = link {
            let oldest = services.oldest();
            let released = Answer::Released {
                change,
                parked: parked.requests,
                longest_us: parked.longest_us,
                oldest,
            };
            services.answer(link, released);
        }
    }

    fn apply(&mut self, delta: &Delta, services: &mut dyn Services) -> bool {
        let applied = services.apply(delta);
        if applied {
            follow(&mut self.volumes, delta);
        }
        applied
    }

    fn report_applied(&mut self, change: ChangeId, link: Link, services: &mut dyn Services) {
        let applied = Answer::Applied {
            change,
            generation: self.machine.generation(),
            oldest: services.oldest(),
        };
        services.answer(link, applied);
    }

    fn cancel(&mut self, change: ChangeId, services: &mut dyn Services) {
        self.draining.remove(&change);
        if !services.cancel(change) {
            self.events.push_back(Event::CancelFailed(change));
        }
    }

    fn await_others(&mut self, generation: Generation, services: &mut dyn Services) {
        services.passed(Step::AwaitingOthers);
        self.awaited.insert(generation);
        self.check_others(services);
    }

    pub(super) fn check_others(&mut self, services: &mut dyn Services) {
        if self.awaited.is_empty() || self.checking {
            return;
        }
        self.checking = services.find_others(&self.awaited);
        if !self.checking {
            services.arm(Due::Others, OTHERS_US);
        }
    }

    pub(super) fn others_reached(&mut self, generations: Vec<Generation>, services: &mut dyn Services) {
        self.checking = false;
        for generation in generations {
            self.awaited.remove(&generation);
            self.events.push_back(Event::OthersReached(generation));
        }
        services.arm(Due::Others, OTHERS_US);
    }

    /// Parks all requests, drops all holds, and begins to rejoin.
    fn begin_rejoin(&mut self, services: &mut dyn Services) {
        services.close_gate();
        self.rejoin = RejoinStage::Draining;
        self.draining.clear();
        self.settling.clear();
        self.awaited.clear();
        services.forget_disks(None);
        services.disarm(None);
        self.check_rejoin(services);
    }

    /// Asks the store to rejoin once no request is in flight.
    pub(super) fn check_rejoin(&mut self, services: &mut dyn Services) {
        if self.rejoin == RejoinStage::Draining && services.in_flight() == 0 {
            services.passed(Step::DrainedForRejoin);
            self.rejoin = RejoinStage::Asked;
            self.ask_to_rejoin(services);
        }
    }

    pub(super) fn ask_to_rejoin(&mut self, services: &mut dyn Services) {
        if self.rejoin == RejoinStage::Asked && !services.rejoin(self.machine.incarnation()) {
            services.arm(Due::Rejoin, REJOIN_US);
        }
    }

    pub(super) fn rejoined(&mut self, rejoined: Rejoined, services: &mut dyn Services) {
        if rejoined.slot != self.slot {
            services.end(self.slot);
        } else if services.load(&rejoined) {
            self.volumes = rejoined.volumes;
            self.rejoin = RejoinStage::No;
            self.events
                .push_back(Event::Rejoined(rejoined.incarnation, rejoined.generation));
        }
    }

    pub(super) fn quiesce(&mut self, link: Link, wait_us: u64, services: &mut dyn Services) {
        if self.quiesces.len() >= QUIESCES {
            let refusal = Refusal::TooMany;
            let change = None;
            return services.answer(link, Answer::Refused { change, refusal });
        }
        self.quiesces.push(Quiesce {
            link,
            target: self.machine.generation(),
            until_us: services.now_us().saturating_add(wait_us.min(LONGEST_US)),
        });
        self.answer_quiesces(services);
    }

    /// Answers the `Quiesce` requests whose wait is over.
    pub(super) fn answer_quiesces(&mut self, services: &mut dyn Services) {
        if self.quiesces.is_empty() {
            return;
        }
        let (oldest, now) = (services.oldest(), services.now_us());
        let over = |quiesce: &mut Quiesce| oldest >= quiesce.target || quiesce.until_us <= now;
        let answered: Vec<Quiesce> = self.quiesces.extract_if(.., over).collect();
        if !answered.is_empty() {
            services.show_oldest(oldest);
        }
        for quiesce in answered {
            services.answer(quiesce.link, Answer::Quiesced { oldest });
        }
        if !self.quiesces.is_empty() {
            services.arm(Due::Quiesce, QUIESCE_US);
        }
    }
}

fn answer_if(link: Link, answer: Option<Answer>, services: &mut dyn Services) {
    if let Some(answer) = answer {
        services.answer(link, answer);
    }
}

/// Adds and removes the volumes that a delta adds and removes.
fn follow(volumes: &mut Vec<VolumeId>, delta: &Delta) {
    for edit in &delta.edits {
        match edit {
            Edit::AddVolume(volume) => volumes.push(volume.id),
            Edit::RemoveVolume(gone) => volumes.retain(|volume| volume != gone),
            _ => {}
        }
    }
}
