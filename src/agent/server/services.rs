//! What the agent uses, in an apparatus: the data path, the entry among the members, helper threads, timers, and queues of answers.

use super::core::TimerKey;
use super::helpers::{Helpers, Rejoined, Work};
use super::jobs::Jobs;
use super::links::Links;
use super::opening::Openings;
use super::timers::Timers;
use crate::cluster::OwnEntry;
use crate::datapath::Runtime;
use crate::failpoint::{Point, hit};
use crate::model::change::HoldMode;
use crate::model::error::Error;
use crate::model::records::{Delta, DiskRecord, Span};
use crate::model::units::{ChangeId, Generation, Incarnation, Slot};
use crate::protocol::agent::{self, Due, Parked, Services, Step};
use crate::protocol::participant::{Link, OWN};
use crate::rpc::message::Answer;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The parts of the control thread that the agent uses.
pub(super) struct Parts {
    pub(super) timers: Timers<TimerKey>,
    pub(super) links: Links,
    pub(super) openings: Openings,
    pub(super) jobs: Jobs,
    pub(super) helpers: Helpers,
    pub(super) runtime: Arc<dyn Runtime>,
    entry: Arc<dyn OwnEntry>,
    /// What a helper has brought from a rejoin, until the agent has it loaded.
    rejoined: Option<Box<Rejoined>>,
    /// Last failure of a rejoin, so that it is logged once.
    last_failure: String,
    begun: Instant,
}

impl Parts {
    /// Groups the parts of an apparatus that has joined.
    pub(super) fn new(
        (links, openings, jobs, helpers): (Links, Openings, Jobs, Helpers),
        (runtime, entry): (Arc<dyn Runtime>, Arc<dyn OwnEntry>),
    ) -> Self {
        Self {
            timers: Timers::new(),
            links,
            openings,
            jobs,
            helpers,
            runtime,
            entry,
            rejoined: None,
            last_failure: String::new(),
            begun: Instant::now(),
        }
    }

    /// Keeps what a helper has brought from a rejoin, and returns it as the agent sees it; `None` if the rejoin failed.
    pub(super) fn take_rejoined(&mut self, answer: Result<Box<Rejoined>, Error>) -> Option<agent::Rejoined> {
        match answer {
            Ok(rejoined) => {
                let seen = agent::Rejoined::of(&rejoined.joined);
                self.rejoined = Some(rejoined);
                Some(seen)
            }
            Err(why) => {
                let why = why.to_string();
                if self.last_failure != why {
                    log::error!("cannot rejoin, and retries: {why}");
                    self.last_failure = why;
                }
                None
            }
        }
    }
}

impl Services for Parts {
    fn answer(&mut self, link: Link, answer: Answer) {
        self.links.answer(link, answer);
    }

    fn arm(&mut self, due: Due, after_us: u64) {
        let after = Duration::from_micros(after_us);
        self.timers.arm(TimerKey::Agent(due), after);
    }

    fn disarm(&mut self, change: Option<ChangeId>) {
        self.timers.disarm(|key| match key {
            TimerKey::Agent(Due::Change(of, _)) => change.is_none_or(|change| change == *of),
            _ => false,
        });
    }

