//! SQLite's write-ahead log as a file that can be synced, and a record of a sync that failed.
//!
//! The kernel reports a page that it could not write once, and then treats it as written: a process that opens the file later
//! sees no error. So a failed sync is recorded for all processes until the epoch ends, in `run/log-failed`, and no later
//! sync is trusted. Reads come from memory and are right; in another epoch they come from the disk, which then is all there
//! is. The way out is to write the whole database again: a backup and its restore.

use super::convert::DATABASE;
use super::files;
use crate::held::may_wait;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::units::CacheEpoch;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

/// The log. It has no locks, so a separate descriptor does no harm.
pub(super) struct Log {
    pub(super) file: File,
    /// The reason is kept here too, in case the file could not be written.
    failed: Option<String>,
    mark: FailedSync,
}

impl Log {
    /// Opens the log. It exists as long as a connection is open: opening one creates it.
    pub(super) fn of(dir: &PoolDir, epoch: CacheEpoch) -> Result<Self> {
        let path = files::log_of(&dir.database());
        let file = File::open(&path)
            .map_err(|error| Error::because(dir.name_of(&path).display().to_string(), error))?;
        let (failed, mark) = (None, FailedSync::of(dir, epoch));
        Ok(Self { file, failed, mark })
    }

    /// Syncs the log: everything that was visible before is durable when this returns.
    pub(super) fn sync(&mut self) -> Result<()> {
        may_wait("a sync of the database");
        if let Some(why) = self
            .failed
            .clone()
            .map_or_else(|| self.mark.why(), |why| Ok(Some(why)))?
        {
            let why_not = format!("could not be made durable before ({why}), so no later sync is trusted");
            self.failed = Some(why);
            return Err(Error::failed(DATABASE, why_not).hint(
                "look at the disk of the pool's directory, then write the database anew: vctl pool backup FILE, and with no apparatus running vctl pool restore FILE",
            ));
        }
        self.file.sync_data().map_err(|error| {
            self.remember(&error);
            Error::failed(DATABASE, format!("cannot be made durable: {error}"))
        })
    }

    /// Returns why nothing is made durable any more, as far as this connection knows.
    pub(super) fn lost(&self) -> Option<String> {
        self.failed.clone()
    }

    /// Records that a sync of the log has failed, by this process or by SQLite, which syncs the log before it copies it into
    /// the database.
    pub(super) fn remember(&mut self, error: &io::Error) {
        self.mark.set(error);
        self.failed = Some(error.to_string());
    }
}

/// Record of a failed sync: a file with the epoch and the reason, one line each.
pub(super) struct FailedSync {
    path: PathBuf,
    epoch: CacheEpoch,
    /// Name of the file in messages.
    name: String,
}

impl FailedSync {
    pub(super) fn of(dir: &PoolDir, epoch: CacheEpoch) -> Self {
        let path = place(dir);
        let name = dir.name_of(&path).display().to_string();
        Self { path, epoch, name }
    }

    /// Returns the reason if the failure happened in this epoch.
    pub(super) fn why(&self) -> Result<Option<String>> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| Error::because(self.name.clone(), error))?,
        };
        let (epoch, why) = text.split_once('\n').unwrap_or((&text, ""));
        Ok((epoch == self.epoch.0.to_string()).then(|| why.trim_end().to_owned()))
    }

    fn set(&self, error: &io::Error) {
        let new = self.path.with_extension("new");
        let text = format!("{}\n{error}\n", self.epoch.0);
        if let Err(why) = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path)) {
            ::log::error!(
                "{}: {why}: only this process knows that the database cannot be made durable",
                self.name
            );
        }
    }

    /// Removes the record, after the database has been written again.
    pub(super) fn clear(dir: &PoolDir) -> Result<()> {
        match fs::remove_file(place(dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::because(
                dir.name_of(&place(dir)).display().to_string(),
                error,
            )),
            _ => Ok(()),
        }
    }
}

fn place(dir: &PoolDir) -> PathBuf {
    dir.run().join("log-failed")
}
