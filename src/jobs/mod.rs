//! Jobs: lasting pieces of controller work, in the foreground of `vctl` or in the background of an apparatus.
//!
//! ```text
//! plan       request -> copy progress table (pure, from layout and steps)
//! create     table and reservations into the store
//! run        worker: rounds of changes; between them it persists and reads the operator's commands
//!              gaps: the controller lock is yielded     overlap: no two jobs on one range
//!              mover: one change per chunk, by chunks     stager: prepares the next chunks, starts write-back of the last ones
//!              write_gate: forbids the stager to write in gaps and under holds
//!              copier: copies the bytes        pace: chunk size, rate limit, when to persist
//! commands     pause, resume, cancel, roll back, limits
//! ```
//!
//! A job's state:
//!
//! ```text
//!             pause                     cancel
//!  Running <----------> Paused ----------------------+
//!   |  |  |   resume      |                          v
//!   |  |  +---------------|--- cancel ----------> Cancelled
//!   |  |                  | cancel, roll back        ^
//!   |  +-- cancel, roll back --> RollingBack --------+  all is back
//!   |                              ^      \
//!   +--> Done                      |       \ no room to go back
//!   |                 roll back    |        v
//!   +----------------------------- Failed <-+
//!       a disk fails                  |      cancel: Failed --> Cancelled
//!   Running, RollingBack <------------+  resume
//! ```

pub mod chunks;
mod commands;
mod copier;
mod layout;
mod left;
mod mover;
mod overlap;
mod pace;
mod plan;
mod stager;
mod steps;
#[cfg(test)]
mod testing;
mod worker;
mod write_gate;

pub use commands::{cancel, check_cancel, check_resume, pause, resume, set_limits};
pub use plan::{plan, plan_back};
pub use steps::Chunk;
pub use worker::{RELEASE_TIMEOUT, run, run_taken, take_on, up_to_date};

use crate::controller::Controller;
use crate::controller::persist::refuse_lost;
use crate::controller::space;
use crate::model::alloc::{Faults, Policy};
use crate::model::change::{HoldMode, NewChange};
use crate::model::error::{Error, Result};
use crate::model::holds::Holds;
use crate::model::job::{JobKind, JobLimits, JobRecord, JobState, Progress, Step};
use crate::model::records::{Delta, Edit, Span};
use crate::model::units::{ByteCount, DiskId, JobId, Timestamp, VolumeId};

/// What a job is to move, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Moves a volume or a part of it. Data that already lies on one of the destinations stays there.
    Move {
        /// The volume to move.
        volume: VolumeId,
        /// The range to move, rounded outward to whole extents; the whole volume if `None`.
        range: Option<Span>,
        /// Limits the move to data on this disk.
        from: Option<DiskId>,
        /// The destination disks, in order of preference. If `from` is given and this list is empty, any disk with free space is used.
        to: Vec<DiskId>,
        /// The order in which disks are filled; the pool's policy if `None`.
        policy: Option<Policy>,
    },
    /// Moves everything off a disk, to the listed disks or, if none are named, to any disk with free space.
    Evacuate {
        /// The disk to empty.
        disk: DiskId,
        /// The destination disks.
        to: Vec<DiskId>,
        /// Whether the reserve of the destinations may be used too.
        use_reserve: bool,
    },
}

impl Request {
    fn kind(&self) -> JobKind {
        match self {
            Self::Move { volume, .. } => JobKind::Move { volume: *volume },
            Self::Evacuate {
                disk,
                to,
                use_reserve,
            } => JobKind::Evacuate {
                disk: *disk,
                to: to.clone(),
                use_reserve: *use_reserve,
                reopen: false,
            },
        }
    }
}

/// Receives the progress of a running job. It is called between chunks, with no hold in place, about twenty times a second.
pub trait Observer {
    /// Reports the progress so far, in extents. Returns false to pause the job now (Ctrl-C).
    fn progress(&mut self, job: &JobRecord, done: u64, total: u64) -> bool;

    /// Returns whether a job that is not to go on stays as it is instead of being paused, because another process goes on with it.
    fn hands_over(&self) -> bool {
        false
    }
}

/// Records the job with its reservations; the job starts when [`run`] is called, by any process. A disk that is to be emptied is closed
/// to new allocations first. Destinations are chosen as by [`plan`]. Returns `None`, and creates no job, when all data already lies where it should go.
///
/// # Errors
/// Returns the errors of [`plan`] and of the store.
pub fn create(
    controller: &mut Controller,
    request: &Request,
    faults: &Faults,
    title: &str,
    limits: JobLimits,
) -> Result<Option<JobId>> {
    let mut steps = plan(controller.store(), request, faults)?;
    overlap::refuse(controller, None, &steps)?;
    let mut kind = request.kind();
    if let JobKind::Evacuate { disk, reopen, .. } = &mut kind {
        *reopen = set_allocate(controller, *disk, false, title)?;
        if *reopen {
            // Data that was placed there before the disk was closed to allocations is part of the job.
            steps = plan(controller.store(), request, faults)?;
        }
    }
    if steps.is_empty() {
        return Ok(None);
    }
    refuse_lost_destinations(controller, &steps)?;
    let job = JobRecord {
        id: JobId(0),
        kind,
        state: JobState::Running,
        limits,
        back: false,
        title: title.to_owned(),
        created: Timestamp::now(),
        ended: None,
        copied: ByteCount(0),
        longest_hold_us: 0,
        held: 0,
        holds: Holds::default(),
        progress: Progress::default(),
        why: String::new(),
    };
    let term = controller.term();
    let id = controller.store().create_job(term, &job, &steps)?;
    space::watch(controller.store());
    Ok(Some(id))
}

/// Refuses to move data to a disk that has lost writes: it could not be persisted there, and flushes of its hosts would fail.
fn refuse_lost_destinations(controller: &mut Controller, steps: &[Step]) -> Result<()> {
    let mut disks = controller.store().disks()?;
    disks.retain(|disk| steps.iter().any(|step| step.to.disk == disk.id));
    disks
        .iter()
        .try_for_each(|disk| refuse_lost(disk.name.as_str(), &*controller.ledger(disk.id)))
}

/// Sets or clears `no-allocate` on a disk. Returns false when the disk was already in that state.
fn set_allocate(controller: &mut Controller, disk: DiskId, allocate: bool, title: &str) -> Result<bool> {
    let store = controller.store();
    let found = store.disks()?.into_iter().find(|record| record.id == disk);
    let mut record = found.ok_or_else(|| Error::not_found("disk", &disk.to_string()))?;
    if record.allocate == allocate {
        return Ok(false);
    }
    record.allocate = allocate;
    let change = NewChange {
        title: title.to_owned(),
        job: None,
        delta: Delta {
            from: store.header()?.generation,
            edits: vec![Edit::SetDisk(record)],
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    };
    controller.run(change, false, &mut || Ok(()))?;
    match controller.persist() {
        // Such a disk cannot be flushed; moving all data off it is what makes the change durable.
        Err(_) if !controller.disks_losing_writes()?.is_empty() => Ok(true),
        persisted => persisted.map(|()| true),
    }
}
