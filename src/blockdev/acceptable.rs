//! Checks of an open file against the record of the disk that it is to be: its length, its label, and who uses it.

use super::claim::{self, SameFile};
use super::label::{Label, LabelFault};
use super::labelled;
use super::open::{Disk, DiskKind, Waived, length};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::records::{DiskRecord, PoolHeader};
use crate::model::units::ExtentSize;
use crate::model::words::count;
use std::fs::File;
use std::io;
use uuid::Uuid;

/// Names a disk in messages, with its path on this machine.
pub(super) fn what(record: &DiskRecord, header: &PoolHeader) -> String {
    format!("disk {} ({})", record.name, header.path_of(record).display())
}

/// Reads the label, and checks that the disk may be used as its record says.
pub(super) fn acceptable(
    what: &str,
    file: &File,
    record: &DiskRecord,
    header: &PoolHeader,
    waived: Waived,
) -> Result<Label> {
    let label = match labelled::read(file).map_err(|why| Error::because(what, why))? {
        Ok(label) => label,
        Err(fault) => {
            not_elsewhere(what, file, record, header)?;
            return Err(unreadable(what, &record.name, fault));
        }
    };
    fits(what, &label, record, header.uuid, header.extent_size)?;
    if !waived.owner {
        claim::belongs(what, label.instance, &header.instance)?;
    }
    if !waived.age
        && let Err(old) = newest(what, &label, record)
    {
        let found = file.metadata().map_err(|why| Error::because(what, why))?;
        return Err(
            match SameFile::user_of_another(&header.instance, record.id.0, &found)? {
                Some(by) => newest_in_use(&old, &header.here(record), &by),
                None => old,
            },
        );
    }
    Ok(label)
}

/// The refusal of an older copy while the newest one is still open. Accepting the older one would not help: that is refused as long as the other is in
/// use.
fn newest_in_use(old: &Error, record: &DiskRecord, by: &str) -> Error {
    let why = format!(
        "{}; the newest copy is still open{by}, under another name or deleted",
        old.why()
    );
    Error::new(ErrorKind::Busy, old.what(), why).hint(format!(
        "put the newest copy back at {}; if it was deleted, copy its volumes from the mount and stop the processes that have it open: \
         then vctl disk label {} --accept-older-data uses this one",
        record.path.display(),
        record.name
    ))
}

/// Checks that the file has all the bytes of the disk.
///
/// # Errors
/// Names both lengths. The way out is to give an image its length again only where its label says that it is the disk.
pub(super) fn long_enough(
    what: &str,
    file: &File,
    kind: DiskKind,
    record: &DiskRecord,
    header: &PoolHeader,
) -> Result<()> {
    let failed = |why: io::Error| Error::because(what, why);
    let recorded = record.extents.saturating_mul(header.extent_size.bytes());
    let found = length(file, kind).map_err(failed)?;
    if found >= recorded {
        return Ok(());
    }
    let label = labelled::read(file).map_err(failed)?;
    let is_the_disk = label.is_ok_and(|label| (label.pool, label.disk) == (header.uuid, record.uuid));
    if !is_the_disk {
        not_elsewhere(what, file, record, header)?;
    }
    let hint = match (kind, is_the_disk) {
        (DiskKind::Device, _) => "connect the device again, or correct the path if it has moved".to_owned(),
        (DiskKind::Image { .. }, true) => format!(
            "restore it from a backup; or `truncate -s {recorded} {}` to serve what is left, the lost part reading as zeroes",
            header.path_of(record).display()
        ),
        (DiskKind::Image { .. }, false) => {
            "check that the path leads to the right disk; if this file is what is left of it, restore it from a backup".to_owned()
        }
    };
    let why = format!(
        "is {} long, shorter than the {recorded} recorded",
        count(found, "byte")
    );
    Err(Error::failed(what, why).hint(hint))
}

