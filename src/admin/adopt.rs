//! Makes a copy of a pool's database the owner of the pool's disks.

use super::backup::check_no_job_runs;
use super::disk::{DISK_TIMEOUT, describe};
use crate::blockdev::{Disk, Waived, within};
use crate::cluster::{self, FlushLedger, Role, WaitLimit};
use crate::controller::pool;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::{DiskRecord, Snapshot};
use crate::store::{Place, TableStore};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The result of adopting a pool's disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adoption {
    /// The directory that the database was copied from; `None` if it owns the disks already, whose labels are then written again.
    pub copied_from: Option<PathBuf>,
    /// The disks whose labels name this database afterwards.
    pub disks: Vec<String>,
    /// The disks that could not be adopted, with the reasons.
    pub missing: Vec<String>,
}

/// Checks whether the pool's disks can be adopted.
///
/// # Errors
/// Fails with `ErrorKind::Busy` when a process uses one of the disks; fails when the database is older than a disk's label, and when a
/// disk cannot be adopted and that is not `accepted`.
pub fn inspect(pool: &PoolDir, accepted: bool) -> Result<Adoption> {
    let mut store = pool::open(pool)?;
    let copied_from = store.copied_from()?;
    let snapshot = store.snapshot()?;
    let mut adoption = Adoption {
        copied_from,
        disks: Vec::new(),
        missing: Vec::new(),
    };
    let looks = Disk::with_all_within(
        DISK_TIMEOUT,
        &snapshot.disks,
        &snapshot.header,
        Disk::check_adoptable,
    );
    for (record, look) in snapshot.disks.iter().zip(looks) {
        match look {
            Ok(()) => adoption.disks.push(record.name.to_string()),
            Err(why) if why.kind() == ErrorKind::Busy || !accepted => return Err(explained(why, record)),
            Err(why) => adoption.missing.push(why.to_string()),
        }
    }
    Ok(adoption)
}

fn explained(why: Error, record: &DiskRecord) -> Error {
    if why.kind() == ErrorKind::Busy {
        return why;
    }
    let hint = why.way_out().map_or_else(String::new, |hint| format!("{hint}; "));
    let name = &record.name;
    why.hint(format!(
        "{hint}or leave disk {name} out for now with --accept-missing-disks"
    ))
}

/// Makes this database the owner, under a new instance, and writes that into the labels: the former owner is refused from then on.
///
/// # Errors
/// Returns the errors of [`inspect`] and of a disk, and fails when another controller holds the lock. An interrupted adoption is
/// completed by adopting again.
pub fn adopt(pool: &PoolDir, accepted: bool, within: Option<Duration>) -> Result<Adoption> {
    Place::refuse(pool, "an adoption")?;
    // Where there is no pool, this fails before anything is created.
    drop(pool::open(pool)?);
    let cluster = cluster::open(pool)?;
    let _leadership = cluster.lead(Role::Command, "pool adopt", WaitLimit::of(within))?;
    check_no_job_runs(pool)?;
    let adoption = inspect(pool, accepted)?;
    let mut store = pool::open(pool)?;
    store.adopt()?;
    let snapshot = store.snapshot()?;
    let ledgers = cluster.share(snapshot.header.uuid)?.ledgers;
    let adopted = |record: &&DiskRecord| adoption.disks.iter().any(|name| name == record.name.as_str());
    for record in snapshot.disks.iter().filter(adopted) {
        label(&mut *store, ledgers.ledger(record.id), &snapshot, record)?;
    }
    Ok(adoption)
}

fn label(
    store: &mut dyn TableStore,
    ledger: Arc<dyn FlushLedger>,
    snapshot: &Snapshot,
    record: &DiskRecord,
) -> Result<()> {
    let waived = Waived {
        owner: true,
        age: false,
    };
    let (wanted, header) = (record.clone(), snapshot.header.clone());
    // A late write does no harm: the disk can have no other owner as long as the write has not ended.
    let label = within(DISK_TIMEOUT, &describe(record), &record.path, move || {
        Disk::open_waiving(waived, &wanted, &header)?.take_over(wanted.label, &*ledger)
    })?;
    store.label_written(record.id, label.sequence)
}
