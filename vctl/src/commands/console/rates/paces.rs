//! The rates of jobs.

use super::gain::per_second;
use apparatus::admin::job;
use apparatus::model::units::JobId;
use std::collections::{BTreeMap, VecDeque};

/// The length in microseconds of the window over which a rate is measured.
const WINDOW: u64 = 5_000_000;

/// The rates of all jobs.
#[derive(Clone, Debug, Default)]
pub struct Paces {
    jobs: BTreeMap<JobId, VecDeque<(u64, u64)>>,
}
impl Paces {
    /// Takes in the jobs as read at `at_us`.
    pub fn look<'a>(&mut self, at_us: u64, jobs: impl Iterator<Item = &'a job::JobView> + Clone) {
        let working = jobs.filter(|view| job::wants_work(view.record.state));
        self.jobs
            .retain(|id, _| working.clone().any(|view| view.record.id == *id));
        for view in working {
            let points = self.jobs.entry(view.record.id).or_default();
            // A job that moves back has another progress table.
            if points.back().is_some_and(|(_, done)| *done > view.done.0) {
                points.clear();
            }
            points.push_back((at_us, view.done.0));
            while points.len() > 2 && points.get(1).is_some_and(|(at, _)| at_us - at >= WINDOW) {
                points.pop_front();
            }
        }
    }

    /// Returns bytes per second; `None` while the rate is unknown.
    pub fn rate(&self, id: JobId) -> Option<u64> {
        let points = self.jobs.get(&id)?;
        let ((from, before), (to, now)) = (points.front()?, points.back()?);
        (from < to).then(|| per_second(now - before, to - from))
    }

    /// Returns the microseconds until the job is done, at this rate.
    pub fn left_us(&self, view: &job::JobView) -> Option<u64> {
        let rate = self.rate(view.record.id).filter(|rate| *rate > 0)?;
        let left = u128::from(view.total.0.saturating_sub(view.done.0));
        u64::try_from(left * 1_000_000 / u128::from(rate)).ok()
    }
}
