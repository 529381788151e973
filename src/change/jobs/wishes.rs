//! What an operator wishes of a job: written to the store, seen by whoever works on the job within a moment. When nobody
//! works on it, the caller carries the wish out by taking the arbitration and calling [`super::run`].

use crate::error::{Error, Result};
use crate::store::{JobLimits, JobRecord, JobState, Store};
use crate::units::JobId;

/// Stops a job until it is resumed. Idempotent.
///
/// # Errors
/// When it has ended, or is about to turn back.
pub fn pause(store: &mut dyn Store, id: JobId) -> Result<()> {
    wish(store, id, "paused", |job| match job.state {
        JobState::Running => Some(JobState::Paused),
        JobState::RollingBack if job.back => Some(JobState::Paused),
        JobState::Paused => Some(JobState::Paused),
        _ => None,
    })
}

/// Lets a paused job go on, or one that failed, once its cause has been put right, in the direction it went. Idempotent.
///
/// # Errors
/// When it is done or cancelled.
pub fn resume(store: &mut dyn Store, id: JobId) -> Result<()> {
    wish(store, id, "resumed", |job| match job.state {
        JobState::Paused | JobState::Failed if job.back => Some(JobState::RollingBack),
        JobState::Paused | JobState::Failed => Some(JobState::Running),
        state @ (JobState::Running | JobState::RollingBack) => Some(state),
        _ => None,
    })
}

/// Ends a job where it stands, or has it move back what it moved. A job that failed can still be rolled back.
///
/// # Errors
/// When it has ended.
pub fn cancel(store: &mut dyn Store, id: JobId, roll_back: bool) -> Result<()> {
    wish(store, id, "cancelled", |job| match (job.state, roll_back) {
        (JobState::Running | JobState::Paused | JobState::RollingBack, false) => Some(JobState::Cancelled),
        (JobState::Running | JobState::Paused | JobState::RollingBack | JobState::Failed, true) => {
            Some(JobState::RollingBack)
        }
        (JobState::Cancelled, false) => Some(JobState::Cancelled),
        _ => None,
    })
}

/// Changes what limits a job, while it runs or before it is resumed.
///
/// # Errors
/// When it has ended.
pub fn set_limits(store: &mut dyn Store, id: JobId, limits: JobLimits) -> Result<()> {
    let job = find(store, id)?;
    match job.state {
        JobState::Running | JobState::Paused | JobState::RollingBack => store.set_job_limits(id, limits),
        state => Err(ended(id, state, "changed")),
    }
}

/// A job by its number.
///
/// # Errors
/// When there is none.
pub(super) fn find(store: &mut dyn Store, id: JobId) -> Result<JobRecord> {
    store
        .job(id)?
        .ok_or_else(|| Error::not_found("job", &id.to_string()))
}

/// Sets the state that `next` makes of the job's, asking again when the job changes in between.
fn wish(
    store: &mut dyn Store,
    id: JobId,
    verb: &str,
    next: impl Fn(&JobRecord) -> Option<JobState>,
) -> Result<()> {
    loop {
        let job = find(store, id)?;
        let Some(to) = next(&job) else {
            return Err(ended(id, job.state, verb));
        };
        if to == job.state || store.set_job_state(id, job.state, to, "")? {
            return Ok(());
        }
    }
}

fn ended(id: JobId, state: JobState, verb: &str) -> Error {
    let now = match state {
        JobState::Done => "is done",
        JobState::Failed => "has failed",
        JobState::Cancelled => "is cancelled",
        JobState::Running => "is running",
        JobState::Paused => "is paused",
        JobState::RollingBack => "is about to move back what it moved",
    };
    Error::failed(format!("job {id}"), format!("{now}, and cannot be {verb}"))
}
