//! A change's machine, fed and carried out.

use super::{Change, Inbound, Todo};
use crate::sim::copy::Copy;
use crate::sim::fault::Fault;
use crate::sim::host::BLOCK;
use crate::sim::work::{Done, Job};
use crate::sim::{Delay, ProcId, Task, World};
use apparatus::model::units::{ChangeId, MembershipVersion, Slot, Term};
use apparatus::protocol::controller::{Controller, Effect, Event, Outcome, Plan};
use apparatus::rpc::message::{Answer, Request};
use apparatus::store::roles::*;

impl World {
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
        for effect in effects {
            self.queue_effect(id, key, effect);
        }
    }

    /// A fault that has the machine believe what has not been said.
    pub fn spoil(&mut self, id: ProcId, key: u64, event: &Event) -> Vec<Event> {
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

    pub fn queue_effect(&mut self, id: ProcId, key: u64, effect: Effect) {
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

    pub fn next_epoch(&mut self, id: ProcId, key: u64) -> Option<u64> {
        let change = self.ctls.get_mut(&id)?.changes.get_mut(&key)?;
        change.epoch += 1;
        Some(change.epoch)
    }

    pub fn send(&mut self, id: ProcId, key: u64, slot: Slot, request: &Request) {
        let Some(ctl) = self.ctls.get(&id) else { return };
        let (term, known) = (ctl.term, ctl.links.get(&slot).copied());
        match known.or_else(|| self.connect(id, slot)) {
            Some(link) => {
                if let Some(ctl) = self.ctls.get_mut(&id) {
                    ctl.links.insert(slot, link);
                }
                self.send_to_app(link, term, request);
            }
            None => self.deliver_later(id, Inbound::Change(key, Event::Lost(slot))),
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
                copied: false,
                epoch: 0,
            },
        );
        for effect in effects {
            self.queue_effect(id, key, effect);
        }
    }

    pub fn do_effect(&mut self, id: ProcId, key: u64, effect: Effect) {
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
            Effect::Copy => self.do_next(id, vec![Todo::Read(key), Todo::Write(key), Todo::Copied(key)]),
            Effect::Work if change.copied => {
                let again = to_copy_again(change);
                let mut todos = vec![Todo::WorkDone(key)];
                if !again.is_empty() {
                    let copies = [Todo::ReadAgain(key, again.clone()), Todo::WriteAgain(key, again)];
                    todos.splice(0..0, copies);
                }
                self.do_next(id, todos);
            }
            Effect::Work => {
                self.spoil_apply(id, key);
                let pass = [Todo::Read(key), Todo::Write(key)];
                let passes = self.passes();
                let todos = (0..passes).flat_map(|_| pass.clone());
                self.do_next(id, todos.chain([Todo::WorkDone(key)]).collect());
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
                    .map(|change| change.job);
                if let Some(job) = job {
                    let pauses = given_up(&outcome).is_some();
                    self.do_next(id, vec![Todo::Ended(job, outcome)]);
                    if pauses {
                        self.do_last(id, Todo::Pause);
                    }
                    self.what_next(id);
                }
            }
            Effect::Send(..) | Effect::Arm(_) | Effect::Disarm => {}
        }
    }

    pub fn copied_ahead(&mut self, id: ProcId, key: u64) {
        if let Some(change) = self.ctls.get_mut(&id).and_then(|ctl| ctl.changes.get_mut(&key)) {
            change.copied = true;
        }
        self.change_event(id, key, Event::Copied);
    }

    /// A fault: the delta is sent before it is committed.
    pub fn spoil_apply(&mut self, id: ProcId, key: u64) {
        let Some(change) = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key)) else {
            return;
        };
        if self.options.fault != Some(Fault::ApplyBeforeCommit) {
            return;
        }
        let delta = change.machine.plan().change.delta.clone();
        let request = Request::Apply {
            change: change.machine.id(),
            generation: delta.from.next(),
            delta,
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

    pub fn commit(&mut self, id: ProcId, key: u64, term: Term, change: ChangeId, version: MembershipVersion) {
        let unchecked = self.wrong(Fault::MembershipUnchecked);
        let current = self
            .store
            .members()
            .map(|(version, _)| version)
            .unwrap_or_default();
        let version = if unchecked { current } else { version };
        let event = match self.store.commit(term, change, version) {
            Ok(answer) => {
                self.note_commit(&answer);
                Event::Committed(answer)
            }
            Err(why) => Event::CommitFailed(why.to_string()),
        };
        if self.wrong(Fault::PersistInHold) {
            self.do_next(id, vec![Todo::PersistList]);
        }
        if self.wrong(Fault::FreeAtOnce) {
            self.free_at_once();
        }
        self.change_event(id, key, event);
    }

    pub fn note_commit(&mut self, answer: &apparatus::model::change::Commit) {
        use apparatus::model::change::Commit;
        self.count(match answer {
            Commit::Committed(_) => "commits",
            Commit::Cancelled => "commits too late: a hold had ended",
            Commit::MembershipMoved(_) => "commits refused: membership moved",
            Commit::GenerationMoved(_) => "commits refused: generation moved",
            Commit::StaleTerm(_) => "commits refused: stale term",
        });
    }
}

/// The blocks of a change that hosts may have written since it was copied ahead.
fn to_copy_again(change: &Change) -> Vec<usize> {
    let all = 0..change.copies.len();
    let spans = &change.machine.plan().change.spans;
    let Some(ranges) = spans
        .first()
        .and_then(|span| change.machine.written().within(span))
    else {
        return all.collect();
    };
    let written = |index: &usize| {
        let at = *index as u64 * BLOCK;
        ranges
            .iter()
            .any(|range| range.start < at + BLOCK && at < range.end)
    };
    all.filter(written).collect()
}

/// What a finished piece of work leads to.
pub fn given_up(outcome: &Outcome) -> Option<Done> {
    match outcome {
        Outcome::Finished { .. } => None,
        Outcome::GaveUp { .. } => Some(Done::GaveUp),
        Outcome::Unfinished { .. } => Some(Done::Unfinished),
    }
}
