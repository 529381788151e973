//! Findings about apparatuses, their mounts, and hosts that wait.

use crate::admin::apparatus::{ApparatusView, State, WithoutServer, without_server};
use crate::admin::finding::{Finding, FindingKind};
use crate::admin::view::PoolView;
use crate::blockdev::with_timeout;
use crate::frontend::fuse;
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::model::names::Name;
use crate::model::words;
use crate::rpc::message::LongRequests;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Returns whether accesses to a mount point fail because its process has ended. One that does not answer at all is another case.
fn is_dead(point: &Path) -> bool {
    const PATIENCE: Duration = Duration::from_secs(1);
    let place = point.to_owned();
    let looked = with_timeout::ask(point, PATIENCE, move || std::fs::metadata(place));
    matches!(looked, Ok(Err(why)) if why.kind() == std::io::ErrorKind::NotConnected)
}

/// Reports mounts of this pool that no server serves: those that a supervisor holds, and those whose apparatus has ended.
pub(super) fn of_mounts(
    pool: &PoolDir,
    view: &PoolView,
    apparatuses: &[ApparatusView],
) -> Result<Vec<Finding>> {
    let mut names: Vec<&Name> = apparatuses.iter().map(|each| &each.member.name).collect();
    let held = without_server(pool, &names)?;
    names.extend(held.iter().map(|each| &each.name));
    let mut findings = of_dead_mounts(view, &names);
    findings.extend(held.into_iter().map(of_mount_held));
    Ok(findings)
}

/// Reports mounts that none of these apparatuses serves or holds: accesses to them fail. Others are not accessed, which could wait for the next server.
fn of_dead_mounts(view: &PoolView, known: &[&Name]) -> Vec<Finding> {
    let serves = |name: &str| known.iter().any(|each| each.as_str() == name);
    let finding = |(name, point): (String, PathBuf)| {
        let point = point.display();
        let text = format!("is a mount of apparatus {name}, which has ended: every access to it fails");
        Finding::new(
            FindingKind::DeadMount,
            Severity::Warning,
            format!("mount point {point}"),
            text,
        )
        .next(format!("umount -l {point}"))
    };
    let mounts = fuse::mounts_of_pool(view.header.uuid).unwrap_or_default();
    mounts
        .into_iter()
        .filter(|(name, point)| !serves(name) && is_dead(point))
        .map(finding)
        .collect()
}

/// Reports volumes whose hosts wait for a disk that does not answer, or hardly answers.
pub(super) fn of_waiting(apparatuses: &[ApparatusView]) -> Vec<Finding> {
    let mut waiting: BTreeMap<&str, LongRequests> = BTreeMap::new();
    for figures in apparatuses.iter().filter_map(|each| each.figures.as_ref()) {
        for (volume, more) in &figures.waiting {
            let all = waiting.entry(volume).or_default();
            all.requests += more.requests;
            all.longest_us = all.longest_us.max(more.longest_us);
            all.disks.extend(more.disks.iter().cloned());
            all.database = all.database.take().or_else(|| more.database.clone());
        }
    }
    let finding = |(volume, waiting): (&str, LongRequests)| {
        let seconds = waiting.longest_us / 1_000_000;
        if let Some(why) = waiting.database {
            let text = format!(
                "flushes of hosts wait for the pool's database ({}, the first for {seconds} s): {why}",
                words::count(waiting.requests, "request")
            );
            let finding = Finding::new(
                FindingKind::WaitingForDatabase,
                Severity::Warning,
                format!("volume {volume}"),
                text,
            );
            return finding.next("see that no process keeps the database locked, and that the file system of the pool's directory has room");
        }
        let disks: Vec<String> = waiting.disks.into_iter().collect();
        let for_what = match disks[..] {
            [] => "a flush".to_owned(),
            _ => format!("disk {}", disks.join(", ")),
        };
        let text = format!(
            "hosts wait for {for_what} ({}, the first for {seconds} s): see whether the kernel reports why, and whether the disk is \
             connected",
            words::count(waiting.requests, "request")
        );
        Finding::new(
            FindingKind::Waiting,
            Severity::Warning,
            format!("volume {volume}"),
            text,
        )
        .next("dmesg --level err,warn")
    };
    waiting.into_iter().map(finding).collect()
}

/// Reports an apparatus whose mount is held though no server of it is a member.
fn of_mount_held(found: WithoutServer) -> Finding {
    let subject = format!("apparatus {}", found.name);
    let next = format!("vctl apparatus stop {} --cut-off-users", found.name);
    Finding::new(FindingKind::ApparatusDead, Severity::Error, subject, found.fault).next(next)
}

pub(super) fn of_apparatus(view: &ApparatusView) -> Option<Finding> {
    let name = &view.member.name;
    let subject = format!("apparatus {name}");
    let why = view.fault.as_deref().unwrap_or("does not answer");
    Some(match view.state {
        State::Serving => return None,
        State::Ending => {
            let finding = Finding::new(FindingKind::ApparatusEnding, Severity::Warning, subject, why);
            finding.next(format!("vctl apparatus stop {name}"))
        }
        State::Dead => {
            let again = format!("vctl apparatus start {name} {}", view.member.mount.display());
            Finding::new(FindingKind::ApparatusDead, Severity::Error, subject, why).next(again)
        }
        State::Restarting => Finding::new(FindingKind::ApparatusDead, Severity::Error, subject, why)
            .next(format!("vctl apparatus show {name}")),
        State::Fenced => Finding::new(
            FindingKind::ApparatusFenced,
            Severity::Error,
            subject,
            "is fenced: its hosts wait until it has rejoined",
        )
        .next(format!("vctl apparatus rejoin {name}")),
        State::Silent => Finding::new(FindingKind::ApparatusSilent, Severity::Warning, subject, why)
            .next(format!("vctl apparatus show {name}")),
    })
}
