//! A controller's process: arbitration, recovery, changes one after another or as a pipeline of two, hardening, freeing. Like the
//! driver it does one thing at a time, and hears what arrived when it is done.

mod arbitration;
mod change;
mod tidy;

pub use change::given_up;

use super::app::App;
use super::copy::{Copy, change_copies};
use super::disk::Begun;
use super::shared::Shared;
use super::work::Job;
use super::{Delay, LinkId, ProcId, Task, World};
use apparatus::change::controller::{Controller, Effect, Event, Outcome, Participant};
use apparatus::change::recovery::{self, Recovery};
use apparatus::store::Store;
use apparatus::units::{ChangeId, Generation, MembershipVersion, Slot, Term};
use apparatus::wire::message::Answer;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// An apparatus's own: finish what the last controller left.
    Recover,
    /// `vctl`'s, or a background job's.
    Work,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Todo {
    Lock,
    Recover(recovery::Effect),
    /// The second half of a fence.
    Word(Option<u64>, Participant, Option<MembershipVersion>),
    Plan,
    Change(u64, Effect),
    Read(u64, usize),
    Write(u64, usize),
    WorkDone(u64),
    Ended(Job, Outcome),
    HardenList,
    HardenFlush(Vec<(usize, Begun)>, Vec<ChangeId>),
    Harden(Vec<ChangeId>),
    FreeLook,
    Free(Generation),
    /// The explorer's: ask again only when all else has come to rest, or it would ask for ever.
    Pause,
    Quit,
}

/// What it hears.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    Change(u64, Event),
    Recovery(recovery::Event),
}

/// A change under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    pub machine: Controller,
    pub job: Job,
    pub copies: Vec<Copy>,
    /// Timers armed before have run out of meaning.
    pub epoch: u64,
    /// The next change of the pipeline has been begun.
    pub followed: bool,
}

#[derive(Clone, Debug)]
pub struct Ctl {
    pub id: ProcId,
    pub host: Option<usize>,
    pub goal: Goal,
    pub term: Term,
    pub recovery: Option<Recovery>,
    pub changes: BTreeMap<u64, Change>,
    keys: u64,
    pub todo: VecDeque<Todo>,
    pub heard: VecDeque<Heard>,
    pub stepping: bool,
    pub links: BTreeMap<Slot, LinkId>,
    pub chunks: u64,
}

impl World {
    pub fn new_ctl(&mut self, goal: Goal, host: Option<usize>) -> ProcId {
        let id = self.new_proc(host, true);
        let ctl = Ctl {
            id,
            host,
            goal,
            term: Term(0),
            recovery: None,
            changes: BTreeMap::new(),
            keys: 0,
            todo: VecDeque::from([Todo::Lock]),
            heard: VecDeque::new(),
            stepping: false,
            links: BTreeMap::new(),
            chunks: 0,
        };
        self.ctls.insert(id, Shared::new(ctl));
        self.wake(id);
        id
    }

    /// Sees to it that the controller takes its next step, if it has any.
    pub fn wake(&mut self, id: ProcId) {
        let Some(ctl) = self.ctls.get_mut(&id) else { return };
        if ctl.stepping || (ctl.todo.is_empty() && ctl.heard.is_empty()) {
            return;
        }
        ctl.stepping = true;
        let delay = match ctl.todo.front() {
            Some(Todo::Lock | Todo::Recover(_) | Todo::Plan | Todo::Harden(_) | Todo::Free(_)) => {
                Delay::Store
            }
            Some(Todo::Change(
                _,
                Effect::Prepare | Effect::Commit(_) | Effect::Cancel | Effect::Fence(_),
            )) => Delay::Store,
            Some(Todo::HardenFlush(..)) => Delay::Disk,
            _ => Delay::Step,
        };
        self.after(Some(id), delay, Task::Step(id));
    }

    pub fn ctl_step(&mut self, id: ProcId) {
        let Some(ctl) = self.ctls.get_mut(&id) else { return };
        ctl.stepping = false;
        if let Some(todo) = ctl.todo.pop_front() {
            self.do_it(id, todo);
        } else if let Some(heard) = ctl.heard.pop_front() {
            self.hear(id, heard);
        }
        self.wake(id);
        let crash = self.options.chaos.crash_points * 2;
        if !self.options.explore && self.ctls.contains_key(&id) && self.rng.permille(crash) {
            self.count("controllers killed at a step");
            self.kill_ctl(id);
        }
    }

