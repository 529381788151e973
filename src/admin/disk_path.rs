//! The path of a disk on this machine alone: in a pool of several nodes a device may have another name on each.

use super::disk::check_path;
use super::select;
use crate::cluster::{self, Role, WaitLimit};
use crate::controller::pool;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::store::{OwnNode, Place, TableStore};
use std::path::Path;
use std::time::Duration;

/// Returns the description of this node that has the path; `None` when nothing has to change. The path in the disk's record is no path of this
/// machine alone.
///
/// # Errors
/// Fails when the pool's machines have no names, when there is no such disk, and when the path does not lead to it.
pub fn check(pool: &PoolDir, store: &mut dyn TableStore, disk: &str, path: &Path) -> Result<Option<Place>> {
    let Some(place) = Place::read(pool)?.filter(|place| place.node.is_some()) else {
        return Err(Error::usage(
            "--here",
            "is for pools whose machines are nodes, and this one has no names for them",
        )
        .hint("set the path for all processes of the pool: without --here"));
    };
    let snapshot = store.snapshot()?;
    let record = select::disk(&snapshot.disks, disk)?;
    check_path(&snapshot, record, path)?;
    let node = place.node.clone().map(|own| {
        let mut paths = own.paths;
        match path == record.path {
            true => _ = paths.remove(&record.uuid),
            false => _ = paths.insert(record.uuid, path.to_owned()),
        }
        OwnNode { paths, ..own }
    });
    let new = Place {
        node,
        ..place.clone()
    };
    Ok((new != place).then_some(new))
}

/// Sets the path. Apparatuses of this machine that have not opened the disk try it at their next attempt, a few seconds later at the latest. A disk that
/// they have open stays so.
///
/// # Errors
/// As for [`check`]; fails when another controller holds the lock, and when the description cannot be written.
pub fn set(pool: &PoolDir, disk: &str, path: &Path, within: Option<Duration>) -> Result<()> {
    // Without the disks of a controller: the one that is named may be open at its former path there.
    let cluster = cluster::open(pool)?;
    let _leadership = cluster.lead(Role::Command, "disk set", WaitLimit::of(within))?;
    let mut store = pool::open(pool)?;
    store.own()?;
    let changed = check(pool, &mut *store, disk, path)?;
    changed.map_or(Ok(()), |place| place.write(pool))
}
