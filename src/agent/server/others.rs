//! Waits until the other apparatuses have reached generations of the table, as a helper reads them from the members of the pool.

use super::helpers::{Helpers, Work};
use crate::failpoint::{Point, hit};
use crate::model::units::Generation;
use crate::protocol::participant::Event;
use std::collections::BTreeSet;
use std::time::Duration;

/// Interval at which the generations of the other apparatuses are read.
pub(super) const INTERVAL: Duration = Duration::from_millis(2);

/// Generations that the other apparatuses have to reach, and whether a helper is checking that.
pub(super) struct Others {
    helpers: Helpers,
    awaited: BTreeSet<Generation>,
    checking: bool,
}

impl Others {
    /// Makes it without a generation to wait for.
    pub(super) fn new(helpers: Helpers) -> Self {
        Self {
            helpers,
            awaited: BTreeSet::new(),
            checking: false,
        }
    }

    /// Waits for a generation. Returns the time after which [`Others::check`] is to be called, if no helper could be asked.
    pub(super) fn wait_for(&mut self, generation: Generation) -> Option<Duration> {
        hit(Point::ApparatusAwaiting);
        self.awaited.insert(generation);
        self.check()
    }

    /// Asks a helper which generations have been reached. Returns the time after which this is to be called again, if none could be asked.
    pub(super) fn check(&mut self) -> Option<Duration> {
        if self.awaited.is_empty() || self.checking {
            return None;
        }
        self.checking = self.helpers.give(Work::Others(self.awaited.clone()));
        (!self.checking).then_some(INTERVAL)
    }

    /// Handles a helper's answer.
    pub(super) fn reached(&mut self, generations: Vec<Generation>) -> Vec<Event> {
        self.checking = false;
        for generation in &generations {
            self.awaited.remove(generation);
        }
        generations.into_iter().map(Event::OthersReached).collect()
    }

    /// Waits for no generation any more.
    pub(super) fn forget_all(&mut self) {
        self.awaited.clear();
    }
}
