//! The apparatuses of the model and their hosts.

use super::store::{Answer, Transaction};
use super::world::{Clock, Owner, Time};
use super::{Event, Fault, L, MS, Met, Model, Process, READS, Record, Report};
use crate::protocol::lease::{Lease, ReadGrace, Renewal, Standing};

/// What a controller tells an apparatus.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message {
    Note {
        ctl: usize,
        change: u64,
        term: u64,
    },
    Hold {
        ctl: usize,
        change: u64,
        term: u64,
        all: bool,
    },
    Apply {
        ctl: usize,
        change: u64,
        term: u64,
        placement: usize,
    },
    /// All others have applied it, or it was given up.
    Release {
        change: u64,
        term: u64,
        given_up: bool,
    },
    /// A controller that takes over has what is held decided by the store.
    Ask {
        change: u64,
        term: u64,
    },
}

impl Message {
    fn term(&self) -> u64 {
        match *self {
            Self::Note { term, .. }
            | Self::Hold { term, .. }
            | Self::Apply { term, .. }
            | Self::Release { term, .. }
            | Self::Ask { term, .. } => term,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    ctl: usize,
    change: u64,
    term: u64,
    /// None covers reads from the beginning.
    grace: Option<ReadGrace>,
    is_confirmed: bool,
    is_applied: bool,
}

/// A note that is to be confirmed when the writes before it have ended.
#[derive(Clone, Copy, Debug)]
struct Note {
    ctl: usize,
    change: u64,
    is_confirmed: bool,
    is_written: bool,
}

pub(super) struct Apparatus {
    pub(super) clock: Clock,
    lease: Lease,
    pub(super) word: bool,
    pub(super) is_dead: bool,
    term: u64,
    pub(super) placement: usize,
    hold: Option<Hold>,
    note: Option<Note>,
    /// After a commit that it has learnt from the store: others may not have applied it.
    holds_writes: bool,
    has_lapsed: bool,
}

impl Apparatus {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            lease: Lease::new(L),
            word: false,
            is_dead: false,
            term: 0,
            placement: 0,
            hold: None,
            note: None,
            holds_writes: false,
            has_lapsed: false,
        }
    }

    fn covers(&self, is_write: bool, now_us: u64) -> bool {
        let held = self
            .hold
            .is_some_and(|hold| is_write || !hold.grace.is_some_and(|grace| grace.admits(now_us)));
        held || (is_write && self.holds_writes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Parked,
    InFlight,
    Answered,
}

/// A request of a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostRequest {
    app: usize,
    is_write: bool,
    start: Time,
    stage: Stage,
    placement: usize,
    value: u64,
    /// Its record in the history; each run of a write has one.
    record: usize,
}

impl HostRequest {
    pub(super) fn is_in_flight_on(&self, app: usize, placement: usize) -> bool {
        self.app == app && self.placement == placement && self.stage == Stage::InFlight
    }
}

impl Model {
    pub(super) fn host(&mut self, app: usize, is_write: bool) {
        self.requests.push(HostRequest {
            app,
            is_write,
            start: self.queue.now,
            stage: Stage::Parked,
            placement: 0,
            value: 0,
            record: 0,
        });
        self.at_process(Process::Apparatus(app), 0, Event::Resume { app });
    }

    /// Tries all parked requests of an apparatus.
    pub(super) fn resume(&mut self, app: usize) {
        for request in 0..self.requests.len() {
            if self.requests[request].app == app && self.requests[request].stage == Stage::Parked {
                self.attempt(request);
            }
        }
    }

    /// Returns whether the apparatus may acknowledge something.
    fn may_serve(&mut self, app: usize) -> bool {
        let now = self.local(Process::Apparatus(app));
        let apparatus = &mut self.apps[app];
        let standing = apparatus.lease.standing(now);
        apparatus.has_lapsed |= standing == Standing::Lapsed;
        if standing == Standing::Lapsed {
            self.met(Met::Lapsed);
        }
        !self.apps[app].word && !self.apps[app].is_dead && standing == Standing::Valid
    }

    fn attempt(&mut self, number: usize) {
        let HostRequest {
            app, is_write, start, ..
        } = self.requests[number];
        let now = self.local(Process::Apparatus(app));
        if !self.may_serve(app) || self.apps[app].covers(is_write, now) {
            return;
        }
        if is_write {
            self.values += 1;
            self.requests[number].value = self.values;
            if let Some(note) = &mut self.apps[app].note {
                note.is_written = true;
            }
        }
        self.requests[number].record = self.history.len();
        self.history.push(Record {
            is_write,
            value: self.values,
            start,
            end: None,
        });
        self.requests[number].placement = self.apps[app].placement;
        self.requests[number].stage = Stage::InFlight;
        let access = self.access_time(app);
        let time = self.queue.now + access;
        self.queue.at(time, Event::Landed { request: number });
    }

