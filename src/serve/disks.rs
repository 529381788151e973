//! Opens the disks when an apparatus starts, and tells the process that started it which of them cannot be opened.

use super::process::notify;
use super::report::Reporter;
use crate::admin::apparatus::UNOPENED;
use crate::blockdev::{Disk, Disks};
use crate::model::event::Severity;
use crate::model::names::Name;
use crate::model::records::{DiskRecord, PoolHeader};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;

/// How long the start waits for disks; one that answers later is opened then.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// A disk that could not be opened.
pub(super) struct Unopened {
    disk: Name,
    why: String,
}

/// Opens the disks that are not open yet. One that cannot be opened, or does not answer in time, is reported, and its volumes answer EIO
/// until it is open. Returns these.
pub(super) fn open(
    disks: &Disks,
    records: &[DiskRecord],
    header: &PoolHeader,
    reporter: &Reporter,
) -> Vec<Unopened> {
    let closed = |record: &&DiskRecord| disks.get(record.id).is_none();
    let closed: Vec<DiskRecord> = records.iter().filter(closed).cloned().collect();
    let opened = Disk::open_all_within(DISK_WAIT, &closed, header);
    let mut unopened = Vec::new();
    for (opened, record) in opened.into_iter().zip(&closed) {
        match opened {
            Ok(disk) => disks.insert(Arc::new(disk)),
            Err(error) => {
                let why = format!("{}; volumes on it answer EIO until it can be opened", error.why());
                reporter.report(Severity::Error, format!("disk {}", record.name), why.clone());
                let disk = record.name.clone();
                unopened.push(Unopened { disk, why });
            }
        }
    }
    unopened
}

/// Names these disks to the process that waits for this one to serve. A notification is a line for each.
pub(super) fn warn(unopened: &[Unopened]) {
    for Unopened { disk, why } in unopened {
        let why = why.replace('\n', " ");
        notify(&[NotifyState::Custom(&format!("{UNOPENED}={disk} {why}"))]);
    }
}
