//! Runs changes as a pipeline.
//!
//! ```text
//!  gap (no hold): next A, B, C, D; prepare them
//!  Hold A .. Held .. work .. commit .. Apply .. Applied
//!  Release A + Hold B   in one frame to each link
//!  Released A, ended A  .. Held B .. work ..   ...   Release D
//!  gap: ended D, and again
//! ```
//!
//! Where changes copy ahead, `Note B` travels with `Release A`, and `Noting .. copy` precedes each hold.
//!
//! What may wait (planning, preparing, the store transactions for that) is done in the gap, so no hold is longer for it.

use super::in_flight::InFlightChange;
use super::plan::Range;
use super::whole::check_weight;
use super::{ATTEMPTS, ChangePipeline, Controller, Prepare};
use crate::failpoint::{Point, hit};
use crate::held::may_wait;
use crate::model::change::NewChange;
use crate::model::error::Result;
use crate::model::units::ChangeId;
use crate::protocol::controller::{Outcome, Plan, Reason};
use std::collections::VecDeque;
use std::time::Duration;

/// Number of changes of one batch, at most.
const DEPTH: usize = 4;

/// Changes that are announced in the store and wait to be run.
type Queue = VecDeque<(ChangeId, Plan)>;

impl Controller {
    /// Runs a pipeline until it has no next change.
    ///
    /// # Errors
    /// Returns the errors of the pipeline and of the store.
    pub fn run_pipeline(&mut self, pipeline: &mut dyn ChangePipeline) -> Result<()> {
        self.check_finished()?;
        let mut more = true;
        while more {
            let range = self.range()?;
            let (changes, ended) = self.gather(pipeline, &range);
            let full = changes.len() == DEPTH;
            self.run_batch(pipeline, changes, range)?;
            more = full && self.unfinished.is_none() && !self.has_waiting_command()?;
            self.log_notes();
            ended?;
        }
        Ok(())
    }

    /// Asks the pipeline for a batch. The changes that it returned before it failed count.
    fn gather(
        &mut self,
        pipeline: &mut dyn ChangePipeline,
        range: &Range,
    ) -> (VecDeque<NewChange>, Result<()>) {
        let mut changes = VecDeque::new();
        while changes.len() < DEPTH {
            match self.ask(pipeline, changes.len(), range) {
                Ok(Some(change)) => changes.push_back(change),
                Ok(None) => break,
                Err(why) => return (changes, Err(why)),
            }
        }
        (changes, Ok(()))
    }

    fn ask(
        &mut self,
        pipeline: &mut dyn ChangePipeline,
        ahead: usize,
        range: &Range,
    ) -> Result<Option<NewChange>> {
        let mut from = self.store.header()?.generation;
        (0..ahead).for_each(|_| from = from.next());
        let mut prepare = Prepare {
            store: &mut *self.store,
            disks: &self.disks,
            from,
            late_writes: range.late_writes,
        };
        pipeline.next(&mut prepare)
    }

