//! Makes a pool whose metadata is in etcd one of this machine alone.

use super::backup::{self, check_no_job_runs, check_nobody_lives};
use crate::cluster::{self, Role, WaitLimit};
use crate::controller::{Controller, Wait};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::records::Snapshot;
use crate::store::{self, Place};
use serde::Serialize;
use std::time::Duration;

/// What a rescue finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rescue {
    /// The members of the etcd cluster that the pool leaves.
    pub endpoints: Vec<String>,
    /// Why this machine's copy is used as it is: etcd does not answer, or has another state.
    pub copy_used_because: Option<String>,
    /// Its layout number in this machine's copy.
    pub layout: u64,
    /// The highest layout number of a disk's label.
    pub labels_layout: u64,
    /// Disks whose labels could not be read.
    pub unread: Vec<String>,
}

/// Returns what a rescue would do.
///
/// # Errors
/// Fails when the pool has no metadata in etcd, and when this machine's copy is older than the disks and that is not `accepted`.
pub fn inspect(pool: &PoolDir, accepted: bool) -> Result<Rescue> {
    let what = || format!("pool {}", pool.display());
    let mut copy = store::open_copy(pool, cluster::open(pool)?.epoch()?)?;
    let Some(place) = Place::read(pool)? else {
        return Err(Error::failed(
            what(),
            "has its metadata in its directory alone: there is nothing to rescue",
        ));
    };
    let unreachable = store::unreachable(pool)?;
    let snapshot: Snapshot = copy.snapshot()?;
    let (labels_layout, unread) = backup::read_labels(&snapshot);
    let layout = snapshot.header.layout;
    if unreachable.is_some() && labels_layout > layout && !accepted {
        let why = format!(
            "has a copy of its metadata that is older than the disks: its layout is {layout}, theirs {labels_layout}"
        );
        return Err(Error::failed(what(), why).hint(
            "bring etcd back, or rescue the pool where a newer copy is; with --accept-older-layout, data that was written or moved since then will read wrong",
        ));
    }
    Ok(Rescue {
        endpoints: place.etcd.endpoints,
        copy_used_because: unreachable.map(|why| why.to_string()),
        layout,
        labels_layout,
        unread,
    })
}

/// Makes the pool one of this machine alone. Its keys stay in etcd.
///
/// # Errors
/// Returns the errors of [`inspect`]; fails when another controller holds the lock, an apparatus runs, or a file cannot be written.
pub fn rescue(pool: &PoolDir, accepted: bool, within: Option<Duration>) -> Result<Rescue> {
    let mut found = inspect(pool, accepted)?;
    let cluster = cluster::open(pool)?;
    let leadership = cluster.lead(Role::Command, "pool rescue", WaitLimit::of(within))?;
    check_no_job_runs(pool)?;
    check_nobody_lives(pool, "by the metadata in etcd")?;
    let stale = store::rescue(pool, cluster.epoch()?, found.labels_layout)?;
    found.copy_used_because = stale.map(|why| why.to_string());
    drop(leadership);
    // The copies on the disks are of the former history until then.
    Controller::acquire(pool, "pool rescue", Wait::For(within))?.persist()?;
    Ok(found)
}
