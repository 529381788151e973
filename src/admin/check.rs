//! Checks a pool for problems, and repairs what can be repaired without losing data.

use super::{apparatus, copies, job, older};
use crate::cluster::{self, Cluster, Presence};
use crate::controller::Controller;
use crate::controller::persist::disks_at_risk;
use crate::controller::pool;
use crate::model::change::{ChangeRecord, ChangeState};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::member::{Member, MemberState};
use crate::model::names::Name;
use crate::model::records::{DiskRecord, PoolHeader, Snapshot, VolumeRecord};
use crate::model::units::ChangeId;
use crate::store::{ChangeStore, Store};
use crate::supervisor;
use serde::Serialize;
use std::collections::BTreeMap;

/// A problem of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The object that it concerns.
    pub subject: String,
    /// What is wrong with that object.
    pub why: String,
    /// The way out.
    pub hint: Option<String>,
    /// Whether [`repair`] removes it.
    pub repairable: bool,
}

impl Problem {
    fn new(subject: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            why: why.into(),
            hint: None,
            repairable: false,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn repairable(mut self) -> Self {
        self.repairable = true;
        self.hint("vctl pool check --repair")
    }

    fn from_error(error: &Error) -> Self {
        let problem = Self::new(error.what(), error.why());
        error.way_out().map_or(problem.clone(), |hint| problem.hint(hint))
    }
}

/// Checks everything: the database's file, its content, each disk's label against it, and what dead processes left.
///
/// # Errors
/// Fails when there is no pool, or it cannot be read far enough to check it.
pub fn check(pool: &PoolDir) -> Result<Vec<Problem>> {
    let mut store = pool::open(pool)?;
    let mut problems: Vec<Problem> = store.check()?.into_iter().map(of_database).collect();
    let snapshot = store.snapshot()?;
    if let Some(of) = store.copied_from()? {
        let why = format!("is a copy of the pool at {}, which owns the disks", of.display());
        let problem = Problem::new("pool", why);
        problems
            .push(problem.hint("use that pool; if it is gone or is not to be used again: vctl pool adopt"));
    }
    let older = older::find(pool, &mut *store)?;
    problems.extend(older.as_ref().map(Problem::from_error));
    problems.extend(of_disks(&mut *store, &snapshot));
    problems.extend(of_losses(
        pool,
        &mut *store,
        &snapshot.header,
        snapshot.disks.iter(),
    )?);
    let cluster = cluster::open(pool)?;
    let at_work = cluster.leader()?.is_some() || cluster.any_job_claimed()?;
    if !at_work {
        problems.extend(of_changes(&mut *store)?);
    }
    problems.extend(of_copies(&mut *store, at_work)?);
    problems.extend(of_jobs(pool, &mut *store)?);
    let (_, members) = store.members()?;
    problems.extend(of_shared_state(&*cluster, &members)?);
    problems.extend(of_members(pool, &*cluster, &members)?);
    Ok(problems)
}

/// Checks that the state that living apparatuses share can be found.
fn of_shared_state(cluster: &dyn Cluster, members: &[Member]) -> Result<Option<Problem>> {
    let lives = |member: &&Member| cluster.has_ended(member).is_ok_and(|ended| !ended);
    let living = members.iter().filter(lives);
    let stop: Vec<String> = living
        .map(|member| format!("vctl apparatus stop {}", member.name))
        .collect();
    let lost = match stop.is_empty() {
        true => None,
        false => cluster.lost_state()?,
    };
    let hint = format!("{}; then start them again", stop.join("; "));
    Ok(lost.map(|lost| Problem::from_error(&lost).hint(hint)))
}

fn of_database(why: String) -> Problem {
    Problem::new("database", why).hint("stop all apparatuses, then vctl pool restore the newest backup")
}

/// Compares the copies of the metadata on the disks with the database.
fn of_copies(store: &mut dyn Store, at_work: bool) -> Result<Vec<Problem>> {
    let found = copies::mismatches(store, at_work)?;
    let problem = |found: copies::Mismatch| {
        let why = format!("its copy of the pool's metadata {}", found.why);
        let problem = Problem::new(format!("disk {}", found.disk.name), why);
        match found.is_newer {
            true => problem.hint(
                "stop all apparatuses, set the database aside (pool.db and pool.db-wal), and make the pool from its disks: vctl pool import",
            ),
            false => problem.repairable(),
        }
    };
    Ok(found.into_iter().map(problem).collect())
}

/// Opens each disk as an apparatus opens it.
fn of_disks(store: &mut dyn Store, snapshot: &Snapshot) -> Vec<Problem> {
    let faults = super::disk::faults(store, &snapshot.disks, &snapshot.header);
    faults.iter().flatten().map(Problem::from_error).collect()
}

/// Returns the disks that have failed to write what was moved to them; the old places of that data are still kept.
pub(super) fn of_losses<'a>(
    pool: &PoolDir,
    store: &mut dyn ChangeStore,
    header: &PoolHeader,
    disks: impl Iterator<Item = &'a DiskRecord>,
) -> Result<Vec<Problem>> {
    let at_risk = disks_at_risk(store)?;
    if at_risk.is_empty() {
        return Ok(Vec::new());
    }
    let Some(shared) = cluster::open(pool)?.share_existing(header.uuid)? else {
        return Ok(Vec::new());
    };
    let lost = disks.filter(|disk| at_risk.contains(&disk.id) && shared.ledgers.ledger(disk.id).has_lost());
    let problem = |disk: &DiskRecord| {
        let why = "has lost writes of data that was moved to it: hosts may read wrong data there, and flushes of those volumes fail; the old places are kept";
        let hint = format!("vctl disk revert {}", disk.name);
        Problem::new(format!("disk {}", disk.name), why).hint(hint)
    };
    Ok(lost.map(problem).collect())
}

