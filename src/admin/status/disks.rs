//! Findings about disks and the room on them.

use super::jobs::{About, about};
use crate::admin::apparatus::{ApparatusView, State};
use crate::admin::finding::{Finding, FindingKind};
use crate::admin::job;
use crate::admin::open_images::holders_of_deleted;
use crate::admin::view::{DiskView, PoolView};
use crate::admin::{disk, room};
use crate::model::error::Error;
use crate::model::event::Severity;
use crate::model::job::JobState;
use crate::model::names::Name;
use crate::model::records::DiskRecord;
use crate::model::size::HumanSize;
use crate::model::units::DiskId;
use crate::model::words;
use crate::store::Store;
use std::collections::BTreeMap;

pub(super) fn of_disks(
    store: &mut dyn Store,
    view: &PoolView,
    apparatuses: &[ApparatusView],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let records: Vec<DiskRecord> = view.disks.iter().map(|disk| disk.record.clone()).collect();
    for (disk, fault) in view.disks.iter().zip(disk::faults(store, &records, &view.header)) {
        findings.extend(match fault {
            Some(error) => Some(of_fault(&disk.record, &error, apparatuses)),
            None => of_unopened(disk, apparatuses),
        });
    }
    if view.disks.is_empty() {
        let finding = Finding::new(FindingKind::NoDisks, Severity::Info, "disks", "there is none yet");
        findings.push(finding.next("vctl disk add PATH [--create SIZE]"));
    }
    findings
}

/// Reports a disk that cannot be opened from here.
fn of_fault(record: &DiskRecord, error: &Error, apparatuses: &[ApparatusView]) -> Finding {
    let name = &record.name;
    let finding = |text: &str| {
        Finding::new(
            FindingKind::DiskFault,
            Severity::Error,
            format!("disk {name}"),
            text,
        )
    };
    let serving = apparatuses
        .iter()
        .filter(|each| matches!(each.state, State::Serving | State::Ending));
    let holders = holders_of_deleted(&record.path, serving.map(|each| &each.member));
    if let Some(first) = holders.first() {
        let names: Vec<&str> = holders.iter().map(|member| member.name.as_str()).collect();
        let (have, serve, stop) = match names.len() {
            1 => ("has", "serves", "it stops"),
            _ => ("have", "serve", "the last of them stops"),
        };
        let text = format!(
            "{}; apparatus {} still {have} the deleted file open, and {serve} it until {stop}: copy its volumes from the mount, {}, before that",
            error.why(),
            names.join(" and "),
            first.mount.display()
        );
        return finding(&text).next(format!("vctl disk show {name}"));
    }
    finding(error.why()).next(error.way_out().unwrap_or("vctl pool check"))
}

/// Reports a disk that can be opened from here and that apparatuses have not opened again yet.
fn of_unopened(disk: &DiskView, apparatuses: &[ApparatusView]) -> Option<Finding> {
    let name = disk.record.name.as_str();
    let closed = apparatuses.iter().filter(|each| {
        let figures = each.figures.as_ref();
        figures.is_some_and(|figures| figures.closed_disks.contains(name))
    });
    let closed: Vec<String> = closed.map(|each| each.member.title()).collect();
    if closed.is_empty() || disk.volumes == 0 {
        return None;
    }
    let text = format!(
        "is not open in apparatus {}, where requests for it end with EIO: it is tried again every few seconds",
        closed.join(", ")
    );
    let subject = format!("disk {name}");
    Some(Finding::new(FindingKind::DiskFault, Severity::Warning, subject, text).next("vctl status"))
}

/// Reports file systems with less free space than their images may need. That is how sparse images are used, so it is a warning only when
/// hardly any space is left.
pub(super) fn of_room(view: &PoolView) -> Vec<Finding> {
    let short = room::short(view.disks.iter().map(|disk| &disk.record));
    let finding = |short: room::Shortfall| {
        let severity = match short.nearly_full {
            true => Severity::Warning,
            false => Severity::Info,
        };
        let names: Vec<&str> = short.disks.iter().map(Name::as_str).collect();
        let evacuate = format!("vctl disk evacuate {}", names.first().unwrap_or(&"DISK"));
        Finding::new(
            FindingKind::Room,
            severity,
            format!("disk {}", names.join(", ")),
            short.words(),
        )
        .next(evacuate)
    };
    short.into_iter().map(finding).collect()
}

