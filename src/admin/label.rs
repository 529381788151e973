//! Rewrites a disk's label.

use super::disk::{DISK_TIMEOUT, describe};
use super::plan::{self, Planned};
use super::select;
use super::send::{Sent, send, write_within};
use crate::blockdev::label::Label;
use crate::blockdev::{Disk, Unlabelled, Waived, within};
use crate::cluster::FlushLedger;
use crate::controller::Controller;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::{DiskRecord, Snapshot};
use crate::store::{Store, TableStore};

/// Why a label has to be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It cannot be read. The value describes what the beginning of the disk contains instead, if anything is recognised.
    Lost(Option<&'static str>),
    /// It is older than the last one that was written, so the disk is an older copy.
    Older,
}

/// Returns what is wrong with a disk's label; `None` if nothing.
///
/// # Errors
/// Fails when there is no such disk, when it cannot be opened for another reason, and when it is an older copy and that is not `accepted`.
pub fn inspect(store: &mut dyn TableStore, disk: &str, accepted: bool) -> Result<Option<Cause>> {
    let snapshot = store.snapshot()?;
    let record = select::disk(&snapshot.disks, disk)?.clone();
    let here = snapshot.header.here(&record);
    let (what, path) = (describe(&here), here.path);
    within(DISK_TIMEOUT, &what, &path, move || {
        look(&record, &snapshot, accepted)
    })
}

fn look(record: &DiskRecord, snapshot: &Snapshot, accepted: bool) -> Result<Option<Cause>> {
    match Disk::open(record, &snapshot.header) {
        Ok(_) => Ok(None),
        Err(busy) if busy.kind() == ErrorKind::Busy => Err(busy),
        Err(why) => Ok(Some(cause(record, snapshot, accepted, why)?)),
    }
}

fn cause(record: &DiskRecord, snapshot: &Snapshot, accepted: bool, why: Error) -> Result<Cause> {
    if let Some(lost) = Unlabelled::inspect(record, &snapshot.header, &snapshot.disks)? {
        return Ok(Cause::Lost(lost.content()));
    }
    match Disk::open_waiving(OLD, record, &snapshot.header) {
        Ok(_) if accepted => Ok(Cause::Older),
        _ => Err(why),
    }
}

const OLD: Waived = Waived {
    owner: false,
    age: true,
};

/// Writes the label, and has every apparatus open the disk that could not before. `None` when the label is correct.
///
/// # Errors
/// Returns the errors of [`inspect`] and of the disk.
pub fn write(controller: &mut Controller, title: &str, disk: &str, accepted: bool) -> Result<Option<Sent>> {
    let Some(cause) = inspect(controller.store(), disk, accepted)? else {
        return Ok(None);
    };
    let snapshot = controller.store().snapshot()?;
    let record = select::disk(&snapshot.disks, disk)?.clone();
    let (known, ledger) = (snapshot.clone(), controller.ledger(record.id));
    let wanted = record.clone();
    let here = snapshot.header.here(&record);
    let label = write_within(controller, DISK_TIMEOUT, &describe(&here), &here, move || {
        relabel(cause, &wanted, &known, &*ledger)
    })?;
    controller.store().label_written(record.id, label.sequence)?;
    let planned = announcement(&snapshot, &record, label.sequence);
    send(controller, title, &planned).map(Some)
}

fn relabel(
    cause: Cause,
    record: &DiskRecord,
    snapshot: &Snapshot,
    ledger: &dyn FlushLedger,
) -> Result<Label> {
    match cause {
        Cause::Older => Disk::open_waiving(OLD, record, &snapshot.header)?.take_over(record.label, ledger),
        Cause::Lost(_) => Unlabelled::inspect(record, &snapshot.header, &snapshot.disks)?
            .ok_or_else(|| Error::failed(format!("disk {}", record.name), "changed while it was inspected"))?
            .write_label(ledger),
    }
}

/// Plans the change that would be sent; `None` when the label is correct.
///
/// # Errors
/// Returns the errors of [`inspect`].
pub fn plan(store: &mut dyn Store, disk: &str, accepted: bool) -> Result<Option<Planned>> {
    let cause = inspect(store, disk, accepted)?;
    let snapshot = store.snapshot()?;
    let record = select::disk(&snapshot.disks, disk)?;
    Ok(cause.map(|_| announcement(&snapshot, record, record.label + 1)))
}

fn announcement(snapshot: &Snapshot, record: &DiskRecord, label: u64) -> Planned {
    let record = DiskRecord {
        label,
        ..record.clone()
    };
    plan::announce_disk(snapshot, record)
}
