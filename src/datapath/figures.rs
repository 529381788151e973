//! Metrics of an apparatus, gathered from the parts that keep them.

use super::flush::FlushPath;
use super::io::micros;
use super::lookup::Lookup;
use super::metrics::MetricsRegistry;
use super::parking::Parking;
use super::readers::Readers;
use super::start_time::StartTime;
use super::waiting_flushes::WaitingFlushes;
use crate::blockdev::Disks;
use crate::map::Table;
use crate::model::names::Name;
use crate::model::units::VolumeId;
use crate::rpc::message::{ApparatusMetrics, IoFigures, LongRequests};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Parts whose counters the metrics show.
pub(super) struct Figures {
    name: Name,
    start: StartTime,
    table: Arc<Table>,
    lookup: Arc<Lookup>,
    disks: Arc<Disks>,
    parking: Arc<Parking>,
    readers: Arc<Readers>,
    flush: Arc<FlushPath>,
    flushes: Arc<WaitingFlushes>,
    metrics: Arc<MetricsRegistry>,
}

impl Figures {
    /// Makes it of what identifies the apparatus, what names volumes and disks, and what counts.
    pub(super) fn new(
        (name, start): (Name, StartTime),
        (table, lookup, disks): (Arc<Table>, Arc<Lookup>, Arc<Disks>),
        (parking, flush, flushes): (Arc<Parking>, Arc<FlushPath>, Arc<WaitingFlushes>),
        (readers, metrics): (Arc<Readers>, Arc<MetricsRegistry>),
    ) -> Self {
        Self {
            name,
            start,
            table,
            lookup,
            disks,
            parking,
            readers,
            flush,
            flushes,
            metrics,
        }
    }

    /// Returns the metrics, without those that the control thread knows.
    pub(super) fn gather(&self) -> ApparatusMetrics {
        let generation = self.table.generation();
        let counts = self.parking.counts();
        let disks = self.disks.view();
        let named = self.lookup.volumes();
        let waiting = self.parking.by_volume();
        let waiting = named
            .iter()
            .filter_map(|volume| Some((volume.name.to_string(), *waiting.get(&volume.id)?)));
        let parked_by_volume = waiting.collect();
        let mut volumes = self.metrics.volumes();
        let all = named.len() <= ApparatusMetrics::ALL_VOLUMES;
        let by_volume = named.into_iter().filter_map(|volume| {
            let io = volumes.remove(&volume.id).unwrap_or_default();
            (all || io != IoFigures::default()).then(|| (volume.name.to_string(), io))
        });
        let by_disk = self.metrics.disks().into_iter();
        let by_disk = by_disk.filter_map(|(id, figures)| Some((disks.get(id)?.name().to_owned(), figures)));
        ApparatusMetrics {
            name: self.name.to_string(),
            pid: std::process::id(),
            uptime_us: self.start.elapsed_us(),
            generation,
            oldest: self.parking.oldest(generation),
            in_flight: counts.in_flight,
            parked: counts.parked,
            parked_bytes: counts.parked_bytes,
            holds: counts.holds,
            ever_parked: counts.ever_parked,
            longest_parked_us: counts.longest_parked_us,
            threads: self.readers.count() as u64,
            volumes: by_volume.collect(),
            parked_by_volume,
            disks: by_disk.collect(),
            waiting: self.waiting(),
            ..ApparatusMetrics::default()
        }
    }

    /// Returns the requests that have been in flight for long, by volume.
    pub(super) fn waiting(&self) -> BTreeMap<String, LongRequests> {
        let mut waiting: BTreeMap<String, LongRequests> = BTreeMap::new();
        for (span, age) in self.parking.lasting(LongRequests::LONG) {
            let Some(volume) = self.lookup.volume(span.volume) else {
                continue;
            };
            let of_volume = waiting.entry(volume.name.to_string()).or_default();
            of_volume.requests += 1;
            of_volume.longest_us = of_volume.longest_us.max(micros(age));
            if span.start < span.end {
                let under = self.lookup.first_disk(&span);
                of_volume
                    .disks
                    .extend(under.and_then(|disk| self.disks.name_of(disk)));
            } else {
                of_volume.disks.extend(self.slow_under(span.volume));
                of_volume.database = self.flush.trouble().filter(|_| of_volume.disks.is_empty());
            }
        }
        for (volume, (requests, longest)) in self.flushes.by_volume() {
            let named = self.lookup.volume(volume);
            let (Some(named), true) = (named, longest >= LongRequests::LONG) else {
                continue;
            };
            let of_volume = waiting.entry(named.name.to_string()).or_default();
            of_volume.requests += requests;
            of_volume.longest_us = of_volume.longest_us.max(micros(longest));
            of_volume.database = self.flush.trouble();
            if of_volume.database.is_none() {
                of_volume.disks.extend(self.slow_under(volume));
            }
        }
        waiting
    }

    /// Names the disks that a flush of the volume may wait for: the slow ones among its own, or else those that persisting waits for.
    fn slow_under(&self, volume: VolumeId) -> Vec<String> {
        let own = self.lookup.disks_of(volume);
        let mut slow = self.flush.slow_disks(LongRequests::LONG);
        if slow.iter().any(|disk| own.contains(disk)) {
            slow.retain(|disk| own.contains(disk));
        }
        slow.into_iter()
            .filter_map(|disk| self.disks.name_of(disk))
            .collect()
    }
}
