//! One change under way: its machine, its timer, and the effects carried out.

use super::Controller;
use super::whole::check_weight;
use crate::change::controller::{self, Effect, Event, Outcome, Participant, Plan, State};
use crate::change::failpoint::{Point, hit};
use crate::control::client::Happening;
use crate::error::{Error, Result};
use crate::held::Held;
use crate::member::LifeLock;
use crate::ops::history;
use crate::store::{NewChange, Severity};
use crate::units::{ChangeId, Slot};
use crate::wire::message::{Answer, Request};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How long to look for what happens when no timer is armed. No state of the machine waits without one.
const IDLE: Duration = Duration::from_secs(1);

/// A change from its announcement to its end.
pub(super) struct Flight {
    pub(super) machine: controller::Controller,
    events: VecDeque<Event>,
    timer: Option<Instant>,
    /// The heartbeats of those who take part, as they were when the timer was armed.
    heartbeats: BTreeMap<Slot, u64>,
    /// The work is due: everybody holds.
    pub(super) work_due: bool,
    pub(super) outcome: Option<Outcome>,
    /// What the store said last when it failed: it says more than the machine keeps.
    pub(super) error: Option<Error>,
    /// From the first request to hold until everyone was told to let go.
    held_since: Option<Instant>,
    pub(super) hold: Duration,
    /// The same, if the change is a job's.
    held: Option<Held>,
    /// Steps that are reached once what is queued has been sent.
    sent: Vec<Point>,
}

