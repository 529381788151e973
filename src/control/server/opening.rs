//! The disks that this apparatus opens while it serves: those that a hold needs, and those of the table that did not answer before.
//!
//! Each is opened on a helper thread of its own, so a disk that hangs delays neither another disk nor the control thread. A hold that waits for one
//! is reported as still opening when a controller expects its answer; the opening goes on, and the next hold finds it done.

use super::core::Core;
use crate::change::participant::{Event, Link};
use crate::disk::{Disk, close_aside};
use crate::pool::model::DiskRecord;
use crate::store::Severity;
use crate::units::{ChangeId, DiskId};
use crate::wire::message::Answer;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the disks of the table that are not open are tried again.
const TRIED: Duration = Duration::from_secs(5);

/// What is being opened, and for whom.
pub(super) struct Openings {
    /// The disks of the table.
    records: BTreeMap<DiskId, DiskRecord>,
    /// By disk and path: a record that has another path does not wait for the old one.
    under_way: BTreeMap<(DiskId, PathBuf), Instant>,
    holds: BTreeMap<ChangeId, Vec<DiskRecord>>,
    tried: Instant,
    /// Why a disk could not be opened, as it was told last.
    told: BTreeMap<DiskId, String>,
}

impl Openings {
    pub(super) fn new(records: Vec<DiskRecord>) -> Self {
        let mut openings = Self {
            records: BTreeMap::new(),
            under_way: BTreeMap::new(),
            holds: BTreeMap::new(),
            tried: Instant::now(),
            told: BTreeMap::new(),
        };
        openings.set_table(records);
        openings
    }

    /// Another table: these are its disks.
    pub(super) fn set_table(&mut self, records: Vec<DiskRecord>) {
        self.records = records.into_iter().map(|record| (record.id, record)).collect();
    }

    pub(super) fn set(&mut self, record: DiskRecord) {
        self.records.insert(record.id, record);
    }

    pub(super) fn remove(&mut self, id: DiskId) {
        self.records.remove(&id);
        self.told.remove(&id);
    }

    /// Whether the table or a hold names this disk at this path.
    fn want(&self, record: &DiskRecord) -> bool {
        let of_holds = self.holds.values().flatten();
        let mut named = self.records.get(&record.id).into_iter().chain(of_holds);
        named.any(|each| key(each) == key(record))
    }

    /// A hold does not wait any more.
    pub(super) fn forget(&mut self, change: ChangeId) {
        self.holds.remove(&change);
    }

    /// No hold does.
    pub(super) fn forget_all(&mut self) {
        self.holds.clear();
    }
}

fn key(record: &DiskRecord) -> (DiskId, PathBuf) {
    (record.id, record.path.clone())
}

impl Core {
    /// Opens the disks that a hold needs, then tells the machine.
    pub(super) fn open_disks(&mut self, change: ChangeId, records: Vec<DiskRecord>) {
        self.openings.holds.insert(change, records);
        self.look_at_opening(change);
    }

    fn look_at_opening(&mut self, change: ChangeId) {
        let Some(records) = self.openings.holds.get(&change) else {
            return;
        };
        let missing = self.missing(records);
        if missing.is_empty() {
            self.openings.forget(change);
            self.events.push_back(Event::DisksOpen(change, Ok(())));
        } else {
            missing.iter().for_each(|record| self.begin_opening(record));
        }
    }

    fn missing(&self, records: &[DiskRecord]) -> Vec<DiskRecord> {
        let disks = self.setup.runtime.disks();
        records
            .iter()
            .filter(|record| !disks.has(record))
            .cloned()
            .collect()
    }

    fn begin_opening(&mut self, record: &DiskRecord) {
        if let Entry::Vacant(none) = self.openings.under_way.entry(key(record)) {
            none.insert(Instant::now());
            self.helpers.open(record);
        }
    }

    /// What came of it.
    pub(super) fn opened(&mut self, record: &DiskRecord, opened: Result<Arc<Disk>, String>) {
        self.openings.under_way.remove(&key(record));
        let failed = match opened {
            Ok(disk) if self.openings.want(record) => {
                self.take_in(record, disk);
                None
            }
            // It was removed, or has another path, since the opening began.
            Ok(disk) => {
                close_aside(disk);
                None
            }
            Err(why) => {
                self.tell_once(record, &why);
                Some((record.name.to_string(), why))
            }
        };
        let waits = |(change, records): (&ChangeId, &Vec<DiskRecord>)| {
            records
                .iter()
                .any(|each| key(each) == key(record))
                .then_some(*change)
        };
        let waiting: Vec<ChangeId> = self.openings.holds.iter().filter_map(waits).collect();
        for change in waiting {
            match &failed {
                None => self.look_at_opening(change),
                Some(why) => {
                    self.openings.forget(change);
                    self.events.push_back(Event::DisksOpen(change, Err(why.clone())));
                }
            }
        }
    }

    fn take_in(&mut self, record: &DiskRecord, disk: Arc<Disk>) {
        let disks = self.setup.runtime.disks();
        let before = disks.get(record.id);
        disks.insert(Arc::clone(&disk));
        if let Some(before) = before {
            close_aside(before);
        } else if self.openings.records.contains_key(&record.id) {
            self.helpers.renew_label(&disk);
        }
        if self.openings.told.remove(&record.id).is_some() {
            let text = "answers: its volumes are served";
            self.helpers
                .tell(Severity::Info, format!("disk {}", record.name), text.into());
        }
    }

    fn tell_once(&mut self, record: &DiskRecord, why: &str) {
        let told = self.openings.told.insert(record.id, why.to_owned());
        if told.is_none_or(|told| told != why) {
            log::error!("disk {}: {why}", record.name);
        }
    }

    /// Answers that a disk is still being opened: the one that has been asked for longest.
    pub(super) fn report_opening(&mut self, change: ChangeId, link: Link) {
        let records = self.openings.holds.get(&change).map_or(&[][..], Vec::as_slice);
        let under_way = &self.openings.under_way;
        let asked = records
            .iter()
            .filter_map(|record| Some((*under_way.get(&key(record))?, record)));
        let Some((since, record)) = asked.min_by_key(|(since, _)| *since) else {
            return;
        };
        let waited_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let disk = record.name.to_string();
        self.say(
            link,
            Answer::StillOpening {
                change,
                disk,
                waited_us,
            },
        );
    }

    /// Tries those of the table's disks that are not open: one that did not answer before may by now.
    pub(super) fn try_disks_again(&mut self) {
        if self.openings.tried.elapsed() < TRIED {
            return;
        }
        self.openings.tried = Instant::now();
        let disks = self.setup.runtime.disks();
        let closed = self
            .openings
            .records
            .values()
            .filter(|record| disks.get(record.id).is_none());
        for record in closed.cloned().collect::<Vec<_>>() {
            self.openings.told.entry(record.id).or_default();
            self.begin_opening(&record);
        }
    }

    /// The disk has left the pool. Closing it may wait for it.
    pub(super) fn close_disk(&mut self, id: DiskId) {
        self.openings.remove(id);
        let disks = self.setup.runtime.disks();
        let open = disks.get(id);
        disks.remove(id);
        if let Some(disk) = open {
            close_aside(disk);
        }
    }
}
