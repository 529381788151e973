//! Records of jobs: moves and evacuations, with their copy progress tables.

use super::holds::Holds;
use super::records::{Area, Segment};
use super::units::{ByteCount, DiskId, JobId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobKind {
    /// Moves a volume or a part of it.
    Move {
        /// The volume.
        volume: VolumeId,
    },
    /// Empties a disk.
    Evacuate {
        /// The disk.
        disk: DiskId,
        /// The destinations, in order of preference; any disk with room if empty.
        to: Vec<DiskId>,
        /// Whether the reserve of the destinations may be used too.
        #[serde(default)]
        use_reserve: bool,
        /// Whether the disk allowed allocation before, so that it does so again once everything is moved back.
        #[serde(default)]
        reopen: bool,
    },
}

impl JobKind {
    /// Returns whether nothing is left to do once this volume is gone.
    pub(crate) fn is_about_volume(&self, gone: VolumeId) -> bool {
        matches!(self, Self::Move { volume } if *volume == gone)
    }

    /// Returns whether nothing is left to do once this disk is gone.
    pub(crate) fn is_about_disk(&self, gone: DiskId) -> bool {
        matches!(self, Self::Evacuate { disk, .. } if *disk == gone)
    }
}

/// Reason of the cancellation of a job whose volume was removed.
pub(crate) const VOLUME_REMOVED: &str = "its volume was removed";
/// Reason of the cancellation of a job whose disk was removed.
pub(crate) const DISK_REMOVED: &str = "its disk was removed";

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// A process works on it, or died doing so: the next holder of the controller lock goes on with it.
    Running,
    /// The operator stopped it until `resume`.
    Paused,
    /// The operator stopped it; what was moved stays moved.
    Cancelled,
    /// What was moved is being moved back.
    RollingBack,
    /// It is complete.
    Done,
    /// It was given up; `JobRecord::why` has the reason.
    Failed,
}

impl JobState {
    /// Returns whether the job is over: it owns no extents then.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// The operator's settings of a job, which can be changed while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobLimits {
    /// Copy rate limit in bytes per second.
    pub rate: Option<ByteCount>,
    /// Target for the length of a hold in microseconds; chunks are sized so that holds stay below it.
    pub hold_target_us: Option<u64>,
    /// Whether reads are held too.
    pub hold_all: bool,
    /// Whether ranges that cannot be read stay where they are while the data around them is moved.
    #[serde(default)]
    pub skip_unreadable: bool,
}

/// One row of a copy progress table: a run of the volume, its old placement, its new one, and the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// The volume.
    pub volume: VolumeId,
    /// The run and its old placement.
    pub from: Segment,
    /// Its new placement; of the same length.
    pub to: Area,
    /// Extents moved so far, from the start of the run.
    pub done: u64,
}

/// Progress of a copy progress table, in extents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// Number moved so far.
    pub done: u64,
    /// Number in total.
    pub total: u64,
}

impl Progress {
    /// Returns the sum over these steps.
    #[must_use]
    pub fn of(steps: &[Step]) -> Self {
        let add = |sum: Self, step: &Step| Self {
            done: sum.done.saturating_add(step.done),
            total: sum.total.saturating_add(step.to.len),
        };
        steps.iter().fold(Self::default(), add)
    }
}

/// A job as the store has it. Its copy progress table is read with [`crate::store::Store::steps`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Its state.
    pub state: JobState,
    /// The operator's settings.
    pub limits: JobLimits,
    /// Whether the copy progress table is that of the way back; it is set once a rollback is planned.
    pub back: bool,
    /// The command that asked for it, for display.
    pub title: String,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it ended, if it has.
    pub ended: Option<Timestamp>,
    /// Bytes copied; holes are not counted.
    pub copied: ByteCount,
    /// The longest hold so far, in microseconds.
    pub longest_hold_us: u64,
    /// Number of host requests held so far.
    pub held: u64,
    /// Histogram of the lengths of its holds.
    pub holds: Holds,
    /// Its progress. The store derives it from the copy progress table and ignores what a caller gives.
    pub progress: Progress,
    /// What the job waits for, or why it failed; empty while it runs normally.
    pub why: String,
}
