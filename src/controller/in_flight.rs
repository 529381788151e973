//! Runs one change: its state machine, its timer, and the effects that the machine requests.

use super::whole::check_weight;
use super::{Claimed, Controller};
use crate::cluster::Membership;
use crate::controller::history;
use crate::failpoint::{Point, hit};
use crate::held::HoldScope;
use crate::model::change::NewChange;
use crate::model::error::{Error, Result};
use crate::model::event::Severity;
use crate::model::units::{ChangeId, Slot};
use crate::protocol::controller::{self, Effect, Event, Outcome, Participant, Plan, State};
use crate::rpc::client::WaitOutcome;
use crate::rpc::message::{Answer, Request};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How long to wait for events when no timer is armed. No state of the machine waits without one.
const IDLE: Duration = Duration::from_secs(1);

/// A change from its announcement to its end.
pub(super) struct InFlightChange {
    pub(super) machine: controller::Controller,
    events: VecDeque<Event>,
    timer: Option<Instant>,
    /// The heartbeats of the participants, as they were when the timer was armed.
    heartbeats: BTreeMap<Slot, u64>,
    /// The copy ahead is due: every participant notes writes.
    pub(super) copy_due: bool,
    /// The work is due: every participant holds.
    pub(super) work_due: bool,
    pub(super) outcome: Option<Outcome>,
    /// The last error of the store, which has more detail than the machine keeps.
    pub(super) error: Option<Error>,
    /// When the first request to hold was sent; the hold lasts until the last release was sent.
    held_since: Option<Instant>,
    pub(super) hold: Duration,
    /// Watches the hold, if the change is a job's.
    held: Option<HoldScope>,
    /// Failpoints that are reached once the queued messages have been sent.
    sent: Vec<Point>,
}

