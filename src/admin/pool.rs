//! Creates a pool and sets its options.

use crate::cluster;
use crate::controller::Controller;
use crate::controller::node;
use crate::controller::pool::{refuse_deleted, refuse_file};
use crate::controller::space;
use crate::model::alloc::Policy;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::options::{Options, Thresholds};
use crate::model::records::NewPool;
use crate::store::{self, EtcdPlace, OwnNode};

/// Creates a pool, with its metadata in its directory alone or in etcd too, and with this machine as its first node if it has a name.
///
/// # Errors
/// Fails when there is one already, the directory cannot be created, the node's certificates cannot be used, or etcd does not answer.
pub fn create(
    pool: &PoolDir,
    new: impl Into<NewPool>,
    etcd: Option<(EtcdPlace, Option<OwnNode>)>,
) -> Result<()> {
    check_absent(pool)?;
    let Some((etcd, own)) = etcd else {
        return store::create(pool, new);
    };
    own.as_ref().map_or(Ok(()), node::check)?;
    let epoch = cluster::open(pool)?.epoch()?;
    let record = own.as_ref().map(|own| node::record(own, epoch));
    store::create_in_etcd(pool, epoch, new, (etcd, own))?;
    match record {
        Some(record) => store::open(pool, epoch)?.set_node(&record),
        None => Ok(()),
    }
}

/// Checks that there is no pool yet.
///
/// # Errors
/// Fails when there is one, or apparatuses still use one that was deleted.
pub fn check_absent(pool: &PoolDir) -> Result<()> {
    refuse_file(pool)?;
    let what = || format!("pool {}", pool.display());
    match pool.database().try_exists() {
        Ok(false) => {
            refuse_deleted(pool, ErrorKind::Busy)?;
            super::backup::check_nobody_lives(pool, "by a database that was deleted").map_err(|error| {
                error.hint("save its database first: vctl pool backup FILE; then vctl apparatus stop NAME, vctl pool restore FILE")
            })
        }
        Ok(true) => {
            Err(Error::failed(what(), "there is a pool here already").hint("look at it: vctl pool show"))
        }
        Err(error) => Err(Error::because(what(), error)),
    }
}

/// Changes of the pool's options; `None` keeps a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionsChange {
    /// The default order in which disks are filled.
    pub policy: Option<Policy>,
    /// Percentage of use from which the pool is nearly full.
    pub nearfull: Option<u8>,
    /// Percentage of use from which the pool is full.
    pub full: Option<u8>,
}

impl OptionsChange {
    /// Applies the change to the old options.
    ///
    /// # Errors
    /// Fails with `Usage` when the thresholds are not in order.
    pub fn from(self, old: Options) -> Result<Options> {
        let nearfull = self.nearfull.unwrap_or(old.thresholds.nearfull());
        let full = self.full.unwrap_or(old.thresholds.full());
        Ok(Options {
            policy: self.policy.unwrap_or(old.policy),
            thresholds: Thresholds::new(nearfull, full)?,
        })
    }
}

/// Sets the pool's options, and checks the fullness anew. Returns false when nothing has to change.
///
/// # Errors
/// Returns the errors of the store; fails when the thresholds are not in order.
pub fn set_options(controller: &mut Controller, change: OptionsChange) -> Result<bool> {
    let store = controller.store();
    let old = store.options()?;
    let new = change.from(old)?;
    if new == old {
        return Ok(false);
    }
    store.set_options(&new)?;
    space::watch(store);
    Ok(true)
}
