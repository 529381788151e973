//! Moves and evacuations: converts the user's words into requests, and previews them.

use super::job::{Workers, wants_work};
use super::{backup, health, job, select, volume};
use crate::controller::Controller;
use crate::jobs::{self, Request};
use crate::model::alloc::{Faults, Policy};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::job::{JobKind, JobLimits, JobRecord, JobState, Step};
use crate::model::records::Delta;
use crate::model::units::{ByteCount, JobId};
use crate::store::{Store, TableStore};

/// A move as the user requests it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveRequest {
    /// The volume's name.
    pub volume: String,
    /// The destinations (`DISK`, `@TAG`), in order of preference.
    pub to: Vec<String>,
    /// Limits the move to data on this disk.
    pub from: Option<String>,
    /// The range to move, to the end of the volume where no end is given.
    pub range: Option<(ByteCount, Option<ByteCount>)>,
    /// The order in which disks are filled; the pool's policy if `None`.
    pub policy: Option<Policy>,
}

/// Converts a move into the planner's request.
///
/// # Errors
/// Fails with `NotFound` for an unknown name, and when the range is not in the volume.
pub fn of_volume(store: &mut dyn TableStore, request: &MoveRequest) -> Result<Request> {
    let disks = store.disks()?;
    let volumes = store.volumes()?;
    let record = select::volume(&volumes, &request.volume)?;
    let from = request.from.as_deref().map(|name| select::disk(&disks, name));
    let span = request.range.map(|range| volume::span_of(record, Some(range)));
    Ok(Request::Move {
        volume: record.id,
        range: span.transpose()?,
        from: from.transpose()?.map(|disk| disk.id),
        to: select::disks(&disks, &request.to)?,
        policy: request.policy,
    })
}

/// Converts an evacuation into the planner's request. `to` is as in [`MoveRequest::to`]; if it is empty,
/// any disk with free space is used. With `use_reserve` the reserve of the destinations may be used too.
///
/// # Errors
/// Fails with `NotFound` for an unknown name.
pub fn of_disk(store: &mut dyn TableStore, disk: &str, to: &[String], use_reserve: bool) -> Result<Request> {
    let disks = store.disks()?;
    Ok(Request::Evacuate {
        disk: select::disk(&disks, disk)?.id,
        to: select::disks(&disks, to)?,
        use_reserve,
    })
}

/// The outline of a planned job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveOutline {
    /// Its copy progress table.
    pub steps: Vec<Step>,
    /// How many bytes it moves.
    pub bytes: ByteCount,
    /// The whole job as one delta.
    pub delta: Delta,
}

/// Plans a job and changes nothing.
///
/// # Errors
/// Returns the errors of [`jobs::plan`].
pub fn outline(store: &mut dyn Store, request: &Request, faults: &Faults) -> Result<MoveOutline> {
    let header = store.header()?;
    let steps = jobs::plan(store, request, faults)?;
    let (_, bytes) = job::progress(&steps, header.extent_size);
    let delta = job::delta(header.generation, &steps);
    Ok(MoveOutline { steps, bytes, delta })
}

/// The result of [`begin`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BegunMove {
    /// The job; `None` when all data is in place already.
    pub job: Option<JobId>,
    /// Abandoned jobs on the same volume or disk, which were cancelled.
    pub ended: Vec<JobId>,
}

/// Records a job. Abandoned earlier jobs on the same volume or disk are cancelled first, so that their reservations are free.
///
/// # Errors
/// Returns the errors of [`jobs::create`]; fails with `Busy` when an apparatus is about to work on such a job.
pub fn begin(
    controller: &mut Controller,
    request: &Request,
    title: &str,
    limits: JobLimits,
) -> Result<BegunMove> {
    let pool = controller.pool().clone();
    let left = abandoned_jobs(&pool, controller.store(), request)?;
    if !left.is_empty() {
        refuse_invalid(controller.store(), request)?;
        for job in &left {
            controller
                .store()
                .set_job_state(job.id, job.state, JobState::Cancelled, SUPERSEDED)?;
        }
    }
    let faults = faults(&pool, controller.store(), request)?;
    Ok(BegunMove {
        job: jobs::create(controller, request, &faults, title, limits)?,
        ended: left.iter().map(|job| job.id).collect(),
    })
}

/// Returns what [`begin`] would do. Changes nothing.
///
/// # Errors
/// Returns the errors of [`begin`].
pub fn preview(
    pool: &PoolDir,
    store: &mut dyn Store,
    request: &Request,
) -> Result<(MoveOutline, Vec<JobId>)> {
    let faults = faults(pool, store, request)?;
    let left = abandoned_jobs(pool, store, request)?;
    if left.is_empty() {
        return Ok((outline(store, request, &faults)?, Vec::new()));
    }
    refuse_invalid(store, request)?;
    let copy = backup::Copy::of_pool(pool)?;
    let mut store = copy.into_store()?;
    for job in &left {
        store.set_job_state(job.id, job.state, JobState::Cancelled, SUPERSEDED)?;
    }
    let outline = outline(&mut *store, request, &faults)?;
    Ok((outline, left.iter().map(|job| job.id).collect()))
}

/// Returns the faults of the possible destinations.
///
/// # Errors
/// Returns the errors of the store.
pub fn faults(pool: &PoolDir, store: &mut dyn Store, request: &Request) -> Result<Faults> {
    let (Request::Move { to, .. } | Request::Evacuate { to, .. }) = request;
    health::faults(pool, store, to)
}

/// The reason in the record of a job that a later one on the same volume or disk has cancelled.
const SUPERSEDED: &str = "no process worked on it any more, and a later command started a new job";

/// Refuses a request that cannot be carried out in any case, before it cancels another job.
fn refuse_invalid(store: &mut dyn Store, request: &Request) -> Result<()> {
    match jobs::plan(store, request, &Faults::new()) {
        Err(error) if matches!(error.kind(), ErrorKind::Usage | ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

/// Returns jobs on the same volume or disk that need work and that no process works on.
fn abandoned_jobs(pool: &PoolDir, store: &mut dyn Store, request: &Request) -> Result<Vec<JobRecord>> {
    let mut jobs = store.jobs()?;
    jobs.retain(|job| wants_work(job.state) && is_about(&job.kind, request));
    if jobs.is_empty() {
        return Ok(jobs);
    }
    let seen = Workers::ask(pool, store, &jobs)?;
    // A range that a job moves already is refused by the planner.
    jobs.retain(|job| !seen.is_worked_on(job.id));
    for job in &jobs {
        if let Some(name) = seen.taken_by(job.id) {
            let why = format!("apparatus {name} has taken it on");
            return Err(
                Error::new(ErrorKind::Busy, format!("job {}", job.id), why).hint(format!(
                    "wait for its end (vctl job wait {0}), or cancel it (vctl job cancel {0})",
                    job.id
                )),
            );
        }
    }
    Ok(jobs)
}

fn is_about(kind: &JobKind, request: &Request) -> bool {
    match (kind, request) {
        (JobKind::Move { volume: a }, Request::Move { volume: b, .. }) => a == b,
        (JobKind::Evacuate { disk: a, .. }, Request::Evacuate { disk: b, .. }) => a == b,
        _ => false,
    }
}