impl Flight {
    /// A change that is announced already, under this number.
    pub(super) fn prepared(plan: Plan, id: ChangeId) -> Self {
        // The first effect would announce it.
        let (machine, _) = controller::Controller::new(plan);
        Self {
            machine,
            events: VecDeque::from([Event::Prepared(id)]),
            timer: None,
            heartbeats: BTreeMap::new(),
            work_due: false,
            outcome: None,
            error: None,
            held_since: None,
            hold: Duration::ZERO,
            held: None,
            sent: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    pub(super) fn is_releasing(&self) -> bool {
        matches!(self.machine.state(), State::Releasing | State::Done)
    }

    /// When its timer runs out.
    pub(super) fn due(&self) -> Instant {
        self.timer.unwrap_or_else(|| Instant::now() + IDLE)
    }

    pub(super) fn is_due(&self) -> bool {
        self.timer.is_some_and(|at| at <= Instant::now())
    }

    fn participants(&self) -> &[Participant] {
        &self.machine.plan().participants
    }

    /// Something happened on a link.
    pub(super) fn happened(&mut self, happening: &Happening) {
        match happening {
            Happening::Answered(slot, answer) if is_about(answer, self.machine.id()) => {
                self.push(Event::Answered(*slot, answer.clone()));
            }
            Happening::Lost(slot, _) | Happening::Refused(slot, _) => self.push(Event::Lost(*slot)),
            Happening::Answered(..) | Happening::Welcomed(..) => {}
        }
    }

    /// What is queued has been sent.
    pub(super) fn was_sent(&mut self) {
        for point in self.sent.drain(..) {
            match point {
                Point::ControllerHoldSent => {
                    self.held_since = Some(Instant::now());
                    let moves = self.machine.plan().change.job.is_some();
                    self.held = moves.then(Held::begin);
                }
                Point::ControllerReleaseSent => {
                    self.held = None;
                    self.hold = self.held_since.map_or(Duration::ZERO, |since| since.elapsed());
                }
                _ => {}
            }
            hit(point);
        }
    }

    fn note_sent(&mut self, request: &Request) {
        let point = match request {
            Request::Hold { .. } => Point::ControllerHoldSent,
            Request::Apply { .. } => Point::ControllerApplySent,
            Request::Release { .. } => Point::ControllerReleaseSent,
            _ => return,
        };
        if !self.sent.contains(&point) {
            self.sent.push(point);
        }
    }
}

impl Controller {
    /// One change alone, from preparing to its end. Answers what the store said when it failed, too.
    pub(super) fn fly_one(
        &mut self,
        change: NewChange,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<(Outcome, Option<Error>)> {
        check_weight(&change)?;
        let range = self.range()?;
        let id = self.store.prepare(self.term, &change)?;
        hit(Point::ControllerPrepared);
        let plan = self.plan(change, &range);
        let mut flight = match plan {
            Ok(plan) => Flight::prepared(plan, id),
            Err(why) => {
                self.store.cancel(id)?;
                return Err(why);
            }
        };
        loop {
            self.advance(&mut flight);
            if flight.work_due {
                self.work(&mut flight, work);
                continue;
            }
            self.flush(&mut [&mut flight]);
            if let Some(outcome) = flight.outcome.take() {
                return Ok((outcome, flight.error.take()));
            }
            self.wait(&mut [&mut flight]);
        }
    }

    /// Has the machine take what has happened, and carries out what it wants, until it waits or its work is due.
    pub(super) fn advance(&mut self, flight: &mut Flight) {
        while let Some(event) = flight.events.pop_front() {
            let before = flight.machine.state();
            let effects = flight.machine.on(event);
            if before == State::Applying && flight.is_releasing() {
                hit(Point::ControllerApplied);
            }
            for effect in effects {
                self.carry_out(flight, effect);
            }
        }
    }

    /// Does the work under the hold.
    pub(super) fn work(&mut self, flight: &mut Flight, work: &mut dyn FnMut() -> Result<(), String>) {
        flight.work_due = false;
        hit(Point::ControllerHeld);
        let done = work();
        hit(Point::ControllerWorked);
        flight.push(match done {
            Ok(()) => Event::WorkDone,
            Err(why) => Event::WorkFailed(why),
        });
    }

    /// Sends what is queued.
    pub(super) fn flush(&mut self, flights: &mut [&mut Flight]) {
        self.links.flush();
        flights.iter_mut().for_each(|flight| flight.was_sent());
    }

    /// Waits for the next thing to happen to any of these.
    pub(super) fn wait(&mut self, flights: &mut [&mut Flight]) {
        let due = flights.iter().map(|flight| flight.due()).min();
        let mut next = self.links.wait(due.unwrap_or_else(Instant::now));
        while let Some(happening) = next {
            flights.iter_mut().for_each(|flight| flight.happened(&happening));
            next = self.links.take();
        }
        for flight in flights.iter_mut().filter(|flight| flight.is_due()) {
            flight.timer = None;
            let alive = self.alive(flight);
            flight.push(Event::TimedOut(alive));
        }
    }

    /// Those who have shown life since the timer was armed.
    fn alive(&self, flight: &Flight) -> Vec<Slot> {
        let shows_life = |who: &&Participant| {
            let line = self.members.line(who.slot);
            let before = flight.heartbeats.get(&who.slot);
            let moves = before.is_some_and(|before| line.heartbeat_us > *before);
            line.incarnation == who.incarnation && moves && !self.has_ended(who.slot)
        };
        let alive = flight.participants().iter().filter(shows_life);
        alive.map(|who| who.slot).collect()
    }

    pub(super) fn heartbeats(&self, of: &[Participant]) -> BTreeMap<Slot, u64> {
        let heartbeat = |who: &Participant| (who.slot, self.members.line(who.slot).heartbeat_us);
        of.iter().map(heartbeat).collect()
    }

    fn carry_out(&mut self, flight: &mut Flight, effect: Effect) {
        match effect {
            // Done before the machine was made.
            Effect::Prepare => {}
            Effect::Send(slot, request) => {
                flight.note_sent(&request);
                self.links.send(slot, request);
            }
            Effect::Arm(us) => {
                flight.timer = Some(Instant::now() + Duration::from_micros(us));
                flight.heartbeats = self.heartbeats(flight.participants());
            }
            Effect::Disarm => flight.timer = None,
            Effect::Work => flight.work_due = true,
            Effect::Commit(version) => {
                let answer = self.store.commit(self.term, flight.machine.id(), version);
                flight.commit_answered(answer, &self.members);
            }
            Effect::Cancel => {
                let answer = self.store.cancel(flight.machine.id());
                hit(Point::ControllerCancelled);
                let event = match answer {
                    Ok(answer) => Event::Cancelled(answer),
                    Err(why) => Event::CancelFailed(flight.keep(why)),
                };
                flight.push(event);
            }
            Effect::Fence(who) => self.fence(flight, who),
            Effect::Finish(outcome) => {
                hit(Point::ControllerReleased);
                if let Outcome::Unfinished { why, .. } = &outcome {
                    self.unfinished = Some(why.clone());
                }
                flight.outcome = Some(outcome);
            }
        }
    }

    /// Store first, then the word, whatever the store answers: it is out, or its life is over anyhow.
    fn fence(&mut self, flight: &mut Flight, who: Participant) {
        self.links.flush();
        let answer = self.store.fence(self.term, who.slot, who.incarnation);
        hit(Point::ControllerFenceRecorded);
        self.members.fence(who.slot, who.incarnation);
        hit(Point::ControllerFenced);
        self.links.forget(who.slot);
        let event = match answer {
            Ok(version) => {
                if version.is_some() {
                    self.note_fenced(who.slot, &flight.machine);
                }
                Event::Fenced {
                    slot: who.slot,
                    version,
                    ended: self.has_ended(who.slot),
                }
            }
            Err(why) => Event::FenceFailed(who.slot, flight.keep(why)),
        };
        flight.push(event);
    }

    fn note_fenced(&mut self, slot: Slot, machine: &controller::Controller) {
        let Some(name) = self.names.get(&slot).cloned() else {
            return;
        };
        let step = if machine.state() == State::Holding {
            "hold"
        } else {
            "apply"
        };
        let text = format!(
            "silent at {step} of change {}: fenced, its hosts wait until it has rejoined",
            machine.id()
        );
        self.notes
            .push((Severity::Warning, format!("apparatus {name}"), text));
        self.fenced.push(name);
    }

    /// Whether the process in this slot is known to have ended.
    fn has_ended(&self, slot: Slot) -> bool {
        let alive = |name| LifeLock::alive(&self.pool, name).unwrap_or(true);
        self.names.get(&slot).is_some_and(|name| !alive(name.as_str()))
    }

    /// Logs what could not be logged while requests were held.
    pub(super) fn tell(&mut self) {
        for (severity, subject, text) in std::mem::take(&mut self.notes) {
            log::warn!("{subject}: {text}");
            // What a controller did for others than who asked for its change.
            if severity == Severity::Warning {
                let words = [format!("{subject}:"), text.clone()];
                if let Err(why) = history::note(&mut *self.store, "controller", words) {
                    log::warn!("history: {why}");
                }
            }
            if let Err(why) = self.store.log(severity, &subject, &text) {
                log::warn!("event log: {why}");
            }
        }
    }
}

impl Flight {
    fn commit_answered(
        &mut self,
        answer: Result<crate::store::Commit>,
        members: &crate::member::MemberTable,
    ) {
        hit(Point::ControllerCommitted);
        let event = match answer {
            Ok(answer) => {
                if let crate::store::Commit::Committed(generation) = answer {
                    members.set_committed(generation);
                }
                Event::Committed(answer)
            }
            Err(why) => Event::CommitFailed(self.keep(why)),
        };
        self.push(event);
    }

    fn keep(&mut self, why: Error) -> String {
        let text = why.to_string();
        self.error = Some(why);
        text
    }
}

/// Whether the answer belongs to this change.
fn is_about(answer: &Answer, id: ChangeId) -> bool {
    match answer {
        Answer::Held { change }
        | Answer::StillDraining { change, .. }
        | Answer::StillOpening { change, .. }
        | Answer::Applied { change, .. }
        | Answer::Released { change, .. } => *change == id,
        Answer::Refused { change, .. } => *change == Some(id),
        Answer::Welcome { .. }
        | Answer::Status(_)
        | Answer::Quiesced { .. }
        | Answer::Accepted
        | Answer::Opens(_)
        | Answer::Vacant => false,
    }
}
