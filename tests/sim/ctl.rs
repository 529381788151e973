//! A controller's process: arbitration, recovery, changes one after another or as a pipeline of two, hardening, freeing. Like the
//! driver it does one thing at a time, and hears what arrived when it is done.

use super::copy::Copy;
use super::fault::Fault;
use super::work::{Done, Job};
use super::{Delay, LinkId, ProcId, Task, World};
use apparatus::change::controller::{Controller, Effect, Event, Outcome, Participant, Plan, State};
use apparatus::change::recovery::{self, Recovery};
use apparatus::store::{Cancel, Store};
use apparatus::units::{ChangeId, Generation, MembershipVersion, Slot, Term};
use apparatus::wire::message::{Answer, Request};
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
    HardenFlush(Vec<(usize, u64)>, Vec<ChangeId>),
    Harden(Vec<ChangeId>),
    FreeLook,
    Free(Generation),
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
        let id = self.new_proc();
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
        self.ctls.insert(id, ctl);
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

    pub fn change_event(&mut self, id: ProcId, key: u64, event: Event) {
        self.trace(|| format!("{id:?} {key} {event:?}"));
        let spoilt = self.spoil(id, key, &event);
        let Some(ctl) = self.ctls.get_mut(&id) else { return };
        let Some(change) = ctl.changes.get_mut(&key) else {
            return;
        };
        let mut effects = change.machine.on(event);
        for event in spoilt {
            effects.extend(change.machine.on(event));
        }
        // Messages and timers cost nothing; what takes time is done in order, and before anything is heard.
        let follows = change.machine.state() == State::Releasing && !change.followed;
        change.followed |= follows;
        for effect in effects {
            self.queue_effect(id, key, effect);
        }
        if follows && self.pipelines() {
            self.count("pipelined");
            self.do_last(id, Todo::Plan);
        } else if follows
            && let Some(change) = self.ctls.get_mut(&id).and_then(|ctl| ctl.changes.get_mut(&key))
        {
            change.followed = false;
        }
    }

    fn pipelines(&mut self) -> bool {
        !self.options.explore && !self.ending && self.rng.permille(500)
    }

    /// A fault that has the machine believe what has not been said.
    fn spoil(&mut self, id: ProcId, key: u64, event: &Event) -> Vec<Event> {
        let Event::Answered(
            _,
            Answer::Applied {
                change,
                generation,
                oldest,
            },
        ) = event
        else {
            return Vec::new();
        };
        if !self.wrong(Fault::ReleaseEarly) {
            return Vec::new();
        }
        let (change, generation, oldest) = (*change, *generation, *oldest);
        let machine = self
            .ctls
            .get(&id)
            .and_then(|ctl| ctl.changes.get(&key))
            .map(|change| &change.machine);
        let slots = machine.map(|machine| {
            machine
                .plan()
                .participants
                .iter()
                .map(|who| who.slot)
                .collect::<Vec<_>>()
        });
        let applied = |slot| {
            Event::Answered(
                slot,
                Answer::Applied {
                    change,
                    generation,
                    oldest,
                },
            )
        };
        slots.unwrap_or_default().into_iter().map(applied).collect()
    }

    fn queue_effect(&mut self, id: ProcId, key: u64, effect: Effect) {
        match effect {
            Effect::Send(slot, request) => self.send(id, key, slot, &request),
            Effect::Arm(us) => {
                let Some(epoch) = self.next_epoch(id, key) else {
                    return;
                };
                self.after(Some(id), Delay::Exactly(us), Task::CtlTimer(id, key, epoch));
            }
            Effect::Disarm => _ = self.next_epoch(id, key),
            effect => self.do_last(id, Todo::Change(key, effect)),
        }
    }

    fn next_epoch(&mut self, id: ProcId, key: u64) -> Option<u64> {
        let change = self.ctls.get_mut(&id)?.changes.get_mut(&key)?;
        change.epoch += 1;
        Some(change.epoch)
    }

    fn send(&mut self, id: ProcId, key: u64, slot: Slot, request: &Request) {
        let Some(ctl) = self.ctls.get(&id) else { return };
        let (term, known) = (ctl.term, ctl.links.get(&slot).copied());
        match known.or_else(|| self.connect(id, slot)) {
            Some(link) => {
                if let Some(ctl) = self.ctls.get_mut(&id) {
                    ctl.links.insert(slot, link);
                }
                self.send_to_app(link, term, request);
            }
            None => self.tell_later(id, Heard::Change(key, Event::Lost(slot))),
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

    fn tell_later(&mut self, id: ProcId, heard: Heard) {
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
            self.tell_later(id, Heard::Change(key, Event::TimedOut));
        }
    }

    pub fn recovery_timer(&mut self, id: ProcId) {
        self.tell_later(id, Heard::Recovery(recovery::Event::TimedOut));
    }

    fn do_it(&mut self, id: ProcId, todo: Todo) {
        self.trace(|| format!("{id:?} {todo:?}"));
        match todo {
            Todo::Lock => self.take_lock(id),
            Todo::Recover(effect) => self.recover(id, effect),
            Todo::Word(key, who, version) => self.set_word(id, key, who, version),
            Todo::Plan => self.plan(id),
            Todo::Change(key, effect) => self.do_effect(id, key, effect),
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
            Todo::Quit => self.quit(id),
        }
    }

    fn take_lock(&mut self, id: ProcId) {
        let Some(goal) = self.ctls.get(&id).map(|ctl| ctl.goal) else {
            return;
        };
        if self.lock.is_some() {
            self.count("found the arbitration taken");
            if goal == Goal::Recover {
                return self.quit(id);
            }
            if let Some(ctl) = self.ctls.get_mut(&id) {
                ctl.todo.push_front(Todo::Lock);
                ctl.stepping = true;
                self.after(Some(id), Delay::Exactly(900), Task::Step(id));
            }
            return;
        }
        self.lock = Some(id);
        let term = self.store.raise_term().unwrap_or_default();
        let (recovery, effects) = Recovery::new(self.options.poll_us, 5);
        if let Some(ctl) = self.ctls.get_mut(&id) {
            ctl.term = term;
            ctl.recovery = Some(recovery);
            ctl.todo.extend(effects.into_iter().map(Todo::Recover));
        }
    }

    fn recovery_event(&mut self, id: ProcId, event: recovery::Event) {
        let Some(recovery) = self.ctls.get_mut(&id).and_then(|ctl| ctl.recovery.as_mut()) else {
            return;
        };
        for effect in recovery.on(event) {
            self.do_last(id, Todo::Recover(effect));
        }
    }

    fn recover(&mut self, id: ProcId, effect: recovery::Effect) {
        match effect {
            recovery::Effect::RecoverBoot => {
                let boot = self.boot();
                let undone = self.store.recover_boot(boot).unwrap_or_default();
                self.recovery_event(id, recovery::Event::BootRecovered(undone));
            }
            recovery::Effect::Look => {
                let view = self.view();
                self.recovery_event(id, recovery::Event::Looked(view));
            }
            recovery::Effect::Cancel(change) => {
                self.count("changes cancelled by the next controller");
                let answer = self.store.cancel(change).unwrap_or(Cancel::Cancelled);
                self.recovery_event(id, recovery::Event::Cancelled(change, answer));
            }
            recovery::Effect::SetWord(who) => {
                self.count("words set by the next controller");
                self.word(who);
            }
            recovery::Effect::Leave(who) => {
                self.count("dead members marked");
                let left = self.store.leave(who.slot, who.incarnation);
                self.must(left.is_ok(), || format!("leave: {left:?}"));
            }
            recovery::Effect::Fence(who) => self.fence(id, None, who),
            recovery::Effect::Arm(us) => {
                self.count("waited for those behind");
                self.after(Some(id), Delay::Exactly(us), Task::RecoveryTimer(id));
            }
            recovery::Effect::Finish(_) => self.recovered(id),
        }
    }

    fn view(&mut self) -> recovery::View {
        let current = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        let unfinished = self.store.unfinished().unwrap_or_default();
        let prepared = unfinished
            .iter()
            .filter(|record| record.state == apparatus::store::ChangeState::Prepared);
        let prepared = prepared.map(|record| record.id).collect();
        let mut members = self.see();
        if self.wrong(Fault::RecoveryIgnoresBehind) {
            members.iter_mut().for_each(|seen| seen.generation = current);
        }
        recovery::View {
            current,
            members,
            prepared,
        }
    }

    fn recovered(&mut self, id: ProcId) {
        let Some(ctl) = self.ctls.get_mut(&id) else { return };
        ctl.recovery = None;
        let next = if ctl.goal == Goal::Recover {
            Todo::Quit
        } else {
            Todo::Plan
        };
        self.after_recovery();
        self.do_last(id, next);
    }

    /// Gives the arbitration back and ends.
    fn quit(&mut self, id: ProcId) {
        self.alive.remove(&id);
        self.ctls.remove(&id);
        self.hang_up(id);
        if self.lock == Some(id) {
            self.lock = None;
        }
    }

    /// Starts a change.
    pub fn begin(&mut self, id: ProcId, plan: Plan, job: Job, copies: Vec<Copy>) {
        let (machine, effects) = Controller::new(plan);
        let Some(ctl) = self.ctls.get_mut(&id) else { return };
        ctl.keys += 1;
        let key = ctl.keys;
        ctl.changes.insert(
            key,
            Change {
                machine,
                job,
                copies,
                epoch: 0,
                followed: false,
            },
        );
        for effect in effects {
            self.queue_effect(id, key, effect);
        }
    }

    fn do_effect(&mut self, id: ProcId, key: u64, effect: Effect) {
        let Some(ctl) = self.ctls.get(&id) else { return };
        let Some(change) = ctl.changes.get(&key) else {
            return;
        };
        let (term, machine) = (ctl.term, change.machine.clone());
        match effect {
            Effect::Prepare => {
                let event = match self.store.prepare(term, &machine.plan().change) {
                    Ok(change) => Event::Prepared(change),
                    Err(why) => Event::PrepareFailed(why.to_string()),
                };
                self.change_event(id, key, event);
            }
            Effect::Work => {
                self.spoil_apply(id, key);
                let copies = change_copies(self, id, key);
                let reads = (0..copies).map(|index| Todo::Read(key, index));
                let writes = (0..copies).map(|index| Todo::Write(key, index));
                let todos = reads.chain(writes).chain([Todo::WorkDone(key)]).collect();
                self.do_next(id, todos);
            }
            Effect::Commit(version) => self.commit(id, key, term, machine.id(), version),
            Effect::Cancel => {
                let event = match self.store.cancel(machine.id()) {
                    Ok(answer) => Event::Cancelled(answer),
                    Err(why) => Event::CancelFailed(why.to_string()),
                };
                self.change_event(id, key, event);
            }
            Effect::Fence(who) => self.fence(id, Some(key), who),
            Effect::Finish(outcome) => {
                let job = self
                    .ctls
                    .get_mut(&id)
                    .and_then(|ctl| ctl.changes.remove(&key))
                    .map(|change| (change.job, change.followed));
                if let Some((job, followed)) = job {
                    self.do_next(id, vec![Todo::Ended(job, outcome)]);
                    if !followed {
                        self.what_next(id);
                    }
                }
            }
            Effect::Send(..) | Effect::Arm(_) | Effect::Disarm => {}
        }
    }

    /// A fault: the difference is sent before it is committed.
    fn spoil_apply(&mut self, id: ProcId, key: u64) {
        let Some(change) = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key)) else {
            return;
        };
        if self.options.fault != Some(Fault::ApplyBeforeCommit) {
            return;
        }
        let difference = change.machine.plan().change.difference.clone();
        let request = Request::Apply {
            change: change.machine.id(),
            generation: difference.from.next(),
            difference,
        };
        let slots: Vec<Slot> = change
            .machine
            .plan()
            .participants
            .iter()
            .map(|who| who.slot)
            .collect();
        for slot in slots {
            self.send(id, key, slot, &request);
        }
    }

    fn commit(&mut self, id: ProcId, key: u64, term: Term, change: ChangeId, version: MembershipVersion) {
        let unchecked = self.wrong(Fault::MembershipUnchecked);
        let current = self
            .store
            .members()
            .map(|(version, _)| version)
            .unwrap_or_default();
        let version = if unchecked { current } else { version };
        let lost = !self.options.explore && self.rng.permille(self.options.chaos.store_fails);
        let event = match self.store.commit(term, change, version) {
            _ if lost => {
                self.count("answers to a commit lost");
                Event::CommitFailed("the answer was lost".into())
            }
            Ok(answer) => {
                self.note_commit(&answer);
                Event::Committed(answer)
            }
            Err(why) => Event::CommitFailed(why.to_string()),
        };
        if self.wrong(Fault::FreeAtOnce) {
            self.free_at_once();
        }
        self.change_event(id, key, event);
    }

    fn note_commit(&mut self, answer: &apparatus::store::Commit) {
        use apparatus::store::Commit;
        self.count(match answer {
            Commit::Committed(_) => "commits",
            Commit::Cancelled => "commits too late: a hold had ended",
            Commit::MembershipMoved(_) => "commits refused: membership moved",
            Commit::GenerationMoved(_) => "commits refused: generation moved",
            Commit::StaleTerm(_) => "commits refused: stale term",
        });
    }

    fn fence(&mut self, id: ProcId, key: Option<u64>, who: Participant) {
        let Some(term) = self.ctls.get(&id).map(|ctl| ctl.term) else {
            return;
        };
        match self.store.fence(term, who.slot, who.incarnation) {
            Ok(version) => {
                self.count("fences");
                self.do_next(id, vec![Todo::Word(key, who, version)]);
            }
            Err(why) => self.fail(format!("fence: {why}")),
        }
    }

    /// Sets a fence word; an older one never takes the place of a newer.
    fn word(&mut self, who: Participant) {
        if self.wrong(Fault::WordNotSet) {
            return;
        }
        let row = self.row(who.slot);
        row.fenced = row.fenced.max(who.incarnation);
        let Some(index) = self
            .apps
            .iter()
            .position(|app| app.as_ref().is_some_and(|app| app.slot == who.slot))
        else {
            return;
        };
        let owner = self.apps[index].as_ref().map(|app| app.proc);
        let notice = if self.options.explore {
            0
        } else {
            self.rng.between(20, 3_000)
        };
        self.after(owner, Delay::Exactly(notice), Task::Word(index));
    }

    fn set_word(
        &mut self,
        id: ProcId,
        key: Option<u64>,
        who: Participant,
        version: Option<MembershipVersion>,
    ) {
        self.word(who);
        let living = |app: &super::app::App| app.slot == who.slot;
        let ended = !self.apps.iter().flatten().any(living) || self.wrong(Fault::ReadsNotHeld);
        if !ended {
            self.count("fenced alive");
        }
        let slot = who.slot;
        match key {
            Some(key) => self.change_event(id, key, Event::Fenced { slot, version, ended }),
            None => self.recovery_event(id, recovery::Event::Fenced(slot, version)),
        }
    }

    fn copy_read(&mut self, id: ProcId, key: u64, index: usize) {
        let Some(change) = self.ctls.get_mut(&id).and_then(|ctl| ctl.changes.get_mut(&key)) else {
            return;
        };
        let Some(copy) = change.copies.get_mut(index) else {
            return;
        };
        if let Some((disk, block)) = copy.from {
            copy.tag = self.disks[disk].read(block);
            self.late_access(disk, block);
        }
    }

    /// A disk access of a stopped or fenced apparatus likes to take place right after the copier has read that block.
    fn late_access(&mut self, disk: usize, block: u64) {
        let there = |entry: &super::Entry| match entry.task {
            Task::Io(req, index) => self.reqs.get(&req).is_some_and(|req| {
                let here = |piece: &super::host::Piece| piece.at() == (disk, block);
                req.pieces.get(index).is_some_and(here)
                    && (self.stopped.contains(&req.proc) || self.fenced(req.app))
            }),
            _ => false,
        };
        let key = self
            .queue
            .iter()
            .find(|(_, entry)| there(entry))
            .map(|(&key, _)| key);
        if let Some(key) = key.filter(|_| !self.options.explore)
            && let Some(entry) = self.queue.remove(&key)
        {
            self.count("late accesses after a copy");
            let soon = self.rng.between(0, 60);
            self.after(entry.owner, Delay::Exactly(soon), entry.task);
        }
    }

    fn copy_write(&mut self, id: ProcId, key: u64, index: usize) {
        let Some(change) = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key)) else {
            return;
        };
        let Some(&Copy {
            to: (disk, block),
            tag,
            ..
        }) = change.copies.get(index)
        else {
            return;
        };
        self.disks[disk].write(block, tag);
        self.trace(|| {
            format!(
                "copied {tag:?} to disk {} extent {}",
                disk + 1,
                block / super::disk::BLOCKS
            )
        });
        self.count("blocks copied");
    }

    fn harden_list(&mut self, id: ProcId) {
        let (disks, ids) = self.not_hardened();
        if ids.is_empty() {
            return;
        }
        let unflushed = self.wrong(Fault::HardenWithoutFlush);
        let disks = disks.into_iter().filter(|_| !unflushed);
        let begun = disks.map(|disk| (disk, self.disks[disk].begin_flush())).collect();
        self.do_next(id, vec![Todo::HardenFlush(begun, ids)]);
    }

    fn harden_flush(&mut self, id: ProcId, begun: Vec<(usize, u64)>, ids: Vec<ChangeId>) {
        for (disk, at) in begun {
            self.disks[disk].end_flush(at);
        }
        self.do_next(id, vec![Todo::Harden(ids)]);
    }

    fn free_look(&mut self, id: ProcId) {
        let current = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        let mut seen = self.see();
        if self.wrong(Fault::NoQuarantine) {
            seen.retain(|seen| seen.state == apparatus::store::MemberState::Joined);
        }
        let oldest = recovery::oldest_in_use(&seen, current);
        if oldest < current {
            self.count("old tables still in use");
        }
        self.do_next(id, vec![Todo::Free(oldest)]);
    }

    fn free(&mut self, oldest: Generation) {
        let freed = self.store.free_quarantine(oldest).unwrap_or_default();
        if !freed.is_empty() {
            self.count("extents freed");
        }
        self.check_ownership();
    }

    /// After a change, or when there was none: go on, tidy up, or stop.
    pub fn what_next(&mut self, id: ProcId) {
        let Some(ctl) = self.ctls.get_mut(&id) else { return };
        ctl.chunks += 1;
        let tidy = self.options.explore || self.rng.permille(350);
        if tidy {
            [Todo::HardenList, Todo::FreeLook]
                .into_iter()
                .for_each(|todo| self.do_last(id, todo));
        }
        self.do_last(id, Todo::Plan);
    }
}

fn change_copies(world: &World, id: ProcId, key: u64) -> usize {
    let change = world.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key));
    change.map_or(0, |change| change.copies.len())
}

/// What a finished piece of work leads to.
pub fn given_up(outcome: &Outcome) -> Option<Done> {
    match outcome {
        Outcome::Finished { .. } => None,
        Outcome::GaveUp { .. } => Some(Done::GaveUp),
        Outcome::Unfinished { .. } => Some(Done::Unfinished),
    }
}
