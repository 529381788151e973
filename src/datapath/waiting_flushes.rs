//! Flushes that wait for the store, or for another flush. No thread waits for them meanwhile.

use super::park_timeouts::ParkTimeouts;
use super::submit::NextStep;
use super::workers::Workers;
use super::{Owned, Persist, lock};
use crate::model::units::VolumeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Queue of flushes that are to be retried.
pub(super) struct WaitingFlushes {
    queue: Mutex<Vec<Owned>>,
    most: usize,
    persist: Arc<dyn Persist>,
    workers: Arc<Workers>,
    park_timeouts: Arc<ParkTimeouts>,
}

impl WaitingFlushes {
    /// Makes an empty queue for `most` flushes, which these workers retry.
    pub(super) fn new(
        most: usize,
        persist: Arc<dyn Persist>,
        workers: Arc<Workers>,
        park_timeouts: Arc<ParkTimeouts>,
    ) -> Self {
        Self {
            queue: Mutex::default(),
            most,
            persist,
            workers,
            park_timeouts,
        }
    }

    /// Queues a flush until there is reason to retry it.
    pub(super) fn add(&self, request: Owned, completions: u64) -> NextStep {
        let seen = self.park_timeouts.moves();
        let mut waiting = lock(&self.queue);
        if let Some(failure) = self.park_timeouts.given_up() {
            drop(waiting);
            request.refuse(failure);
            return NextStep::Nothing;
        }
        if self.persist.completions() != completions {
            return NextStep::Again(request);
        }
        if waiting.len() < self.most {
            waiting.push(request);
            return NextStep::Nothing;
        }
        drop(waiting);
        self.park_timeouts.wait_for_room(seen);
        NextStep::Again(request)
    }

    /// Has workers retry all.
    pub(super) fn retry(&self) {
        let waiting = std::mem::take(&mut *lock(&self.queue));
        self.workers.run_each(waiting);
        self.park_timeouts.moved();
    }

    /// Has workers retry all, if it is time to although no event asks for it.
    pub(super) fn retry_if_wanted(&self) {
        if self.persist.wants_retry() {
            self.retry();
        }
    }

    /// Counts them by volume, with the age of the oldest.
    pub(super) fn by_volume(&self) -> BTreeMap<VolumeId, (u64, Duration)> {
        let mut by_volume: BTreeMap<VolumeId, (u64, Duration)> = BTreeMap::new();
        for request in lock(&self.queue).iter() {
            let (count, longest) = by_volume.entry(request.volume).or_default();
            *count += 1;
            *longest = request.since.elapsed().max(*longest);
        }
        by_volume
    }
}
