//! Making a copy of a pool's database the owner of the pool's disks.

use super::disk::{ANSWER, described};
use crate::disk::{Disk, Waived, within};
use crate::error::{Error, Kind, Result};
use crate::member::{ArbitrationLock, DiskMarks, MemberTable};
use crate::pool::dir::PoolDir;
use crate::pool::model::{DiskRecord, Snapshot};
use crate::store::Store;
use crate::store::sqlite::SqliteStore;
use crate::sys::boot_id;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// What adopting comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adoption {
    /// The directory that the database was copied from; none when it owns the disks already, whose labels are then written again.
    pub copied_from: Option<PathBuf>,
    /// The disks whose labels name this database, afterwards.
    pub disks: Vec<String>,
    /// The disks that could not be had, and why.
    pub missing: Vec<String>,
}

/// Looks whether the pool's disks can be adopted.
///
/// # Errors
/// `Kind::Busy` when anybody uses one of them; when the database is older than one; when one cannot be had and that is not `accepted`.
pub fn inspect(pool: &PoolDir, accepted: bool) -> Result<Adoption> {
    let mut store = SqliteStore::open(pool)?;
    let copied_from = store.copied_from(pool)?;
    let snapshot = store.snapshot()?;
    let mut adoption = Adoption {
        copied_from,
        disks: Vec::new(),
        missing: Vec::new(),
    };
    let looks = Disk::with_all_within(ANSWER, &snapshot.disks, &snapshot.header, Disk::check_adoptable);
    for (record, look) in snapshot.disks.iter().zip(looks) {
        match look {
            Ok(()) => adoption.disks.push(record.name.to_string()),
            Err(why) if why.kind() == Kind::Busy || !accepted => return Err(explained(why, record)),
            Err(why) => adoption.missing.push(why.to_string()),
        }
    }
    Ok(adoption)
}

fn explained(why: Error, record: &DiskRecord) -> Error {
    if why.kind() == Kind::Busy {
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
/// Those of [`inspect`]; when another controller acts; a disk's. What was begun is taken up by adopting again.
pub fn adopt(pool: &PoolDir, accepted: bool, within: Option<Duration>) -> Result<Adoption> {
    // Where there is no pool, nothing is made.
    drop(SqliteStore::open(pool)?);
    let _arbitration = ArbitrationLock::take(pool, "pool adopt", within)?;
    let adoption = inspect(pool, accepted)?;
    let mut store = SqliteStore::open(pool)?;
    store.adopt(pool)?;
    let snapshot = store.snapshot()?;
    let members = MemberTable::open(pool, snapshot.header.uuid, boot_id()?)?;
    let adopted = |record: &&DiskRecord| adoption.disks.iter().any(|name| name == record.name.as_str());
    for record in snapshot.disks.iter().filter(adopted) {
        label(&mut store, members.marks(record.id), &snapshot, record)?;
    }
    Ok(adoption)
}

fn label(store: &mut dyn Store, ledger: DiskMarks, snapshot: &Snapshot, record: &DiskRecord) -> Result<()> {
    let waived = Waived {
        owner: true,
        age: false,
    };
    let (wanted, header) = (record.clone(), snapshot.header.clone());
    // One that comes late does no harm: nobody else can own the disk as long as it has not ended.
    let label = within(ANSWER, &described(record), &record.path, move || {
        Disk::open_waiving(waived, &wanted, &header)?.take_over(wanted.label, &ledger)
    })?;
    store.label_written(record.id, label.sequence)
}
