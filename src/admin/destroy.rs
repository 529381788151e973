//! Destroys a pool: erases the labels of its disks, and removes its database.

use super::backup::check_nobody_lives;
use super::disk::{label_left, wipe};
use crate::controller::Controller;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::records::Snapshot;
use crate::store::{self, TableStore};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A disk of a pool that was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FreedDisk {
    /// Its name in the pool.
    pub disk: String,
    /// Its path.
    pub path: PathBuf,
    /// What became of its label, if it could not be erased.
    pub label_left: Option<String>,
}

/// Checks that no apparatus serves the pool. Returns what would be lost.
///
/// # Errors
/// Fails with `Busy` and the name of an apparatus that serves; returns the errors of the store.
pub fn check(pool: &PoolDir, store: &mut dyn TableStore) -> Result<Snapshot> {
    check_nobody_lives(pool, "by the pool that would be destroyed")?;
    store.snapshot()
}

/// Erases the labels, then the database, then the other files of the pool in its directory. An
/// interrupted destruction is completed by another. Image files stay: their owner may still need
/// them. `pool` is the directory by its name, which is removed, too, if nothing else is in it.
///
/// # Errors
/// Fails with `Busy` and the name of an apparatus that serves, and when a file cannot be removed.
pub fn destroy(mut controller: Controller, pool: &PoolDir) -> Result<Vec<FreedDisk>> {
    let snapshot = check(pool, controller.store())?;
    let free = |record| FreedDisk {
        label_left: wipe(record, &snapshot.header).err().map(|why| label_left(&why)),
        disk: record.name.to_string(),
        path: snapshot.header.path_of(record).to_owned(),
    };
    let freed = snapshot.disks.iter().map(free).collect();
    let failed = |why: io::Error| Error::because(format!("pool {}", pool.path().display()), why);
    store::destroy(pool)?;
    drop(controller);
    for dir in [pool.archive(), pool.times(), pool.run()] {
        gone(fs::remove_dir_all(dir)).map_err(failed)?;
    }
    remove_if_empty(pool.path()).map_err(failed)?;
    Ok(freed)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the directory unless it contains other files.
fn remove_if_empty(dir: &Path) -> io::Result<()> {
    match gone(fs::remove_dir(dir)) {
        Err(why) if why.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}
