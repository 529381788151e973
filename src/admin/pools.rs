//! The pools that processes of this machine use now.

use super::apparatus;
use crate::blockdev::with_timeout;
use crate::cluster;
use crate::controller::pool;
use crate::model::dir::{DATABASE, PoolDir};
use crate::model::error::Result;
use crate::model::records::DiskAccess;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the directory of the named pool may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A pool of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownPool {
    /// Its directory.
    pub path: PathBuf,
    /// The apparatuses that live.
    pub apparatuses: Vec<String>,
    /// Number of disks.
    pub disks: usize,
    /// How its disks are read and written.
    pub access: DiskAccess,
    /// Number of volumes.
    pub volumes: usize,
    /// Why it cannot be read, if so.
    pub fault: Option<String>,
}

/// Returns the pools that processes use, as far as this user may see them, and the `named` pool if it exists; each once, by path.
#[must_use]
pub fn known(named: &PoolDir) -> Vec<KnownPool> {
    let mut dirs = cluster::pools_in_use();
    if with_timeout::ask(named.path(), PATIENCE, exists(named.path())).unwrap_or(false) {
        dirs.insert(named.path().to_owned());
    }
    dirs.into_iter().map(look).collect()
}

fn exists(dir: &Path) -> impl FnOnce() -> bool + Send + 'static {
    let database = dir.join(DATABASE);
    move || database.exists()
}

fn look(path: PathBuf) -> KnownPool {
    // The opening does not wait for a file system that does not answer.
    read(&PoolDir::new(&path)).unwrap_or_else(|error| KnownPool {
        path,
        apparatuses: Vec::new(),
        disks: 0,
        access: DiskAccess::default(),
        volumes: 0,
        fault: Some(error.why().to_owned()),
    })
}

fn read(dir: &PoolDir) -> Result<KnownPool> {
    let mut store = pool::open(dir)?;
    let (_, members) = store.members()?;
    let names = members.into_iter().map(|member| member.name);
    let alive = names.filter(|name| apparatus::runs(dir, name).unwrap_or(false));
    Ok(KnownPool {
        path: dir.path().to_owned(),
        apparatuses: alive.map(|name| name.to_string()).collect(),
        access: store.header()?.access,
        disks: store.disks()?.len(),
        volumes: store
            .volumes()?
            .iter()
            .filter(|volume| !volume.name.is_hidden())
            .count(),
        fault: None,
    })
}