/// Returns changes that no process finishes. The caller makes sure that no controller holds the lock.
fn of_changes(store: &mut dyn Store) -> Result<Vec<Problem>> {
    let mut unfinished = store.unfinished()?;
    unfinished.retain(|change| change.state != ChangeState::Persisted);
    let half = |volume: &&VolumeRecord| volume.name.is_hidden();
    let half_made = |volume: &VolumeRecord| {
        let why = "was left partly created or partly removed by a controller that is gone";
        Problem::new(format!("volume number {}", volume.id), why).repairable()
    };
    let mut problems = grouped(&unfinished);
    problems.extend(store.volumes()?.iter().filter(half).map(half_made));
    Ok(problems)
}

/// Returns one problem for all changes of one title and state: a move leaves a change for each chunk.
fn grouped(unfinished: &[ChangeRecord]) -> Vec<Problem> {
    let mut groups: BTreeMap<(&str, &str), Vec<ChangeId>> = BTreeMap::new();
    for change in unfinished {
        let state = match change.state {
            ChangeState::Committed => "was committed by a controller that is gone, and is not persisted yet",
            _ => "was begun by a controller that is gone, and was not finished",
        };
        let of = groups.entry((change.change.title.as_str(), state)).or_default();
        of.push(change.id);
    }
    let problem = |((title, state), ids): ((&str, &str), Vec<ChangeId>)| {
        let subject = match ids[..] {
            [first, .., last] => format!("changes {first} to {last}"),
            [only] => format!("change {only}"),
            [] => "change".to_owned(),
        };
        Problem::new(subject, format!("{title}: {state}")).repairable()
    };
    groups.into_iter().map(problem).collect()
}

/// Returns jobs that no process works on: their reservations stay until the jobs are resumed or cancelled.
fn of_jobs(pool: &PoolDir, store: &mut dyn Store) -> Result<Vec<Problem>> {
    let abandoned = |view: &job::JobView| view.abandoned;
    let problem = |view: job::JobView| {
        let id = view.record.id;
        Problem::new(format!("job {id}"), "no process works on it").hint(format!(
            "vctl job resume {id}, or cancel it: vctl job cancel {id}"
        ))
    };
    let jobs = job::list(pool, store)?;
    Ok(jobs.into_iter().filter(abandoned).map(problem).collect())
}

fn of_members(pool: &PoolDir, presence: &dyn Presence, members: &[Member]) -> Result<Vec<Problem>> {
    let names: Vec<&Name> = members.iter().map(|member| &member.name).collect();
    let without_server = apparatus::without_server(pool, &names)?;
    let mut problems: Vec<Problem> = without_server.into_iter().map(of_mount_held).collect();
    for member in members {
        let name = &member.name;
        let subject = format!("apparatus {name}");
        let ended = match presence.has_ended(member) {
            Ok(ended) => ended,
            Err(error) => {
                problems.push(Problem::from_error(&error));
                continue;
            }
        };
        if ended && supervisor::supervisor_of(pool, name).is_ok_and(|supervisor| supervisor.is_some()) {
            let why = format!(
                "its server, process {}, has ended, and its supervisor starts another",
                member.pid
            );
            problems.push(Problem::new(subject, why).hint(format!("vctl apparatus show {name}")));
        } else if ended {
            let why = format!("its process, {}, ended without leaving", member.pid);
            let problem = Problem::new(subject, why).repairable();
            let again = format!("vctl apparatus start {name} {}", member.mount.display());
            problems.push(problem.hint(format!(
                "start it again: {again}; or remove its record: vctl pool check --repair"
            )));
        } else if member.state == MemberState::Fenced {
            let problem = Problem::new(subject, "is fenced and has not rejoined");
            problems.push(problem.hint(format!("vctl apparatus rejoin {name}")));
        }
    }
    Ok(problems)
}

fn of_mount_held(found: apparatus::WithoutServer) -> Problem {
    let problem = Problem::new(format!("apparatus {}", found.name), found.fault);
    problem.hint(format!(
        "repair what its log names; or give its hosts up: vctl apparatus stop {} --cut-off-users",
        found.name
    ))
}

/// Repairs what can be repaired: taking the controller lock has finished what the last controller left; members whose process has ended
/// leave; committed changes are persisted, and space that no apparatus can use any more is freed. Returns what was done.
/// # Errors
/// Returns the errors of the store, or of a disk when it is flushed.
pub fn repair(controller: &mut Controller) -> Result<Vec<String>> {
    let mut done = controller.recovered().to_vec();
    let (_, members) = controller.store().members()?;
    for member in members {
        if controller.cluster().has_ended(&member)? {
            controller.store().leave(member.slot, member.incarnation)?;
            done.push(format!(
                "apparatus {}: its process has ended; its record is removed",
                member.name
            ));
        }
    }
    let marked = copies::mark(controller.store())?;
    controller.persist()?;
    controller.free()?;
    done.extend(copies::mended(controller.store(), marked)?);
    Ok(done)
}