/// Reports disks that are closed to allocations and that no job is emptying: after an evacuation that is easily forgotten.
pub(super) fn of_closed_disks(
    view: &PoolView,
    jobs: &[job::JobView],
    apparatuses: &[ApparatusView],
) -> Vec<Finding> {
    let errors = errors_of_disks(apparatuses);
    let emptied = |disk: DiskId| {
        jobs.iter().any(|job| {
            let unfinished = job::wants_work(job.record.state) || job.record.state == JobState::Paused;
            unfinished && about(&job.record.kind) == About::Disk(disk)
        })
    };
    let closed = view.disks.iter().filter(|disk| !disk.record.allocate);
    closed
        .filter(|disk| !emptied(disk.record.id) && !errors.contains_key(disk.record.name.as_str()))
        .map(|disk| {
            let name = &disk.record.name;
            let finding = |text: String| {
                Finding::new(
                    FindingKind::DiskClosed,
                    Severity::Info,
                    format!("disk {name}"),
                    text,
                )
            };
            match disk.volumes {
                0 => {
                    finding("takes nothing new and is empty".into()).next(format!("vctl disk remove {name}"))
                }
                1 => finding("takes nothing new, and 1 volume is on it".into())
                    .next(format!("vctl disk set {name} --allocate")),
                volumes => finding(format!("takes nothing new, and {volumes} volumes are on it"))
                    .next(format!("vctl disk set {name} --allocate")),
            }
        })
        .collect()
}

/// Reports space that cannot be used again before the apparatuses that may still use it have come back or ended.
pub(super) fn of_quarantine(view: &PoolView, apparatuses: &[ApparatusView]) -> Vec<Finding> {
    let serves = |each: &&ApparatusView| matches!(each.state, State::Serving | State::Ending);
    let Some(holdout) = apparatuses.iter().find(|each| !serves(each)) else {
        return Vec::new();
    };
    let name = &holdout.member.name;
    let next = match holdout.state {
        State::Dead => "vctl pool check --repair".to_owned(),
        State::Silent => format!("vctl apparatus fence {name}"),
        State::Fenced | State::Serving | State::Ending => format!("vctl apparatus rejoin {name}"),
        State::Restarting => format!("vctl apparatus show {name}"),
    };
    let quarantined = view.disks.iter().filter(|disk| disk.usage.quarantined.0 > 0);
    quarantined
        .map(|disk| {
            let text = format!(
                "{} in quarantine: apparatus {name} may still use it",
                HumanSize(disk.usage.quarantined)
            );
            Finding::new(
                FindingKind::Quarantine,
                Severity::Warning,
                format!("disk {}", disk.record.name),
                text,
            )
            .next(next.clone())
        })
        .collect()
}

/// Returns the number of failed requests of each disk, as the apparatuses report it.
#[must_use]
pub fn errors_of_disks(apparatuses: &[ApparatusView]) -> BTreeMap<&str, u64> {
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for figures in apparatuses.iter().filter_map(|each| each.figures.as_ref()) {
        for (disk, io) in figures.disks.iter().filter(|(_, io)| io.errors > 0) {
            *errors.entry(disk).or_default() += io.errors;
        }
    }
    errors
}

/// Reports disks on which requests have failed: they should be emptied and, once empty, removed.
pub(super) fn of_errors(view: &PoolView, apparatuses: &[ApparatusView]) -> Vec<Finding> {
    let is_empty = |name: &str| {
        let mut disks = view.disks.iter();
        disks.any(|disk| disk.record.name.as_str() == name && disk.volumes == 0)
    };
    let finding = |(disk, count): (&str, u64)| {
        let have = if count == 1 { "has" } else { "have" };
        let requests = words::count(count, "request");
        let failed = format!(
            "{requests} {have} failed on it since the apparatuses began (once it is well: vctl disk clear {disk})"
        );
        let (text, next) = if is_empty(disk) {
            (
                format!("{failed}, and it is empty"),
                format!("vctl disk remove {disk}"),
            )
        } else {
            (failed, format!("vctl disk evacuate {disk}"))
        };
        Finding::new(
            FindingKind::DiskErrors,
            Severity::Error,
            format!("disk {disk}"),
            text,
        )
        .next(next)
    };
    errors_of_disks(apparatuses).into_iter().map(finding).collect()
}
