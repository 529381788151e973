//! Opens disks while the apparatus serves: those that a hold needs, and those of the table that did not answer before.
//!
//! Each is opened on a helper thread of its own, so a hung disk delays neither another disk nor the control thread. A hold that waits for one is
//! reported as still opening when its drain time is over; the opening continues, and the next hold finds it done.

use super::helpers::Helpers;
use crate::blockdev::{Disk, close_in_background};
use crate::datapath::Runtime;
use crate::model::event::Severity;
use crate::model::records::{Delta, DiskRecord, Edit};
use crate::model::units::{ChangeId, DiskId};
use crate::protocol::agent::{Input, NotOpened};
use crate::rpc::message::Answer;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Interval at which disks of the table that are not open are retried.
const RETRY: Duration = Duration::from_secs(5);

/// Opens disks, and knows the holds that wait for them.
pub(super) struct Openings {
    runtime: Arc<dyn Runtime>,
    helpers: Helpers,
    wanted: Wanted,
    /// Start times of the openings, by disk and path: a record with a new path does not wait for the old one.
    running: BTreeMap<(DiskId, PathBuf), Instant>,
    last_retry: Instant,
    /// Reason why a disk could not be opened, as it was logged last.
    last_reason: BTreeMap<DiskId, String>,
}

/// Disks that are to be open.
#[derive(Default)]
struct Wanted {
    /// The disks of the table.
    records: BTreeMap<DiskId, DiskRecord>,
    /// The disks that holds wait for.
    holds: BTreeMap<ChangeId, Vec<DiskRecord>>,
}

impl Wanted {
    fn set(&mut self, record: DiskRecord) {
        self.records.insert(record.id, record);
    }

    /// Returns whether the table or a hold names this disk at this path.
    fn is_wanted(&self, record: &DiskRecord) -> bool {
        let of_holds = self.holds.values().flatten();
        let mut named = self.records.get(&record.id).into_iter().chain(of_holds);
        named.any(|each| key(each) == key(record))
    }

    /// Returns the holds that wait for this disk at this path.
    fn waiting_for(&self, record: &DiskRecord) -> Vec<ChangeId> {
        let waits = |records: &Vec<DiskRecord>| records.iter().any(|each| key(each) == key(record));
        let waiting = self.holds.iter().filter(|(_, records)| waits(records));
        waiting.map(|(change, _)| *change).collect()
    }
}

fn key(record: &DiskRecord) -> (DiskId, PathBuf) {
    (record.id, record.path.clone())
}

impl Openings {
    /// Makes it for the disks of the table that the apparatus joined with.
    pub(super) fn new(runtime: Arc<dyn Runtime>, helpers: Helpers, records: Vec<DiskRecord>) -> Self {
        let mut openings = Self {
            runtime,
            helpers,
            wanted: Wanted::default(),
            running: BTreeMap::new(),
            last_retry: Instant::now(),
            last_reason: BTreeMap::new(),
        };
        openings.set_table(records);
        openings
    }

    /// Sets the disks of a new table.
    pub(super) fn set_table(&mut self, records: Vec<DiskRecord>) {
        self.wanted.records = records.into_iter().map(|record| (record.id, record)).collect();
    }

    /// Follows a delta that has been applied to the table.
    pub(super) fn follow(&mut self, delta: &Delta) {
        for edit in &delta.edits {
            match edit {
                Edit::AddDisk(record) | Edit::SetDisk(record) => self.wanted.set(record.clone()),
                Edit::RemoveDisk(disk) => self.close(*disk),
                _ => {}
            }
        }
    }

    /// Opens the disks that a hold needs. Returns whether they are open already.
    pub(super) fn open_for(&mut self, change: ChangeId, records: Vec<DiskRecord>) -> bool {
        self.wanted.holds.insert(change, records);
        self.check(change)
    }

    /// Returns whether the disks that a hold waits for are open, and begins to open those that are not.
    fn check(&mut self, change: ChangeId) -> bool {
        let Some(records) = self.wanted.holds.get(&change) else {
            return false;
        };
        let missing = self.missing(records);
        missing.iter().for_each(|record| self.begin(record));
        if missing.is_empty() {
            self.forget(change);
        }
        missing.is_empty()
    }

    fn missing(&self, records: &[DiskRecord]) -> Vec<DiskRecord> {
        let disks = self.runtime.disks();
        records
            .iter()
            .filter(|record| !disks.has(record))
            .cloned()
            .collect()
    }

    fn begin(&mut self, record: &DiskRecord) {
        if let Entry::Vacant(none) = self.running.entry(key(record)) {
            none.insert(Instant::now());
            self.helpers.open(record);
        }
    }