    fn hear(&mut self, id: ProcId, heard: Heard) {
        match heard {
            Heard::Change(key, event) => self.change_event(id, key, event),
            Heard::Recovery(event) => self.recovery_event(id, event),
        }
    }

    pub fn do_last(&mut self, id: ProcId, todo: Todo) {
        if let Some(ctl) = self.ctls.get_mut(&id) {
            ctl.todo.push_back(todo);
        }
        self.wake(id);
    }

    /// Before anything else.
    pub fn do_next(&mut self, id: ProcId, todos: Vec<Todo>) {
        if let Some(ctl) = self.ctls.get_mut(&id) {
            todos.into_iter().rev().for_each(|todo| ctl.todo.push_front(todo));
        }
    }

    pub fn tell_later(&mut self, id: ProcId, heard: Heard) {
        if let Some(ctl) = self.ctls.get_mut(&id) {
            ctl.heard.push_back(heard);
        }
        self.wake(id);
    }

    /// An event for every change under way.
    pub fn ctl_told(&mut self, id: ProcId, event: Event) {
        let Some(ctl) = self.ctls.get(&id) else { return };
        let keys: Vec<u64> = ctl.changes.keys().copied().collect();
        for key in keys {
            self.tell_later(id, Heard::Change(key, event.clone()));
        }
    }

    pub fn ctl_answered(&mut self, id: ProcId, slot: Slot, answer: Answer) {
        self.ctl_told(id, Event::Answered(slot, answer));
    }

    pub fn ctl_timer(&mut self, id: ProcId, key: u64, epoch: u64) {
        let change = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key));
        if change.is_some_and(|change| change.epoch == epoch) {
            let alive = self.show_life();
            self.tell_later(id, Heard::Change(key, Event::TimedOut(alive)));
        }
    }

    /// The apparatuses whose heartbeat moves: they run and are not stopped. The explorer has a controller never see it.
    fn show_life(&self) -> Vec<Slot> {
        let shows =
            |app: &&Shared<App>| app.serves() && !self.stopped.contains(&app.proc) && !self.options.explore;
        let apps = self.apps.iter().flatten().filter(shows);
        apps.map(|app| app.slot).collect()
    }

    pub fn recovery_timer(&mut self, id: ProcId) {
        self.tell_later(id, Heard::Recovery(recovery::Event::TimedOut));
    }

    pub fn do_it(&mut self, id: ProcId, todo: Todo) {
        self.trace(|| format!("{id:?} {todo:?}"));
        self.check_hold_is_short(id, &todo);
        match todo {
            Todo::Lock => self.take_lock(id),
            Todo::Recover(effect) => self.recover(id, effect),
            Todo::Word(key, who, version) => self.set_word(id, key, who, version),
            Todo::Plan => self.plan(id),
            Todo::Change(key, effect) => self.do_effect(id, key, effect),
            // The explorer has the whole chunk read in one step, and written in one.
            Todo::Read(key, _) if self.options.explore => {
                (0..change_copies(self, id, key)).for_each(|index| self.copy_read(id, key, index));
            }
            Todo::Write(key, _) if self.options.explore => {
                (0..change_copies(self, id, key)).for_each(|index| self.copy_write(id, key, index));
            }
            Todo::Read(key, index) => self.copy_read(id, key, index),
            Todo::Write(key, index) => self.copy_write(id, key, index),
            Todo::WorkDone(key) => self.change_event(id, key, Event::WorkDone),
            Todo::Ended(job, outcome) => self.ended(id, job, &outcome),
            Todo::HardenList => self.harden_list(id),
            Todo::HardenFlush(begun, ids) => self.harden_flush(id, begun, ids),
            Todo::Harden(ids) => {
                self.count("hardened by a controller");
                let hardened = self.store.harden(&ids);
                self.must(hardened.is_ok(), || format!("harden: {hardened:?}"));
            }
            Todo::FreeLook => self.free_look(id),
            Todo::Free(oldest) => self.free(oldest),
            Todo::Pause => {}
            Todo::Quit => self.quit(id),
        }
    }
}
