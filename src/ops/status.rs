//! Whether all is well with a pool, and what to do if not: quick enough to be asked all the time.

use super::apparatus::{self, State};
use super::check::of_losses;
pub use super::finding::{Finding, Kind};
use super::job::{self, Worker, Workers};
use super::view::{PoolView, Usage};
use crate::disk::aside;
use crate::error::Result;
use crate::fuse;
use crate::member::ArbitrationLock;
use crate::pool::dir::PoolDir;
use crate::pool::model::DiskRecord;
use crate::pool::names::Name;
use crate::pool::options::{Fullness, Thresholds};
use crate::pool::size::Human;
use crate::store::sqlite::SqliteStore;
use crate::store::{ChangeState, JobKind, JobState, Severity, Store};
use crate::units::{DiskId, VolumeId};
use crate::wire::message::Waiting;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Gravest first.
    pub findings: Vec<Finding>,
    /// How all disks together are used.
    pub usage: Usage,
    /// How many there are.
    pub disks: usize,
    /// How many there are.
    pub volumes: usize,
    /// How many serve, of how many that have not left.
    pub serving: (usize, usize),
    /// How many are worked on or wait to be.
    pub jobs: usize,
    /// Who holds the arbitration.
    pub controller: Option<String>,
}

impl Status {
    /// Nothing has to be done.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.to_do() == 0
    }

    /// How many findings ask for something to be done.
    #[must_use]
    pub fn to_do(&self) -> usize {
        let asks = |finding: &&Finding| finding.severity > Severity::Info;
        self.findings.iter().filter(asks).count()
    }
}

/// What a status is made from.
pub struct Seen {
    /// The pool.
    pub view: PoolView,
    /// All that have not left.
    pub apparatuses: Vec<apparatus::View>,
    /// All jobs.
    pub jobs: Vec<job::View>,
}

impl Seen {
    /// Looks at everything that can be looked at quickly.
    ///
    /// # Errors
    /// The store's.
    pub fn look(pool: &PoolDir, store: &mut dyn Store) -> Result<Self> {
        Ok(Self {
            view: PoolView::load(store)?,
            apparatuses: apparatus::list(pool, store)?,
            jobs: job::list(pool, store)?,
        })
    }
}

/// Looks, and says what it comes to.
///
/// # Errors
/// The store's.
pub fn status(pool: &PoolDir, store: &mut dyn Store) -> Result<Status> {
    let seen = Seen::look(pool, store)?;
    of(pool, store, &seen)
}

