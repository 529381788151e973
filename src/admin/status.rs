//! Reports the state of a pool, and what to do where something is wrong: fast enough to be called all the time.

mod disks;
mod hosts;
mod jobs;

pub use super::finding::{Finding, FindingKind};
pub use disks::errors_of_disks;

use super::apparatus::{self, State};
use super::check::of_losses;
use super::copies;
use super::job::{self, Workers};
use super::older;
use super::view::{PoolView, Usage};
use crate::cluster::{self, Cluster};
use crate::controller::pool;
use crate::model::change::ChangeState;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::event::Severity;
use crate::model::job::JobRecord;
use crate::model::options::{Fullness, Thresholds};
use crate::model::records::DiskAccess;
use crate::model::words;
use crate::store::{self, ChangeStore, Store, TableStore};
use disks::{of_closed_disks, of_disks, of_errors, of_quarantine, of_room};
use hosts::{of_apparatus, of_mounts, of_waiting};
use jobs::of_job;
use std::path::PathBuf;

/// The state of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The findings, gravest first.
    pub findings: Vec<Finding>,
    /// How the disks are read and written.
    pub access: DiskAccess,
    /// The use of all disks together.
    pub usage: Usage,
    /// Number of disks.
    pub disks: usize,
    /// Number of volumes.
    pub volumes: usize,
    /// Number of apparatuses that serve, and number of those that have not left.
    pub serving: (usize, usize),
    /// Number of nodes; 0 where the pool's machines have no names.
    pub nodes: usize,
    /// Number of unfinished jobs that are not paused.
    pub jobs: usize,
    /// The holder of the controller lock.
    pub controller: Option<String>,
}

impl Status {
    /// Returns whether no finding requires action.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.to_do() == 0
    }

    /// Returns the number of findings that require action.
    #[must_use]
    pub fn to_do(&self) -> usize {
        let asks = |finding: &&Finding| finding.severity > Severity::Info;
        self.findings.iter().filter(asks).count()
    }
}

/// The observations from which a status is made.
pub struct StatusInput {
    /// The pool.
    pub view: PoolView,
    /// All apparatuses that have not left.
    pub apparatuses: Vec<apparatus::ApparatusView>,
    /// All jobs.
    pub jobs: Vec<job::JobView>,
}

impl StatusInput {
    /// Gathers everything that can be read quickly.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn look(pool: &PoolDir, store: &mut dyn Store) -> Result<Self> {
        Ok(Self {
            view: PoolView::load(store)?,
            apparatuses: apparatus::list(pool, store)?,
            jobs: job::list(pool, store)?,
        })
    }
}

/// Observes a pool and returns its status.
///
/// # Errors
/// Returns the errors of the store.
pub fn status(pool: &PoolDir, store: &mut dyn Store) -> Result<Status> {
    let seen = StatusInput::look(pool, store)?;
    of(pool, store, &seen)
}

/// Derives the status from observations.
///
/// # Errors
/// Returns the errors of the store.
pub fn of(pool: &PoolDir, store: &mut dyn Store, seen: &StatusInput) -> Result<Status> {
    let StatusInput {
        view,
        apparatuses,
        jobs,
    } = seen;
    let cluster = cluster::open(pool)?;
    let controller = cluster.leader()?;
    let mut findings: Vec<Finding> = of_copy(pool)?.into_iter().collect();
    findings.extend(of_older(pool, store)?);
    findings.extend(of_disks(store, view, apparatuses));
    findings.extend(copies::findings(store, view)?);
    findings.extend(of_room(view));
    findings.extend(of_directory(pool)?);
    findings.extend(of_shared_state(&*cluster, apparatuses)?);
    findings.extend(of_log(pool, &*cluster)?);
    findings.extend(of_store(pool)?);
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
        kind: FindingKind::DiskLost,
        severity: Severity::Error,
        subject: loss.subject,
        text: loss.why,
        next: loss.hint,
    }));
    findings.extend(of_waiting(apparatuses));
    findings.extend(apparatuses.iter().filter_map(of_apparatus));
    findings.extend(apparatuses.iter().flat_map(super::memory::of));
    findings.extend(of_mounts(pool, view, apparatuses)?);
    findings.extend(of_nobody(view, apparatuses));
    let records: Vec<JobRecord> = jobs.iter().map(|each| each.record.clone()).collect();
    let workers = Workers::new(pool, &records, controller.clone(), apparatuses)?;
    findings.extend(jobs.iter().filter_map(|each| of_job(&workers, each, seen)));
    if controller.is_none() && !cluster.any_job_claimed()? {
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
        access: view.header.access,
        usage: view.usage(),
        disks: view.disks.len(),
        volumes: view.volumes.len(),
        serving: (serving, apparatuses.len()),
        nodes: store.nodes()?.len(),
        jobs: jobs
            .iter()
            .filter(|each| job::wants_work(each.record.state))
            .count(),
        controller,
    })
}

/// Reports volumes that no apparatus serves.
fn of_nobody(view: &PoolView, apparatuses: &[apparatus::ApparatusView]) -> Option<Finding> {
    let unserved = apparatuses.is_empty() && !view.volumes.is_empty();
    let finding = Finding::new(
        FindingKind::NoApparatus,
        Severity::Info,
        "apparatuses",
        "none runs, so no volume is served",
    );
    unserved.then(|| finding.next("vctl apparatus start NAME MOUNTPOINT"))
}

