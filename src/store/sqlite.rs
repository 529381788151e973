//! The store in SQLite: `pool.db` in the pool's directory, in write-ahead-log mode.
//!
//! A commit is visible as soon as it is in the log, but it syncs nothing. Durability comes from syncing the log from here,
//! after the transaction and outside SQLite's write lock: an apparatus that persists changes for a host's flush never makes a
//! controller inside a hold wait for a disk. Persisting is therefore two transactions around one sync: *persisting* is written,
//! the log is synced, *persisted* is written. Another epoch that finds *persisting* knows that the disks had been flushed, and
//! counts the change as persisted.

mod audit;
mod capture;
mod change;
mod check;
mod convert;
mod edits;
mod events;
mod files;
mod import;

mod directory;
mod job;
mod log;
mod members;
mod metadata;
mod mirror;
mod names;
mod nodes;
mod options;
mod recover;
mod removed;
mod roles;
mod schema;
mod space;
mod stalled;
mod table;

pub use names::{JobName as NamedJob, Named, Names, names};

pub use files::{DATABASE_GONE, NO_POOL, NOT_A_POOLS};
pub use import::Imported;

use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::records::NewPool;
use crate::model::units::CacheEpoch;
use crate::store::journal::Journal;
use crate::sys::hold;
use log::{FailedSync, Log};
use mirror::Mirror;
use rusqlite::ffi::SQLITE_IOERR_FSYNC;
use rusqlite::{Connection, TransactionBehavior};
use std::io;
use std::path::Path;

/// One connection to a pool's database.
pub struct SqliteStore {
    connection: Connection,
    dir: PoolDir,
    epoch: CacheEpoch,
    log: Log,
    /// Where other machines have the pool's metadata too.
    mirror: Option<Mirror>,
}

impl SqliteStore {
    /// Creates the pool's directory (mode 0700 if it does not exist yet), its run directory and its database (0600). It is durable
    /// when this returns.
    ///
    /// # Errors
    /// Fails if a pool exists already, or a file cannot be made.
    pub fn create(dir: &PoolDir, new: impl Into<NewPool>) -> Result<()> {
        files::create(dir, new.into())
    }

    /// Creates a pool's database from a table that was found elsewhere, with a new instance; the header names the instance to which the disks belonged
    /// before. It is durable when this returns. The caller has made sure that no process uses the pool.
    ///
    /// # Errors
    /// Fails if a pool exists already, or a file cannot be made.
    pub fn import(dir: &PoolDir, imported: &Imported<'_>) -> Result<()> {
        files::import(dir, imported)
    }

    /// Opens an existing pool, in this epoch.
    ///
    /// # Errors
    /// Fails with `NotFound` if there is none, and for a damaged, foreign or newer database; each error names the way out.
    pub fn open(dir: &PoolDir, epoch: CacheEpoch) -> Result<Self> {
        Self::open_unless(dir, epoch, &|| Ok(()))
    }

    /// Opens an existing pool in this epoch. Asks `may_convert` before it converts a database of an older format.
    ///
    /// # Errors
    /// As for [`Self::open`], and with the error of `may_convert`; the database is as it was then.
    pub fn open_unless(
        dir: &PoolDir,
        epoch: CacheEpoch,
        may_convert: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let dir = hold(dir)?;
        let connection = files::open(&dir, may_convert)?;
        let log = Log::of(&dir, epoch)?;
        Ok(Self {
            connection,
            dir,
            epoch,
            log,
            mirror: None,
        })
    }

    /// Opens an existing pool, in this epoch, as a mirror of this log.
    ///
    /// # Errors
    /// As for [`Self::open`], and if the database is not a prefix of the log.
    pub fn open_mirror(dir: &PoolDir, epoch: CacheEpoch, journal: Box<dyn Journal>) -> Result<Self> {
        Self::open(dir, epoch)?.mirroring(journal)
    }

    /// Makes an open pool a mirror of this log.
    ///
    /// # Errors
    /// Fails if the database is not a prefix of the log.
    pub fn mirroring(self, journal: Box<dyn Journal>) -> Result<Self> {
        let mut store = self;
        store.mirror = Some(Mirror::of(&mut store.connection, journal)?);
        Ok(store)
    }

    /// Makes this database the beginning of a log that has no entry yet.
    ///
    /// # Errors
    /// Fails if the log has entries, or cannot be reached.
    pub fn begin_log(&mut self) -> Result<()> {
        let Self {
            mirror, connection, ..
        } = self;
        mirror
            .as_mut()
            .map_or(Ok(()), |mirror| mirror.found(connection))?;
        self.sync()
    }

