//! Jobs, their copy progress tables and the extents that they reserve.

use crate::model::error::Result;
use crate::model::holds::Holds;
use crate::model::job::{JobLimits, JobRecord, JobState, Step};
use crate::model::records::Area;
use crate::model::units::{ByteCount, JobId, Term};

/// Jobs.
pub trait JobStore: Send {
    /// Reserves extents for a job in advance of its changes. Fails if one is not free, or if the job has ended: an extent that
    /// a job owns always belongs to a job that can be continued or cancelled.
    fn reserve(&mut self, term: Term, job: JobId, areas: &[Area]) -> Result<()>;
    /// Records a job with its steps and reserves the destinations of what is not `done`. It is durable when it returns. The id
    /// in the record is ignored.
    fn create_job(&mut self, term: Term, job: &JobRecord, steps: &[Step]) -> Result<JobId>;
    /// Returns all jobs, by id.
    fn jobs(&mut self) -> Result<Vec<JobRecord>>;
    /// Returns one job, if it exists.
    fn job(&mut self, id: JobId) -> Result<Option<JobRecord>>;
    /// Returns the job's copy progress table, in order.
    fn steps(&mut self, id: JobId) -> Result<Vec<Step>>;
    /// Replaces the copy progress table, its reservations (for what is not `done` of each step) and `JobRecord::back`. Extents
    /// that the job had reserved and the new table does not need become free. A job that has ended reserves nothing.
    fn replace_steps(&mut self, term: Term, id: JobId, steps: &[Step], back: bool) -> Result<()>;
    /// Sets a job's state, compare-and-set, for the operator's command or the worker's result; returns false if the state was
    /// not `from`. A job that ends frees its reservations in the same transaction.
    fn set_job_state(&mut self, id: JobId, from: JobState, to: JobState, why: &str) -> Result<bool>;
    /// Changes a job's limits.
    fn set_job_limits(&mut self, id: JobId, limits: JobLimits) -> Result<()>;
    /// Sets the figures of a running job.
    fn set_job_figures(
        &mut self,
        id: JobId,
        copied: ByteCount,
        longest_hold_us: u64,
        held: u64,
        holds: &Holds,
    ) -> Result<()>;
}
