//! What the production driver and the production data path are given instead of the machine: a store, a cluster, connections, disks and a clock
//! that belong to the simulation.
//! Each operation takes virtual time, in which anything else may happen, and is a place at which the process may be killed.

mod cluster;
mod device;
mod entry;
mod environment;
mod ledger;
mod store;
mod transport;

use super::thread::{me, pause, world};
use super::{Delay, World, driver};
use apparatus::controller::pool::PoolHandle;
use apparatus::model::dir::PoolDir;
use apparatus::model::error::{Error, Result};
use apparatus::store::{OpenStore, Store};
use cluster::SimCluster;
use environment::SimEnvironment;
use std::sync::Arc;
use store::SimStore;

pub use entry::SimEntry;
pub use environment::{labelled, open_device};
pub use ledger::SimLedgers;

/// The pool, as a driver is given it.
pub fn pool() -> PoolHandle {
    let open_store: OpenStore = Arc::new(|| {
        let store = ask(|world| world.store.clone())?;
        Ok(Box::new(SimStore::new(store)) as Box<dyn Store>)
    });
    PoolHandle {
        node: None,
        dir: PoolDir::new("/pool"),
        cluster: Arc::new(SimCluster),
        open_store,
        environment: Arc::new(SimEnvironment::new()),
    }
}

/// Uses the world on behalf of a process that has not been killed.
fn ask<T>(job: impl FnOnce(&mut World) -> T) -> Result<T> {
    world(job).ok_or_else(|| Error::failed("process", "has been killed"))
}

/// P11: between the request to hold and the release, a driver does only the copy, the commit and what trouble asks for.
fn not_in_a_hold(what: &str) {
    world(|world| {
        let held = world.drivers.get(&me()).is_some_and(driver::Driver::holds);
        world.must(!held, || format!("P11: {what} inside a hold"));
    });
}

/// A step that reads: it mostly takes no time.
fn glance() {
    if world(|world| world.rng.permille(200)) == Some(true) {
        pause(Delay::Step);
    }
}
