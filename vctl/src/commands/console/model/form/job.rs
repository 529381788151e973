//! Forms for jobs.

use super::{Form, Subject, rate};
use crate::commands::console::verb::Verb;
use crate::output::exact;
use apparatus::model::error::Result;
use apparatus::model::units::{ByteCount, JobId};

impl Form {
    /// Returns the form for the rate of a job.
    pub fn of_rate(job: JobId, now: Option<ByteCount>) -> Self {
        let text = now.map_or("none".into(), |rate| exact(rate.0));
        Self::new(Subject::Rate(job), vec![rate().with(text)])
    }

    pub(super) fn rated(&self, job: JobId) -> Result<Verb> {
        Ok(Verb::Rate {
            job,
            rate: self.rate()?,
        })
    }
}
