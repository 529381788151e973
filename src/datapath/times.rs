//! Modification times of volumes: of writes through this apparatus, which each thread records for itself, and through others, which report them.

use super::lock;
use super::metrics::MetricsRegistry;
use super::notices::{KernelNotice, Notices};
use super::start_time::StartTime;
use crate::cluster::Times;
use crate::map::Table;
use crate::model::records::VolumeRecord;
use crate::model::units::VolumeId;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Modification times of volumes.
pub(super) struct ModifiedTimes {
    /// Last times of writing that this apparatus or another has reported.
    reported: Mutex<Times>,
    table: Arc<Table>,
    metrics: Arc<MetricsRegistry>,
    notices: Arc<Notices>,
    start: StartTime,
}

impl ModifiedTimes {
    /// Makes it without a reported time.
    pub(super) fn new(
        table: Arc<Table>,
        metrics: Arc<MetricsRegistry>,
        notices: Arc<Notices>,
        start: StartTime,
    ) -> Self {
        Self {
            reported: Mutex::default(),
            table,
            metrics,
            notices,
            start,
        }
    }

    /// Returns when the volume was last written, as far as is known here, or when this apparatus started, if nothing is.
    pub(super) fn modified(&self, id: VolumeId) -> SystemTime {
        let at = self.modified_us(id);
        let known = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(at));
        known.filter(|_| at > 0).unwrap_or(self.start.calendar())
    }

    /// Returns the same in microseconds since 1970; 0 if nothing is known.
    pub(super) fn modified_us(&self, id: VolumeId) -> u64 {
        let reported = lock(&self.reported).get(&id).copied();
        let here = self.metrics.written_at_us(id);
        reported.unwrap_or(0).max(self.start.since_1970(here))
    }

    /// Returns the times of all volumes. A volume without a known time counts as written now, so that all apparatuses show the same for it.
    pub(super) fn modified_here(&self) -> Times {
        // This has a reader of its own, so that the control thread does not wait for it.
        let volumes = self.table.volumes(&mut self.table.reader());
        let written = self.metrics.written();
        let now = self.start.since_1970(self.start.elapsed_us());
        let mut reported = lock(&self.reported);
        let time = |VolumeRecord { id, .. }: &VolumeRecord| {
            let here = self.start.since_1970(written.get(id).copied().unwrap_or(0));
            match reported.get(id).copied().unwrap_or(0).max(here) {
                0 => (*id, now),
                known => (*id, known),
            }
        };
        let times: Times = volumes.iter().map(time).collect();
        reported.clone_from(&times);
        times
    }

    /// Records times that other apparatuses, or an earlier incarnation, have reported.
    pub(super) fn learn(&self, times: &Times) {
        for (&id, &at) in times {
            if at > self.modified_us(id) {
                lock(&self.reported).insert(id, at);
                self.notices.send(KernelNotice::Attributes(id));
            }
        }
    }
}