    /// Runs these changes in their order. When one is given up because the membership moved, it and those after it are
    /// tried again; when it is given up for any other reason, those after it are given up too.
    fn run_batch(
        &mut self,
        pipeline: &mut dyn ChangePipeline,
        mut changes: VecDeque<NewChange>,
        mut range: Range,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if changes.is_empty() {
                return Ok(());
            }
            let queue = self.announce(&changes, &range, pipeline.copies_ahead())?;
            pipeline.before_holds();
            let ran = self.run_queue(pipeline, &mut changes, queue);
            pipeline.after_holds();
            match ran? {
                None => return Ok(()),
                Some(Reason::MembershipMoved) => range = self.range()?,
                Some(Reason::Silent(slot)) => {
                    self.fence_silent(slot)?;
                    range = self.range()?;
                }
                Some(reason) => return give_up(pipeline, &changes, &reason),
            }
        }
        give_up(pipeline, &changes, &Reason::MembershipMoved)
    }

    /// Announces changes in the store; each starts from the generation that the one before it leads to.
    fn announce(
        &mut self,
        changes: &VecDeque<NewChange>,
        range: &Range,
        copies_ahead: bool,
    ) -> Result<Queue> {
        may_wait("preparing");
        let mut from = self.store.header()?.generation;
        let mut queue = Queue::new();
        for change in changes {
            let mut change = change.clone();
            change.delta.from = from;
            from = from.next();
            let announced = check_weight(&change).and_then(|()| self.store.prepare(self.term, &change));
            let planned = announced.and_then(|id| match self.plan(change, range) {
                Ok(plan) => Ok((id, plan)),
                Err(why) => self.store.cancel(id).and(Err(why)),
            });
            match planned {
                Ok((id, plan)) => {
                    let plan = Plan { copies_ahead, ..plan };
                    queue.push_back((id, plan));
                }
                Err(why) => {
                    self.withdraw(queue)?;
                    return Err(why);
                }
            }
        }
        hit(Point::ControllerPrepared);
        Ok(queue)
    }

    /// Cancels changes that have not been run.
    fn withdraw(&mut self, queue: Queue) -> Result<()> {
        queue
            .into_iter()
            .try_for_each(|(id, _)| self.store.cancel(id).map(drop))
    }

    /// Runs the queue; the release of one change and the hold of the next overlap. Removes the changes that ended from `changes`.
    /// Returns the reason if a change was given up: it is the first one left in `changes`, and its end has not been reported to the
    /// pipeline.
    fn run_queue(
        &mut self,
        pipeline: &mut dyn ChangePipeline,
        changes: &mut VecDeque<NewChange>,
        mut queue: Queue,
    ) -> Result<Option<Reason>> {
        let Some((id, plan)) = queue.pop_front() else {
            return Ok(None);
        };
        let mut in_flight = InFlightChange::prepared(plan, id);
        loop {
            let next = self.run_until_next(pipeline, &mut in_flight, &mut queue);
            match in_flight.outcome.take() {
                Some(Outcome::GaveUp { reason, .. }) => {
                    self.withdraw(queue)?;
                    return Ok(Some(reason));
                }
                Some(outcome) => {
                    changes.pop_front();
                    let unfinished = matches!(outcome, Outcome::Unfinished { .. });
                    if let Err(why) = pipeline.ended(&outcome, in_flight.hold) {
                        self.finish(next, queue)?;
                        return Err(why);
                    }
                    if unfinished {
                        self.finish(next, queue)?;
                        return Ok(Some(Reason::GenerationMoved));
                    }
                }
                None => {}
            }
            match next {
                Some(next) => in_flight = next,
                None if queue.is_empty() => return Ok(None),
                None => {
                    // A member was fenced, or joined: the remaining changes are tried again.
                    self.withdraw(queue)?;
                    return Ok(Some(Reason::MembershipMoved));
                }
            }
        }
    }

    /// Runs a change to its end. Once every participant has applied it, the next begins, if the membership is unchanged.
    fn run_until_next(
        &mut self,
        pipeline: &mut dyn ChangePipeline,
        in_flight: &mut InFlightChange,
        queue: &mut Queue,
    ) -> Option<InFlightChange> {
        let mut next: Option<InFlightChange> = None;
        while !in_flight.is_over() {
            self.advance(in_flight);
            if in_flight.copy_due {
                self.copy(in_flight, &mut || pipeline.copy_ahead());
                continue;
            }
            if in_flight.work_due {
                let written = in_flight.machine.written().clone();
                self.work(in_flight, &mut || pipeline.work(&written));
                continue;
            }
            if in_flight.is_releasing() && next.is_none() {
                next = follower(in_flight, queue);
            }
            if let Some(next) = &mut next {
                self.advance(next);
            }
            let mut both: Vec<&mut InFlightChange> =
                [&mut *in_flight].into_iter().chain(next.as_mut()).collect();
            self.flush(&mut both);
            if !both.first().is_some_and(|in_flight| in_flight.is_over()) {
                self.wait(&mut both);
            }
        }
        next
    }

    /// Ends a pipeline that failed: a change that has begun is brought to an end without its work, the others are cancelled.
    fn finish(&mut self, next: Option<InFlightChange>, queue: Queue) -> Result<()> {
        self.withdraw(queue)?;
        let Some(mut in_flight) = next else { return Ok(()) };
        while !in_flight.is_over() {
            in_flight.push(crate::protocol::controller::Event::Abandon(
                "the pipeline has ended".into(),
            ));
            self.advance(&mut in_flight);
            if in_flight.copy_due {
                self.copy(&mut in_flight, &mut || Err("the pipeline has ended".into()));
                continue;
            }
            if in_flight.work_due {
                self.work(&mut in_flight, &mut || Err("the pipeline has ended".into()));
                continue;
            }
            self.flush(&mut [&mut in_flight]);
            if !in_flight.is_over() {
                self.wait(&mut [&mut in_flight]);
            }
        }
        Ok(())
    }
}

/// Takes the next change from the queue, if it may follow right behind this one.
fn follower(in_flight: &InFlightChange, queue: &mut Queue) -> Option<InFlightChange> {
    let unfenced = in_flight.machine.fenced().is_empty();
    let (membership, participants) = in_flight.machine.membership().filter(|_| unfenced)?;
    let committed = matches!(in_flight.outcome, None | Some(Outcome::Finished { .. }));
    let same = |plan: &Plan| plan.membership == membership && plan.participants == participants;
    if !committed || !queue.front().is_some_and(|(_, plan)| same(plan)) {
        return None;
    }
    queue
        .pop_front()
        .map(|(id, plan)| InFlightChange::prepared(plan, id))
}

/// Reports to the pipeline that these changes are given up.
fn give_up(pipeline: &mut dyn ChangePipeline, changes: &VecDeque<NewChange>, first: &Reason) -> Result<()> {
    for index in 0..changes.len() {
        let reason = if index == 0 {
            first.clone()
        } else {
            Reason::GenerationMoved
        };
        pipeline.ended(
            &Outcome::GaveUp {
                fenced: Vec::new(),
                reason,
            },
            Duration::ZERO,
        )?;
    }
    Ok(())
}
