//! The operator's commands to a job. A command is written to the store, and the process that works on the job sees it within a moment.
//! When no process works on the job, the caller carries the command out by taking the controller lock and calling [`super::run`].

use crate::model::error::{Error, Result};
use crate::model::job::{JobLimits, JobRecord, JobState};
use crate::model::units::JobId;
use crate::store::{JobStore, Store};

/// Pauses a job until it is resumed. Idempotent.
///
/// # Errors
/// Fails when the job has ended, or is about to move back what it moved.
pub fn pause(store: &mut dyn Store, id: JobId) -> Result<()> {
    command(store, id, "paused", |job| match job.state {
        JobState::Running => Some(JobState::Paused),
        JobState::RollingBack if job.back => Some(JobState::Paused),
        JobState::Paused => Some(JobState::Paused),
        _ => None,
    })
}

/// Resumes a paused job, or a failed one whose cause has been removed, in the direction in which it went. Idempotent.
///
/// # Errors
/// Fails when the job is done or cancelled.
pub fn resume(store: &mut dyn Store, id: JobId) -> Result<()> {
    command(store, id, "resumed", resumed)
}

/// Checks that a job can be resumed.
///
/// # Errors
/// Returns the errors of [`resume`].
pub fn check_resume(store: &mut dyn Store, id: JobId) -> Result<()> {
    allowed(store, id, "resumed", resumed)
}

fn resumed(job: &JobRecord) -> Option<JobState> {
    match job.state {
        JobState::Paused | JobState::Failed if job.back => Some(JobState::RollingBack),
        JobState::Paused | JobState::Failed => Some(JobState::Running),
        state @ (JobState::Running | JobState::RollingBack) => Some(state),
        _ => None,
    }
}

/// Ends a job where it stands, or has it move back what it moved. A failed job can still be rolled back, or dismissed, which
/// keeps its reason on record.
///
/// # Errors
/// Fails when the job has ended.
pub fn cancel(store: &mut dyn Store, id: JobId, roll_back: bool) -> Result<()> {
    command(store, id, "cancelled", |job| cancelled(job, roll_back))
}

/// Checks that a job can be cancelled.
///
/// # Errors
/// Returns the errors of [`cancel`].
pub fn check_cancel(store: &mut dyn Store, id: JobId, roll_back: bool) -> Result<()> {
    allowed(store, id, "cancelled", |job| cancelled(job, roll_back))
}

fn cancelled(job: &JobRecord, roll_back: bool) -> Option<JobState> {
    match (job.state, roll_back) {
        (JobState::Done, _) | (JobState::Cancelled, true) => None,
        (_, false) => Some(JobState::Cancelled),
        (_, true) => Some(JobState::RollingBack),
    }
}

/// Changes the limits of a job, while it runs or before it is resumed.
///
/// # Errors
/// Fails when the job has ended.
pub fn set_limits(store: &mut dyn Store, id: JobId, limits: JobLimits) -> Result<()> {
    let job = find(store, id)?;
    match job.state {
        JobState::Running | JobState::Paused | JobState::RollingBack | JobState::Failed => {
            store.set_job_limits(id, limits)
        }
        state => Err(ended(id, state, "changed")),
    }
}

/// Returns a job by its number.
///
/// # Errors
/// Fails with `NotFound` when there is no such job.
pub(super) fn find(store: &mut dyn JobStore, id: JobId) -> Result<JobRecord> {
    store
        .job(id)?
        .ok_or_else(|| Error::not_found("job", &id.to_string()))
}

/// Sets the job's state to `next(job)`, and tries again when the job changes in between.
fn command(
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
        let dismissed = job.state == JobState::Failed && to == JobState::Cancelled;
        let why = if dismissed { job.why.as_str() } else { "" };
        if to == job.state || store.set_job_state(id, job.state, to, why)? {
            return Ok(());
        }
    }
}

fn allowed(
    store: &mut dyn Store,
    id: JobId,
    verb: &str,
    next: impl Fn(&JobRecord) -> Option<JobState>,
) -> Result<()> {
    let job = find(store, id)?;
    next(&job).map(drop).ok_or_else(|| ended(id, job.state, verb))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::records::{Instance, PoolHeader};
    use crate::model::units::{CacheEpoch, ExtentSize, Generation, MembershipVersion, Term};
    use crate::store::memory::MemoryStore;
    use crate::store::roles::*;
    use uuid::Uuid;

    fn store() -> MemoryStore {
        let header = PoolHeader {
            uuid: Uuid::nil(),
            extent_size: ExtentSize::MIN,
            access: crate::model::records::DiskAccess::Cached,
            generation: Generation(0),
            layout: 0,
            membership: MembershipVersion(0),
            term: Term(0),
            instance: Instance::default(),
        };
        MemoryStore::new(header, CacheEpoch(Uuid::nil()))
    }

    #[test]
    fn a_job_that_failed_can_be_dismissed_and_its_reason_stays() {
        let mut store = store();
        let id = store
            .create_job(Term(0), &crate::model::build::job(), &[])
            .unwrap();
        assert!(
            store
                .set_job_state(id, JobState::Running, JobState::Failed, "a disk is gone")
                .unwrap()
        );
        check_cancel(&mut store, id, false).unwrap();
        cancel(&mut store, id, false).unwrap();
        let job = find(&mut store, id).unwrap();
        assert_eq!(
            (job.state, job.why.as_str()),
            (JobState::Cancelled, "a disk is gone")
        );
        cancel(&mut store, id, false).unwrap();
        assert!(cancel(&mut store, id, true).is_err());
    }
}