    /// Makes this database, with its layout number raised, the beginning of a log that has no entry yet. Goes on where that was interrupted. It is durable
    /// when this returns.
    ///
    /// # Errors
    /// Fails if the log has entries of another database, or cannot be reached.
    pub fn enter_log(&mut self) -> Result<()> {
        let Self {
            mirror, connection, ..
        } = self;
        mirror
            .as_mut()
            .map_or(Ok(()), |mirror| mirror.enter(connection))?;
        self.sync()
    }

    /// Brings this database up to the end of its log.
    ///
    /// # Errors
    /// Fails if the log cannot be reached, or does not continue this database.
    pub fn catch_up(&mut self) -> Result<()> {
        let Self {
            mirror, connection, ..
        } = self;
        mirror
            .as_mut()
            .map_or(Ok(()), |mirror| mirror.catch_up(connection))
    }

    /// Makes this database one that mirrors no log, with a history of its own, newer than what disks have `seen`. It is durable when this returns.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn leave_log(&mut self, seen: Option<u64>) -> Result<()> {
        self.write(|db| {
            mirror::forget_position(db)?;
            // The copies of other machines are older ones by it.
            table::raise_layout(db)?;
            metadata::begin_lineage(db)?;
            seen.map_or(Ok(()), |seen| metadata::overtake(db, seen))
        })?;
        self.sync()
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// Fails if it cannot be synced.
    pub fn sync(&mut self) -> Result<()> {
        self.log.sync()
    }

    /// Creates the pool's directory on another machine, and its database from a log. It is durable when this returns.
    ///
    /// # Errors
    /// Fails if a pool exists already, the log cannot be reached or has no entry, or a file cannot be made.
    pub fn join(dir: &PoolDir, journal: Box<dyn Journal>) -> Result<()> {
        files::join(dir, journal)
    }

    /// Returns whether the database of an existing pool has the format that this program writes.
    ///
    /// # Errors
    /// Fails with `NotFound` if there is none, and for a damaged or foreign one.
    pub fn has_present_format(dir: &PoolDir) -> Result<bool> {
        files::has_present_format(&hold(dir)?)
    }

    /// Replaces the pool's database, which need not exist or be readable, by a backup; the replaced one is kept as
    /// `pool.db.old`. The caller holds the controller lock, and no apparatus runs.
    ///
    /// # Errors
    /// Fails if the file is not a backup, or is damaged; the pool is unchanged then.
    pub fn restore(dir: &PoolDir, backup: &Path, seen: Option<u64>) -> Result<()> {
        files::restore(dir, backup, seen)?;
        FailedSync::clear(dir)
    }

    /// Removes the pool's database permanently. The caller holds the controller lock, and no apparatus runs.
    ///
    /// # Errors
    /// Fails if a file cannot be removed.
    pub fn destroy(dir: &PoolDir) -> io::Result<()> {
        files::destroy(dir)
    }

    /// Returns why the log could not be synced once in this epoch, by any process: nothing is made durable any more then.
    ///
    /// # Errors
    /// Fails if the file that records it cannot be read.
    pub fn sync_failed(dir: &PoolDir, epoch: CacheEpoch) -> Result<Option<String>> {
        FailedSync::of(dir, epoch).why()
    }

    /// Returns the connection, for one statement that only reads. The database is as new as its log, if it has one that can be reached.
    fn current(&mut self) -> Result<&Connection> {
        if let Some(mirror) = &mut self.mirror {
            mirror.before_reading(&mut self.connection)?;
        }
        Ok(&self.connection)
    }

    /// Runs one transaction that only reads.
    fn read<T>(&mut self, work: impl FnOnce(&Connection, table::OpenedIn<'_>) -> Result<T>) -> Result<T> {
        self.current()?;
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Deferred)?;
        let answer = work(&tx, (self.epoch, &self.dir))?;
        tx.commit()?;
        Ok(answer)
    }

    /// Runs one transaction that writes: it is visible when this returns, and rolled back if `work` fails. `work` may run more than once.
    fn write<T>(&mut self, mut work: impl FnMut(&Connection) -> Result<T>) -> Result<T> {
        if let Some(mirror) = &mut self.mirror {
            return mirror.write(&mut self.connection, &mut work);
        }
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let answer = work(&tx)?;
        tx.commit().inspect_err(|error| {
            // The first commit after the log has been copied restarts the log, and syncs it.
            let code = error.sqlite_error().map(|error| error.extended_code);
            if code == Some(SQLITE_IOERR_FSYNC) {
                self.log.remember(&io::Error::other(error.to_string()));
            }
        })?;
        Ok(answer)
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod syncs;
#[cfg(test)]
mod tests;
