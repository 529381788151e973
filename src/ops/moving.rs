//! Moves and evacuations: from the words that people use, and what they come to before anything is sent.

use super::job::{Workers, wants_work};
use super::{backup, job, select, volume};
use crate::change::driver::Controller;
use crate::change::jobs::{self, Request};
use crate::error::{Error, Kind, Result};
use crate::pool::alloc::Policy;
use crate::pool::dir::PoolDir;
use crate::pool::model::Difference;
use crate::store::{JobKind, JobLimits, JobRecord, JobState, Step, Store};
use crate::units::{ByteCount, JobId};

/// What of a volume is to go where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The volume.
    pub volume: String,
    /// To these (`DISK`, `@TAG`), in order of preference.
    pub to: Vec<String>,
    /// Only what lies on this disk.
    pub from: Option<String>,
    /// Only this range, to the end where no end is given.
    pub range: Option<(ByteCount, Option<ByteCount>)>,
    /// Which disk is taken first; as the pool has it, if not said.
    pub policy: Option<Policy>,
}

/// A move as the planner takes it.
///
/// # Errors
/// `NotFound` for what there is not; when the range is not in the volume.
pub fn of_volume(store: &mut dyn Store, wish: &Wish) -> Result<Request> {
    let disks = store.disks()?;
    let volumes = store.volumes()?;
    let record = select::volume(&volumes, &wish.volume)?;
    let from = wish.from.as_deref().map(|name| select::disk(&disks, name));
    let span = wish.range.map(|range| volume::span_of(record, Some(range)));
    Ok(Request::Move {
        volume: record.id,
        range: span.transpose()?,
        from: from.transpose()?.map(|disk| disk.id),
        to: select::disks(&disks, &wish.to)?,
        policy: wish.policy,
    })
}

/// An evacuation as the planner takes it; `to` as in [`Wish::to`], wherever there is room if empty. `use_reserve`: what the
/// destinations keep free may be taken too.
///
/// # Errors
/// `NotFound` for what there is not.
pub fn of_disk(store: &mut dyn Store, disk: &str, to: &[String], use_reserve: bool) -> Result<Request> {
    let disks = store.disks()?;
    Ok(Request::Evacuate {
        disk: select::disk(&disks, disk)?.id,
        to: select::disks(&disks, to)?,
        use_reserve,
    })
}

/// What a job would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its copy progress table.
    pub steps: Vec<Step>,
    /// How much it moves.
    pub bytes: ByteCount,
    /// All of it as one difference.
    pub difference: Difference,
}

/// Plans a job and changes nothing.
///
/// # Errors
/// Those of [`jobs::plan`].
pub fn outline(store: &mut dyn Store, request: &Request) -> Result<Outline> {
    let header = store.header()?;
    let steps = jobs::plan(store, request)?;
    let (_, bytes) = job::progress(&steps, header.extent_size);
    let difference = job::difference(header.generation, &steps);
    Ok(Outline {
        steps,
        bytes,
        difference,
    })
}

/// What was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// The job; none when all lies where it was to go.
    pub job: Option<JobId>,
    /// Jobs about the same that nobody worked on any more: cancelled.
    pub ended: Vec<JobId>,
}

/// Records a job. Earlier ones about the same volume or disk whose controller is gone are ended first, so that what they had reserved is free.
///
/// # Errors
/// Those of [`jobs::create`]; `Busy` when an apparatus is about to work on such a job.
pub fn begin(
    controller: &mut Controller,
    request: &Request,
    title: &str,
    limits: JobLimits,
) -> Result<Begun> {
    let pool = controller.pool().clone();
    let left = left_behind(&pool, controller.store(), request)?;
    if !left.is_empty() {
        refuse_nonsense(controller.store(), request)?;
        for job in &left {
            controller
                .store()
                .set_job_state(job.id, job.state, JobState::Cancelled, OVERTAKEN)?;
        }
    }
    Ok(Begun {
        job: jobs::create(controller, request, title, limits)?,
        ended: left.iter().map(|job| job.id).collect(),
    })
}

/// What [`begin`] would do. Changes nothing.
///
/// # Errors
/// Those of [`begin`].
pub fn preview(pool: &PoolDir, store: &mut dyn Store, request: &Request) -> Result<(Outline, Vec<JobId>)> {
    let left = left_behind(pool, store, request)?;
    if left.is_empty() {
        return Ok((outline(store, request)?, Vec::new()));
    }
    refuse_nonsense(store, request)?;
    let copy = backup::Copy::of_pool(pool)?;
    let mut store = copy.into_store()?;
    for job in &left {
        store.set_job_state(job.id, job.state, JobState::Cancelled, OVERTAKEN)?;
    }
    let outline = outline(&mut store, request)?;
    Ok((outline, left.iter().map(|job| job.id).collect()))
}

/// Why a job was ended by the next one about the same.
const OVERTAKEN: &str = "nobody worked on it any more, and a later command began anew";

/// A request that cannot be carried out in any case ends nobody else's job.
fn refuse_nonsense(store: &mut dyn Store, request: &Request) -> Result<()> {
    match jobs::plan(store, request) {
        Err(error) if matches!(error.kind(), Kind::Usage | Kind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

/// Jobs about the same volume or disk that want work and that nobody works on.
fn left_behind(pool: &PoolDir, store: &mut dyn Store, request: &Request) -> Result<Vec<JobRecord>> {
    let mut jobs = store.jobs()?;
    jobs.retain(|job| wants_work(job.state) && is_about(&job.kind, request));
    if jobs.is_empty() {
        return Ok(jobs);
    }
    let seen = Workers::ask(pool, store)?;
    for job in &jobs {
        if let Some(name) = seen.taken_by(job.id) {
            let why = format!("apparatus {name} has taken it on");
            return Err(
                Error::new(Kind::Busy, format!("job {}", job.id), why).hint(format!(
                    "wait for its end (vctl job wait {0}), or give it up (vctl job cancel {0})",
                    job.id
                )),
            );
        }
    }
    jobs.retain(|job| !seen.acts_for(&job::purpose(job.id)));
    Ok(jobs)
}

fn is_about(kind: &JobKind, request: &Request) -> bool {
    match (kind, request) {
        (JobKind::Move { volume: a }, Request::Move { volume: b, .. }) => a == b,
        (JobKind::Evacuate { disk: a, .. }, Request::Evacuate { disk: b, .. }) => a == b,
        _ => false,
    }
}