    /// Handles the result of an opening.
    pub(super) fn opened(&mut self, record: &DiskRecord, opened: Result<Arc<Disk>, String>) -> Vec<Input> {
        self.running.remove(&key(record));
        let failed = match opened {
            Ok(disk) if self.wanted.is_wanted(record) => {
                self.install(record, disk);
                None
            }
            // The disk was removed, or has another path, since the opening began.
            Ok(disk) => {
                close_in_background(disk);
                None
            }
            Err(why) => {
                self.log_once(record, &why);
                Some((record.name.to_string(), why))
            }
        };
        let waiting = self.wanted.waiting_for(record).into_iter();
        match failed {
            None => waiting
                .filter(|change| self.check(*change))
                .map(|change| Input::DisksOpen(change, Ok(())))
                .collect(),
            Some(why) => waiting.map(|change| self.fail(change, why.clone())).collect(),
        }
    }

    fn fail(&mut self, change: ChangeId, why: NotOpened) -> Input {
        self.forget(change);
        Input::DisksOpen(change, Err(why))
    }

    fn install(&mut self, record: &DiskRecord, disk: Arc<Disk>) {
        let disks = self.runtime.disks();
        let before = disks.get(record.id);
        disks.insert(Arc::clone(&disk));
        if let Some(before) = before {
            close_in_background(before);
        } else if self.wanted.records.contains_key(&record.id) {
            self.helpers.renew_label(&disk);
        }
        if self.last_reason.remove(&record.id).is_some() {
            let text = "answers again: its volumes are served";
            self.helpers
                .log(Severity::Info, format!("disk {}", record.name), text.into());
        }
    }

    fn log_once(&mut self, record: &DiskRecord, why: &str) {
        let before = self.last_reason.insert(record.id, why.to_owned());
        if before.is_none_or(|before| before != why) {
            log::error!("disk {}: {why}", record.name);
        }
    }

    /// Returns the answer that a disk is still being opened for a hold, which names the one whose opening has taken longest.
    pub(super) fn still_opening(&self, change: ChangeId) -> Option<Answer> {
        let records = self.wanted.holds.get(&change)?;
        let pending = records
            .iter()
            .filter_map(|record| Some((*self.running.get(&key(record))?, record)));
        let (since, record) = pending.min_by_key(|(since, _)| *since)?;
        Some(Answer::StillOpening {
            change,
            disk: record.name.to_string(),
            waited_us: u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// Returns the names of the disks of the table that are not open.
    pub(super) fn closed(&self) -> BTreeSet<String> {
        let disks = self.runtime.disks();
        let all = self.wanted.records.values();
        all.filter(|record| disks.get(record.id).is_none())
            .map(|record| record.name.to_string())
            .collect()
    }

    /// Retries the disks of the table that are not open: one that did not answer before may do so now.
    pub(super) fn retry(&mut self) {
        if self.last_retry.elapsed() < RETRY {
            return;
        }
        self.last_retry = Instant::now();
        let disks = self.runtime.disks();
        let all = self.wanted.records.values();
        let closed: Vec<DiskRecord> = all
            .filter(|record| disks.get(record.id).is_none())
            .cloned()
            .collect();
        for record in closed {
            self.last_reason.entry(record.id).or_default();
            self.begin(&record);
        }
    }

    /// Closes a disk that has left the pool, on a helper thread, because closing may wait for the disk.
    fn close(&mut self, id: DiskId) {
        self.wanted.records.remove(&id);
        self.last_reason.remove(&id);
        let disks = self.runtime.disks();
        let open = disks.get(id);
        disks.remove(id);
        if let Some(disk) = open {
            close_in_background(disk);
        }
    }

    /// Drops a hold that no longer waits.
    pub(super) fn forget(&mut self, change: ChangeId) {
        self.wanted.holds.remove(&change);
    }

    /// Drops all holds.
    pub(super) fn forget_all(&mut self) {
        self.wanted.holds.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build;

    fn record(path: &str) -> DiskRecord {
        DiskRecord {
            path: path.into(),
            ..build::disk(1, 4)
        }
    }

    #[test]
    fn a_disk_is_wanted_at_the_path_that_the_table_or_a_hold_names() {
        let (old, new) = (record("/old"), record("/new"));
        let mut wanted = Wanted::default();
        wanted.set(old.clone());
        assert!(wanted.is_wanted(&old));
        wanted.set(new.clone());
        assert_ne!(
            key(&old),
            key(&new),
            "an opening by the old path does not block one by the new"
        );
        assert!(wanted.is_wanted(&new) && !wanted.is_wanted(&old));
        // A hold that was requested before may still name the old path.
        wanted.holds.insert(ChangeId(7), vec![old.clone()]);
        assert!(wanted.is_wanted(&old));
        assert_eq!(wanted.waiting_for(&old), [ChangeId(7)]);
        assert!(wanted.waiting_for(&new).is_empty());
        wanted.holds.remove(&ChangeId(7));
        assert!(!wanted.is_wanted(&old));
        wanted.records.remove(&DiskId(1));
        assert!(!wanted.is_wanted(&new), "it comes too late");
    }
}
