//! Upkeep of the store itself: ownership, backups, checks.

use crate::model::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Upkeep of the store. A method that a backend does not need does nothing.
pub trait UpkeepStore: Send {
    /// Checks that this store may change and serve the pool, and is not a copy of one that does. Call it before the first change.
    ///
    /// # Errors
    /// Fails for a copy; the error names the original, and the way out.
    fn own(&mut self) -> Result<()> {
        Ok(())
    }
    /// Returns the directory that this store was copied from, if it is a copy.
    ///
    /// # Errors
    /// Fails if the store or the directory cannot be read.
    fn copied_from(&mut self) -> Result<Option<PathBuf>> {
        Ok(None)
    }
    /// Refuses a copy, as [`own`](Self::own) does, but changes nothing.
    ///
    /// # Errors
    /// Fails as [`own`](Self::own) does.
    fn refuse_copy(&mut self) -> Result<()> {
        Ok(())
    }
    /// Makes this store, wherever it is now, the owner of the pool's disks, under a new instance. It is durable when this
    /// returns. The caller has made sure that no other process uses them, and writes the labels.
    ///
    /// # Errors
    /// Fails if the store or the directory cannot be read or written.
    fn adopt(&mut self) -> Result<()> {
        Ok(())
    }
    /// Checks the store for contradictions, in itself and between the pool's records. Returns one line for each problem. It reads
    /// everything.
    ///
    /// # Errors
    /// Fails if the store cannot be read at all.
    fn check(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// Writes the whole database, as it is now, to one new file. It is durable when it returns.
    ///
    /// # Errors
    /// Fails if the file exists already or cannot be written, or if the store has no backups.
    fn back_up(&mut self, file: &Path) -> Result<()> {
        Err(Error::failed(
            file.display().to_string(),
            "this store has no backups",
        ))
    }
    /// Copies the write-ahead log into the database if it has grown, so that it stays small. It is cheap if the log has not
    /// grown, and syncs if it has: call it outside holds only, from time to time after many commits.
    fn checkpoint(&mut self) -> Result<()>;
}
