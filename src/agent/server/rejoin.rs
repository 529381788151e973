//! Rejoins the control range after a fence.
//!
//! ```text
//!  No --fenced--> Draining --nothing in flight--> Asked --rejoined--> No (the machine continues)
//!                                                  ^  |
//!                                         timeout  |  | the store fails
//!                                                  +--+
//! ```

use super::helpers::{Helpers, Rejoined, Work};
use crate::cluster::OwnEntry;
use crate::datapath::Runtime;
use crate::failpoint::{Point, hit};
use crate::model::error::Result;
use crate::model::units::{Incarnation, Slot};
use std::sync::Arc;
use std::time::Duration;

/// Interval between attempts to rejoin.
const RETRY: Duration = Duration::from_millis(200);

/// State of a rejoin.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// The apparatus is in the control range, as far as it knows.
    No,
    /// The gate is closed; requests are still in flight.
    Draining,
    /// A helper has been asked to rejoin, or will be again. Holds the last failure, so that it is logged once.
    Asked(String),
}

/// Next step after a helper's attempt.
pub(super) enum NextStep {
    /// Nothing: the apparatus ends, or the answer was not awaited.
    Nothing,
    /// Call [`Rejoin::retry`] after this time.
    Retry(Duration),
    /// Load the new table, whose disks are open, and call [`Rejoin::done`].
    Load(Box<Rejoined>),
}

/// Rejoin of the control range.
pub(super) struct Rejoin {
    runtime: Arc<dyn Runtime>,
    entry: Arc<dyn OwnEntry>,
    helpers: Helpers,
    slot: Slot,
    stage: Stage,
}

impl Rejoin {
    /// Makes it for an apparatus that is in the control range, with this slot among the members.
    pub(super) fn new(
        runtime: Arc<dyn Runtime>,
        entry: Arc<dyn OwnEntry>,
        helpers: Helpers,
        slot: Slot,
    ) -> Self {
        Self {
            runtime,
            entry,
            helpers,
            slot,
            stage: Stage::No,
        }
    }

    /// Returns whether another process has fenced the present incarnation.
    pub(super) fn is_fenced(&self) -> bool {
        self.entry.is_fenced()
    }

    /// Parks all requests, and begins to rejoin.
    pub(super) fn begin(&mut self) {
        log::warn!("fenced, or with a damaged table: hosts wait until this apparatus has rejoined");
        self.runtime.close();
        self.stage = Stage::Draining;
    }

    /// Asks a helper to rejoin once no request is in flight. Returns the time after which [`Rejoin::retry`] is to be called, if none could be
    /// asked.
    pub(super) fn check(&mut self, from: Incarnation) -> Option<Duration> {
        if self.stage != Stage::Draining || self.runtime.in_flight() > 0 {
            return None;
        }
        hit(Point::ApparatusDrainedForRejoin);
        self.stage = Stage::Asked(String::new());
        self.retry(from)
    }

    /// Asks a helper to rejoin, from this incarnation. Returns the time after which this is to be called again, if none could be asked.
    pub(super) fn retry(&self, from: Incarnation) -> Option<Duration> {
        let wanted = matches!(self.stage, Stage::Asked(_));
        (wanted && !self.helpers.give(Work::Rejoin(from))).then_some(RETRY)
    }

    /// Handles a helper's answer.
    pub(super) fn answered(&mut self, answer: Result<Box<Rejoined>>) -> NextStep {
        match answer {
            Ok(rejoined) if rejoined.joined.member.slot != self.slot => {
                log::error!(
                    "slot {} of the member table belongs to another apparatus: this one ends",
                    self.slot
                );
                self.runtime.stop();
                NextStep::Nothing
            }
            Ok(rejoined) => {
                for disk in &rejoined.disks {
                    self.runtime.disks().insert(Arc::clone(disk));
                }
                NextStep::Load(rejoined)
            }
            Err(why) => self.failed(why.to_string()),
        }
    }

    fn failed(&mut self, why: String) -> NextStep {
        let Stage::Asked(last) = &mut self.stage else {
            return NextStep::Nothing;
        };
        if *last != why {
            log::error!("cannot rejoin, and retries: {why}");
            *last = why;
        }
        NextStep::Retry(RETRY)
    }

    /// Records that the apparatus is in the control range again.
    pub(super) fn done(&mut self) {
        self.stage = Stage::No;
    }
}
