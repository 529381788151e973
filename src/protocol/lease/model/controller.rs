//! The controllers of the model. Each moves the block again and again.

use super::apparatus::Message;
use super::store::{APPARATUSES, Answer, Prepared, Transaction};
use super::world::{Clock, Time};
use super::{Event, Fault, L, MS, Met, Model, Process, READS, Report};
use crate::protocol::lease::{ReadGrace, lease_has_run_out_us};

/// How long a controller waits for answers.
pub(super) const ANSWER: u64 = 300_000;
/// Moves of a controller.
const MOVES: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Idle,
    /// It waits until all have reached the table that the last controller has left.
    Recovering,
    Preparing,
    Noting,
    CopyingAhead,
    Holding,
    Working,
    Committing,
    Applying,
    /// Somebody was silent and is being fenced.
    Fencing {
        committed: bool,
    },
    AwaitingGrace,
    Stopped,
}

pub(super) struct Controller {
    pub(super) clock: Clock,
    pub(super) term: u64,
    pub(super) step: Step,
    timer: u32,
    pub(super) moves: u32,
    change: Option<Prepared>,
    all: bool,
    is_ahead: bool,
    is_written: bool,
    answered: [bool; APPARATUSES],
    hold_sent: u64,
    held_at: u64,
    answered_at: u64,
    /// When a copy may begin, because of a fence.
    pub(super) rests_at: u64,
    pub(super) has_waited: bool,
    takeover_planned: bool,
    /// The last change of the controller before, until all have reached it.
    pub(super) left: Option<u64>,
}

impl Controller {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            term: 0,
            step: Step::Idle,
            timer: 0,
            moves: 0,
            change: None,
            all: false,
            is_ahead: false,
            is_written: false,
            answered: [false; APPARATUSES],
            hold_sent: 0,
            held_at: 0,
            answered_at: 0,
            rests_at: 0,
            has_waited: false,
            takeover_planned: false,
            left: None,
        }
    }
}

impl Model {
    pub(super) fn arm(&mut self, ctl: usize, until: u64) {
        let now = self.queue.now;
        let controller = &mut self.ctls[ctl];
        controller.timer += 1;
        let (number, time) = (controller.timer, controller.clock.when(now, until));
        self.queue.at(time, Event::Timer { ctl, number });
    }

    pub(super) fn now_of(&self, ctl: usize) -> u64 {
        self.local(Process::Controller(ctl))
    }

    /// Begins the next move when it may copy.
    pub(super) fn next_move(&mut self, ctl: usize) {
        let pause = match self.dice.chance(50) {
            true => self.dice.within(MS, 300 * MS),
            false => self.dice.within(MS, L),
        };
        let now = self.now_of(ctl);
        let controller = &mut self.ctls[ctl];
        controller.step = match controller.moves < MOVES {
            true => Step::Idle,
            false => Step::Stopped,
        };
        controller.moves += 1;
        let until = (now + pause).max(controller.rests_at);
        // The moment at which it may rest on a lease is the one to look at.
        let until = match controller.rests_at > now {
            true => controller.rests_at,
            false => until,
        };
        self.arm(ctl, until);
    }

    pub(super) fn decided(&mut self, ctl: usize, answer: Answer) {
        match answer {
            Answer::Peeked(change) => self.peeked(ctl, change),
            Answer::Acquired(term, left) => self.acquired(ctl, term, left),
            Answer::Prepared(prepared) => self.prepared(ctl, prepared),
            Answer::Stale => self.ctls[ctl].step = Step::Stopped,
            Answer::Committed { change, placement } => self.committed(ctl, change, placement),
            Answer::Refused if self.ctls[ctl].step == Step::Committing => self.give_up(ctl),
            Answer::Fenced => self.fenced(ctl),
            _ => {}
        }
    }

    pub(super) fn send(&mut self, app: usize, message: Message) {
        if app == 0 && (self.is_cut(self.cut) || self.dice.chance(3)) {
            return;
        }
        let way = self.way();
        self.at_process(Process::Apparatus(app), way, Event::ToApparatus { app, message });
    }

    /// Tells all participants, and waits for their answers.
    fn ask(&mut self, ctl: usize, message: Message) {
        self.ctls[ctl].answered = self.joined(ctl).map(|joined| !joined);
        self.send_all(ctl, message);
        let until = self.now_of(ctl) + ANSWER;
        self.arm(ctl, until);
    }

    fn joined(&self, ctl: usize) -> [bool; APPARATUSES] {
        let change = self.ctls[ctl].change.as_ref();
        change.map_or([false; APPARATUSES], |change| change.joined)
    }

    fn send_all(&mut self, ctl: usize, message: Message) {
        let joined = self.joined(ctl);
        for app in (0..APPARATUSES).filter(|&app| joined[app]) {
            self.send(app, message);
        }
    }

