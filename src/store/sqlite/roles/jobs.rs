//! [`JobStore`] of this store.

use crate::model::error::Result;
use crate::model::holds::Holds;
use crate::model::job::{JobLimits, JobRecord, JobState, Step};
use crate::model::records::Area;
use crate::model::units::{ByteCount, JobId, Term};
use crate::store::JobStore;
use crate::store::sqlite::{SqliteStore, change, job};

impl JobStore for SqliteStore {
    fn reserve(&mut self, term: Term, job: JobId, areas: &[Area]) -> Result<()> {
        let lost = self.write(|db| {
            change::not_stale(db, term)?;
            job::reserve(db, job, areas)
        })?;
        self.sync_if(lost)
    }

    fn create_job(&mut self, term: Term, job: &JobRecord, steps: &[Step]) -> Result<JobId> {
        let id = self.write(|db| job::create(db, term, job, steps))?;
        self.log.sync()?;
        Ok(id)
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>> {
        job::all(self.current()?)
    }

    fn job(&mut self, id: JobId) -> Result<Option<JobRecord>> {
        job::one(self.current()?, id)
    }

    fn steps(&mut self, id: JobId) -> Result<Vec<Step>> {
        job::steps(self.current()?, id)
    }

    fn replace_steps(&mut self, term: Term, id: JobId, steps: &[Step], back: bool) -> Result<()> {
        let lost = self.write(|db| job::replace_steps(db, term, id, steps, back))?;
        self.sync_if(lost)
    }

    fn set_job_state(&mut self, id: JobId, from: JobState, to: JobState, why: &str) -> Result<bool> {
        self.write(|db| job::set_state(db, id, from, to, why))
    }

    fn set_job_limits(&mut self, id: JobId, limits: JobLimits) -> Result<()> {
        self.write(|db| job::set_limits(db, id, limits))
    }

    fn set_job_figures(
        &mut self,
        id: JobId,
        copied: ByteCount,
        longest_hold_us: u64,
        held: u64,
        holds: &Holds,
    ) -> Result<()> {
        self.write(|db| job::set_figures(db, id, copied, longest_hold_us, held, holds))
    }
}
