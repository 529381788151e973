//! Jobs: lasting pieces of controller work, in the foreground of `vctl` or in the background of an apparatus.

use crate::change::driver::Controller;
use crate::error::Result;
use crate::pool::model::Span;
use crate::store::{JobLimits, JobRecord, JobState, Step, Store};
use crate::units::{DiskId, JobId, VolumeId};

/// What to move where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// (Part of) a volume.
    Move {
        /// The volume.
        volume: VolumeId,
        /// Only this range.
        range: Option<Span>,
        /// Only what lies on this disk.
        from: Option<DiskId>,
        /// To these disks, in order of preference.
        to: Vec<DiskId>,
    },
    /// Everything on a disk, to these disks or, if none are named, wherever there is room.
    Evacuate {
        /// The disk.
        disk: DiskId,
        /// Where to.
        to: Vec<DiskId>,
    },
}

/// How a running job shows itself: called between chunks.
pub trait Observer {
    /// Progress so far. Answers false to stop after this chunk (Ctrl-C): the job is paused.
    fn progress(&mut self, job: &JobRecord, done: u64, total: u64) -> bool;
}

/// Plans a job: the copy progress table it would have. Changes nothing.
///
/// # Errors
/// When there is not enough room: says for each disk why it was not taken.
pub fn plan(_store: &mut dyn Store, _request: &Request) -> Result<Vec<Step>> {
    todo!()
}

/// Records the job with its reservations; it runs when [`run`] is called, by whomever.
///
/// # Errors
/// Those of [`plan`] and the store.
pub fn create(
    _controller: &mut Controller,
    _request: &Request,
    _title: &str,
    _limits: JobLimits,
) -> Result<JobId> {
    todo!()
}

/// Works on a job until it ends, is paused, or is cancelled. Answers the state it is left in.
///
/// # Errors
/// When the job failed, with the data safe where it was.
pub fn run(_controller: &mut Controller, _job: JobId, _observer: &mut dyn Observer) -> Result<JobState> {
    todo!()
}
