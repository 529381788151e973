//! Where a pool's files are.

use crate::pool::names::Name;
use std::path::{Path, PathBuf};

/// A pool's directory.
///
/// ```text
/// DIR/pool.db        the database (with -wal and -shm beside it)
/// DIR/times/NAME     when volumes were written, as the apparatus knows it
/// DIR/run/           mode 0700
///     members        a link to the member table, which is in memory
///     arbitration    the arbitration lock; its text names the holder
///     attach         held while a volume is attached to a loop device
///     log-failed     there if the database could not be made durable: boot and reason
///     locks/ID       hosts' file locks on volume ID, for all apparatuses
///     NAME.sock      an apparatus's control socket, mode 0600
///     NAME.life      an apparatus's life lock
///     NAME.log       what a detached apparatus has to say
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDir {
    dir: PathBuf,
}

impl PoolDir {
    /// Of this directory, which need not exist yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.dir.join("pool.db")
    }

    /// When volumes were written, a file for each apparatus.
    #[must_use]
    pub fn times(&self) -> PathBuf {
        self.dir.join("times")
    }

    /// What lives only as long as the machine runs.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// An apparatus's control socket.
    #[must_use]
    pub fn socket(&self, apparatus: &Name) -> PathBuf {
        self.run().join(format!("{apparatus}.sock"))
    }

    /// An apparatus's log when it runs detached.
    #[must_use]
    pub fn log(&self, apparatus: &Name) -> PathBuf {
        self.run().join(format!("{apparatus}.log"))
    }
}