    fn access_time(&mut self, app: usize) -> Time {
        match app == 0 && self.dice.chance(self.long_access) {
            true => self.dice.within(MS, 3 * L),
            false => self.dice.within(MS / 10, 3 * MS),
        }
    }

    pub(super) fn landed(&mut self, number: usize) {
        let request = self.requests[number];
        if self.apps[request.app].is_dead {
            return;
        }
        if request.is_write {
            if self.store.placements[request.placement].owner == Owner::Quarantine {
                self.met(Met::LateWrite);
            }
            self.land(request.placement, request.value, "a write");
        } else {
            self.requests[number].value = self.store.placements[request.placement].value;
        }
        self.at_process(
            Process::Apparatus(request.app),
            MS / 10,
            Event::AccessDone { request: number },
        );
    }

    pub(super) fn access_done(&mut self, number: usize) {
        let request = self.requests[number];
        let skips = match request.is_write {
            true => Fault::LookBeforeOnly,
            false => Fault::ReadLookBeforeOnly,
        };
        let looks = self.fault != Some(skips);
        if (looks && !self.may_serve(request.app)) || self.apps[request.app].is_dead {
            self.requests[number].stage = Stage::Parked;
            return self.drained(request.app);
        }
        if self.apps[request.app].word {
            self.requests[number].stage = Stage::Parked;
            return self.drained(request.app);
        }
        self.at_process(
            Process::Apparatus(request.app),
            MS / 10,
            Event::Replied { request: number },
        );
    }

    pub(super) fn replied(&mut self, number: usize) {
        let request = self.requests[number];
        self.requests[number].stage = Stage::Answered;
        let record = &mut self.history[request.record];
        record.value = request.value;
        record.end = Some(self.queue.now);
        self.drained(request.app);
    }

    /// Confirms what waits for requests in flight, if there are none.
    fn drained(&mut self, app: usize) {
        let flies = |writes_alone: bool| {
            self.requests.iter().any(|request| {
                request.app == app && request.stage == Stage::InFlight && (request.is_write || !writes_alone)
            })
        };
        let (writes, any) = (flies(true), flies(false));
        let mut report = Vec::new();
        let apparatus = &mut self.apps[app];
        if let Some(note) = apparatus
            .note
            .as_mut()
            .filter(|note| !note.is_confirmed && !writes)
        {
            note.is_confirmed = true;
            report.push((note.ctl, Report::Noting(note.change)));
        }
        let written = apparatus.note.is_none_or(|note| note.is_written);
        let waits = |hold: &&mut Hold| {
            let drained = if hold.grace.is_some() { !writes } else { !any };
            !hold.is_confirmed && drained
        };
        if let Some(hold) = apparatus.hold.as_mut().filter(waits) {
            hold.is_confirmed = true;
            report.push((hold.ctl, Report::Held(hold.change, written)));
        }
        for (ctl, report) in report {
            self.report(app, ctl, report);
        }
    }

    fn report(&mut self, app: usize, ctl: usize, report: Report) {
        if app == 0 && (self.is_cut(self.cut) || self.dice.chance(3)) {
            return;
        }
        let way = self.way();
        self.at_process(
            Process::Controller(ctl),
            way,
            Event::ToController { ctl, app, report },
        );
    }

    /// Reports that requests in flight take too long: an apparatus that is slow is not silent.
    pub(super) fn drain_overdue(&mut self, app: usize, change: u64) {
        let apparatus = &self.apps[app];
        let hold = apparatus
            .hold
            .filter(|hold| hold.change == change && !hold.is_confirmed);
        let note = apparatus
            .note
            .filter(|note| note.change == change && !note.is_confirmed);
        let ctl = hold.map(|hold| hold.ctl).or(note.map(|note| note.ctl));
        if let Some(ctl) = ctl.filter(|_| !self.apps[app].is_dead) {
            self.report(app, ctl, Report::StillDraining(change));
        }
    }

