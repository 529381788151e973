//! Records of a change: what it does, its state, and who owns extents meanwhile.

use super::records::{Area, Delta, Span};
use super::units::{CacheEpoch, ChangeId, Generation, JobId, MembershipVersion, Term, VolumeId};
use serde::{Deserialize, Serialize};

/// Which requests a hold parks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HoldMode {
    /// Writes, punches and zeroing are parked; reads go on.
    Writes,
    /// All requests are parked.
    All,
}

/// State of a change's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeState {
    /// It is announced; the old table is the truth.
    Prepared,
    /// The new table is the truth for this epoch; power loss takes the change back.
    Committed,
    /// The new table is the truth permanently.
    #[serde(rename = "Hardened")]
    Persisted,
    /// It was given up before it was committed.
    Cancelled,
    /// It was committed in an earlier epoch and never persisted, so it was taken back.
    Undone,
}

/// Description of a change, as given to the store when the change is prepared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewChange {
    /// The command that asked for it, for display.
    pub title: String,
    /// The job that it is a chunk of, if any.
    pub job: Option<JobId>,
    /// The edits of the table. Its `from` must be the current generation at commit.
    #[serde(rename = "difference")]
    pub delta: Delta,
    /// The address ranges in which requests are held.
    pub spans: Vec<Span>,
    /// Which requests are held.
    pub mode: HoldMode,
}

/// A change as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// Its number.
    pub id: ChangeId,
    /// Its state.
    pub state: ChangeState,
    /// The term of the controller that prepared it.
    pub term: Term,
    /// The epoch in which it was committed (or prepared, until then).
    #[serde(rename = "boot")]
    pub epoch: CacheEpoch,
    /// The description that the store was given.
    pub change: NewChange,
    /// The edits that take it back; commit sets them.
    pub undo: Option<Delta>,
}

/// The answer to a commit. Every answer but `Committed` means that nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Commit {
    /// This generation is the truth now. A change that was committed already gets the same answer (commits are idempotent).
    Committed(Generation),
    /// An apparatus cancelled it because its hold ran out.
    Cancelled,
    /// An apparatus joined, rejoined, left or was fenced since the holds were requested: the holds have to be requested again.
    MembershipMoved(MembershipVersion),
    /// The delta does not start from the current generation: the change has to be planned again.
    GenerationMoved(Generation),
    /// A controller with a higher term holds the lock.
    StaleTerm(Term),
}

/// The answer to a cancel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cancel {
    /// The old table stays the truth. A change that was cancelled or undone already gets the same answer.
    Cancelled,
    /// It is too late: the change is committed; this is its record.
    Committed(Box<ChangeRecord>),
}

/// Owner of a run of extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// A volume, for a segment.
    Volume(VolumeId),
    /// A prepared change that is going to map it.
    Change(ChangeId),
    /// A job, for a destination that is not mapped yet.
    Job(JobId),
    /// Quarantine: a change freed it, and a request may still read or write it.
    Quarantine(ChangeId),
    /// The disk's copy of the pool's metadata.
    Metadata,
}

/// A run of extents and its one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UsedArea {
    /// The extents.
    pub area: Area,
    /// Its owner.
    pub owner: Owner,
}
