//! Tries every order in which the tasks of a small pool can happen, with a budget of trouble, and compares states, so that none is looked at twice.
//!
//! What a process does by itself between two waits happens at once. All else can come in any order: messages, disk accesses, store
//! transactions, looks at fence words, hosts' requests. Timers run out when nothing else is under way. The budget is for messages that are
//! lost or arrive twice, the second time whenever it likes; processes that are killed at that point; tasks that are late: a message, a disk access, a
//! step of a process that takes longer than any timer; and power that fails, with what each block and the store keep in every way there is.

use super::app::Stage;
use super::ctl::Todo;
use super::host::What;
use super::{Delay, Entry, ProcId, Task, World};
use apparatus::protocol::agent::{Agent, Due};
use apparatus::protocol::participant::Event;
use apparatus::protocol::recovery;
use apparatus::store::roles::*;
use std::collections::HashSet;

/// Trouble that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub lost: u32,
    pub killed: u32,
    pub late: u32,
    pub doubled: u32,
    pub power: u32,
}

/// What a host asks for: what, from which block on, how many blocks.
pub type HostRequest = (What, u64, u64);

/// What can come next.
#[derive(Clone, Copy, Debug)]
enum Move {
    Happen((u64, u64)),
    Delay((u64, u64)),
    Lose((u64, u64)),
    KillApp(usize, bool),
    KillCtl(ProcId),
    Double((u64, u64)),
    /// With so many unsynced transactions kept, and the blocks in one of their ways.
    LosePower(usize, usize),
}

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    pub states: u64,
    pub steps: u64,
    /// States in which nothing is left to happen.
    pub ends: u64,
}

/// Looks at every state that can be reached. The first that breaks a promise is told, with the way there.
pub fn explore(mut world: World, budget: Budget, most: u64) -> Result<Found, String> {
    if budget.power > 0 {
        world.may_lose_power();
    }
    let mut found = Found::default();
    let first = world.fingerprint(budget);
    let mut seen = HashSet::new();
    let mut stack = vec![(world, budget, first, Vec::new())];
    while let Some((world, budget, print, way)) = stack.pop() {
        if !seen.insert(print) {
            continue;
        }
        found.states += 1;
        if found.states > most {
            return Err(format!("more than {most} states\n{}", world.describe_state()));
        }
        let mut leads_on = false;
        for step in world.moves(budget) {
            found.steps += 1;
            let mut next = world.clone();
            let left = next.take(step, budget);
            let mut way: Vec<String> = way.clone();
            if world.options.trace {
                way.push(world.describe(step));
            }
            if let Some(why) = next.failure.take() {
                return Err(format!("{why}\n{}\n{}", way.join("\n"), next.describe_state()));
            }
            let reached = next.fingerprint(left);
            leads_on |= reached != print;
            if !seen.contains(&reached) {
                stack.push((next, left, reached, way));
            }
        }
        if !leads_on {
            found.ends += 1;
            world
                .must_rest()
                .map_err(|why| format!("{why}\n{}\n{}", way.join("\n"), world.describe_state()))?;
        }
    }
    Ok(found)
}

impl World {
    fn moves(&self, budget: Budget) -> Vec<Move> {
        let mut moves = Vec::new();
        let idle = !self.queue.values().any(|entry| self.under_way(entry));
        let mut tasks = Vec::new();
        for (&key, entry) in &self.queue {
            if tasks.contains(&entry) {
                continue;
            }
            tasks.push(entry);
            let ready = match entry.task {
                // Or it would ask again for ever.
                Task::Step(id) if self.pauses(id) => idle && !self.queue.values().any(|entry| entry.late),
                ref task => idle || !is_timer(task),
            };
            if ready {
                moves.push(Move::Happen(key));
            }
            if matches!(entry.task, Task::ToApp(..) | Task::ToCtl(..)) {
                if budget.lost > 0 {
                    moves.push(Move::Lose(key));
                }
                if budget.doubled > 0 {
                    moves.push(Move::Double(key));
                }
            }
            if budget.late > 0 && self.under_way(entry) {
                moves.push(Move::Delay(key));
            }
        }
        if budget.killed > 0 {
            for index in 0..self.apps.len() {
                if self.apps[index].is_some() {
                    moves.push(Move::KillApp(index, false));
                    if self.writes_in_flight(index) {
                        moves.push(Move::KillApp(index, true));
                    }
                }
            }
            moves.extend(self.ctls.keys().map(|&id| Move::KillCtl(id)));
        }
        if budget.power > 0 {
            for keep in 0..=self.store.unsynced() {
                let ways = 0..self.ways_to_lose_power(keep);
                moves.extend(ways.map(|way| Move::LosePower(keep, way)));
            }
        }
        moves
    }

    fn writes_in_flight(&self, index: usize) -> bool {
        let writes = |req: &super::host::Req| req.app == index && req.ask.what == What::Write;
        self.reqs
            .values()
            .any(|req| writes(req) && req.pieces.iter().any(|piece| !piece.done))
    }

