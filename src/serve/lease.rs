//! The lease of this apparatus, where the pool's machines have names: another node can join such a pool at any time.

use crate::agent::lease::{Renewer, Renewing};
use crate::cluster::{OwnEntry, SharedState};
use crate::controller::pool::PoolHandle;
use crate::datapath::Runtime;
use crate::model::error::Result;
use crate::model::member::Joined;
use crate::store::leases::leases;
use std::sync::Arc;

/// Begins to renew the lease, before a host is served.
///
/// # Errors
/// Fails if it cannot be renewed at all; returns the errors of the store.
pub(super) fn start(
    pool: &PoolHandle,
    joined: &Joined,
    (shared, entry): (&SharedState, &Arc<dyn OwnEntry>),
    runtime: &Arc<dyn Runtime>,
) -> Result<Option<Renewer>> {
    let Some(node) = &pool.node else {
        return Ok(None);
    };
    let Some(leases) = leases(&pool.dir)? else {
        return Ok(None);
    };
    // It has just joined by a transaction, so nodes that were there before that are seen.
    let holds = (pool.open_store)()?.nodes()?.len() > 1;
    let runtime = Arc::clone(runtime);
    let renewing = Renewing {
        leases,
        members: Arc::clone(&shared.members),
        entry: Arc::clone(entry),
        slot: joined.member.slot,
        node: node.name.clone(),
        length_us: u64::try_from(node.lease().as_micros()).unwrap_or(u64::MAX),
        go_on: Box::new(move || runtime.renewed()),
    };
    Renewer::start(renewing, holds).map(Some)
}