    fn prepared(&mut self, ctl: usize, prepared: Prepared) {
        let late = self.has_late_writer();
        let change = prepared.change;
        let ahead = self.dice.chance(50);
        let controller = &mut self.ctls[ctl];
        let term = controller.term;
        controller.change = Some(prepared);
        controller.all = late;
        controller.is_ahead = ahead && (!late || self.fault == Some(Fault::AheadWithLateWriter));
        controller.is_written = false;
        let unrested = controller.rests_at == 0 && !self.joined(ctl)[0];
        if unrested {
            // Another controller has fenced it: when, this one does not know.
            self.rest(ctl);
            return self.give_up(ctl);
        }
        self.burst();
        if self.ctls[ctl].is_ahead {
            self.ctls[ctl].step = Step::Noting;
            self.ask(ctl, Message::Note { ctl, change, term });
        } else {
            self.hold(ctl);
        }
    }

    fn hold(&mut self, ctl: usize) {
        let now = self.now_of(ctl);
        let controller = &mut self.ctls[ctl];
        let Some(change) = controller.change.as_ref().map(|change| change.change) else {
            return;
        };
        controller.step = Step::Holding;
        controller.hold_sent = now;
        let (term, all) = (controller.term, controller.all);
        let plans = ctl == 0 && self.takes_over && !controller.takeover_planned && self.dice.chance(40);
        if plans {
            self.ctls[0].takeover_planned = true;
            let time = self.queue.now + self.dice.within(0, 30 * MS);
            self.queue.at(time, Event::TakeOver);
        }
        self.ask(
            ctl,
            Message::Hold {
                ctl,
                change,
                term,
                all,
            },
        );
    }

    pub(super) fn received(&mut self, ctl: usize, app: usize, report: Report) {
        let now = self.now_of(ctl);
        if app == 0 {
            self.ctls[ctl].answered_at = now;
        }
        let controller = &mut self.ctls[ctl];
        let Some(current) = controller.change.as_ref().map(|change| change.change) else {
            return;
        };
        match (controller.step, report) {
            (Step::Noting, Report::Noting(change)) if change == current => {}
            (Step::Holding, Report::Held(change, written)) if change == current => {
                controller.is_written |= written;
                if app == 0 {
                    controller.held_at = now;
                }
            }
            (Step::Applying, Report::Applied(change)) if change == current => {}
            (Step::Noting | Step::Holding, Report::StillDraining(change)) if change == current => {
                return self.give_up(ctl);
            }
            _ => return,
        }
        controller.answered[app] = true;
        if controller.answered.iter().all(|&answered| answered) {
            self.all_answered(ctl);
        }
    }

    fn all_answered(&mut self, ctl: usize) {
        match self.ctls[ctl].step {
            Step::Noting => {
                self.ctls[ctl].step = Step::CopyingAhead;
                self.copy(ctl);
            }
            Step::Holding => {
                self.ctls[ctl].step = Step::Working;
                match self.ctls[ctl].is_ahead && !self.ctls[ctl].is_written {
                    true => self.commit(ctl),
                    false => self.copy(ctl),
                }
            }
            Step::Applying => self.release(ctl),
            _ => {}
        }
    }

    /// Copies the block; now and then its write arrives late.
    fn copy(&mut self, ctl: usize) {
        let Some(change) = self.ctls[ctl].change.clone() else {
            return;
        };
        let value = self.store.placements[change.from].value;
        let long = self.dice.chance(20);
        let time = match long {
            true => self.dice.within(MS, 2 * L),
            false => self.dice.within(MS / 10, 20 * MS),
        };
        self.ctls[ctl].timer += 1;
        let lands = self.queue.now + time;
        let placement = change.placement;
        self.queue.at(lands, Event::CopyLanded { placement, value });
        // What is copied ahead is flushed before the hold.
        let flush = match self.ctls[ctl].step {
            Step::CopyingAhead => self.dice.within(MS, 300 * MS),
            _ => MS / 10,
        };
        let done = Event::CopyDone {
            ctl,
            change: change.change,
        };
        self.at_process(Process::Controller(ctl), time + flush, done);
    }

    pub(super) fn copy_landed(&mut self, placement: usize, value: u64) {
        if self.store.placements[placement].is_tainted {
            self.met(Met::LateCopy);
        }
        self.land(placement, value, "a copy");
    }

    pub(super) fn copy_done(&mut self, ctl: usize, change: u64) {
        let controller = &self.ctls[ctl];
        if controller.change.as_ref().map(|change| change.change) != Some(change) {
            return;
        }
        match controller.step {
            Step::CopyingAhead => self.hold(ctl),
            Step::Working => self.commit(ctl),
            _ => {}
        }
    }

