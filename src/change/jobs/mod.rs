//! Jobs: lasting pieces of controller work, in the foreground of `vctl` or in the background of an apparatus.
//!
//! ```text
//! plan       request -> copy progress table (pure, over layout and steps)
//! create     table and reservations into the store
//! run        worker: rounds of changes, hardening between them, the operator's wishes
//!              mover: one change per chunk     stager: the next chunks made ready, the last ones written back
//!              copier: the bytes               pace: how much, how fast
//! wishes     pause, resume, cancel, roll back, limits
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

mod copier;
mod layout;
mod left;
mod mover;
mod pace;
mod plan;
pub(super) mod ranges;
mod stager;
mod steps;
#[cfg(test)]
mod testing;
mod wishes;
mod worker;

pub use plan::plan;
pub use wishes::{cancel, check_cancel, check_resume, pause, resume, set_limits};
pub use worker::run;

use crate::change::driver::Controller;
use crate::change::space;
use crate::error::{Error, Result};
use crate::pool::alloc::Policy;
use crate::pool::holds::Holds;
use crate::pool::model::{Difference, Edit, Span};
use crate::store::{HoldMode, JobKind, JobLimits, JobRecord, JobState, NewChange, Progress};
use crate::units::{ByteCount, DiskId, JobId, Timestamp, VolumeId};

/// What to move where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// (Part of) a volume. What lies on one of the destinations already stays there.
    Move {
        /// The volume.
        volume: VolumeId,
        /// Only this range, rounded outward to whole extents.
        range: Option<Span>,
        /// Only what lies on this disk.
        from: Option<DiskId>,
        /// To these disks, in order of preference; if `from` is given and this is empty, wherever there is room.
        to: Vec<DiskId>,
        /// Which disk is taken first; as the pool has it, if not said.
        policy: Option<Policy>,
    },
    /// Everything on a disk, to these disks or, if none are named, wherever there is room.
    Evacuate {
        /// The disk.
        disk: DiskId,
        /// Where to.
        to: Vec<DiskId>,
        /// What the destinations keep free may be taken too.
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

/// How a running job shows itself: called between chunks, with no hold in place, some twenty times a second.
pub trait Observer {
    /// Progress so far, in extents. Answers false to stop now (Ctrl-C): the job is paused.
    fn progress(&mut self, job: &JobRecord, done: u64, total: u64) -> bool;
}

/// Records the job with its reservations; it runs when [`run`] is called, by whomever. A disk that is to be emptied takes nothing new
/// from now on. `None`, and no job, when all lies where it was to go.
///
/// # Errors
/// Those of [`plan`] and the store.
pub fn create(
    controller: &mut Controller,
    request: &Request,
    title: &str,
    limits: JobLimits,
) -> Result<Option<JobId>> {
    let mut steps = plan(controller.store(), request)?;
    let mut kind = request.kind();
    if let JobKind::Evacuate { disk, reopen, .. } = &mut kind {
        *reopen = set_allocate(controller, *disk, false, title)?;
        if *reopen {
            // What was placed there before it was closed is part of the job.
            steps = plan(controller.store(), request)?;
        }
    }
    if steps.is_empty() {
        return Ok(None);
    }
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

/// Sets or takes away `no-allocate`. False when it was so already.
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
        difference: Difference {
            from: store.header()?.generation,
            edits: vec![Edit::SetDisk(record)],
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    };
    controller.run(change, false, &mut || Ok(()))?;
    match controller.harden() {
        // To move all off such a disk is what makes it durable.
        Err(_) if !controller.losing()?.is_empty() => Ok(true),
        hardened => hardened.map(|()| true),
    }
}