/// What it comes to.
///
/// # Errors
/// The store's.
pub fn of(pool: &PoolDir, store: &mut dyn Store, seen: &Seen) -> Result<Status> {
    let Seen {
        view,
        apparatuses,
        jobs,
    } = seen;
    let controller = ArbitrationLock::holder(pool)?;
    let mut findings: Vec<Finding> = of_copy(pool)?.into_iter().collect();
    findings.extend(of_disks(store, view));
    findings.extend(of_room(view));
    findings.extend(of_directory(pool)?);
    findings.extend(of_log(pool)?);
    findings.extend(of_space(view, store.fullness()?, store.options()?.thresholds));
    findings.extend(of_closed_disks(view, jobs, apparatuses));
    findings.extend(of_quarantine(view, apparatuses));
    let losses = of_losses(
        pool,
        store,
        &view.header,
        view.disks.iter().map(|disk| &disk.record),
    )?;
    let of_errors = of_errors(view, apparatuses).into_iter();
    findings.extend(of_errors.filter(|error| losses.iter().all(|loss| loss.subject != error.subject)));
    findings.extend(losses.into_iter().map(|loss| Finding {
        kind: Kind::DiskLost,
        severity: Severity::Error,
        subject: loss.subject,
        text: loss.why,
        next: loss.hint,
    }));
    findings.extend(of_waiting(apparatuses));
    findings.extend(apparatuses.iter().filter_map(of_apparatus));
    findings.extend(of_mounts(view, apparatuses));
    if apparatuses.is_empty() && !view.volumes.is_empty() {
        let finding = Finding::new(
            Kind::NoApparatus,
            Severity::Info,
            "apparatuses",
            "none runs, so no volume is served",
        );
        findings.push(finding.next("vctl apparatus start NAME MOUNTPOINT"));
    }
    let workers = Workers::new(controller.clone(), apparatuses);
    findings.extend(jobs.iter().filter_map(|each| of_job(&workers, each, seen)));
    if controller.is_none() {
        findings.extend(of_changes(store)?);
        findings.extend(of_hidden(store)?);
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let serving = apparatuses
        .iter()
        .filter(|each| each.state == State::Serving)
        .count();
    Ok(Status {
        findings,
        usage: view.usage(),
        disks: view.disks.len(),
        volumes: view.volumes.len(),
        serving: (serving, apparatuses.len()),
        jobs: jobs
            .iter()
            .filter(|each| job::wants_work(each.record.state))
            .count(),
        controller,
    })
}

/// Without its file system nothing can be changed, though volumes are served.
fn of_directory(pool: &PoolDir) -> Result<Option<Finding>> {
    let finding = |why| {
        let subject = format!("pool directory {}", pool.path().display());
        let text = format!("takes no change ({why}), so nothing in the pool can be changed");
        Finding::new(Kind::DirectoryFault, Severity::Error, subject, text)
            .next(format!("df -h {}", pool.path().display()))
    };
    Ok(super::directory::fault(pool)?.map(finding))
}

/// A copy of a pool's directory changes and serves nothing.
fn of_copy(pool: &PoolDir) -> Result<Option<Finding>> {
    let finding = |of: PathBuf| {
        let text = format!("is a copy of the pool at {}, which owns the disks", of.display());
        Finding::new(Kind::PoolIsCopy, Severity::Error, "pool", text).next("vctl pool adopt")
    };
    Ok(SqliteStore::open(pool)?.copied_from(pool)?.map(finding))
}

fn of_disks(store: &mut dyn Store, view: &PoolView) -> Vec<Finding> {
    let mut findings = Vec::new();
    let records: Vec<DiskRecord> = view.disks.iter().map(|disk| disk.record.clone()).collect();
    for (record, fault) in records
        .iter()
        .zip(super::disk::faults(store, &records, &view.header))
    {
        let name = &record.name;
        if let Some(error) = fault {
            let finding = Finding::new(
                Kind::DiskFault,
                Severity::Error,
                format!("disk {name}"),
                error.why(),
            );
            findings.push(match error.way_out() {
                Some(hint) => finding.next(hint),
                None => finding.next("vctl pool check"),
            });
        }
    }
    if view.disks.is_empty() {
        let finding = Finding::new(Kind::NoDisks, Severity::Info, "disks", "there is none yet");
        findings.push(finding.next("vctl disk add PATH [--create SIZE]"));
    }
    findings
}

/// File systems that have promised more to images than they have left. That is how sparse images are used, so it is a warning only when
/// hardly anything is left.
fn of_room(view: &PoolView) -> Vec<Finding> {
    let short = super::room::short(view.disks.iter().map(|disk| &disk.record));
    let finding = |short: super::room::Short| {
        let severity = match short.nearly_full {
            true => Severity::Warning,
            false => Severity::Info,
        };
        let names: Vec<&str> = short.disks.iter().map(Name::as_str).collect();
        let evacuate = format!("vctl disk evacuate {}", names.first().unwrap_or(&"DISK"));
        Finding::new(
            Kind::Room,
            severity,
            format!("disk {}", names.join(", ")),
            short.words(),
        )
        .next(evacuate)
    };
    short.into_iter().map(finding).collect()
}

/// A failed sync of the database's log: the hint of whoever it stops names the rest of the way.
fn of_log(pool: &PoolDir) -> Result<Option<Finding>> {
    let finding = |why: String| {
        let text = format!(
            "could not be made durable ({why}): a power loss may take back what has changed, and flushes of hosts that rest on it fail; \
             look at the disk of the pool's directory, and with a backup at hand and no apparatus running: vctl pool restore FILE"
        );
        Finding::new(Kind::DatabaseNotDurable, Severity::Error, "database", text)
            .next("vctl pool backup FILE")
    };
    Ok(SqliteStore::sync_failed(pool)?.map(finding))
}

/// By the same hysteresis as the events, so that the two never contradict each other.
fn of_space(view: &PoolView, was: Fullness, thresholds: Thresholds) -> Option<Finding> {
    let percent = view.capacity().percent()?;
    let severity = match was.after(percent, thresholds) {
        Fullness::Full => Severity::Error,
        Fullness::Nearfull => Severity::Warning,
        Fullness::Room => return None,
    };
    let text = format!("{percent} % of what new volumes may be placed on is in use");
    Some(Finding::new(Kind::Space, severity, "space", text).next("vctl disk add PATH"))
}

/// Disks that take nothing new, and that nobody is emptying: after an evacuation that is easily forgotten.
fn of_closed_disks(view: &PoolView, jobs: &[job::View], apparatuses: &[apparatus::View]) -> Vec<Finding> {
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
            let finding =
                |text: String| Finding::new(Kind::DiskClosed, Severity::Info, format!("disk {name}"), text);
            match disk.volumes {
                0 => {
                    finding("takes nothing new and is empty".into()).next(format!("vctl disk remove {name}"))
                }
                volumes => finding(format!("takes nothing new, and {volumes} volumes are on it"))
                    .next(format!("vctl disk set {name} --allocate")),
            }
        })
        .collect()
}

