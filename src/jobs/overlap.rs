//! Refuses a job that would work on the same range as another; the error names the other job.

use crate::controller::Controller;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::job::{JobRecord, JobState, Step};
use crate::model::units::{JobId, VolumeId};

/// A part of a volume: first extent, and one past the last.
type Run = (VolumeId, u64, u64);

/// Refuses steps that move what a running job moves, unless that job is `but`.
///
/// # Errors
/// Fails with `ErrorKind::Busy`, naming the volume and the job; returns the errors of the store.
pub(super) fn refuse(controller: &mut Controller, but: Option<JobId>, steps: &[Step]) -> Result<()> {
    let mut jobs = controller.store().jobs()?;
    jobs.retain(|job| matches!(job.state, JobState::Running | JobState::RollingBack) && Some(job.id) != but);
    let wanted = runs(steps, false);
    for job in jobs {
        let Some(holder) = controller.cluster().worker_of(job.id)? else {
            continue;
        };
        let others = controller.store().steps(job.id)?;
        let Some(volume) = common(&wanted, &runs(&others, will_turn_back(&job))) else {
            continue;
        };
        let volumes = controller.store().volumes()?;
        let name = volumes.into_iter().find(|record| record.id == volume);
        let name = name.map_or_else(|| volume.to_string(), |record| record.name.to_string());
        let why = format!("a part of the range to be moved is already being moved: {holder}");
        return Err(
            Error::new(ErrorKind::Busy, format!("volume {name}"), why).hint(format!(
                "wait for that job to end (vctl job wait {0}), or cancel it (vctl job cancel {0})",
                job.id
            )),
        );
    }
    Ok(())
}

/// Returns whether the job is about to move back all that it has moved.
fn will_turn_back(job: &JobRecord) -> bool {
    job.state == JobState::RollingBack && !job.back
}

/// Returns, in order, the runs that steps have still to move, or all runs that they cover.
fn runs(steps: &[Step], all: bool) -> Vec<Run> {
    let run = |step: &Step| {
        let done = if all { 0 } else { step.done };
        let (start, end) = (step.from.start.0 + done, step.from.end().0);
        (start < end).then_some((step.volume, start, end))
    };
    let mut runs: Vec<Run> = steps.iter().filter_map(run).collect();
    runs.sort_unstable();
    runs
}

/// Returns the first volume of which both lists contain a common part.
fn common(ours: &[Run], others: &[Run]) -> Option<VolumeId> {
    let (mut ours, mut others) = (ours.iter().peekable(), others.iter().peekable());
    while let (Some(&&(a, start, end)), Some(&&(b, from, until))) = (ours.peek(), others.peek()) {
        if a == b && start < until && from < end {
            return Some(a);
        }
        if (a, end) <= (b, until) {
            ours.next();
        } else {
            others.next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_common_are_found_and_neighbours_are_none() {
        let runs = |all: &[(u32, u64, u64)]| -> Vec<Run> {
            all.iter()
                .map(|(volume, start, end)| (VolumeId((*volume).into()), *start, *end))
                .collect()
        };
        let ours = runs(&[(1, 0, 10), (1, 20, 30), (3, 0, 5)]);
        for (others, volume) in [
            (vec![(1, 10, 20), (2, 0, 9), (3, 5, 9)], None),
            (vec![(1, 10, 21)], Some(1)),
            (vec![(0, 0, 99), (1, 9, 10)], Some(1)),
            (vec![(1, 10, 20), (3, 4, 5)], Some(3)),
            (vec![(1, 0, 99)], Some(1)),
            (vec![], None),
        ] {
            let others = runs(&others);
            let found = volume.map(|volume: u32| VolumeId(volume.into()));
            assert_eq!(common(&ours, &others), found, "{others:?}");
            assert_eq!(common(&others, &ours), found, "{others:?}");
        }
    }
}
