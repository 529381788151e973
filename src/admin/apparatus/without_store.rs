//! Ends apparatuses whose pool cannot be read: its directory does not answer, or was deleted. They are known by their locks on that directory, and
//! their users by what is open on their mounts.

use super::start::open_process;
use super::stop::{Fenced, what};
use crate::admin::usage;
use crate::cluster::{Owner, owners};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::supervisor;
use crate::sys;
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Returns the process of this apparatus, if one lives and this user may see it. Neither the database nor the pool's directory is read.
#[must_use]
pub fn process_of(pool: &PoolDir, name: &str) -> Option<Owner> {
    let is_it = |owner: &Owner| owner.name.as_ref().is_some_and(|found| found.as_str() == name);
    owners(pool).into_iter().find(is_it)
}

/// Checks that no host is cut off when this apparatus ends, as far as that can be seen without asking it.
///
/// # Errors
/// Fails with `Busy` and the users' names.
pub fn check_process(owner: &Owner) -> Result<()> {
    match (&owner.name, &owner.mount) {
        (Some(name), Some(mount)) => usage::check_mount(name, mount),
        _ => Ok(()),
    }
}

/// Kills an apparatus and its supervisor. What the database says of it stays as it is: it is an apparatus that has ended, for the next controller.
///
/// # Errors
/// Fails when a process may not be killed.
pub fn kill_process(pool: &PoolDir, owner: &Owner, within: Duration) -> Result<Fenced> {
    match end(pool, owner, Signal::KILL, within)? {
        true => Ok(Fenced::Ended),
        false => Ok(Fenced::IsEnding),
    }
}

/// Has an apparatus stop by a signal, because its control socket was deleted with the pool's directory.
///
/// # Errors
/// Fails when it may not be signalled, or has not ended in time.
pub fn stop_process(pool: &PoolDir, owner: &Owner, within: Duration) -> Result<()> {
    if end(pool, owner, Signal::TERM, within)? {
        return Ok(());
    }
    let why = format!("has not ended after {} s", within.as_secs());
    let error = Error::new(ErrorKind::TimedOut, owner.to_string(), why);
    Err(match &owner.name {
        Some(name) => error.hint(format!("end it by force: vctl apparatus fence {name}")),
        None => error,
    })
}

/// Signals an apparatus, and its supervisor where that would start it again. Returns whether all of its processes have ended in time.
fn end(pool: &PoolDir, owner: &Owner, signal: Signal, within: Duration) -> Result<bool> {
    let until = Instant::now() + within;
    let failed = |pid: u32| {
        let what = owner
            .name
            .as_ref()
            .map_or_else(|| owner.to_string(), |name| what(name.as_str()));
        move |error: io::Error| {
            Error::because(format!("{what}, process {pid}"), error)
                .hint("do this as a user with the permission")
        }
    };
    let mut ending: Vec<OwnedFd> = Vec::new();
    let supervisor = owner.name.as_ref().and_then(|name| supervisor_of(pool, name));
    if let Some((pid, process)) = supervisor {
        // A supervisor that is asked to stop has its server stop first.
        pidfd_send_signal(&process, signal).map_err(|errno| failed(pid)(errno.into()))?;
        ending.push(process);
    }
    if let Some(process) = descriptor(pool, owner).map_err(failed(owner.pid))? {
        if ending.is_empty() || signal == Signal::KILL {
            pidfd_send_signal(&process, signal).map_err(|errno| failed(owner.pid)(errno.into()))?;
        }
        ending.push(process);
    }
    for process in &ending {
        let left = until.saturating_duration_since(Instant::now());
        if !sys::await_process(process, left).map_err(failed(owner.pid))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens the supervisor of an apparatus, if it has one. Its number might belong to another process by now, so its lock is looked for again.
fn supervisor_of(pool: &PoolDir, name: &Name) -> Option<(u32, OwnedFd)> {
    let pid = supervisor::supervisor_by_lock(pool, name)?;
    let process = open_process(pid).ok()?;
    (supervisor::supervisor_by_lock(pool, name) == Some(pid)).then_some((pid, process))
}

/// Opens the process of an apparatus, unless it has ended.
fn descriptor(pool: &PoolDir, owner: &Owner) -> io::Result<Option<OwnedFd>> {
    let still = || owners(pool).contains(owner);
    match open_process(owner.pid) {
        Ok(process) => Ok(still().then_some(process)),
        Err(_) if !still() => Ok(None),
        Err(error) => Err(error),
    }
}
