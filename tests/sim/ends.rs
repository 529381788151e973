//! What an apparatus waits for comes to its end: timers, openings of disks, answers of the store.

use super::fault::Fault;
use super::{Delay, Task, World};
use apparatus::model::change::Cancel;
use apparatus::model::units::{ChangeId, Generation};
use apparatus::protocol::agent::{Due, Input};
use apparatus::protocol::participant::{Participation, Timer};
use apparatus::protocol::recovery;
use apparatus::store::roles::*;

impl World {
    /// A timer of an apparatus runs out.
    pub fn app_timer(&mut self, index: usize, due: Due) {
        if let Due::Change(change, Timer::Deadline) = due {
            let held = self.apps[index]
                .as_ref()
                .is_some_and(|app| app.placed.contains_key(&change));
            if held {
                self.count("holds past their deadline");
            }
            if self.wrong(Fault::DeadlineIgnored) {
                return;
            }
        }
        self.input(index, Input::Due(due));
    }

    pub fn disks_open(&mut self, index: usize, change: ChangeId) {
        let fails = !self.options.explore && self.rng.permille(self.options.chaos.disk_refused);
        let result = if fails {
            Err(("d1".into(), "not there".into()))
        } else {
            Ok(())
        };
        self.input(index, Input::DisksOpen(change, result));
    }

    /// The store is asked who was first: the end of a hold, or the commit.
    pub fn app_cancel(&mut self, index: usize, change: ChangeId) {
        let before = self.apps[index]
            .as_mut()
            .is_some_and(|app| app.not_committed.remove(&change));
        if before || self.wrong(Fault::ReopenByClock) {
            return self.input(index, Input::CancelAnswered(change, Some(Cancel::Cancelled)));
        }
        if !self.options.explore && self.rng.permille(self.options.chaos.store_fails) {
            self.count("store failed at a cancel");
            let again = self.now + self.options.patience_us;
            if let Some(app) = self.apps[index].as_mut() {
                app.asks_again = again;
            }
            return self.input(index, Input::CancelAnswered(change, None));
        }
        match self.store.cancel(change) {
            Ok(answer) => {
                let committed = matches!(answer, Cancel::Committed(_));
                self.count(if committed {
                    "holds ended as committed"
                } else {
                    "holds ended as cancelled"
                });
                self.input(index, Input::CancelAnswered(change, Some(answer)));
            }
            // A power loss took the change's record, and everyone who knew of it.
            Err(error) => self.fail(format!("cancel: {error}")),
        }
    }

    /// The store and the member table are read: which generations the others have reached. The explorer answers when one is reached.
    pub fn look_at_others(&mut self, index: usize) {
        let Some(app) = &self.apps[index] else { return };
        let (proc, asked) = (app.proc, app.finding.clone());
        let agent = app.agent.as_ref();
        let joining =
            agent.is_some_and(|agent| matches!(agent.machine().standing(), Participation::Waiting(_)));
        let awaits = agent.is_some_and(|agent| !agent.awaited().is_disjoint(&asked));
        let wrong = self.wrong(Fault::ReopenAlone) || (joining && self.wrong(Fault::JoinerDoesNotWait));
        let seen = self.see();
        let reached = |generation: &Generation| wrong || recovery::others_reached(&seen, *generation);
        let mut reached: Vec<Generation> = asked.into_iter().filter(reached).collect();
        if self.wrong(Fault::OtherGenerationsReached) && !reached.is_empty() {
            reached.extend(agent.map(|agent| agent.awaited().clone()).unwrap_or_default());
        }
        if self.options.explore && reached.is_empty() && awaits {
            return self.after(Some(proc), Delay::Step, Task::Others(index));
        }
        if let Some(app) = self.apps[index].as_mut() {
            app.finding.clear();
        }
        self.input(index, Input::OthersReached(reached));
    }

    /// A fault: the table is switched when that has been said already.
    pub fn switch_late(&mut self, index: usize) {
        let app = self.apps[index].as_mut();
        let Some((delta, served)) =
            app.and_then(|app| Some((app.switches.pop_front()?, app.served.clone()?)))
        else {
            return;
        };
        let switched = served.runtime.apply(&delta);
        self.must(switched.is_ok(), || format!("apply: {switched:?}"));
    }

    /// The oldest generation in use, as the agent is told.
    pub fn shown_as_oldest(&self, index: usize) -> Generation {
        match &self.apps[index] {
            Some(app) if self.wrong(Fault::OldTablesForgotten) => app.generation,
            _ => self.oldest(index),
        }
    }
}