/// Checks the file system of the pool's directory, without which nothing can be changed, though volumes are served.
fn of_directory(pool: &PoolDir) -> Result<Option<Finding>> {
    let finding = |why| {
        let subject = format!("pool directory {}", pool.display());
        let text = format!("accepts no change ({why}), so nothing in the pool can be changed");
        Finding::new(FindingKind::DirectoryFault, Severity::Error, subject, text)
            .next(format!("df -h {}", pool.display()))
    };
    Ok(crate::controller::directory::fault(pool)?.map(finding))
}

/// Reports that living apparatuses share their state in a place that no other process can find.
fn of_shared_state(
    cluster: &dyn Cluster,
    apparatuses: &[apparatus::ApparatusView],
) -> Result<Option<Finding>> {
    let living = |each: &&apparatus::ApparatusView| !matches!(each.state, State::Dead | State::Restarting);
    let Some(first) = apparatuses.iter().find(living) else {
        return Ok(None);
    };
    let finding = |lost: Error| {
        let kind = FindingKind::SharedStateLost;
        Finding::new(kind, Severity::Error, lost.what(), lost.why())
            .next(format!("vctl apparatus stop {}", first.member.name))
    };
    Ok(cluster.lost_state()?.map(finding))
}

/// Reports a copy of a pool's directory, which can neither change nor serve anything.
fn of_copy(pool: &PoolDir) -> Result<Option<Finding>> {
    let finding = |of: PathBuf| {
        let text = format!("is a copy of the pool at {}, which owns the disks", of.display());
        Finding::new(FindingKind::PoolIsCopy, Severity::Error, "pool", text).next("vctl pool adopt")
    };
    Ok(pool::open(pool)?.copied_from()?.map(finding))
}

/// Reports a database that is older than a copy in the archive.
fn of_older(pool: &PoolDir, store: &mut dyn TableStore) -> Result<Option<Finding>> {
    let finding = |older: Error| {
        let found = Finding::new(
            FindingKind::DatabaseOlder,
            Severity::Error,
            older.what(),
            older.why(),
        );
        older.way_out().map_or(found.clone(), |next| found.next(next))
    };
    Ok(older::find(pool, store)?.map(finding))
}

/// Reports a failed sync of the database's log. The errors of the operations that it blocks name the rest of the way out.
fn of_log(pool: &PoolDir, cluster: &dyn Cluster) -> Result<Option<Finding>> {
    let finding = |why: String| {
        let text = format!(
            "could not be made durable ({why}): a power loss may take back recent changes, and flushes of hosts that rest on them fail; \
             look at the disk of the pool's directory, and with a backup at hand and no apparatus running: vctl pool restore FILE"
        );
        Finding::new(FindingKind::DatabaseNotDurable, Severity::Error, "database", text)
            .next("vctl pool backup FILE")
    };
    Ok(store::sync_failed(pool, cluster.epoch()?)?.map(finding))
}

/// Reports an etcd cluster that does not answer. Volumes are served meanwhile.
fn of_store(pool: &PoolDir) -> Result<Option<Finding>> {
    let finding = |why: Error| {
        let text = format!(
            "{}, so nothing in the pool can be changed; volumes are served",
            why.why()
        );
        Finding::new(FindingKind::StoreAway, Severity::Error, why.what(), text)
            .next("etcdctl endpoint status")
    };
    Ok(store::unreachable(pool)?.map(finding))
}

/// Reports a pool that is nearly full, with the same hysteresis as the events, so that the two never contradict each other.
fn of_space(view: &PoolView, was: Fullness, thresholds: Thresholds) -> Option<Finding> {
    let percent = view.capacity().percent()?;
    let severity = match was.after(percent, thresholds) {
        Fullness::Full => Severity::Error,
        Fullness::Nearfull => Severity::Warning,
        Fullness::Room => return None,
    };
    let text = format!("{percent} % of the space for new volumes is in use");
    Some(Finding::new(FindingKind::Space, severity, "space", text).next("vctl disk add PATH"))
}

/// Reports changes that the next controller finishes or takes back. The caller makes sure that no controller holds the lock.
fn of_changes(store: &mut dyn ChangeStore) -> Result<Option<Finding>> {
    let left = store
        .unfinished()?
        .iter()
        .filter(|change| change.state != ChangeState::Persisted)
        .count();
    let were = if left == 1 { "was" } else { "were" };
    let changes = words::count(left, "change");
    let text = format!("{changes} {were} left by a controller that is gone");
    let finding = Finding::new(FindingKind::ChangesLeft, Severity::Warning, "changes", text)
        .next("vctl pool check --repair");
    Ok((left > 0).then_some(finding))
}

/// Reports volumes that the next controller removes. The caller makes sure that no controller holds the lock.
fn of_hidden(store: &mut dyn TableStore) -> Result<Option<Finding>> {
    let volumes = store.volumes()?;
    let left = volumes.iter().filter(|volume| volume.name.is_hidden()).count();
    let text = format!("{left} were left partly created or partly removed by a controller that is gone");
    let finding = Finding::new(FindingKind::VolumesLeft, Severity::Warning, "volumes", text)
        .next("vctl pool check --repair");
    Ok((left > 0).then_some(finding))
}
