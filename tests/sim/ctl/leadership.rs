//! Taking the controller lock, what comes with it, and giving it back; fences.

use super::Todo;
use crate::sim::driver::Goal;
use crate::sim::fault::Fault;
use crate::sim::{Delay, ProcId, Task, World, app};
use apparatus::model::change::{Cancel, ChangeState};
use apparatus::model::units::MembershipVersion;
use apparatus::protocol::controller::{Event, Participant};
use apparatus::protocol::recovery::{self, Recovery};
use apparatus::store::roles::*;

impl World {
    pub fn take_lock(&mut self, id: ProcId) {
        let Some(goal) = self.ctls.get(&id).map(|ctl| ctl.goal) else {
            return;
        };
        if self.lock.is_some() {
            self.count("found the controller lock taken");
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
        let (recovery, effects) = Recovery::new(self.options.poll_us, 1);
        if let Some(ctl) = self.ctls.get_mut(&id) {
            ctl.term = term;
            ctl.recovery = Some(recovery);
            ctl.todo.extend(effects.into_iter().map(Todo::Recover));
        }
    }

    pub fn recovery_event(&mut self, id: ProcId, event: recovery::Event) {
        let Some(recovery) = self.ctls.get_mut(&id).and_then(|ctl| ctl.recovery.as_mut()) else {
            return;
        };
        for effect in recovery.on(event) {
            self.do_last(id, Todo::Recover(effect));
        }
    }

    pub fn recover(&mut self, id: ProcId, effect: recovery::Effect) {
        match effect {
            recovery::Effect::RecoverEpoch => {
                let boot = self.boot();
                let undone = self.store.recover_epoch(boot).unwrap_or_default();
                self.recovery_event(id, recovery::Event::EpochRecovered(undone));
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

    pub fn view(&mut self) -> recovery::PoolObservation {
        let current = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        let unfinished = self.store.unfinished().unwrap_or_default();
        let prepared = unfinished
            .iter()
            .filter(|record| record.state == ChangeState::Prepared);
        let prepared = prepared.map(|record| record.id).collect();
        let mut members = self.see();
        if self.wrong(Fault::RecoveryIgnoresBehind) {
            members.iter_mut().for_each(|seen| seen.generation = current);
        }
        recovery::PoolObservation {
            current,
            members,
            prepared,
        }
    }

    pub fn recovered(&mut self, id: ProcId) {
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

    /// Gives the controller lock back and ends.
    pub fn quit(&mut self, id: ProcId) {
        self.alive.remove(&id);
        self.ctls.remove(&id);
        self.hang_up(id);
        if self.lock == Some(id) {
            self.lock = None;
        }
    }

    pub fn fence(&mut self, id: ProcId, key: Option<u64>, who: Participant) {
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
    pub fn word(&mut self, who: Participant) {
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

    pub fn set_word(
        &mut self,
        id: ProcId,
        key: Option<u64>,
        who: Participant,
        version: Option<MembershipVersion>,
    ) {
        self.word(who);
        let living = |app: &app::App| app.slot == who.slot;
        let ended = !self.apps.iter().flatten().any(|app| living(app)) || self.wrong(Fault::ReadsNotHeld);
        if !ended {
            self.count("fenced alive");
        }
        let slot = who.slot;
        match key {
            Some(key) => self.change_event(id, key, Event::Fenced { slot, version, ended }),
            None => self.recovery_event(id, recovery::Event::Fenced(slot, version)),
        }
    }
}
