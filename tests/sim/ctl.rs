//! The explorer's controller: leadership, recovery, changes one after another, persisting, freeing. Like the production driver, which the
//! simulation runs (`driver.rs`), it does one thing at a time, and hears what arrived when it is done. Unlike that, it is a value: the explorer
//! copies it a million times and compares it, which no thread allows.

mod change;
mod leadership;
mod tidy;

pub use change::given_up;

use super::copy::{Copy, change_copies};
use super::disk::Begun;
use super::driver::Goal;
use super::shared::Shared;
use super::work::Job;
use super::{Delay, LinkId, ProcId, Task, World};
use apparatus::model::units::{ChangeId, Generation, MembershipVersion, Slot, Term};
use apparatus::protocol::controller::{Controller, Effect, Event, Outcome, Participant};
use apparatus::protocol::recovery::{self, Recovery};
use apparatus::rpc::message::Answer;
use apparatus::store::roles::*;
use std::collections::{BTreeMap, VecDeque};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Todo {
    Lock,
    Recover(recovery::Effect),
    /// The second half of a fence.
    Word(Option<u64>, Participant, Option<MembershipVersion>),
    Plan,
    Change(u64, Effect),
    /// The whole chunk is read in one step, and written in one.
    Read(u64),
    Write(u64),
    /// The copy ahead is done.
    Copied(u64),
    /// These blocks are read again under the hold, and written.
    ReadAgain(u64, Vec<usize>),
    WriteAgain(u64, Vec<usize>),
    WorkDone(u64),
    Ended(Job, Outcome),
    PersistList,
    PersistFlush(Vec<(usize, Begun)>, Vec<ChangeId>),
    Persist(Vec<ChangeId>),
    FreeLook,
    Free(Generation),
    /// The explorer's: ask again only when all else has come to rest, or it would ask for ever.
    Pause,
    Quit,
}

/// What it hears.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Inbound {
    Change(u64, Event),
    Recovery(recovery::Event),
}

/// A change under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    pub machine: Controller,
    pub job: Job,
    pub copies: Vec<Copy>,
    /// They were copied ahead.
    pub copied: bool,
    /// Timers armed before have run out of meaning.
    pub epoch: u64,
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
    pub inbound: VecDeque<Inbound>,
    pub stepping: bool,
    pub links: BTreeMap<Slot, LinkId>,
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
            inbound: VecDeque::new(),
            stepping: false,
            links: BTreeMap::new(),
        };
        self.ctls.insert(id, Shared::new(ctl));
        self.wake(id);
        id
    }

    /// Sees to it that the controller takes its next step, if it has any.
    pub fn wake(&mut self, id: ProcId) {
        let Some(ctl) = self.ctls.get_mut(&id) else { return };
        if ctl.stepping || (ctl.todo.is_empty() && ctl.inbound.is_empty()) {
            return;
        }
        ctl.stepping = true;
        let delay = match ctl.todo.front() {
            Some(Todo::Lock | Todo::Recover(_) | Todo::Plan | Todo::Persist(_) | Todo::Free(_)) => {
                Delay::Store
            }
            Some(Todo::Change(
                _,
                Effect::Prepare | Effect::Commit(_) | Effect::Cancel | Effect::Fence(_),
            )) => Delay::Store,
            Some(Todo::PersistFlush(..)) => Delay::Disk,
            _ => Delay::Step,
        };
        self.after(Some(id), delay, Task::Step(id));
    }

    pub fn ctl_step(&mut self, id: ProcId) {
        let Some(ctl) = self.ctls.get_mut(&id) else { return };
        ctl.stepping = false;
        if let Some(todo) = ctl.todo.pop_front() {
            self.do_it(id, todo);
        } else if let Some(inbound) = ctl.inbound.pop_front() {
            self.hear(id, inbound);
        }
        self.wake(id);
    }

    fn hear(&mut self, id: ProcId, inbound: Inbound) {
        match inbound {
            Inbound::Change(key, event) => self.change_event(id, key, event),
            Inbound::Recovery(event) => self.recovery_event(id, event),
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

    pub fn deliver_later(&mut self, id: ProcId, inbound: Inbound) {
        if let Some(ctl) = self.ctls.get_mut(&id) {
            ctl.inbound.push_back(inbound);
        }
        self.wake(id);
    }

    /// An event for every change under way.
    pub fn ctl_event(&mut self, id: ProcId, event: Event) {
        let Some(ctl) = self.ctls.get(&id) else { return };
        let keys: Vec<u64> = ctl.changes.keys().copied().collect();
        for key in keys {
            self.deliver_later(id, Inbound::Change(key, event.clone()));
        }
    }

    pub fn ctl_answered(&mut self, id: ProcId, slot: Slot, answer: Answer) {
        self.ctl_event(id, Event::Answered(slot, answer));
    }

    pub fn ctl_timer(&mut self, id: ProcId, key: u64, epoch: u64) {
        let change = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key));
        if change.is_some_and(|change| change.epoch == epoch) {
            // It never sees a heartbeat move.
            self.deliver_later(id, Inbound::Change(key, Event::TimedOut(Vec::new())));
        }
    }

    pub fn recovery_timer(&mut self, id: ProcId) {
        self.deliver_later(id, Inbound::Recovery(recovery::Event::TimedOut));
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
            Todo::Read(key) => {
                (0..change_copies(self, id, key)).for_each(|index| self.copy_read(id, key, index));
            }
            Todo::Write(key) => {
                (0..change_copies(self, id, key)).for_each(|index| self.copy_write(id, key, index));
            }
            Todo::Copied(key) => self.copied_ahead(id, key),
            Todo::ReadAgain(key, which) => {
                which.into_iter().for_each(|index| self.copy_read(id, key, index));
            }
            Todo::WriteAgain(key, which) => {
                which
                    .into_iter()
                    .for_each(|index| self.copy_write_again(id, key, index));
            }
            Todo::WorkDone(key) => self.change_event(id, key, Event::WorkDone),
            Todo::Ended(job, outcome) => self.ctl_ended(id, job, &outcome),
            Todo::PersistList => self.persist_list(id),
            Todo::PersistFlush(begun, ids) => self.persist_flush(id, begun, ids),
            Todo::Persist(ids) => {
                self.count("persisted by a controller");
                let persisted = self.store.persist(&ids);
                self.must(persisted.is_ok(), || format!("persist: {persisted:?}"));
            }
            Todo::FreeLook => self.free_look(id),
            Todo::Free(oldest) => self.free(oldest),
            Todo::Pause => {}
            Todo::Quit => self.quit(id),
        }
    }
}
