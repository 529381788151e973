//! Compares the metadata copies on the disks with the database.

use super::finding::{Finding, FindingKind};
use super::view::PoolView;
use crate::blockdev::Disk;
use crate::blockdev::label::Label;
use crate::metadata::Fault;
use crate::metadata::contents::Contents;
use crate::metadata::copy::Copy;
use crate::model::error::{Error, Result};
use crate::model::event::Severity;
use crate::model::records::{DiskRecord, PoolHeader, Snapshot};
use crate::model::units::ExtentSize;
use crate::store::Store;
use crate::store::metadata::{CopyRecord, Persisted};
use std::result::Result as Outcome;
use std::time::Duration;

/// Time limit for all disks together.
const ANSWER: Duration = Duration::from_secs(2);

/// Returns the copies that lag behind the database. What they lack would be lost with the database.
///
/// # Errors
/// Returns the errors of the store.
pub(super) fn findings(store: &mut dyn Store, view: &PoolView) -> Result<Vec<Finding>> {
    let persisted = store.persisted()?;
    let copies = persisted.map(|persisted| persisted.copies).unwrap_or_default();
    let kept = copies.iter().filter(|copy| copy.lag.is_none()).count();
    let finding = |copy: &CopyRecord| {
        let records = view.disks.iter().map(|disk| &disk.record);
        let record = records.clone().find(|record| record.id == copy.disk)?;
        let why = copy.lag.as_ref()?;
        let left = match kept {
            0 => "no disk has a current one".to_owned(),
            1 => "one other disk has a current one".to_owned(),
            kept => format!("{kept} other disks have a current one"),
        };
        let text = format!("its copy of the pool's metadata is left behind ({why}); {left}");
        let subject = format!("disk {}", record.name);
        let finding = Finding::new(FindingKind::CopyBehind, Severity::Warning, subject, text);
        Some(finding.next("vctl pool check --repair"))
    };
    Ok(copies.iter().filter_map(finding).collect())
}

/// A metadata copy that differs from the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Disk that carries the copy.
    pub(super) disk: DiskRecord,
    /// What is wrong with the copy, in words.
    pub(super) why: String,
    /// Whether the copy is newer than the database, so that overwriting it would lose changes.
    pub(super) is_newer: bool,
    /// The recorded reason, if the store knows that the copy lags.
    lag: Option<String>,
}

/// Compares the copies with the database. Skips a copy that is being written meanwhile, and a copy that lags as long as a controller may be `at_work` on it.
///
/// # Errors
/// Returns the errors of the store.
pub(super) fn mismatches(store: &mut dyn Store, at_work: bool) -> Result<Vec<Mismatch>> {
    let Some((persisted, body)) = store.persisted_table()? else {
        return Ok(Vec::new());
    };
    let (header, disks) = (store.header()?, store.disks()?);
    let record = |copy: &CopyRecord| disks.iter().find(|disk| disk.id == copy.disk).cloned();
    let copies = persisted.copies.iter();
    let (copies, records): (Vec<&CopyRecord>, Vec<DiskRecord>) =
        copies.filter_map(|copy| Some((copy, record(copy)?))).unzip();
    let table = table_of(decoded(&body)?);
    let read = Disk::with_all_within(ANSWER, &records, &header, Disk::read_copy);
    let again = store.persisted()?;
    let unchanged = |copy: &CopyRecord| again.as_ref().is_some_and(|now| now.copies.contains(copy));
    let same = again
        .as_ref()
        .is_some_and(|now| now.position == persisted.position);
    let mut found = Vec::new();
    for ((copy, disk), read) in copies.into_iter().zip(records).zip(read) {
        let why = match read {
            // The check of the disks says why.
            Err(_) => copy.lag.as_ref().map(|lag| format!("is left behind: {lag}")),
            Ok((_, Some(Ok(read)))) if is_newer(&read, &persisted) && same => {
                let (had, now) = (read.position.layout, persisted.position.layout);
                let why = format!(
                    "covers layout {had}, and the database only layout {now}: the database is an older one"
                );
                found.push(Mismatch {
                    disk,
                    why,
                    is_newer: true,
                    lag: None,
                });
                continue;
            }
            Ok(read) => mismatch(copy, read, &persisted, &table, at_work),
        };
        if let Some(why) = why.filter(|_| unchanged(copy)) {
            found.push(Mismatch {
                disk,
                why,
                is_newer: false,
                lag: copy.lag.clone(),
            });
        }
    }
    Ok(found)
}

/// Returns whether a copy has a later table of the same history than the database.
fn is_newer(copy: &Copy, persisted: &Persisted) -> bool {
    copy.header.identity.lineage == persisted.lineage && copy.position.layout > persisted.position.layout
}

fn mismatch(
    copy: &CopyRecord,
    (label, read): (Label, Option<Outcome<Copy, Fault>>),
    persisted: &Persisted,
    table: &Snapshot,
    at_work: bool,
) -> Option<String> {
    if let Some(lag) = &copy.lag {
        return Some(format!("is left behind: {lag}"));
    }
    if label.copy != Some(copy.place) {
        return Some("is not where the disk's label says".into());
    }
    let read = match read {
        Some(Ok(read)) => read,
        Some(Err(fault)) => return Some(format!("cannot be used: {fault}")),
        None => return Some("is not there".into()),
    };
    let (had, now) = (read.position.layout, persisted.position.layout);
    let reported = copy.position.layout;
    if reported == 0 {
        // A restore that could not write it leaves that to the next change or flush.
        None
    } else if had < reported {
        Some(format!(
            "covers layout {had}, and was written up to layout {reported}"
        ))
    } else if had < now && !at_work {
        Some(format!("covers layout {had}, and the database of layout {now}"))
    } else if read.position == persisted.position && table_of(read.contents) != *table {
        Some(format!("contradicts the database, both at layout {now}"))
    } else {
        None
    }
}

fn decoded(body: &[u8]) -> Result<Contents> {
    Contents::decode(body).map_err(|fault| Error::failed("pool metadata", fault.to_string()))
}

/// Returns the contents without the sequence numbers of labels, which are as old as the checkpoint.
pub(super) fn table_of(contents: Contents) -> Snapshot {
    let mut table = contents.into_snapshot(PoolHeader::before(ExtentSize::DEFAULT));
    table.disks.iter_mut().for_each(|disk| disk.label = 0);
    table
}

/// Marks the differing copies, so that the next persisted changes write them again.
///
/// # Errors
/// Returns the errors of the store.
pub(super) fn mark(store: &mut dyn Store) -> Result<Vec<Mismatch>> {
    let mut found = mismatches(store, false)?;
    found.retain(|each| !each.is_newer);
    for Mismatch { disk, why, lag, .. } in &found {
        store.copy_lags(disk.id, lag.as_ref().unwrap_or(why))?;
    }
    Ok(found)
}

/// Returns a line for each of these copies that has become current.
///
/// # Errors
/// Returns the errors of the store.
pub(super) fn mended(store: &mut dyn Store, marked: Vec<Mismatch>) -> Result<Vec<String>> {
    let persisted = store.persisted()?;
    let copies: Vec<CopyRecord> = persisted.map(|persisted| persisted.copies).unwrap_or_default();
    let behind = |id| copies.iter().any(|copy| copy.disk == id && copy.lag.is_some());
    let mended = marked.into_iter().filter(|each| !behind(each.disk.id));
    let line = |Mismatch { disk, why, .. }: Mismatch| {
        let name = disk.name;
        format!("disk {name}: its copy of the pool's metadata was written again, because it {why}")
    };
    Ok(mended.map(line).collect())
}