    fn take(&mut self, step: Move, mut budget: Budget) -> Budget {
        let before = self.store.fingerprint();
        match step {
            Move::Happen(key) => self.happen(key),
            Move::Delay(key) => {
                budget.late -= 1;
                if let Some(entry) = self.queue.get_mut(&key) {
                    entry.late = true;
                }
            }
            Move::Lose(key) => {
                budget.lost -= 1;
                self.queue.remove(&key);
            }
            Move::KillApp(index, lands) => {
                budget.killed -= 1;
                self.options.lands = lands;
                self.kill_app(index);
                self.options.lands = false;
            }
            Move::KillCtl(id) => {
                budget.killed -= 1;
                self.kill_ctl(id);
                self.after(None, Delay::Step, Task::Vctl);
            }
            Move::Double(key) => {
                budget.doubled -= 1;
                let again = self.queue.get(&key).cloned();
                self.happen(key);
                if let Some(entry) = again {
                    self.put(Entry { late: true, ..entry });
                }
            }
            Move::LosePower(keep, way) => {
                budget.power -= 1;
                self.lose_power_so(keep, way);
            }
        }
        self.eager();
        if self.store.fingerprint() != before {
            self.check_ownership();
        }
        if !self.options.power {
            _ = self.store.checkpoint();
            let unsettled = self.disks.iter_mut().filter(|disk| !disk.is_settled());
            unsettled.for_each(|disk| disk.settle());
        }
        budget
    }

    /// Something that takes its time, but not as long as a timer.
    fn under_way(&self, entry: &Entry) -> bool {
        match entry.task {
            _ if entry.late || is_timer(&entry.task) => false,
            Task::Issue(_) => false,
            Task::Step(id) => !self.pauses(id),
            Task::Others(index) => {
                let seen = self.see();
                let asked = self.apps[index].as_ref().map(|app| &app.finding);
                asked.is_some_and(|asked| {
                    asked
                        .iter()
                        .any(|&generation| recovery::others_reached(&seen, generation))
                })
            }
            _ => true,
        }
    }

    fn pauses(&self, id: ProcId) -> bool {
        self.ctls
            .get(&id)
            .is_some_and(|ctl| ctl.todo.front() == Some(&Todo::Pause))
    }

    fn describe(&self, step: Move) -> String {
        match step {
            Move::Happen(key) | Move::Delay(key) | Move::Lose(key) | Move::Double(key) => {
                format!(
                    "{} {:?}",
                    format!("{step:?}").split('(').next().unwrap_or(""),
                    self.queue.get(&key).map(|entry| &entry.task)
                )
            }
            other => format!("{other:?}"),
        }
    }

    /// Has happen what nothing can come in between of, and forgets timers that have lost their meaning.
    pub fn eager(&mut self) {
        while let Some(key) = self
            .queue
            .iter()
            .find(|(_, entry)| self.at_once(entry))
            .map(|(&key, _)| key)
        {
            self.happen(key);
        }
        let idle: Vec<_> = self
            .queue
            .iter()
            .filter(|(_, entry)| self.meaningless(entry))
            .map(|(&key, _)| key)
            .collect();
        idle.into_iter().for_each(|key| _ = self.queue.remove(&key));
    }

    fn at_once(&self, entry: &Entry) -> bool {
        if entry.owner.is_some_and(|owner| !self.alive.contains(&owner)) {
            return true;
        }
        match &entry.task {
            Task::Enter(_) | Task::Reply(_) | Task::DisksOpen(..) => true,
            Task::Others(index) => self.apps[*index].as_ref().is_none_or(|app| {
                let awaits = |agent: &Agent| !agent.awaited().is_disjoint(&app.finding);
                !app.agent.as_ref().is_some_and(awaits)
            }),
            Task::AppTimer(_, due) => !matches!(due, Due::Change(..)),
            Task::Start(index) => self.apps[*index]
                .as_ref()
                .is_some_and(|app| matches!(app.stage, Stage::Booting)),
            Task::Step(id) => self.ctls.get(id).is_none_or(|ctl| {
                let persists = |todo: &Todo| {
                    matches!(
                        todo,
                        Todo::PersistList | Todo::PersistFlush(..) | Todo::Persist(_)
                    )
                };
                let front = ctl.todo.front();
                if self.options.power && front.is_some_and(persists) {
                    return false;
                }
                matches!(
                    front,
                    None | Some(
                        Todo::WorkDone(_)
                            | Todo::Copied(_)
                            | Todo::Ended(..)
                            | Todo::PersistList
                            | Todo::PersistFlush(..)
                            | Todo::Persist(_)
                            | Todo::FreeLook
                            | Todo::Free(_)
                            | Todo::Plan
                            | Todo::Quit
                            | Todo::Recover(recovery::Effect::RecoverEpoch | recovery::Effect::Finish(_))
                    )
                )
            }),
            Task::ToApp(link, ..) | Task::AppLost(link) => {
                !self.wires.get(link).is_some_and(|wire| wire.app_open)
            }
            Task::ToCtl(link, _) | Task::CtlLost(link) => {
                !self.wires.get(link).is_some_and(|wire| wire.ctl_open)
            }
            _ => false,
        }
    }

    fn meaningless(&self, entry: &Entry) -> bool {
        match &entry.task {
            Task::AppTimer(index, Due::Change(change, timer)) => {
                let Some(agent) = self.apps[*index].as_ref().and_then(|app| app.agent.as_ref()) else {
                    return true;
                };
                let mut machine = agent.machine().clone();
                machine.on(Event::TimedOut(*change, *timer)).is_empty()
            }
            Task::Issue(client) => {
                self.clients[*client].script.is_empty() || self.clients[*client].busy.is_some()
            }
            Task::Word(index) => !self.fenced(*index),
            Task::CtlTimer(id, key, epoch) => {
                let change = self.ctls.get(id).and_then(|ctl| ctl.changes.get(key));
                change.is_none_or(|change| change.epoch != *epoch)
            }
            _ => false,
        }
    }
}

fn is_timer(task: &Task) -> bool {
    matches!(
        task,
        Task::AppTimer(..) | Task::CtlTimer(..) | Task::RecoveryTimer(_)
    )
}