    pub(super) fn receive(&mut self, app: usize, message: Message) {
        let now = self.local(Process::Apparatus(app));
        let apparatus = &mut self.apps[app];
        if apparatus.is_dead || apparatus.word || message.term() < apparatus.term {
            return;
        }
        apparatus.term = message.term();
        match message {
            Message::Note { ctl, change, .. } => {
                apparatus.note = Some(Note {
                    ctl,
                    change,
                    is_confirmed: false,
                    is_written: false,
                });
                self.wait_for_drain(app, change);
            }
            Message::Hold {
                ctl,
                change,
                term,
                all,
            } => {
                let reads_us = match self.fault {
                    Some(Fault::GraceIgnored) => u64::MAX,
                    _ => READS,
                };
                apparatus.note = apparatus.note.filter(|note| note.change == change);
                apparatus.hold = Some(Hold {
                    ctl,
                    change,
                    term,
                    grace: (!all).then(|| ReadGrace::of_hold(now, reads_us)),
                    is_confirmed: false,
                    is_applied: false,
                });
                self.wait_for_drain(app, change);
            }
            Message::Ask { change, .. } => self.asked_to_ask(app, change),
            Message::Apply {
                ctl,
                change,
                placement,
                ..
            } => self.apply(app, ctl, change, placement),
            Message::Release {
                change,
                term,
                given_up,
            } => self.asked_to_release(app, change, term, given_up),
        }
    }

    fn wait_for_drain(&mut self, app: usize, change: u64) {
        self.at_process(
            Process::Apparatus(app),
            150 * MS,
            Event::DrainOverdue { app, change },
        );
        self.drained(app);
    }

    fn apply(&mut self, app: usize, ctl: usize, change: u64, placement: usize) {
        let apparatus = &mut self.apps[app];
        if let Some(hold) = apparatus.hold.as_mut().filter(|hold| hold.change == change) {
            hold.is_applied = true;
            apparatus.placement = placement;
        }
        if self.apps[app].placement == placement {
            self.report(app, ctl, Report::Applied(change));
        }
    }

    fn asked_to_ask(&mut self, app: usize, change: u64) {
        let held = self.apps[app].hold.is_some_and(|hold| hold.change == change);
        if held {
            self.transact(Process::Apparatus(app), Transaction::Cancel { change }, None);
        }
    }

    fn asked_to_release(&mut self, app: usize, change: u64, term: u64, given_up: bool) {
        let believes = self.fault == Some(Fault::GivenUpByAnother);
        let apparatus = &mut self.apps[app];
        apparatus.holds_writes &= given_up;
        let Some(hold) = apparatus.hold.filter(|hold| hold.change == change) else {
            return self.at_process(Process::Apparatus(app), 0, Event::Resume { app });
        };
        // Whoever gives up what is applied knows nothing of it: the hold ends when all have applied it.
        if hold.is_applied && given_up {
            return;
        }
        if hold.is_applied || (given_up && (believes || hold.term == term)) {
            apparatus.hold = None;
            apparatus.note = None;
            return self.at_process(Process::Apparatus(app), 0, Event::Resume { app });
        }
        self.transact(Process::Apparatus(app), Transaction::Cancel { change }, None);
    }

    pub(super) fn renew(&mut self, app: usize) {
        let now = self.local(Process::Apparatus(app));
        let renewal = Lease::renewal(now);
        if !(app == 0 && self.is_cut(self.store_cut)) {
            let transaction = Transaction::Renew { app, life: 1 };
            self.transact(Process::Apparatus(app), transaction, Some(renewal));
        }
        let clock = &self.apps[app].clock;
        let time = clock.when(self.queue.now, now + Lease::interval_us(L));
        self.queue.at(time, Event::Renew { app });
    }

    pub(super) fn store_answered(&mut self, app: usize, answer: Answer, renewal: Option<Renewal>) {
        let now = self.local(Process::Apparatus(app));
        let from_reply = self.fault == Some(Fault::LeaseFromReply);
        let apparatus = &mut self.apps[app];
        match (answer, renewal) {
            (Answer::Renewed(true), Some(renewal)) => {
                let counted = if from_reply { Lease::renewal(now) } else { renewal };
                apparatus.lease.renewed(counted);
                let went_on = std::mem::take(&mut apparatus.has_lapsed);
                if went_on && apparatus.lease.standing(now) == Standing::Valid {
                    self.met(Met::WentOnAfterLapse);
                }
            }
            (Answer::Renewed(false), _) => apparatus.lease.fenced(),
            (Answer::Cancelled { change }, _) => {
                apparatus.hold = apparatus.hold.filter(|hold| hold.change != change);
            }
            (Answer::Committed { change, placement }, _)
                if apparatus.hold.is_some_and(|hold| hold.change == change) =>
            {
                apparatus.hold = None;
                apparatus.placement = placement;
                apparatus.holds_writes = true;
            }
            _ => {}
        }
        self.at_process(Process::Apparatus(app), 0, Event::Resume { app });
    }
}
