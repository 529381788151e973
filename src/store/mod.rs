//! The pool's database behind traits, one for each role: the table, its changes, members, nodes, jobs, records for operators, upkeep.
//! [`Store`] is all of them, and a function that needs one role takes that one. [`open`] chooses the backend, so that etcd can
//! replace SQLite when a pool spans machines.
//!
//! Every method is one transaction: visible to all processes when it returns, and all or nothing. *Visible* is not *persisted*:
//! only [`ChangeStore::persist`] and the methods that say so make their writes and all earlier ones survive power loss. No method
//! syncs unless it says so, because some run while host requests are held.
//!
//! A change is a record with these states:
//!
//! ```text
//!            commit (compare-and-set)              persist
//! prepared ----------------------------> committed --------> persisted
//!    |                                       |
//!    | cancel (compare-and-set)              | another epoch found it: the page cache is gone
//!    v                                       v
//! cancelled                               undone
//! ```

mod changes;
#[cfg(test)]
mod contract;
#[cfg(feature = "etcd")]
mod etcd;
mod events;
mod jobs;
pub mod journal;
pub mod leases;
mod members;
pub mod memory;
pub mod metadata;
mod nodes;
mod removed;
pub mod sqlite;
mod table;
mod upkeep;

pub use crate::place::{EtcdPlace, OwnNode, Place, Transit};
pub use changes::ChangeStore;
pub use events::EventStore;
pub use jobs::JobStore;
pub use members::MemberStore;
pub use metadata::MetadataStore;
pub use nodes::NodeStore;
pub use removed::RemovedStore;
pub use sqlite::{DATABASE_GONE, Imported, NO_POOL, NOT_A_POOLS, Named, NamedJob, Names, names};
pub use table::TableStore;
pub use upkeep::UpkeepStore;

/// All roles, for code that knows the type of its store.
pub mod roles {
    pub use super::{
        ChangeStore, EventStore, JobStore, MemberStore, MetadataStore, NodeStore, RemovedStore, TableStore,
        UpkeepStore,
    };
}

use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::job::{DISK_REMOVED, VOLUME_REMOVED};
use crate::model::records::NewPool;
use crate::model::units::CacheEpoch;
use journal::Journal;
use sqlite::SqliteStore;
use std::path::Path;
use std::sync::Arc;

/// Opens a connection to the pool's store; each thread that needs one calls it.
pub type OpenStore = Arc<dyn Fn() -> Result<Box<dyn Store>> + Send + Sync>;

/// The store of one pool, over one connection. Each thread opens its own.
pub trait Store:
    TableStore
    + ChangeStore
    + MemberStore
    + NodeStore
    + JobStore
    + EventStore
    + MetadataStore
    + RemovedStore
    + UpkeepStore
{
}

impl<T> Store for T where
    T: TableStore
        + ChangeStore
        + MemberStore
        + NodeStore
        + JobStore
        + EventStore
        + MetadataStore
        + RemovedStore
        + UpkeepStore
{
}

/// Opens the store of the pool in this directory, in this epoch. This is the only place that chooses a backend.
///
/// # Errors
/// Fails with `NotFound` if there is none, and for a damaged, foreign or newer store; each error names the way out.
pub fn open(dir: &PoolDir, epoch: CacheEpoch) -> Result<Box<dyn Store>> {
    open_unless(dir, epoch, &|| Ok(()))
}

/// Opens the store as [`open`] does. Asks `may_convert` before it converts a database of an older format, which programs of that format cannot open any more.
///
/// # Errors
/// As for [`open`], and with the error of `may_convert`; the database is as it was then.
pub fn open_unless(
    dir: &PoolDir,
    epoch: CacheEpoch,
    may_convert: &dyn Fn() -> Result<()>,
) -> Result<Box<dyn Store>> {
    let place = Place::read(dir)?;
    place.as_ref().map_or(Ok(()), |place| place.refuse_transit(dir))?;
    let store = SqliteStore::open_unless(dir, epoch, may_convert)?;
    Ok(Box::new(match place {
        None => store,
        Some(place) => store.mirroring(journal_of(&place)?)?,
    }))
}

/// Returns the log of a pool. It connects with the first request.
#[cfg(feature = "etcd")]
fn journal_of(place: &Place) -> Result<Box<dyn Journal>> {
    Ok(Box::new(etcd::EtcdJournal::new(place)?))
}

