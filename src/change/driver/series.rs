//! Series of changes as a pipeline.
//!
//! ```text
//!  gap (no hold): next A, B, C, D; prepare them
//!  Hold A .. Held .. work .. commit .. Apply .. Applied
//!  Release A + Hold B   in one frame to each link
//!  Released A, ended A  .. Held B .. work ..   ...   Release D
//!  gap: ended D, and again
//! ```
//!
//! What may wait (planning, preparing, the store's share of it) lies in the gap, so that no hold is longer for it.

use super::flight::Flight;
use super::plan::Range;
use super::whole::check_weight;
use super::{ATTEMPTS, Controller, Prepare, Series};
use crate::change::controller::{Outcome, Plan, Reason};
use crate::change::failpoint::{Point, hit};
use crate::error::Result;
use crate::held::may_wait;
use crate::store::NewChange;
use crate::units::ChangeId;
use std::collections::VecDeque;
use std::time::Duration;

/// Changes of one batch.
const DEPTH: usize = 4;

/// Changes that wait for their turn, announced in the store.
type Queue = VecDeque<(ChangeId, Plan)>;

impl Controller {
    /// Runs a series as a pipeline until it has no next change.
    ///
    /// # Errors
    /// Those of the series, and the store's.
    pub fn run_series(&mut self, series: &mut dyn Series) -> Result<()> {
        self.check_finished()?;
        let mut more = true;
        while more {
            let range = self.range()?;
            let (changes, ended) = self.gather(series, &range);
            let full = changes.len() == DEPTH;
            self.run_batch(series, changes, range)?;
            more = full && self.unfinished.is_none();
            self.tell();
            ended?;
        }
        Ok(())
    }

    /// Asks the series for a batch. What it gave before it failed counts.
    fn gather(&mut self, series: &mut dyn Series, range: &Range) -> (VecDeque<NewChange>, Result<()>) {
        let mut changes = VecDeque::new();
        while changes.len() < DEPTH {
            match self.ask(series, changes.len(), range) {
                Ok(Some(change)) => changes.push_back(change),
                Ok(None) => break,
                Err(why) => return (changes, Err(why)),
            }
        }
        (changes, Ok(()))
    }

    fn ask(&mut self, series: &mut dyn Series, ahead: usize, range: &Range) -> Result<Option<NewChange>> {
        let mut from = self.store.header()?.generation;
        (0..ahead).for_each(|_| from = from.next());
        let mut prepare = Prepare {
            store: &mut *self.store,
            disks: &self.disks,
            from,
            late_writes: range.late_writes,
        };
        series.next(&mut prepare)
    }