    fn now_us(&mut self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn passed(&mut self, step: Step) {
        hit(match step {
            Step::FenceSeen => Point::ApparatusFenced,
            Step::Drained => Point::ApparatusDrained,
            Step::DrainedForRejoin => Point::ApparatusDrainedForRejoin,
            Step::AwaitingOthers => Point::ApparatusAwaiting,
        });
    }

    fn is_fenced(&mut self) -> bool {
        self.entry.is_fenced()
    }

    fn show_oldest(&mut self, oldest: Generation) {
        self.entry.set_oldest(oldest);
    }

    fn place_note(&mut self, change: ChangeId, spans: &[Span]) -> bool {
        self.runtime.note_writes(change, spans)
    }

    fn written(&mut self, change: ChangeId) -> Option<Vec<Span>> {
        self.runtime.written(change)
    }

    fn end_note(&mut self, change: ChangeId) {
        self.runtime.end_note(change);
    }

    fn place_hold(&mut self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool {
        let placed = self.runtime.hold(change, spans, mode);
        if change == OWN {
            if !placed {
                log::error!("cannot hold writes: there are too many holds");
            }
        } else if placed {
            hit(Point::ApparatusHoldPlaced);
        }
        placed
    }

    fn lag(&mut self, change: ChangeId) -> Option<Answer> {
        let lag = self.runtime.lag(change)?;
        Some(Answer::StillDraining {
            change,
            in_flight: lag.in_flight,
            oldest_us: u64::try_from(lag.age.as_micros()).unwrap_or(u64::MAX),
            disk: lag.disk,
        })
    }

    fn release(&mut self, change: ChangeId) -> Parked {
        let resumed = self.runtime.release(change);
        if change != OWN {
            hit(Point::ApparatusReopened);
        }
        Parked {
            requests: resumed.parked,
            longest_us: u64::try_from(resumed.longest.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn close_gate(&mut self) {
        log::warn!("fenced, or with a damaged table: hosts wait until this apparatus has rejoined");
        self.last_failure.clear();
        self.runtime.close();
    }

    fn open_gate(&mut self) {
        self.runtime.open();
    }

    fn in_flight(&mut self) -> u64 {
        self.runtime.in_flight()
    }

    fn oldest(&mut self) -> Generation {
        self.runtime.oldest()
    }

    fn apply(&mut self, delta: &Delta) -> bool {
        let generation = match self.runtime.apply(delta) {
            Ok(generation) => generation,
            Err(why) => {
                let present = self.runtime.generation();
                log::error!("the table of generation {present} is damaged: {why}");
                return false;
            }
        };
        hit(Point::ApparatusSwitched);
        self.entry.set_generation(generation);
        self.entry.set_oldest(self.runtime.oldest());
        self.openings.follow(delta);
        hit(Point::ApparatusApplied);
        true
    }

    fn load(&mut self, rejoined: &agent::Rejoined) -> bool {
        let Some(brought) = self.rejoined.take() else {
            return false;
        };
        let Rejoined { joined, table, disks } = *brought;
        disks
            .into_iter()
            .for_each(|disk| self.runtime.disks().insert(disk));
        if let Err(why) = self.runtime.reload(table, &joined.snapshot.disks) {
            log::error!("{why}: this apparatus ends");
            self.runtime.stop();
            return false;
        }
        hit(Point::ApparatusReloaded);
        let (incarnation, generation) = (rejoined.incarnation, rejoined.generation);
        self.entry.begin(incarnation, generation);
        self.openings.set_table(joined.snapshot.disks);
        log::info!("rejoined with incarnation {incarnation} and the table of generation {generation}");
        true
    }

    fn end(&mut self, slot: Slot) {
        log::error!("slot {slot} of the member table belongs to another apparatus: this one ends");
        self.runtime.stop();
    }

    fn open_disks(&mut self, change: ChangeId, disks: Vec<DiskRecord>) -> bool {
        self.openings.open_for(change, disks)
    }

    fn forget_disks(&mut self, change: Option<ChangeId>) {
        match change {
            Some(change) => self.openings.forget(change),
            None => self.openings.forget_all(),
        }
    }

    fn still_opening(&mut self, change: ChangeId) -> Option<Answer> {
        self.openings.still_opening(change)
    }

    fn cancel(&mut self, change: ChangeId) -> bool {
        hit(Point::ApparatusCancelling);
        self.helpers.give(Work::Cancel(change))
    }

    fn find_others(&mut self, generations: &BTreeSet<Generation>) -> bool {
        self.helpers.give(Work::Others(generations.clone()))
    }

    fn rejoin(&mut self, from: Incarnation) -> bool {
        self.helpers.give(Work::Rejoin(from))
    }

    fn take_over(&mut self) {
        hit(Point::ApparatusTakingOver);
        self.jobs.take_over();
    }
}