#[cfg(not(feature = "etcd"))]
fn journal_of(_: &Place) -> Result<Box<dyn Journal>> {
    Err(
        Error::failed("store", "is in etcd, and this program was built without that")
            .hint("install the released package, or build with --features etcd"),
    )
}

/// Creates the directory and the store of a new pool. They are durable when this returns.
///
/// # Errors
/// Fails if a pool exists already, or a file cannot be made.
pub fn create(dir: &PoolDir, new: impl Into<NewPool>) -> Result<()> {
    SqliteStore::create(dir, new)
}

/// Creates the directory of a new pool whose log is in etcd. Both are durable when this returns; nothing is left if it fails.
///
/// # Errors
/// Fails if a pool exists already, a file cannot be made, or etcd does not answer.
pub fn create_in_etcd(
    dir: &PoolDir,
    epoch: CacheEpoch,
    new: impl Into<NewPool>,
    (etcd, node): (EtcdPlace, Option<OwnNode>),
) -> Result<()> {
    SqliteStore::create(dir, new)?;
    begin_log(dir, epoch, (etcd, node)).inspect_err(|_| {
        // The error tells why; the next attempt says so if a file could not be removed.
        let _ = Place::remove(dir).and_then(|()| SqliteStore::destroy(dir));
    })
}

fn begin_log(dir: &PoolDir, epoch: CacheEpoch, (etcd, node): (EtcdPlace, Option<OwnNode>)) -> Result<()> {
    let pool = SqliteStore::open(dir, epoch)?.header()?.uuid;
    let place = Place {
        pool,
        etcd,
        node,
        transit: None,
    };
    SqliteStore::open_mirror(dir, epoch, journal_of(&place)?)?.begin_log()?;
    place.write(dir)
}

/// Makes the database in this directory the beginning of a log, or goes on where that was interrupted. It is durable when this returns. The caller holds the
/// controller lock, and no apparatus runs.
///
/// # Errors
/// Fails if the log has entries of another database, or cannot be reached.
pub fn enter_log(dir: &PoolDir, epoch: CacheEpoch, place: &Place) -> Result<()> {
    SqliteStore::open_mirror(dir, epoch, journal_of(place)?)?.enter_log()
}

/// Returns whether a log has entries of this pool.
///
/// # Errors
/// Fails if it cannot be reached.
pub fn is_in_log(place: &Place) -> Result<bool> {
    Ok(journal_of(place)?.head()?.number > 0)
}

/// Brings the database in this directory up to the end of its log, and removes the log, if it is still there. The caller holds the controller lock, and
/// no apparatus runs.
///
/// # Errors
/// Fails if the log cannot be reached, or has another pool's entries.
pub fn end_log(dir: &PoolDir, epoch: CacheEpoch) -> Result<()> {
    let Some(place) = Place::read(dir)? else {
        return Ok(());
    };
    let mut journal = journal_of(&place)?;
    if journal.head()?.number == 0 {
        return Ok(());
    }
    let mut store = SqliteStore::open_mirror(dir, epoch, journal_of(&place)?)?;
    // What an import has left that was interrupted is an entry that this database may not have as its own yet.
    match place.transit {
        Some(Transit::Importing) => store.enter_log()?,
        _ => store.catch_up()?,
    }
    store.sync()?;
    journal.destroy()
}

/// Makes the database in this directory one without a log. Where it may be older than the disks, `seen` is the highest layout number of their labels. It is
/// durable when this returns.
///
/// # Errors
/// Fails if a file cannot be written.
pub fn leave_log(dir: &PoolDir, epoch: CacheEpoch, seen: Option<u64>) -> Result<()> {
    SqliteStore::open(dir, epoch)?.leave_log(seen)?;
    Place::remove(dir).map_err(|error| Error::because(format!("pool {}", dir.display()), error))
}

/// Creates the directory of a pool on another machine, and fills its database from the log. Both are durable when this returns; nothing is left
/// if it fails.
///
/// # Errors
/// Fails if a pool exists already, a file cannot be made, or etcd does not answer or has no such pool.
pub fn join(dir: &PoolDir, place: &Place) -> Result<()> {
    SqliteStore::join(dir, journal_of(place)?)?;
    // The error tells why; the next attempt says so if a file could not be removed.
    place.write(dir).inspect_err(|_| drop(leave(dir)))
}