    /// Runs these changes in their order. When one is given up because the membership moved, it and those after it are
    /// asked for again; when for any other reason, those after it are given up too.
    fn run_batch(
        &mut self,
        series: &mut dyn Series,
        mut changes: VecDeque<NewChange>,
        mut range: Range,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if changes.is_empty() {
                return Ok(());
            }
            let queue = self.announce(&changes, &range)?;
            let flown = self.fly(series, &mut changes, queue);
            match flown? {
                None => return Ok(()),
                Some(Reason::MembershipMoved) => range = self.range()?,
                Some(reason) => return give_up(series, &changes, &reason),
            }
        }
        give_up(series, &changes, &Reason::MembershipMoved)
    }

    /// Announces them in the store, each from where the one before it leads.
    fn announce(&mut self, changes: &VecDeque<NewChange>, range: &Range) -> Result<Queue> {
        may_wait("preparing");
        let mut from = self.store.header()?.generation;
        let mut queue = Queue::new();
        for change in changes {
            let mut change = change.clone();
            change.difference.from = from;
            from = from.next();
            let announced = check_weight(&change).and_then(|()| self.store.prepare(self.term, &change));
            let planned = announced.and_then(|id| match self.plan(change, range) {
                Ok(plan) => Ok((id, plan)),
                Err(why) => self.store.cancel(id).and(Err(why)),
            });
            match planned {
                Ok(planned) => queue.push_back(planned),
                Err(why) => {
                    self.withdraw(queue)?;
                    return Err(why);
                }
            }
        }
        hit(Point::ControllerPrepared);
        Ok(queue)
    }

    /// Cancels what has not had its turn.
    fn withdraw(&mut self, queue: Queue) -> Result<()> {
        queue
            .into_iter()
            .try_for_each(|(id, _)| self.store.cancel(id).map(drop))
    }

    /// Flies the queue, two at a time where one lets go and the next begins. Takes those that ended out of `changes`.
    /// `Some`: why the first of those left was given up; it is still in `changes`, and its end was not told.
    fn fly(
        &mut self,
        series: &mut dyn Series,
        changes: &mut VecDeque<NewChange>,
        mut queue: Queue,
    ) -> Result<Option<Reason>> {
        let Some((id, plan)) = queue.pop_front() else {
            return Ok(None);
        };
        let mut flight = Flight::prepared(plan, id);
        loop {
            let next = self.fly_until_next(series, &mut flight, &mut queue);
            match flight.outcome.take() {
                Some(Outcome::GaveUp { reason, .. }) => {
                    self.withdraw(queue)?;
                    return Ok(Some(reason));
                }
                Some(outcome) => {
                    changes.pop_front();
                    let unfinished = matches!(outcome, Outcome::Unfinished { .. });
                    if let Err(why) = series.ended(&outcome, flight.hold) {
                        self.land(next, queue)?;
                        return Err(why);
                    }
                    if unfinished {
                        self.land(next, queue)?;
                        return Ok(Some(Reason::GenerationMoved));
                    }
                }
                None => {}
            }
            match next {
                Some(next) => flight = next,
                None if queue.is_empty() => return Ok(None),
                None => {
                    // Somebody was fenced, or came: those left are asked for again.
                    self.withdraw(queue)?;
                    return Ok(Some(Reason::MembershipMoved));
                }
            }
        }
    }

    /// Flies one to its end. Once everyone has applied it, the next begins, if the membership is still the one it was.
    fn fly_until_next(
        &mut self,
        series: &mut dyn Series,
        flight: &mut Flight,
        queue: &mut Queue,
    ) -> Option<Flight> {
        let mut next: Option<Flight> = None;
        while !flight.is_over() {
            self.advance(flight);
            if flight.work_due {
                self.work(flight, &mut || series.work());
                continue;
            }
            if flight.is_releasing() && next.is_none() {
                next = follower(flight, queue);
            }
            if let Some(next) = &mut next {
                self.advance(next);
            }
            let mut both: Vec<&mut Flight> = [&mut *flight].into_iter().chain(next.as_mut()).collect();
            self.flush(&mut both);
            if !both.first().is_some_and(|flight| flight.is_over()) {
                self.wait(&mut both);
            }
        }
        next
    }

    /// The series is over in the middle: what has begun is brought to an end without its work, what has not is withdrawn.
    fn land(&mut self, next: Option<Flight>, queue: Queue) -> Result<()> {
        self.withdraw(queue)?;
        let Some(mut flight) = next else { return Ok(()) };
        while !flight.is_over() {
            flight.push(crate::change::controller::Event::Abandon(
                "the series has ended".into(),
            ));
            self.advance(&mut flight);
            if flight.work_due {
                self.work(&mut flight, &mut || Err("the series has ended".into()));
                continue;
            }
            self.flush(&mut [&mut flight]);
            if !flight.is_over() {
                self.wait(&mut [&mut flight]);
            }
        }
        Ok(())
    }
}

/// The next change, if it may follow right behind this one.
fn follower(flight: &Flight, queue: &mut Queue) -> Option<Flight> {
    let unfenced = flight.machine.fenced().is_empty();
    let (membership, participants) = flight.machine.membership().filter(|_| unfenced)?;
    let committed = matches!(flight.outcome, None | Some(Outcome::Finished { .. }));
    let same = |plan: &Plan| plan.membership == membership && plan.participants == participants;
    if !committed || !queue.front().is_some_and(|(_, plan)| same(plan)) {
        return None;
    }
    queue.pop_front().map(|(id, plan)| Flight::prepared(plan, id))
}

/// Tells the series that these will not be.
fn give_up(series: &mut dyn Series, changes: &VecDeque<NewChange>, first: &Reason) -> Result<()> {
    for index in 0..changes.len() {
        let reason = if index == 0 {
            first.clone()
        } else {
            Reason::GenerationMoved
        };
        series.ended(
            &Outcome::GaveUp {
                fenced: Vec::new(),
                reason,
            },
            Duration::ZERO,
        )?;
    }
    Ok(())
}
