//! [`JobStore`] of this store.

use crate::model::error::{Error, Result};
use crate::model::holds::Holds;
use crate::model::job::{JobLimits, JobRecord, JobState, Progress, Step};
use crate::model::records::Area;
use crate::model::units::{ByteCount, JobId, Term};
use crate::store::JobStore;
use crate::store::memory::MemoryStore;

/// Returns a job with the progress of its copy progress table.
fn with_progress((job, steps): &(JobRecord, Vec<Step>)) -> JobRecord {
    JobRecord {
        progress: Progress::of(steps),
        ..job.clone()
    }
}

impl JobStore for MemoryStore {
    fn reserve(&mut self, term: Term, job: JobId, areas: &[Area]) -> Result<()> {
        self.write(|state, _| {
            state.not_stale(term)?;
            if state.job(job)?.state.has_ended() {
                return Err(Error::failed(
                    format!("job {job}"),
                    "has ended, so it cannot reserve extents",
                ));
            }
            areas.iter().try_for_each(|&area| state.reserve(job, area))
        })
    }

    fn create_job(&mut self, term: Term, job: &JobRecord, steps: &[Step]) -> Result<JobId> {
        let id = self.write(|state, _| {
            state.not_stale(term)?;
            state.create_job(job, steps)
        })?;
        self.sync();
        Ok(id)
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>> {
        Ok(self.read().jobs.values().map(with_progress).collect())
    }

    fn job(&mut self, id: JobId) -> Result<Option<JobRecord>> {
        Ok(self.read().jobs.get(&id).map(with_progress))
    }

    fn steps(&mut self, id: JobId) -> Result<Vec<Step>> {
        Ok(self
            .read()
            .jobs
            .get(&id)
            .map(|(_, steps)| steps.clone())
            .unwrap_or_default())
    }

    fn replace_steps(&mut self, term: Term, id: JobId, steps: &[Step], back: bool) -> Result<()> {
        self.write(|state, _| {
            state.not_stale(term)?;
            state.replace_steps(id, steps, back)
        })
    }

    fn set_job_state(&mut self, id: JobId, from: JobState, to: JobState, why: &str) -> Result<bool> {
        self.write(|state, _| state.set_job_state(id, from, to, why))
    }

    fn set_job_limits(&mut self, id: JobId, limits: JobLimits) -> Result<()> {
        self.write(|state, _| {
            state.job(id)?.limits = limits;
            Ok(())
        })
    }

    fn set_job_figures(
        &mut self,
        id: JobId,
        copied: ByteCount,
        longest_hold_us: u64,
        held: u64,
        holds: &Holds,
    ) -> Result<()> {
        self.write(|state, _| {
            let job = state.job(id)?;
            (job.copied, job.longest_hold_us, job.held) = (copied, longest_hold_us, held);
            job.holds.clone_from(holds);
            Ok(())
        })
    }
}