    fn commit(&mut self, ctl: usize) {
        let controller = &mut self.ctls[ctl];
        controller.step = Step::Committing;
        let term = controller.term;
        if let Some(Prepared { change, version, .. }) = controller.change.clone() {
            let commit = Transaction::Commit {
                change,
                term,
                version,
            };
            self.act(ctl, commit);
        }
    }

    fn committed(&mut self, ctl: usize, change: u64, placement: usize) {
        let controller = &mut self.ctls[ctl];
        if controller.step != Step::Committing {
            return;
        }
        controller.step = Step::Applying;
        let term = controller.term;
        let (waited, ahead) = (controller.has_waited, controller.is_ahead);
        self.met(Met::Moved);
        if waited {
            self.met(Met::MovedAfterWait);
        }
        if ahead {
            self.met(Met::MovedAhead);
        }
        self.ask(
            ctl,
            Message::Apply {
                ctl,
                change,
                term,
                placement,
            },
        );
    }

    fn release(&mut self, ctl: usize) {
        let controller = &self.ctls[ctl];
        let (term, change) = (controller.term, controller.change.clone());
        if let Some(Prepared { change, from, .. }) = change {
            let message = Message::Release {
                change,
                term,
                given_up: false,
            };
            self.send_all(ctl, message);
            let time = self.queue.now + 100 * MS;
            self.queue.at(time, Event::Free { placement: from });
        }
        self.next_move(ctl);
    }

    /// Gives the change up: no commit of it is under way, and no write.
    fn give_up(&mut self, ctl: usize) {
        let controller = &self.ctls[ctl];
        let (term, change) = (controller.term, controller.change.clone());
        if let Some(Prepared { change, .. }) = change {
            let message = Message::Release {
                change,
                term,
                given_up: true,
            };
            self.send_all(ctl, message);
            self.act(ctl, Transaction::GiveUp { change });
        }
        self.next_move(ctl);
    }

    pub(super) fn timer(&mut self, ctl: usize, number: u32) {
        if self.ctls[ctl].timer != number {
            return;
        }
        match self.ctls[ctl].step {
            Step::Idle => self.prepare(ctl),
            Step::Recovering => self.recover(ctl),
            Step::Noting => {
                self.ctls[ctl].is_ahead = false;
                self.hold(ctl);
            }
            Step::Holding | Step::Applying => self.answers_overdue(ctl),
            Step::AwaitingGrace => self.release(ctl),
            _ => {}
        }
    }

    fn answers_overdue(&mut self, ctl: usize) {
        let committed = self.ctls[ctl].step == Step::Applying;
        if self.ctls[ctl].answered[0] {
            // The other one is alive and slow.
            return match committed {
                true => {
                    let until = self.now_of(ctl) + ANSWER;
                    self.arm(ctl, until);
                }
                false => self.give_up(ctl),
            };
        }
        self.met(if committed {
            Met::SilentAtApply
        } else {
            Met::SilentAtHold
        });
        if !committed {
            self.give_up(ctl);
        }
        let controller = &mut self.ctls[ctl];
        controller.timer += 1;
        controller.step = Step::Fencing { committed };
        if self.is_cut_by_fence {
            self.store_cut = (self.queue.now, Time::MAX);
        }
        self.act(ctl, Transaction::Fence { app: 0, life: 1 });
    }

    /// The store has the fence: says when something may rest on it.
    fn fenced(&mut self, ctl: usize) {
        let Step::Fencing { committed } = self.ctls[ctl].step else {
            return;
        };
        self.rest(ctl);
        if committed {
            self.await_grace(ctl);
        } else {
            self.next_move(ctl);
        }
    }

    /// Finds out when something may rest on the fence.
    fn rest(&mut self, ctl: usize) {
        let now = self.now_of(ctl);
        let received = self.ctls[ctl].answered_at;
        let rests_at = match self.fault {
            _ if self.has_neighbour => now + 10 * MS,
            Some(Fault::RestAtOnce) => now,
            Some(Fault::WaitFromSilence) => lease_has_run_out_us(received, L),
            Some(Fault::DriftIgnored) => now + L,
            _ => lease_has_run_out_us(now, L),
        };
        self.ctls[ctl].rests_at = rests_at;
        if self.has_neighbour {
            self.met(Met::ByNeighbour);
            let time = self.queue.now + 2 * MS;
            self.queue.at(time, Event::Word);
        } else {
            self.ctls[ctl].has_waited = true;
        }
    }

    fn await_grace(&mut self, ctl: usize) {
        let controller = &mut self.ctls[ctl];
        controller.step = Step::AwaitingGrace;
        // It was released with the others, when they had answered.
        controller.answered[0] = true;
        let from = match self.fault {
            Some(Fault::GraceFromHold) => controller.hold_sent,
            _ => controller.held_at,
        };
        let until = match controller.all {
            true => 0,
            false => ReadGrace::is_over_us(from, READS),
        };
        self.arm(ctl, until);
    }
}
