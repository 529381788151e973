//! The audit log: who changed what in a pool, when, by which command line, and what came of it.

use crate::sys;
use crate::units::{BootId, Timestamp};
use serde::{Deserialize, Serialize};
use std::io;
use uuid::Uuid;

/// Entries that are kept; older ones are forgotten.
pub const KEPT: u64 = 10_000;

/// One deed: written when it begins, and once more when it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Tells it from all others.
    pub id: Uuid,
    /// The program: `vctl`, `console`, `controller`, `apparatus a1`.
    pub by: String,
    /// The user who ran it.
    pub uid: u32,
    /// The user's name, where the system has one.
    pub user: String,
    /// Its process.
    pub pid: u32,
    /// Tells that process from a later one of the same number.
    pub process: Option<Process>,
    /// The command line, or what was done without one, as words.
    pub command: Vec<String>,
    /// When it began.
    pub began: Timestamp,
    /// How it ended; `None` until then, and for good when its process was killed.
    pub end: Option<End>,
}

/// How a deed ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// The exit status.
    pub status: u8,
    /// Why it failed; empty if it did not.
    pub why: String,
}

/// An entry as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// Grows by one with each entry.
    pub seq: u64,
    /// Grows each time that an entry is written: an entry that ends gets a new one.
    pub mark: u64,
    /// The entry.
    pub entry: Entry,
}

/// A process of one boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    boot: BootId,
    namespace: u64,
    started: u64,
}

impl Process {
    /// This one.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn this() -> io::Result<Self> {
        Ok(Self {
            boot: sys::boot_id().map_err(io::Error::other)?,
            namespace: sys::pid_namespace()?,
            started: sys::start_of_process(std::process::id())?.unwrap_or(0),
        })
    }

    /// Whether it lives under the number `pid`; `None` when it cannot be seen from here, because it is in another container.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn lives(self, pid: u32) -> io::Result<Option<bool>> {
        if self.boot != sys::boot_id().map_err(io::Error::other)? {
            return Ok(Some(false));
        }
        if self.namespace != sys::pid_namespace()? {
            return Ok(None);
        }
        Ok(Some(sys::runs_since(pid, self.started)?))
    }
}
