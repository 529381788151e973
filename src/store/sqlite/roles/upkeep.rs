//! [`UpkeepStore`] of this store.

use crate::held::may_wait;
use crate::model::error::{Error, Result};
use crate::store::UpkeepStore;
use crate::store::sqlite::stalled::{Held, resume_if_stopped};
use crate::store::sqlite::{SqliteStore, check, directory, files};
use rusqlite::ErrorCode;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Number of frames from which the log is made to begin anew, though others read or write at any time: 16 MiB.
pub(in crate::store::sqlite) const LONG_LOG: i64 = 4 * CHECKPOINT_FRAMES;
/// Smallest number of frames in the log for which a checkpoint is worth its cost.
pub(in crate::store::sqlite) const CHECKPOINT_FRAMES: i64 = 1000;

impl UpkeepStore for SqliteStore {
    /// The database may serve the pool if it is in the directory in which it was last used, or that directory has been renamed.
    /// Records the directory. A database in another directory is a copy.
    fn own(&mut self) -> Result<()> {
        let here = directory::Directory::of(&self.dir)?;
        let found = self.read(|db, _| directory::find(db, &here))?;
        let (instance, sync) = match found {
            directory::Found::Same => return Ok(()),
            directory::Found::Copy(of) => return Err(self.refusal(&of)),
            directory::Found::Renamed => (None, false),
            // All copies of a log are the same database: what one of them writes, the others have.
            directory::Found::Replaced if self.mirror.is_some() => (None, false),
            directory::Found::Replaced => (Some(Uuid::new_v4()), true),
        };
        self.write(|db| directory::settle(db, &here, instance))?;
        // Labels that name an instance which no database records would be refused by all of them.
        if sync { self.log.sync() } else { Ok(()) }
    }

    fn copied_from(&mut self) -> Result<Option<PathBuf>> {
        let here = directory::Directory::of(&self.dir)?;
        Ok(match self.read(|db, _| directory::find(db, &here))? {
            directory::Found::Copy(of) => Some(of),
            _ => None,
        })
    }

    fn refuse_copy(&mut self) -> Result<()> {
        match self.copied_from()? {
            Some(of) => Err(self.refusal(&of)),
            None => Ok(()),
        }
    }

    fn adopt(&mut self) -> Result<()> {
        let here = directory::Directory::of(&self.dir)?;
        self.write(|db| directory::settle(db, &here, Some(Uuid::new_v4())))?;
        self.log.sync()
    }

    fn check(&mut self) -> Result<Vec<String>> {
        self.read(check::problems)
    }

    fn back_up(&mut self, file: &Path) -> Result<()> {
        files::backup(self.current()?, file)
    }

    fn checkpoint(&mut self) -> Result<()> {
        may_wait("a checkpoint");
        let (frames, copied) = self.log_frames("noop")?;
        let is_long = frames >= LONG_LOG;
        if frames - copied < CHECKPOINT_FRAMES && !is_long {
            return Ok(());
        }
        self.copy_log()?;
        if is_long {
            self.end_log()?;
        }
        // The first commit after a full checkpoint restarts the log and syncs its header: better this commit than one that
        // hosts wait for.
        self.write(|db| {
            db.execute("UPDATE pool SET checkpoints = checkpoints + 1", [])?;
            Ok(())
        })?;
        let Self {
            mirror, connection, ..
        } = self;
        mirror.as_mut().map_or(Ok(()), |mirror| mirror.trim(connection))
    }
}

impl SqliteStore {
    fn refusal(&self, of: &Path) -> Error {
        match self.mirror {
            None => directory::refusal(&self.dir, of),
            Some(_) => directory::refusal_of_mirror(&self.dir, of),
        }
    }

    /// Copies the log into the database, as far as nobody reads older states. If all of it was copied and nobody reads it or appends to it meanwhile,
    /// the next commit begins it anew.
    pub(in crate::store::sqlite) fn copy_log(&mut self) -> rusqlite::Result<()> {
        let copied = self.log_frames("passive").map(drop);
        self.checkpointed(copied)
    }

    /// Copies the rest of the log with nobody writing, so that the next commit begins it anew. Does nothing if that would have to wait, which
    /// stopped readers do not cause.
    fn end_log(&mut self) -> rusqlite::Result<()> {
        let database = self.dir.database();
        resume_if_stopped(&database, Held::Read);
        let ended = files::without_waiting(&mut self.connection, &database, |connection| {
            connection.query_row("PRAGMA wal_checkpoint(restart)", [], |_| Ok(()))
        });
        self.checkpointed(ended)
    }

    /// Records a failed checkpoint.
    fn checkpointed(&mut self, done: rusqlite::Result<()>) -> rusqlite::Result<()> {
        done.inspect_err(|error| {
            // SQLite syncs the log through its own descriptor, and that may have consumed the report of a lost page.
            if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
                self.log.remember(&io::Error::other(error.to_string()));
            }
        })
    }

    /// Returns the number of frames in the log, and how many of them are in the database.
    pub(in crate::store::sqlite) fn log_frames(&self, mode: &str) -> rusqlite::Result<(i64, i64)> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        self.connection
            .query_row(&sql, [], |row| Ok((row.get(1)?, row.get(2)?)))
    }
}
