//! What a job needs before its first round: steps that fit the table, open disks, and a bound for what it leaves unwritten.

use crate::controller::Controller;
use crate::jobs::steps::reconciled;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::event::Severity;
use crate::model::job::{JobRecord, JobState, Step};
use crate::model::records::Segment;
use crate::model::units::{DiskId, VolumeExtent, VolumeId};
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};

/// Waits for the disks that the job needs, and refuses a target that an abandoned
/// write may still reach. A disk that cannot be opened is reported where it is needed.
pub(super) fn open_disks_of(controller: &mut Controller, steps: &[Step]) -> Result<()> {
    let targets: BTreeSet<DiskId> = steps.iter().map(|step| step.to.disk).collect();
    let records = controller.store().disks()?;
    for record in records.iter().filter(|record| targets.contains(&record.id)) {
        controller.cluster().refuse_left_write(record)?;
    }
    let sources = steps.iter().map(|step| step.from.placement.disk);
    let disks: BTreeSet<DiskId> = sources.chain(targets.iter().copied()).collect();
    match controller.open_disks(disks) {
        Err(why) if why.kind() == ErrorKind::TimedOut => Err(why),
        _ => Ok(()),
    }
}

/// Returns the job's steps, without what others have moved or removed since it last ran. What its destination lacks is reserved again.
///
/// # Errors
/// Returns the errors of the store. The job has failed if its destination has another owner by now.
pub fn up_to_date(controller: &mut Controller, job: &JobRecord) -> Result<Vec<Step>> {
    let term = controller.term();
    let store = controller.store();
    let steps = store.steps(job.id)?;
    let present: Vec<VolumeId> = store.volumes()?.iter().map(|volume| volume.id).collect();
    let mut segments: BTreeMap<VolumeId, Vec<Segment>> = BTreeMap::new();
    for step in &steps {
        if present.contains(&step.volume) && !segments.contains_key(&step.volume) {
            let all = store.segments(step.volume, VolumeExtent(0), VolumeExtent(u64::MAX))?;
            segments.insert(step.volume, all);
        }
    }
    let now = reconciled(&steps, |volume| segments.get(&volume).map_or(&[], Vec::as_slice));
    // The destination is reserved anew, too: a failed job has given it back. A job that is about to move back reserves nothing yet.
    let will_turn_back = job.state == JobState::RollingBack && !job.back;
    if !job.state.has_ended()
        && !will_turn_back
        && let Err(why) = store.replace_steps(term, job.id, &now, job.back)
    {
        store.set_job_state(job.id, job.state, JobState::Failed, &why.to_string())?;
        return Err(why.hint("its destination has another owner by now: start a new move"));
    }
    Ok(now)
}

/// Records that a job failed before it began, so that it reserves nothing, and returns the failure.
pub(super) fn not_begun(store: &mut dyn Store, job: &JobRecord, why: &Error) -> Error {
    let (subject, text) = (format!("job {}", job.id), why.to_string());
    let recorded = store
        .set_job_state(job.id, job.state, JobState::Failed, &text)
        .and_then(|_| store.log(Severity::Error, &subject, &text));
    if let Err(error) = recorded {
        log::warn!("{subject}: {text} (not recorded: {error})");
    }
    Error::new(why.kind(), subject, text).hint(format!(
        "no data was moved; when the disk answers: vctl job resume {0}; to give it up: vctl job cancel {0}",
        job.id
    ))
}

/// Returns how many dirty bytes a job may leave unwritten: few enough that the kernel does not throttle writers, and at most 512 MiB.
pub(super) fn dirty_allowance() -> u64 {
    const LEAST: u64 = 16 << 20;
    const MOST: u64 = 512 << 20;
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let pages = text
        .lines()
        .find_map(|line| line.strip_prefix("nr_dirty_background_threshold ")?.parse().ok());
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.map_or(LEAST, |pages: u64| {
        (pages.saturating_mul(page) / 4).clamp(LEAST, MOST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwritten_data_is_bounded() {
        assert!((16 << 20..=512 << 20).contains(&dirty_allowance()));
    }
}
