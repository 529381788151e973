//! Claims that one process of a pool has at a time. Each claim ends with the process at the latest.

use crate::model::error::Result;
use crate::model::records::DiskRecord;
use crate::model::units::{DiskId, JobId};
use std::time::Duration;

/// Claim that lasts until it is dropped.
pub struct Guard {
    _kept: Box<dyn Send>,
}

impl Guard {
    /// Makes a guard of a value that releases the claim when it is dropped.
    #[must_use]
    pub fn new(kept: impl Send + 'static) -> Self {
        Self {
            _kept: Box::new(kept),
        }
    }
}

/// Claim that a process has on a job while it works on it.
pub struct JobClaim {
    job: JobId,
    _guard: Guard,
}

impl JobClaim {
    /// Makes a claim on this job.
    #[must_use]
    pub fn new(job: JobId, guard: Guard) -> Self {
        Self { job, _guard: guard }
    }

    /// Returns the job.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.job
    }
}

/// Claims of a pool's processes.
pub trait Claims: Send + Sync {
    /// Claims a job, and waits for at most `within`. Returns `None` when another process works on it all that time. The leadership does not show which
    /// process works on a job, because a job yields it in its gaps.
    ///
    /// # Errors
    /// Fails when the job cannot be claimed.
    fn claim_job(&self, job: JobId, within: Duration) -> Result<Option<JobClaim>>;

    /// Describes the process that works on a job, for messages: `job 7 by pid 123 since 2026-01-31T10:02:00Z`. Returns `None` when none does.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn worker_of(&self, job: JobId) -> Result<Option<String>>;

    /// Returns whether any process works on a job of the pool.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn any_job_claimed(&self) -> Result<bool>;

    /// Claims the attaching of volumes to loop devices, so that of two processes which attach one at the same time one sees the device of the other.
    /// Waits for at most `within`.
    ///
    /// # Errors
    /// Fails with `ErrorKind::Busy`, or when it cannot be claimed.
    fn claim_attaching(&self, within: Duration) -> Result<Guard>;

    /// Claims the discarding of freed extents of a disk, which are not allocated meanwhile. Returns `None` while another thread of any process has the
    /// claim.
    ///
    /// # Errors
    /// Fails when it cannot be claimed.
    fn claim_discards(&self, disk: DiskId) -> Result<Option<Guard>>;

    /// Marks a disk for a left write that has not ended, until the guard is dropped. Nothing else is placed on the disk meanwhile, so the write never
    /// hits another owner's data.
    ///
    /// # Errors
    /// Fails when the disk cannot be marked; the caller has to wait for the write then.
    fn mark_left_write(&self, disk: DiskId) -> Result<Guard>;

    /// Refuses to place anything on a disk with such a mark.
    ///
    /// # Errors
    /// Fails with an error that names the disk, or when its marks cannot be read.
    fn refuse_left_write(&self, disk: &DiskRecord) -> Result<()>;
}
