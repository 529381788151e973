//! The audit log: who changed what in a pool, when, by which command line, and with what result.

use crate::model::names::Name;
use crate::model::units::{CacheEpoch, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Number of entries that are kept; older ones are deleted.
pub const KEPT: u64 = 10_000;

/// An operation: its entry is written when it begins, and again when it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Identifies the entry.
    pub id: Uuid,
    /// The program: `vctl`, `console`, `controller`, `apparatus a1`.
    pub by: String,
    /// The node that it ran on, in a pool that knows its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// Id of the user who ran it.
    pub uid: u32,
    /// The user's name, if the system has one.
    pub user: String,
    /// Its process id.
    pub pid: u32,
    /// Distinguishes that process from a later one with the same id.
    pub process: Option<Process>,
    /// The command line, or words that describe an operation without one.
    pub command: Vec<String>,
    /// When the operation began.
    pub began: Timestamp,
    /// How it ended; `None` until then, and permanently if its process was killed.
    pub end: Option<End>,
}

/// End of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct End {
    /// When it ended.
    pub at: Timestamp,
    /// Its exit status.
    pub status: u8,
    /// Why it failed; empty if it succeeded.
    pub why: String,
}

/// An entry as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// Sequence number; it grows by one with each entry.
    pub seq: u64,
    /// Number of the write; it grows each time an entry is written, so an entry gets a new one when it ends.
    pub mark: u64,
    /// The entry.
    pub entry: Entry,
}

/// A process of one epoch; together with its id this identifies it uniquely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// The epoch that it runs in.
    #[serde(rename = "boot")]
    pub epoch: CacheEpoch,
    /// The PID namespace in which its id is valid.
    pub namespace: u64,
    /// Its start time.
    pub started: u64,
}
