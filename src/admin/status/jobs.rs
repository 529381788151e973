//! Findings about jobs.

use super::StatusInput;
use crate::admin::finding::{Finding, FindingKind};
use crate::admin::job::{self, Worker, Workers};
use crate::admin::view::PoolView;
use crate::model::event::Severity;
use crate::model::job::{JobKind, JobState};
use crate::model::units::{DiskId, VolumeId};

/// The volume or disk that a job moves: a later job on the same one supersedes an earlier failure.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    Volume(VolumeId),
    Disk(DiskId),
}

pub(super) fn about(kind: &JobKind) -> About {
    match kind {
        JobKind::Move { volume } => About::Volume(*volume),
        JobKind::Evacuate { disk, .. } => About::Disk(*disk),
    }
}

/// Returns whether the volume or disk that a job moves still exists.
fn is_there(kind: &JobKind, view: &PoolView) -> bool {
    match kind {
        JobKind::Move { volume } => view.volumes.iter().any(|each| each.record.id == *volume),
        JobKind::Evacuate { disk, .. } => view.disks.iter().any(|each| each.record.id == *disk),
    }
}

pub(super) fn of_job(workers: &Workers, view: &job::JobView, seen: &StatusInput) -> Option<Finding> {
    let record = &view.record;
    let id = record.id;
    let finding = |kind, severity, text: String| {
        Finding::new(kind, severity, format!("job {id} ({})", view.subject), text)
    };
    let later = |each: &job::JobView| each.record.id > id && about(&each.record.kind) == about(&record.kind);
    match record.state {
        JobState::Done | JobState::Cancelled => None,
        // A failure is obsolete once there was a later job on the same volume or disk, or that does not exist any more.
        JobState::Failed if seen.jobs.iter().any(later) || !is_there(&record.kind, &seen.view) => None,
        JobState::Failed => {
            let text = format!("failed: {}; vctl job cancel {id} dismisses it", record.why);
            Some(finding(FindingKind::JobFailed, Severity::Error, text).next(format!("vctl job show {id}")))
        }
        JobState::Paused => Some(
            finding(FindingKind::JobPaused, Severity::Warning, "is paused".into())
                .next(format!("vctl job resume {id}")),
        ),
        JobState::Running | JobState::RollingBack => Some(match workers.on(record) {
            Worker::Nobody => {
                let text = format!("no process works on it; vctl job cancel {id} cancels it");
                finding(FindingKind::JobAbandoned, Severity::Error, text)
                    .next(format!("vctl job resume {id}"))
            }
            Worker::Acts(_) | Worker::Waits(_) => {
                let phase = job::phase(workers, record);
                finding(FindingKind::JobRuns, Severity::Info, phase).next(format!("vctl job show {id}"))
            }
        }),
    }
}
