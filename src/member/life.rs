//! Whether a member's process may still live, and how that is known.
//!
//! A life lock on the pool's directory that is free proves the end of the process that had it, because it cannot be deleted. It proves nothing
//! when the directory is not the one that the member locked: its files were moved, copied or restored to another. Then the process itself is looked for.

use super::anchor::{self, Anchor, Identity};
use super::lock::LifeLock;
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::sys;
use serde::{Deserialize, Serialize};
use std::io;

/// Where a member comes from: kept in the store when it joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The pool's directory that it has locked: device and inode.
    directory: Identity,
    /// Its PID namespace.
    namespace: u64,
    /// When its process started, in clock ticks since the boot.
    started: u64,
}

impl Origin {
    /// Of this process, in this pool.
    ///
    /// # Errors
    /// When the directory or `/proc` cannot be read.
    pub fn here(pool: &PoolDir) -> io::Result<Self> {
        let directory = Anchor::of_existing(pool)?.map_or(Ok((0, 0)), |anchor| anchor.identity())?;
        Ok(Self {
            directory,
            namespace: sys::pid_namespace()?,
            started: sys::start_of_process(std::process::id())?.unwrap_or(0),
        })
    }

    /// Whether the process of this number, which came from there, is known to have ended.
    fn has_ended(self, pid: u32) -> io::Result<bool> {
        Ok(self.namespace == sys::pid_namespace()? && sys::start_of_process(pid)? != Some(self.started))
    }
}

/// Whether the process of a member lives: its name, its process and where it came from, as the store has them.
///
/// # Errors
/// `Kind::Busy` when it may live, and cannot be seen from here; when a lock cannot be read.
pub fn lives(pool: &PoolDir, name: &Name, pid: u32, origin: Option<Origin>) -> Result<bool> {
    if LifeLock::alive(pool, name.as_str())? {
        return Ok(true);
    }
    let what = format!("apparatus {name}");
    let failed = |why: io::Error| Error::because(what.clone(), why);
    let Some(origin) = origin else {
        return Ok(false);
    };
    let here = Anchor::of_existing(pool)
        .map_err(failed)?
        .map(|anchor| anchor.identity());
    if here.transpose().map_err(failed)? == Some(origin.directory) || origin.has_ended(pid).map_err(failed)? {
        return Ok(false);
    }
    let why = format!(
        "may still run (process {pid}): it was started in another directory than the one that is here now, and cannot be seen from it"
    );
    Err(Error::new(Kind::Busy, what, why).hint(format!(
        "put that directory back in place, or end the process (kill {pid}) and try again"
    )))
}

/// Whether any process has a life lock in this pool, whatever the database says.
///
/// # Errors
/// When the directory cannot be read.
pub fn anybody_lives(pool: &PoolDir) -> Result<bool> {
    anchor::anybody_lives(pool)
        .map_err(|why| Error::because(format!("pool directory {}", pool.path().display()), why))
}