/// Removes the pool's database from this machine; its log stays for the others. The caller holds the controller lock, or has just created it.
///
/// # Errors
/// Fails if a file cannot be removed.
pub fn leave(dir: &PoolDir) -> Result<()> {
    let failed = |error| Error::because(format!("pool {}", dir.display()), error);
    SqliteStore::destroy(dir).map_err(failed)?;
    Place::remove(dir).map_err(failed)
}

/// Opens the metadata that is in the pool's directory, whether it is the newest or not.
///
/// # Errors
/// As for [`open`].
pub fn open_copy(dir: &PoolDir, epoch: CacheEpoch) -> Result<Box<dyn Store>> {
    Ok(Box::new(SqliteStore::open(dir, epoch)?))
}

/// Returns why the log of the pool cannot be reached now, if it has one outside its directory.
///
/// # Errors
/// Fails if the place of the log cannot be read.
pub fn unreachable(dir: &PoolDir) -> Result<Option<Error>> {
    match Place::read(dir)? {
        None => Ok(None),
        Some(place) => Ok(journal_of(&place)?.head().err()),
    }
}

/// Makes a pool whose log is in etcd one of this machine alone, with the metadata that this machine has. The caller holds the controller
/// lock, and no apparatus runs. `seen` is the highest layout number of a disk's label. It is durable when this returns. Returns why the newest metadata could not be
/// had from etcd, if so.
///
/// # Errors
/// Fails if the pool is one of this machine alone already, or a file cannot be written.
pub fn rescue(dir: &PoolDir, epoch: CacheEpoch, seen: u64) -> Result<Option<Error>> {
    let what = || format!("pool {}", dir.display());
    let Some(place) = Place::read(dir)? else {
        return Err(Error::failed(what(), "has its metadata in its directory alone"));
    };
    let newest =
        journal_of(&place).and_then(|journal| SqliteStore::open_mirror(dir, epoch, journal)?.catch_up());
    leave_log(dir, epoch, Some(seen))?;
    Ok(newest.err())
}

/// Creates the store of a pool from a table that was found on its disks. It is durable when this returns. The caller has made
/// sure that no process uses the pool.
///
/// # Errors
/// Fails if a pool exists already, or a file cannot be made.
pub fn import(dir: &PoolDir, imported: &Imported<'_>) -> Result<()> {
    Place::refuse(dir, "an import")?;
    SqliteStore::import(dir, imported)
}

/// Replaces the pool's store, which need not exist or be readable, by a backup. The caller holds the controller lock, and no
/// apparatus runs. With `seen`, the highest layout number of a disk's label, the store counts as newer than the disks.
///
/// # Errors
/// Fails if the file is not a backup, or is damaged; the pool is unchanged then.
pub fn restore(dir: &PoolDir, backup: &Path, seen: Option<u64>) -> Result<()> {
    Place::refuse(dir, "a restore")?;
    SqliteStore::restore(dir, backup, seen)
}

/// Removes the pool's store permanently. The caller holds the controller lock, and no apparatus runs.
///
/// # Errors
/// Fails if it cannot be removed, or etcd does not answer.
pub fn destroy(dir: &PoolDir) -> Result<()> {
    if let Some(place) = Place::read(dir)? {
        journal_of(&place)?.destroy()?;
    }
    let failed = |error| Error::because(format!("pool {}", dir.display()), error);
    SqliteStore::destroy(dir).map_err(failed)?;
    Place::remove(dir).map_err(failed)
}

/// Returns whether the database of a pool has the format that this program writes. Opening one of an earlier format converts it.
///
/// # Errors
/// Fails when there is no database, or it cannot be read.
pub fn has_present_format(dir: &PoolDir) -> Result<bool> {
    SqliteStore::has_present_format(dir)
}

/// Returns why the store could not be made durable once in this epoch, by any process: nothing is made durable any more then.
///
/// # Errors
/// Fails if that cannot be read.
pub fn sync_failed(dir: &PoolDir, epoch: CacheEpoch) -> Result<Option<String>> {
    SqliteStore::sync_failed(dir, epoch)
}