impl InFlightChange {
    /// Starts the machine of a change that has been announced in the store, under this number.
    pub(super) fn prepared(plan: Plan, id: ChangeId) -> Self {
        // The first effect, which would announce the change, is dropped.
        let (machine, _) = controller::Controller::new(plan);
        Self {
            machine,
            events: VecDeque::from([Event::Prepared(id)]),
            timer: None,
            heartbeats: BTreeMap::new(),
            copy_due: false,
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

    /// Returns when its timer runs out.
    pub(super) fn due(&self, now: Instant) -> Instant {
        self.timer.unwrap_or(now + IDLE)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.timer.is_some_and(|at| at <= now)
    }

    fn participants(&self) -> &[Participant] {
        &self.machine.plan().participants
    }

    /// Turns an event of a link into one of the machine.
    pub(super) fn on_link_event(&mut self, link_event: &WaitOutcome) {
        match link_event {
            WaitOutcome::Answered(slot, answer) if is_about(answer, self.machine.id()) => {
                self.push(Event::Answered(*slot, answer.clone()));
            }
            WaitOutcome::Lost(slot, _) | WaitOutcome::Refused(slot, _) => self.push(Event::Lost(*slot)),
            WaitOutcome::Answered(..) | WaitOutcome::Welcomed(..) => {}
        }
    }

    /// Notes that the queued messages have been sent.
    pub(super) fn was_sent(&mut self, now: Instant) {
        for point in self.sent.drain(..) {
            match point {
                Point::ControllerHoldSent => {
                    self.held_since = Some(now);
                    let moves = self.machine.plan().change.job.is_some();
                    self.held = moves.then(HoldScope::begin);
                }
                Point::ControllerReleaseSent => {
                    self.held = None;
                    self.hold = self
                        .held_since
                        .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
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
    /// Runs one change alone, from preparing to its end. Returns the store's error, too, when it failed.
    pub(super) fn run_one(
        &mut self,
        change: NewChange,
        claimed: &mut Claimed<'_>,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<(Outcome, Option<Error>)> {
        check_weight(&change)?;
        let id = self.store.prepare(self.term, &change)?;
        hit(Point::ControllerPrepared);
        let plan = claimed(self, &change)
            .and_then(|()| self.range())
            .and_then(|range| self.plan(change, &range));
        let mut in_flight = match plan {
            Ok(plan) => InFlightChange::prepared(plan, id),
            Err(why) => {
                self.store.cancel(id)?;
                return Err(why);
            }
        };
        loop {
            self.advance(&mut in_flight);
            if in_flight.work_due {
                self.work(&mut in_flight, work);
                continue;
            }
            self.flush(&mut [&mut in_flight]);
            if let Some(outcome) = in_flight.outcome.take() {
                return Ok((outcome, in_flight.error.take()));
            }
            self.wait(&mut [&mut in_flight]);
        }
    }

    /// Feeds the queued events to the machine and carries out its effects, until it waits or its work is due.
    pub(super) fn advance(&mut self, in_flight: &mut InFlightChange) {
        while let Some(event) = in_flight.events.pop_front() {
            let before = in_flight.machine.state();
            let effects = in_flight.machine.on(event);
            if before == State::Applying && in_flight.is_releasing() {
                hit(Point::ControllerApplied);
            }
            for effect in effects {
                self.carry_out(in_flight, effect);
            }
        }
    }

    /// Copies ahead, while nothing is held.
    pub(super) fn copy(
        &mut self,
        in_flight: &mut InFlightChange,
        copy: &mut dyn FnMut() -> Result<(), String>,
    ) {
        in_flight.copy_due = false;
        hit(Point::ControllerNoted);
        let done = copy();
        hit(Point::ControllerCopied);
        in_flight.push(match done {
            Ok(()) => Event::Copied,
            Err(why) => Event::CopyFailed(why),
        });
    }

    /// Does the work under the hold.
    pub(super) fn work(
        &mut self,
        in_flight: &mut InFlightChange,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) {
        in_flight.work_due = false;
        hit(Point::ControllerHeld);
        let done = work();
        hit(Point::ControllerWorked);
        in_flight.push(match done {
            Ok(()) => Event::WorkDone,
            Err(why) => Event::WorkFailed(why),
        });
    }

    /// Sends the queued messages.
    pub(super) fn flush(&mut self, in_flight: &mut [&mut InFlightChange]) {
        self.links.flush();
        let now = self.environment.now();
        in_flight.iter_mut().for_each(|in_flight| in_flight.was_sent(now));
    }

    /// Waits for the next event of any of these changes.
    pub(super) fn wait(&mut self, in_flight: &mut [&mut InFlightChange]) {
        let now = self.environment.now();
        let due = in_flight.iter().map(|in_flight| in_flight.due(now)).min();
        let mut next = self.links.wait(due.unwrap_or(now));
        while let Some(link_event) = next {
            in_flight
                .iter_mut()
                .for_each(|in_flight| in_flight.on_link_event(&link_event));
            next = self.links.take();
        }
        let now = self.environment.now();
        for in_flight in in_flight.iter_mut().filter(|in_flight| in_flight.is_due(now)) {
            in_flight.timer = None;
            let alive = self.alive(in_flight);
            in_flight.push(Event::TimedOut(alive));
        }
    }

    /// Returns the participants whose heartbeat has advanced since the timer was armed.
    fn alive(&self, in_flight: &InFlightChange) -> Vec<Slot> {
        let shows_life = |who: &&Participant| {
            let entry = self.members.entry(who.slot);
            let before = in_flight.heartbeats.get(&who.slot);
            let moves = before.is_some_and(|before| entry.heartbeat_us > *before);
            entry.incarnation == who.incarnation && moves && !self.has_ended(who.slot)
        };
        let alive = in_flight.participants().iter().filter(shows_life);
        alive.map(|who| who.slot).collect()
    }

    pub(super) fn heartbeats(&self, of: &[Participant]) -> BTreeMap<Slot, u64> {
        let heartbeat = |who: &Participant| (who.slot, self.members.entry(who.slot).heartbeat_us);
        of.iter().map(heartbeat).collect()
    }

    fn carry_out(&mut self, in_flight: &mut InFlightChange, effect: Effect) {
        match effect {
            // This was done before the machine was started.
            Effect::Prepare => {}
            Effect::Send(slot, request) => {
                in_flight.note_sent(&request);
                self.links.send(slot, request);
            }
            Effect::Arm(us) => {
                in_flight.timer = Some(self.environment.now() + Duration::from_micros(us));
                in_flight.heartbeats = self.heartbeats(in_flight.participants());
            }
            Effect::Disarm => in_flight.timer = None,
            Effect::Copy => in_flight.copy_due = true,
            Effect::Work => in_flight.work_due = true,
            Effect::Commit(version) => {
                let answer = self.store.commit(self.term, in_flight.machine.id(), version);
                in_flight.commit_answered(answer, &*self.members);
            }
            Effect::Cancel => {
                // Apparatuses that need not wait for the store are told before it is asked.
                self.links.flush();
                let answer = self.store.cancel(in_flight.machine.id());
                hit(Point::ControllerCancelled);
                let event = match answer {
                    Ok(answer) => Event::Cancelled(answer),
                    Err(why) => Event::CancelFailed(in_flight.keep_error(why)),
                };
                in_flight.push(event);
            }
            Effect::Fence(who) => self.fence(in_flight, who),
            Effect::Finish(outcome) => {
                hit(Point::ControllerReleased);
                if let Outcome::Unfinished { why, .. } = &outcome {
                    self.unfinished = Some(why.clone());
                }
                in_flight.outcome = Some(outcome);
            }
        }
    }

    /// Fences an apparatus: in the store first, then by its fence word, whatever the store answers: if it is not fenced now, its
    /// incarnation has ended anyway.
    fn fence(&mut self, in_flight: &mut InFlightChange, who: Participant) {
        self.links.flush();
        let answer = self.store.fence(self.term, who.slot, who.incarnation);
        hit(Point::ControllerFenceRecorded);
        // Where members are on other nodes, changes hold reads too: one that has confirmed its hold serves nothing of the range by the old table. So
        // nobody has to wait for it now; the next change does, until it is known to acknowledge nothing.
        if !self.elsewhere.has(who.slot) {
            self.members.fence(who.slot, who.incarnation);
        }
        hit(Point::ControllerFenced);
        self.links.forget(who.slot);
        let event = match answer {
            Ok(version) => {
                if version.is_some() {
                    self.note_fenced(who.slot, &in_flight.machine);
                }
                Event::Fenced {
                    slot: who.slot,
                    version,
                    ended: self.has_ended(who.slot),
                }
            }
            Err(why) => Event::FenceFailed(who.slot, in_flight.keep_error(why)),
        };
        in_flight.push(event);
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
            "silent at {step} of change {}: fenced; its hosts wait until it has rejoined",
            machine.id()
        );
        self.notes
            .push((Severity::Warning, format!("apparatus {name}"), text));
        self.fenced.push(name);
    }

    /// Returns whether the process in this slot is known to have ended.
    fn has_ended(&self, slot: Slot) -> bool {
        let alive = |name| self.cluster.is_claimed(name).unwrap_or(true);
        !self.elsewhere.has(slot) && self.names.get(&slot).is_some_and(|name| !alive(name.as_str()))
    }

    /// Logs what could not be logged while requests were held.
    pub(super) fn log_notes(&mut self) {
        for (severity, subject, text) in std::mem::take(&mut self.notes) {
            log::log!(severity.level(), "{subject}: {text}");
            // The history gets what a controller did beyond the change that it was asked for.
            if severity == Severity::Warning {
                let words = [format!("{subject}:"), text.clone()];
                if let Err(why) = history::note(&mut *self.store, &*self.cluster, "controller", words) {
                    log::warn!("history: {why}");
                }
            }
            if let Err(why) = self.store.log(severity, &subject, &text) {
                log::warn!("event log: {why}");
            }
        }
    }
}

impl InFlightChange {
    fn commit_answered(&mut self, answer: Result<crate::model::change::Commit>, members: &dyn Membership) {
        hit(Point::ControllerCommitted);
        let event = match answer {
            Ok(answer) => {
                if let crate::model::change::Commit::Committed(generation) = answer {
                    members.set_committed(generation);
                }
                Event::Committed(answer)
            }
            Err(why) => Event::CommitFailed(self.keep_error(why)),
        };
        self.push(event);
    }

    fn keep_error(&mut self, why: Error) -> String {
        let text = why.to_string();
        self.error = Some(why);
        text
    }
}

/// Returns whether the answer belongs to this change.
fn is_about(answer: &Answer, id: ChangeId) -> bool {
    match answer {
        Answer::Noting { change }
        | Answer::Held { change, .. }
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
        | Answer::NeighbourFenced { .. }
        | Answer::Vacant => false,
    }
}
