//! Looking for what is wrong with a pool, and putting right what can be without losing data.

use super::job;
use crate::change::driver::Controller;
use crate::change::harden::disks_at_risk;
use crate::change::survey::lives;
use crate::error::{Error, Result};
use crate::member::{ArbitrationLock, MemberTable};
use crate::pool::dir::PoolDir;
use crate::pool::model::{DiskRecord, PoolHeader, Snapshot, VolumeRecord};
use crate::store::sqlite::SqliteStore;
use crate::store::{ChangeRecord, ChangeState, Member, MemberState, Store};
use crate::sys::boot_id;
use crate::units::ChangeId;
use serde::Serialize;
use std::collections::BTreeMap;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is about.
    pub subject: String,
    /// What is wrong with it.
    pub why: String,
    /// The way out.
    pub hint: Option<String>,
    /// [`repair`] puts it right.
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

/// Looks at everything: the database's file, what it says, each disk's label against it, and what dead processes left.
///
/// # Errors
/// When there is no pool, or it cannot be read far enough to check it.
pub fn check(pool: &PoolDir) -> Result<Vec<Problem>> {
    let mut store = SqliteStore::open(pool)?;
    let mut problems: Vec<Problem> = store.check()?.into_iter().map(of_database).collect();
    let snapshot = store.snapshot()?;
    if let Some(of) = store.copied_from(pool)? {
        let why = format!("is a copy of the pool at {}, which owns the disks", of.display());
        let problem = Problem::new("pool", why);
        problems
            .push(problem.hint("use that one; if it is gone or shall not be used again: vctl pool adopt"));
    }
    problems.extend(of_disks(&mut store, &snapshot));
    problems.extend(of_losses(
        pool,
        &mut store,
        &snapshot.header,
        snapshot.disks.iter(),
    )?);
    if ArbitrationLock::holder(pool)?.is_none() {
        problems.extend(of_changes(&mut store)?);
    }
    problems.extend(of_jobs(pool, &mut store)?);
    let (_, members) = store.members()?;
    problems.extend(of_members(pool, &members)?);
    Ok(problems)
}

fn of_database(why: String) -> Problem {
    Problem::new("database", why).hint("stop all apparatuses, then vctl pool restore the newest backup")
}

/// Each disk opened as an apparatus opens it.
fn of_disks(store: &mut dyn Store, snapshot: &Snapshot) -> Vec<Problem> {
    let faults = super::disk::faults(store, &snapshot.disks, &snapshot.header);
    faults.iter().flatten().map(Problem::from_error).collect()
}

/// Disks that have failed to write what was moved to them, which therefore still has its old place.
pub(super) fn of_losses<'a>(
    pool: &PoolDir,
    store: &mut dyn Store,
    header: &PoolHeader,
    disks: impl Iterator<Item = &'a DiskRecord>,
) -> Result<Vec<Problem>> {
    let at_risk = disks_at_risk(store)?;
    // The table is made by who changes something, not by who looks.
    if at_risk.is_empty() || !pool.run().join("members").exists() {
        return Ok(Vec::new());
    }
    let members = MemberTable::open(pool, header.uuid, boot_id()?)?;
    let lost = disks.filter(|disk| at_risk.contains(&disk.id) && members.marks(disk.id).has_lost());
    let problem = |disk: &DiskRecord| {
        let why = "has lost something of what was moved to it: hosts may read wrong data there, and flushes of those volumes fail; the old places are kept";
        let hint = format!("vctl disk revert {}", disk.name);
        Problem::new(format!("disk {}", disk.name), why).hint(hint)
    };
    Ok(lost.map(problem).collect())
}

/// Changes that nobody finishes. Asked only when no controller acts.
fn of_changes(store: &mut dyn Store) -> Result<Vec<Problem>> {
    let mut unfinished = store.unfinished()?;
    unfinished.retain(|change| change.state != ChangeState::Hardened);
    let half = |volume: &&VolumeRecord| volume.name.is_hidden();
    let half_made = |volume: &VolumeRecord| {
        let why = "was left half made or half removed by a controller that is gone";
        Problem::new(format!("volume number {}", volume.id), why).repairable()
    };
    let mut problems = in_words(&unfinished);
    problems.extend(store.volumes()?.iter().filter(half).map(half_made));
    Ok(problems)
}

/// One problem for all changes of one title and state: a move leaves a change for each chunk.
fn in_words(unfinished: &[ChangeRecord]) -> Vec<Problem> {
    let mut groups: BTreeMap<(&str, &str), Vec<ChangeId>> = BTreeMap::new();
    for change in unfinished {
        let state = match change.state {
            ChangeState::Committed => "was done by a controller that is gone, and is not durable yet",
            _ => "was begun by a controller that is gone, and not finished",
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

/// Jobs that nobody works on: what is reserved for them stays so until somebody goes on with them or gives them up.
fn of_jobs(pool: &PoolDir, store: &mut dyn Store) -> Result<Vec<Problem>> {
    let abandoned = |view: &job::View| view.abandoned;
    let problem = |view: job::View| {
        let id = view.record.id;
        Problem::new(format!("job {id}"), "nobody works on it").hint(format!(
            "vctl job resume {id}, or give it up: vctl job cancel {id}"
        ))
    };
    let jobs = job::list(pool, store)?;
    Ok(jobs.into_iter().filter(abandoned).map(problem).collect())
}

fn of_members(pool: &PoolDir, members: &[Member]) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for member in members {
        let name = &member.name;
        let subject = format!("apparatus {name}");
        let alive = match lives(pool, member) {
            Ok(alive) => alive,
            Err(error) => {
                problems.push(Problem::from_error(&error));
                continue;
            }
        };
        if !alive {
            let why = format!("its process, {}, ended without leaving", member.pid);
            let problem = Problem::new(subject, why).repairable();
            let again = format!("vctl apparatus start {name} {}", member.mount.display());
            problems.push(problem.hint(format!(
                "start it again: {again}; or forget it: vctl pool check --repair"
            )));
        } else if member.state == MemberState::Fenced {
            let problem = Problem::new(subject, "is fenced and has not rejoined");
            problems.push(problem.hint(format!("vctl apparatus rejoin {name}")));
        }
    }
    Ok(problems)
}

/// Puts right what can be: taking the arbitration has finished what the last controller left; members whose process has ended
/// leave; what is committed is hardened, and what nobody can use any more is freed. Answers what was done.
///
/// # Errors
/// The store's, or a disk's when it is flushed.
pub fn repair(pool: &PoolDir, controller: &mut Controller) -> Result<Vec<String>> {
    let mut done = controller.recovered().to_vec();
    let (_, members) = controller.store().members()?;
    for member in members {
        if !lives(pool, &member)? {
            controller.store().leave(member.slot, member.incarnation)?;
            done.push(format!(
                "apparatus {}: its process has ended, it has left",
                member.name
            ));
        }
    }
    controller.harden()?;
    controller.free()?;
    Ok(done)
}
