//! SQLite's write-ahead log as a file that can be synced, and the pool's memory of a sync that failed.
//!
//! The kernel tells of a page that it could not write once, and takes it for written then: whoever opens the file later hears that all is
//! well. So a failed sync is remembered for all processes and for as long as the machine runs, in `run/log-failed`, and no later sync is believed.
//! What is read comes from memory and is right; after another boot it comes from the disk, and is what there is. The way out is
//! to write all of it anew: a backup and its restore.

use super::convert::DATABASE;
use super::files;
use crate::error::{Error, Result};
use crate::held::may_wait;
use crate::pool::dir::PoolDir;
use crate::units::BootId;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

/// The log. It has no locks, so a descriptor of our own does no harm.
pub(super) struct Log {
    pub(super) file: File,
    /// Kept here too, in case the mark could not be made.
    failed: Option<String>,
    mark: Mark,
}

impl Log {
    /// The log is there as long as a connection is open: opening one has made it.
    pub(super) fn of(dir: &PoolDir, boot: BootId) -> Result<Self> {
        let path = files::log_of(&dir.database());
        let file = File::open(&path).map_err(|error| Error::because(path.display().to_string(), error))?;
        let (failed, mark) = (None, Mark::of(dir, boot));
        Ok(Self { file, failed, mark })
    }

    /// All that was visible before is durable when this returns.
    pub(super) fn sync(&mut self) -> Result<()> {
        may_wait("a sync of the database");
        if let Some(why) = self
            .failed
            .clone()
            .map_or_else(|| self.mark.why(), |why| Ok(Some(why)))?
        {
            let told = format!("could not be made durable before ({why}), and is not trusted to be now");
            self.failed = Some(why);
            return Err(Error::failed(DATABASE, told).hint(
                "look at the disk of the pool's directory, then write the database anew: vctl pool backup FILE, and with no apparatus running vctl pool restore FILE",
            ));
        }
        self.file.sync_data().map_err(|error| {
            self.remember(&error);
            Error::failed(DATABASE, format!("cannot be made durable: {error}"))
        })
    }

    /// Why nothing is made durable any more, as far as this connection knows.
    pub(super) fn lost(&self) -> Option<String> {
        self.failed.clone()
    }

    /// A sync of the log has failed, whoever asked for it: SQLite does so before it copies the log into the database.
    pub(super) fn remember(&mut self, error: &io::Error) {
        self.mark.set(error);
        self.failed = Some(error.to_string());
    }
}

/// That a sync has failed: a file that names the boot and the reason, a line each.
pub(super) struct Mark {
    path: PathBuf,
    boot: BootId,
}

impl Mark {
    pub(super) fn of(dir: &PoolDir, boot: BootId) -> Self {
        let path = place(dir);
        Self { path, boot }
    }

    /// The reason, if it was in this boot.
    pub(super) fn why(&self) -> Result<Option<String>> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| Error::because(self.path.display().to_string(), error))?,
        };
        let (boot, why) = text.split_once('\n').unwrap_or((&text, ""));
        Ok((boot == self.boot.0.to_string()).then(|| why.trim_end().to_owned()))
    }

    fn set(&self, error: &io::Error) {
        let new = self.path.with_extension("new");
        let text = format!("{}\n{error}\n", self.boot.0);
        if let Err(why) = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path)) {
            ::log::error!(
                "{}: {why}: only this process knows that the database cannot be made durable",
                self.path.display()
            );
        }
    }

    /// The database has been written anew.
    pub(super) fn clear(dir: &PoolDir) -> Result<()> {
        match fs::remove_file(place(dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::because(place(dir).display().to_string(), error))
            }
            _ => Ok(()),
        }
    }
}

fn place(dir: &PoolDir) -> PathBuf {
    dir.run().join("log-failed")
}