/// Checks that the disk itself is not in use as another file: then this file is another one, and not the disk with a fault.
fn not_elsewhere(what: &str, file: &File, record: &DiskRecord, header: &PoolHeader) -> Result<()> {
    let found = file.metadata().map_err(|why| Error::because(what, why))?;
    SameFile::check(what, &header.instance, record.id.0, &found)
}

/// Checks that the file is the disk of this record by its label alone, and names the disk that it is instead.
///
/// # Errors
/// Fails when the file cannot be read, has no label, or has that of another disk.
pub fn is_this_disk(record: &DiskRecord, header: &PoolHeader, known: &[DiskRecord]) -> Result<()> {
    let what = what(record, header);
    let label = match Disk::label_at(record, header)? {
        Ok(label) => label,
        Err(fault @ LabelFault::Version(_)) => return Err(unreadable(&what, &record.name, fault)),
        Err(fault) => {
            let hint = format!("name the file or device that is disk {} now", record.name);
            return Err(Error::failed(what, format!("{fault}, so it is not this disk")).hint(hint));
        }
    };
    let other = known
        .iter()
        .find(|other| (header.uuid, other.uuid) == (label.pool, label.disk));
    match other.filter(|other| other.id != record.id) {
        Some(other) => {
            let why = format!("is disk {} by its label, not {}", other.name, record.name);
            let hint = format!("name the file or device that is disk {} now", record.name);
            Err(Error::failed(what, why).hint(hint))
        }
        None => fits(&what, &label, record, header.uuid, header.extent_size),
    }
}

/// Checks that the label matches the record. When a disk grows, its label is written before its record, and when it shrinks, after it, so the size in
/// the label is never smaller.
fn fits(what: &str, label: &Label, record: &DiskRecord, pool: Uuid, extent_size: ExtentSize) -> Result<()> {
    let refused = |why: String, hint: &str| Err(Error::failed(what, why).hint(hint));
    if label.pool != pool {
        refused(
            format!("belongs to pool {}, not to this one ({pool})", label.pool),
            "name the other pool with --pool, or correct the path if the disk has moved",
        )
    } else if label.disk != record.uuid {
        refused(
            format!("is disk {} of this pool, not {}", label.disk, record.uuid),
            "the paths of two disks may have been swapped: correct them",
        )
    } else if label.extent_size != extent_size {
        refused(
            format!(
                "is labelled with extents of {} bytes, the pool has {}",
                label.extent_size.bytes(),
                extent_size.bytes()
            ),
            "the database is not the one that wrote this label: restore the right one",
        )
    } else if label.extents() < record.extents {
        refused(
            format!(
                "is labelled with {}, the database has {}",
                count(label.extents(), "extent"),
                record.extents
            ),
            "the database is not the one that wrote this label: restore the right one",
        )
    } else {
        Ok(())
    }
}

/// Checks that the label is not older than the record. A label is written before its record, so one that is ahead is the last one written before a
/// crash.
fn newest(what: &str, label: &Label, record: &DiskRecord) -> Result<()> {
    if label.sequence >= record.label {
        return Ok(());
    }
    let why = format!(
        "is an older copy: its label is number {}, and the last one written to this disk is number {}",
        label.sequence, record.label
    );
    Err(Error::failed(what, why).hint(format!(
        "put the newest copy in its place; or use this one and lose what was written since: vctl disk label {} --accept-older-data",
        record.name
    )))
}

pub(super) fn not_newer(name: &Name, label: &Label, layout: u64) -> Result<()> {
    let found = label.layout;
    if found <= layout {
        return Ok(());
    }
    let why = format!("was written by a newer database: its layout is {found}, the database's {layout}");
    Err(Error::failed(format!("disk {name}"), why)
        .hint("the pool's database is an older copy: restore the newest one"))
}

pub(super) fn unreadable(what: &str, name: &Name, fault: LabelFault) -> Error {
    let hint = match fault {
        LabelFault::Version(_) => "use the version of this program that wrote it".to_owned(),
        _ => format!(
            "check that the path leads to the right disk; if its head was overwritten, write the label again: vctl disk label {name}"
        ),
    };
    Error::failed(what, fault.to_string()).hint(hint)
}