/// Space that cannot be used again before those who may still use it have come back or ended.
fn of_quarantine(view: &PoolView, apparatuses: &[apparatus::View]) -> Vec<Finding> {
    let Some(keeper) = apparatuses.iter().find(|each| each.state != State::Serving) else {
        return Vec::new();
    };
    let name = &keeper.member.name;
    let next = match keeper.state {
        State::Dead => "vctl pool check --repair".to_owned(),
        State::Silent => format!("vctl apparatus fence {name}"),
        State::Fenced | State::Serving => format!("vctl apparatus rejoin {name}"),
    };
    let quarantined = view.disks.iter().filter(|disk| disk.usage.quarantined.0 > 0);
    quarantined
        .map(|disk| {
            let text = format!(
                "{} in quarantine: apparatus {name} may still use it",
                Human(disk.usage.quarantined)
            );
            Finding::new(
                Kind::Quarantine,
                Severity::Warning,
                format!("disk {}", disk.record.name),
                text,
            )
            .next(next.clone())
        })
        .collect()
}

/// How many requests have failed on which disk, as those tell who serve by them.
#[must_use]
pub fn errors_of_disks(apparatuses: &[apparatus::View]) -> BTreeMap<&str, u64> {
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for figures in apparatuses.iter().filter_map(|each| each.figures.as_ref()) {
        for (disk, io) in figures.disks.iter().filter(|(_, io)| io.errors > 0) {
            *errors.entry(disk).or_default() += io.errors;
        }
    }
    errors
}

/// Disks on which requests have failed: to be emptied, and once they are empty, to be removed.
fn of_errors(view: &PoolView, apparatuses: &[apparatus::View]) -> Vec<Finding> {
    let is_empty = |name: &str| {
        let mut disks = view.disks.iter();
        disks.any(|disk| disk.record.name.as_str() == name && disk.volumes == 0)
    };
    let finding = |(disk, count): (&str, u64)| {
        let failed = format!(
            "{count} requests have failed on it since the apparatuses began (once it is well: vctl disk clear {disk})"
        );
        let (text, next) = if is_empty(disk) {
            (
                format!("{failed}, and it is empty"),
                format!("vctl disk remove {disk}"),
            )
        } else {
            (failed, format!("vctl disk evacuate {disk}"))
        };
        Finding::new(Kind::DiskErrors, Severity::Error, format!("disk {disk}"), text).next(next)
    };
    errors_of_disks(apparatuses).into_iter().map(finding).collect()
}

/// Whether whoever looks into it is told that its process has ended. One that does not answer at all is not that.
fn is_dead(point: &Path) -> bool {
    const PATIENCE: Duration = Duration::from_secs(1);
    let place = point.to_owned();
    let looked = aside::ask(point, PATIENCE, move || std::fs::metadata(place));
    matches!(looked, Ok(Err(why)) if why.kind() == std::io::ErrorKind::NotConnected)
}

