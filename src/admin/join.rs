//! Makes this machine a node of a pool whose metadata is in etcd.

use super::pool::check_absent;
use crate::cluster;
use crate::controller::node;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::store::{self, Place};

/// Creates the pool's directory on this machine, and fills its database from the log. Nothing is left if it fails.
///
/// # Errors
/// Fails when there is a pool already, the node's certificates cannot be used, etcd does not answer or has no such pool, and when the pool
/// takes no such node: see [`node::admit`].
pub fn join(pool: &PoolDir, place: &Place) -> Result<()> {
    check_absent(pool)?;
    let Some(own) = &place.node else {
        return Err(Error::usage("node", "has no name").hint("name it: --node NODE"));
    };
    node::check(own)?;
    let epoch = cluster::open(pool)?.epoch()?;
    store::join(pool, place)?;
    let recorded = store::open(pool, epoch).and_then(|mut store| {
        node::admit(own, &store.nodes()?, store.header()?.access)?;
        store.set_node(&node::record(own, epoch))
    });
    recorded.inspect_err(|_| {
        // The error says why; the next attempt says so if a file could not be removed.
        let _ = store::leave(pool);
    })
}
