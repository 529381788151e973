//! Finds the users of a volume, through all apparatuses. The apparatuses count open
//! handles; the processes that have them open now are found through `/proc` and `/sys`.
//!
//! Operations that take something away from users (remove, shrink, read-only, stop) check this before
//! they begin, and [`Guard`] checks again under the change's hold and keeps the volume closed until
//! the change has ended. An apparatus that does not answer may have it open, so that counts as in use.

pub(super) mod ask;
pub(super) mod attached;
mod census;
mod guard;
pub(crate) mod loops;
mod process;
mod users;

pub use census::{Census, through};
pub(super) use census::{LoopUse, users_of_loop};
pub(super) use guard::Guard;
pub use users::{OVERRIDE, Usage, User};

use super::job::Workers;
use super::plan::{Planned, Vacate};
use crate::cluster;
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::job::{JobKind, JobState};
use crate::model::member::Member;
use crate::model::names::Name;
use crate::model::units::VolumeId;
use crate::rpc::message::{Answer, Request};
use crate::store::Store;
use rustix::event::poll;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an apparatus may take to report what is open.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an apparatus that is to be ended by force may take to answer, and how long its volumes may take to be closed.
const BEFORE_FORCE: Duration = Duration::from_secs(2);
const CLOSING_BEFORE_FORCE: Duration = Duration::from_millis(300);

/// An apparatus receives a close a moment after the host's call has returned, so an open volume is checked again for this long.
const CLOSING: Duration = Duration::from_secs(1);
const RETRY: rustix::event::Timespec = rustix::event::Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Checks that no user loses something by this plan.
///
/// # Errors
/// Fails with `Busy` and the users' names; returns the errors of the store.
pub fn check(pool: &PoolDir, store: &mut dyn Store, planned: &Planned) -> Result<()> {
    match &planned.vacate {
        Some(vacate) => check_vacant(pool, store, vacate),
        None => Ok(()),
    }
}

fn check_vacant(pool: &PoolDir, store: &mut dyn Store, vacate: &Vacate) -> Result<()> {
    let volumes = store.volumes()?;
    let until = Instant::now() + CLOSING;
    for volume in volumes
        .iter()
        .filter(|volume| vacate.volumes.contains(&volume.id))
    {
        let mut usage = settled(until, || {
            Ok(Census::take(pool, store)?.usage(volume.id, &volume.name))
        })?;
        if !vacate.writers_only {
            usage.users.extend(jobs_on(pool, store, volume.id)?);
        }
        if usage.matters(vacate.writers_only) {
            return Err(usage.refusal("volume", &volume.name));
        }
    }
    Ok(())
}

/// Returns the usage, checked repeatedly until `until` where it may end by itself: handles for which no user
/// is found, and those of processes, since a child has its parent's files between its fork and its exec.
fn settled(until: Instant, mut look: impl FnMut() -> Result<Usage>) -> Result<Usage> {
    loop {
        let usage = look()?;
        let passing = |user: &User| matches!(user, User::Process { .. });
        let closing = usage.open > 0 && usage.users.iter().all(passing) && usage.unknown.is_empty();
        if !closing || Instant::now() >= until {
            return Ok(usage);
        }
        let _ = poll(&mut [], Some(&RETRY));
    }
}

/// Returns the jobs that have not ended and move a part of this volume, except abandoned ones.
fn jobs_on(pool: &PoolDir, store: &mut dyn Store, volume: VolumeId) -> Result<Vec<User>> {
    let mut users = Vec::new();
    let jobs = store.jobs()?;
    let workers = Workers::look(pool, store, &jobs)?;
    for job in jobs.into_iter().filter(|job| !workers.is_abandoned(job)) {
        let state = match job.state {
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::RollingBack => "rolling back",
            JobState::Cancelled | JobState::Done | JobState::Failed => continue,
        };
        let moves = match job.kind {
            JobKind::Move { volume: moved, .. } => moved == volume,
            JobKind::Evacuate { .. } => {
                let steps = store.steps(job.id)?;
                steps
                    .iter()
                    .any(|step| step.volume == volume && step.done < step.to.len)
            }
        };
        if moves {
            let job = format!("{} ({state})", job.id);
            users.push(User::Job { job });
        }
    }
    Ok(users)
}

/// Checks that no host has a volume open through this apparatus.
///
/// # Errors
/// Fails with `Busy` and the users' names; returns the errors of the store.
pub fn check_apparatus(pool: &PoolDir, store: &mut dyn Store, apparatus: &Name) -> Result<()> {
    let until = Instant::now() + CLOSING;
    let names = names_of(store)?;
    let usage = settled(until, || {
        let census = Census::take(pool, store)?;
        let silent = || Usage {
            unknown: vec![apparatus.clone()],
            ..Usage::default()
        };
        Ok(census.usage_through(apparatus, &names).unwrap_or_else(silent))
    })?;
    match usage.matters(false) {
        true => Err(usage.refusal("apparatus", apparatus)),
        false => Ok(()),
    }
}

/// Checks that no host has a volume open through an apparatus that is to be ended by force. Only that apparatus is asked, and not for long:
/// if it does not answer, ending it is the only way out.
///
/// # Errors
/// Fails with `Busy` and the users' names; returns the errors of the store.
pub fn check_known(pool: &PoolDir, store: &mut dyn Store, member: &Member) -> Result<()> {
    let until = Instant::now() + CLOSING_BEFORE_FORCE;
    let uuid = store.header()?.uuid;
    let names = names_of(store)?;
    let mut known = Usage::default();
    let usage = settled(until, || {
        let member = std::slice::from_ref(member);
        let mut asked = ask::ask(pool, uuid, member, &Request::Opens, BEFORE_FORCE);
        // Users that an earlier answer named do not go because a later answer is late.
        if let Some(Ok(Answer::Opens(opens))) = asked.answers.remove(&member[0].slot) {
            let census = Census::of_one(&member[0].name, &member[0].mount, *opens, BEFORE_FORCE);
            known = census.usage_through(&member[0].name, &names).unwrap_or_default();
        }
        Ok(known.clone())
    })?;
    match usage.matters(false) {
        true => Err(usage.refusal("apparatus", &member.name)),
        false => Ok(()),
    }
}

/// Checks that no host has a file on the mount of an apparatus open, as far as that can be seen without asking the apparatus or the database.
///
/// # Errors
/// Fails with `Busy` and the users' names.
pub fn check_mount(apparatus: &Name, mount: &Path) -> Result<()> {
    let until = Instant::now() + CLOSING_BEFORE_FORCE;
    let usage = settled(until, || Ok(census::usage_of_mount(apparatus, mount)))?;
    match usage.matters(false) {
        true => Err(usage.refusal("apparatus", apparatus)),
        false => Ok(()),
    }
}

fn names_of(store: &mut dyn Store) -> Result<BTreeMap<VolumeId, Name>> {
    let volumes = store.volumes()?.into_iter();
    Ok(volumes.map(|volume| (volume.id, volume.name)).collect())
}

/// Returns whether a member may be alive: true where that cannot be determined.
fn may_live(pool: &PoolDir, member: &Member) -> bool {
    let ended = cluster::open(pool).and_then(|cluster| cluster.has_ended(member));
    !ended.unwrap_or(false)
}
