//! Records of the apparatuses of a pool.

use super::change::ChangeRecord;
use super::names::Name;
use super::records::{Delta, Snapshot};
use super::units::{Generation, Incarnation, Slot, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Largest number of apparatuses in a pool.
pub const SLOTS: u32 = 64;

/// An apparatus as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its slot in the member table.
    pub slot: Slot,
    /// Its name.
    pub name: Name,
    /// The number of its current life.
    pub incarnation: Incarnation,
    /// Its state.
    pub state: MemberState,
    /// Its process id.
    pub pid: u32,
    /// Absolute path of its mount point.
    pub mount: PathBuf,
    /// The generation it loaded when it last joined.
    pub joined_at: Generation,
    /// When it last joined.
    pub since: Timestamp,
    /// Where its process was started, if known.
    pub origin: Option<Origin>,
    /// The node that it runs on, in a pool that knows its nodes.
    pub node: Option<Name>,
    /// The port at which it listens for other nodes, if it does.
    pub port: Option<u16>,
}

impl Member {
    /// Returns its name for messages, with that of its node where the pool knows its nodes.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.node {
            Some(node) => format!("{} on node {node}", self.name),
            None => self.name.to_string(),
        }
    }
}

/// State of an apparatus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// It is in the control range.
    Joined,
    /// It is out of the control range, but may still be alive with an old table.
    Fenced,
    /// Its process has ended, or it left in an orderly way.
    Left,
}

/// What an apparatus gets when it joins, from one transaction: its incarnation and the table that it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its record.
    pub member: Member,
    /// The table; it has no segments where `since` leads to them.
    pub snapshot: Snapshot,
    /// The deltas that lead from the table that the joiner has read before to this one, in order, because reading a large table
    /// takes longer than others can wait for the store. `None` if the joiner has read no table, or if not all of these deltas
    /// are available.
    pub since: Option<Vec<Delta>>,
    /// Changes that are prepared or committed but not known to be finished: the joiner acknowledges no write until the members
    /// have reached the snapshot's generation.
    pub unfinished: Vec<ChangeRecord>,
}

/// Where the process of a member was started; the store records it when the member joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The pool directory that it has locked: device and inode.
    pub directory: (u64, u64),
    /// Its PID namespace.
    pub namespace: u64,
    /// The start time of its process, in clock ticks since boot.
    pub started: u64,
}

/// Description that an apparatus gives of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joiner {
    /// Its name.
    pub name: Name,
    /// Its process id.
    pub pid: u32,
    /// Absolute path of its mount point.
    pub mount: PathBuf,
    /// Where its process was started, if known.
    pub origin: Option<Origin>,
    /// The node that it runs on, in a pool that knows its nodes.
    pub node: Option<Name>,
    /// The port at which it listens for other nodes, if it does.
    pub port: Option<u16>,
    /// The generation of the table that it has read before, if any: see [`Joined::since`].
    pub known: Option<Generation>,
}

impl Joiner {
    /// Returns a joiner with an unknown origin that has read no table before.
    #[must_use]
    pub fn new(name: &Name, pid: u32, mount: impl Into<PathBuf>) -> Self {
        Self {
            name: name.clone(),
            pid,
            mount: mount.into(),
            origin: None,
            node: None,
            port: None,
            known: None,
        }
    }
}

/// An apparatus's entry in the member table, as others read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberEntry {
    /// The incarnation that writes the entry.
    pub incarnation: Incarnation,
    /// The generation of the table that it serves.
    pub generation: Generation,
    /// The oldest generation that a request in flight may use.
    pub oldest: Generation,
    /// Its last heartbeat, in microseconds of `CLOCK_MONOTONIC`.
    pub heartbeat_us: u64,
    /// Its process id.
    pub pid: u32,
    /// The incarnation that must not acknowledge requests any more; 0 for none.
    pub fenced: Incarnation,
}
