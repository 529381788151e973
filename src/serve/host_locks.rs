//! Who decides about the file locks of hosts: the kernel, and nobody while the pool has several nodes.

use crate::controller::pool::PoolHandle;
use crate::locks::{Arbiter, OneNode, RunFiles};
use crate::model::names::Name;
use crate::store::{OpenStore, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the number of nodes is taken as known.
const FRESH: Duration = Duration::from_secs(1);

/// Returns the arbiter of an apparatus with these lock files.
pub(super) fn arbiter(pool: &PoolHandle, files: RunFiles) -> Box<dyn Arbiter> {
    let Some(own) = &pool.node else {
        return Box::new(files);
    };
    let mut others = Others {
        own: own.name.clone(),
        open_store: Arc::clone(&pool.open_store),
        store: None,
        last: None,
    };
    Box::new(OneNode::new(files, Box::new(move || others.any())))
}

/// The other nodes of the pool, as the store has them.
struct Others {
    own: Name,
    open_store: OpenStore,
    store: Option<Box<dyn Store>>,
    last: Option<(Instant, bool)>,
}

impl Others {
    /// Returns whether there are any, or that cannot be determined.
    fn any(&mut self) -> bool {
        match self.last {
            Some((since, known)) if since.elapsed() < FRESH => known,
            _ => {
                let any = self.read();
                self.last = Some((Instant::now(), any));
                any
            }
        }
    }

    fn read(&mut self) -> bool {
        if self.store.is_none() {
            self.store = (self.open_store)().ok();
        }
        let nodes = self.store.as_mut().map(|store| store.nodes());
        match nodes {
            Some(Ok(nodes)) => nodes.iter().any(|node| node.name != self.own),
            _ => {
                self.store = None;
                true
            }
        }
    }
}