/// Mounts of this pool that nobody serves any more: whoever looks into one sees an error.
fn of_mounts(view: &PoolView, apparatuses: &[apparatus::View]) -> Vec<Finding> {
    let serves = |name: &str| apparatuses.iter().any(|each| each.member.name.as_str() == name);
    let finding = |(name, point): (String, PathBuf)| {
        let point = point.display();
        let text =
            format!("is a mount of apparatus {name}, which has ended: whoever looks into it sees an error");
        Finding::new(
            Kind::DeadMount,
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

/// Volumes whose hosts wait for a disk that does not answer, or hardly.
fn of_waiting(apparatuses: &[apparatus::View]) -> Vec<Finding> {
    let mut waiting: BTreeMap<&str, Waiting> = BTreeMap::new();
    for figures in apparatuses.iter().filter_map(|each| each.figures.as_ref()) {
        for (volume, more) in &figures.waiting {
            let all = waiting.entry(volume).or_default();
            all.requests += more.requests;
            all.longest_us = all.longest_us.max(more.longest_us);
            all.disks.extend(more.disks.iter().cloned());
            all.database = all.database.take().or_else(|| more.database.clone());
        }
    }
    let finding = |(volume, waiting): (&str, Waiting)| {
        let seconds = waiting.longest_us / 1_000_000;
        if let Some(why) = waiting.database {
            let text = format!(
                "flushes of hosts wait for the pool's database ({} requests, the first for {seconds} s): {why}",
                waiting.requests
            );
            let finding = Finding::new(
                Kind::WaitingForDatabase,
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
            "hosts wait for {for_what} ({} requests, the first for {seconds} s): see whether the kernel tells why, and whether the disk is \
             connected",
            waiting.requests
        );
        Finding::new(Kind::Waiting, Severity::Warning, format!("volume {volume}"), text)
            .next("dmesg --level err,warn")
    };
    waiting.into_iter().map(finding).collect()
}

fn of_apparatus(view: &apparatus::View) -> Option<Finding> {
    let name = &view.member.name;
    let subject = format!("apparatus {name}");
    let why = view.fault.as_deref().unwrap_or("does not answer");
    Some(match view.state {
        State::Serving => return None,
        State::Dead => {
            let again = format!("vctl apparatus start {name} {}", view.member.mount.display());
            Finding::new(Kind::ApparatusDead, Severity::Error, subject, why).next(again)
        }
        State::Fenced => Finding::new(
            Kind::ApparatusFenced,
            Severity::Error,
            subject,
            "is fenced: its hosts wait until it has rejoined",
        )
        .next(format!("vctl apparatus rejoin {name}")),
        State::Silent => Finding::new(Kind::ApparatusSilent, Severity::Warning, subject, why)
            .next(format!("vctl apparatus show {name}")),
    })
}

/// What a job is about: a later one of the same makes an earlier failure a thing of the past.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Volume(VolumeId),
    Disk(DiskId),
}

fn about(kind: &JobKind) -> About {
    match kind {
        JobKind::Move { volume } => About::Volume(*volume),
        JobKind::Evacuate { disk, .. } => About::Disk(*disk),
    }
}

/// Whether the volume or disk that a job is about is still there.
fn is_there(kind: &JobKind, view: &PoolView) -> bool {
    match kind {
        JobKind::Move { volume } => view.volumes.iter().any(|each| each.record.id == *volume),
        JobKind::Evacuate { disk, .. } => view.disks.iter().any(|each| each.record.id == *disk),
    }
}

fn of_job(workers: &Workers, view: &job::View, seen: &Seen) -> Option<Finding> {
    let record = &view.record;
    let id = record.id;
    let finding = |kind, severity, text: String| {
        Finding::new(kind, severity, format!("job {id} ({})", view.subject), text)
    };
    let later = |each: &job::View| each.record.id > id && about(&each.record.kind) == about(&record.kind);
    match record.state {
        JobState::Done | JobState::Cancelled => None,
        // A failure is a thing of the past once there was a later job about the same, or there is nothing left that it is about.
        JobState::Failed if seen.jobs.iter().any(later) || !is_there(&record.kind, &seen.view) => None,
        JobState::Failed => {
            let text = format!("failed: {}; vctl job cancel {id} dismisses it", record.why);
            Some(finding(Kind::JobFailed, Severity::Error, text).next(format!("vctl job show {id}")))
        }
        JobState::Paused => Some(
            finding(Kind::JobPaused, Severity::Warning, "is paused".into())
                .next(format!("vctl job resume {id}")),
        ),
        JobState::Running | JobState::RollingBack => Some(match workers.on(record) {
            Worker::Nobody => {
                let text = format!("nobody works on it; vctl job cancel {id} gives it up");
                finding(Kind::JobAbandoned, Severity::Error, text).next(format!("vctl job resume {id}"))
            }
            Worker::Acts(_) | Worker::Waits(_) => {
                let phase = job::phase(workers, record);
                finding(Kind::JobRuns, Severity::Info, phase).next(format!("vctl job show {id}"))
            }
        }),
    }
}

/// Changes that the next controller finishes or takes back: asked only when none acts.
fn of_changes(store: &mut dyn Store) -> Result<Option<Finding>> {
    let left = store
        .unfinished()?
        .iter()
        .filter(|change| change.state != ChangeState::Hardened)
        .count();
    let text = format!("{left} changes were left by a controller that is gone");
    let finding =
        Finding::new(Kind::ChangesLeft, Severity::Warning, "changes", text).next("vctl pool check --repair");
    Ok((left > 0).then_some(finding))
}

/// Volumes that the next controller removes: asked only when none acts.
fn of_hidden(store: &mut dyn Store) -> Result<Option<Finding>> {
    let volumes = store.volumes()?;
    let left = volumes.iter().filter(|volume| volume.name.is_hidden()).count();
    let text = format!("{left} were left half made or half removed by a controller that is gone");
    let finding =
        Finding::new(Kind::VolumesLeft, Severity::Warning, "volumes", text).next("vctl pool check --repair");
    Ok((left > 0).then_some(finding))
}
