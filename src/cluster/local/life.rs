//! Determines whether a member's process may still live.
//!
//! A free life lock on the pool's directory proves that the process which had it has ended, because that lock cannot be deleted. It proves nothing
//! when the directory is not the one that the member locked: its files were moved, copied or restored to another. Then the process itself is
//! searched for.

use super::anchor::{self, Anchor};
use super::boot::boot_epoch;
use super::lock::LifeLock;
use crate::cluster::Claimed;
use crate::model::audit::Process;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::member::{Member, Origin};
use crate::model::names::Name;
use crate::place::Place;
use crate::sys;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Returns where this process was started, for this pool's store, or `None` when the directory or `/proc` cannot be read, which is logged.
pub(super) fn origin_here(pool: &PoolDir) -> Option<Origin> {
    let here = || -> io::Result<Origin> {
        Ok(Origin {
            directory: Anchor::of_existing(pool)?.map_or(Ok((0, 0)), |anchor| anchor.identity())?,
            namespace: sys::pid_namespace()?,
            started: sys::start_of_process(std::process::id())?.unwrap_or(0),
        })
    };
    here()
        .inspect_err(|why| log::warn!("cannot determine where this process runs: {why}"))
        .ok()
}

/// Returns whether the process with this id and origin is known to have ended.
fn process_has_ended(origin: Origin, pid: u32) -> io::Result<bool> {
    Ok(origin.namespace == sys::pid_namespace()? && sys::start_of_process(pid)? != Some(origin.started))
}

/// Returns whether the process of a member is known to have ended, given its name, process id and origin from the store.
///
/// # Errors
/// Fails with `ErrorKind::Busy` when it may live but is not visible from here, or when a lock cannot be read.
pub(super) fn has_ended(pool: &PoolDir, member: &Member) -> Result<bool> {
    // Nothing here shows a process of another node.
    if member.node.is_some() && member.node != own_node(pool)? {
        return Ok(false);
    }
    let (name, pid) = (&member.name, member.pid);
    if LifeLock::alive(pool, name.as_str())? {
        return Ok(false);
    }
    let what = format!("apparatus {name}");
    let failed = |why: io::Error| Error::because(what.clone(), why);
    let Some(origin) = member.origin else {
        return Ok(true);
    };
    let here = Anchor::of_existing(pool)
        .map_err(failed)?
        .map(|anchor| anchor.identity());
    if here.transpose().map_err(failed)? == Some(origin.directory)
        || process_has_ended(origin, pid).map_err(failed)?
    {
        return Ok(true);
    }
    let why = format!(
        "may still run (process {pid}): it was started in another directory than the one that is here now, and cannot be seen from it"
    );
    Err(Error::new(ErrorKind::Busy, what, why).hint(format!(
        "put that directory back in place, or end the process (kill {pid}) and try again"
    )))
}

/// Returns this machine's name among the nodes of the pool, if it has one.
fn own_node(pool: &PoolDir) -> Result<Option<Name>> {
    Ok(Place::read(pool)?
        .and_then(|place| place.node)
        .map(|node| node.name))
}

/// Returns a process that has a life lock in this pool, if there is one, whatever the database contains. Files of the run directory show its name.
///
/// # Errors
/// Fails when a directory or a lock cannot be read.
pub(super) fn any_claimed(pool: &PoolDir) -> Result<Option<Claimed>> {
    if let Some(name) = named(pool)? {
        return Ok(Some(Claimed::Named(name)));
    }
    let nameless = anchor::any_process_lives(pool)
        .map_err(|why| Error::because(format!("pool directory {}", pool.display()), why))?;
    Ok(nameless.then_some(Claimed::Nameless))
}

fn named(pool: &PoolDir) -> Result<Option<String>> {
    let run = pool.run();
    let entries = match fs::read_dir(&run) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| Error::because(run.display().to_string(), error))?,
    };
    for entry in entries.flatten() {
        let file = PathBuf::from(entry.file_name());
        if file.extension().is_none_or(|extension| extension != "life") {
            continue;
        }
        let name = file
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if LifeLock::alive(pool, &name)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Returns this process.
///
/// # Errors
/// Fails when `/proc` cannot be read.
pub(super) fn this_process() -> io::Result<Process> {
    Ok(Process {
        epoch: boot_epoch().map_err(io::Error::other)?,
        namespace: sys::pid_namespace()?,
        started: sys::start_of_process(std::process::id())?.unwrap_or(0),
    })
}

/// Returns whether a process with the id `pid` lives, or `None` when it is not visible from here, because it is in another container.
///
/// # Errors
/// Fails when `/proc` cannot be read.
pub(super) fn process_lives(process: Process, pid: u32) -> io::Result<Option<bool>> {
    if process.epoch != boot_epoch().map_err(io::Error::other)? {
        return Ok(Some(false));
    }
    if process.namespace != sys::pid_namespace()? {
        return Ok(None);
    }
    Ok(Some(sys::runs_since(pid, process.started)?))
}
