//! What a host's flush calls, so that the changes its data rests on survive power loss too.

use super::Runtime;
use super::server::OpenStore;
use crate::change::harden::{Who, harden};
use crate::data::Harden;
use crate::error::{Error, Result};
use crate::member::MemberTable;
use crate::store::Store;
use crate::units::Generation;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Hardens committed changes for an apparatus. Any thread may ask; they take turns, and who finds that another's turn did
/// its work does nothing.
pub struct Hardener {
    open: OpenStore,
    store: Mutex<Option<Box<dyn Store>>>,
    members: Arc<MemberTable>,
    runtime: OnceLock<Weak<dyn Runtime>>,
}

impl Hardener {
    /// Opens its own connection to the store when it is first needed. Of use once it [`serves`](Self::serve).
    #[must_use]
    pub fn new(open: OpenStore, members: Arc<MemberTable>) -> Arc<Self> {
        Arc::new(Self {
            open,
            store: Mutex::new(None),
            members,
            runtime: OnceLock::new(),
        })
    }

    /// The data path whose disks it flushes. Once.
    pub fn serve(&self, runtime: &Arc<dyn Runtime>) {
        // A second data path has no business here, and the first stays.
        let _ = self.runtime.set(Arc::downgrade(runtime));
    }

    fn take_turn(&self, kept: &mut Option<Box<dyn Store>>, runtime: &dyn Runtime) -> Result<()> {
        let mut store = match kept.take() {
            Some(store) => store,
            None => (self.open)()?,
        };
        harden(&mut *store, runtime.disks(), &self.members, Who::Apparatus)?;
        // Kept only if it works: after a failure the next turn opens it anew.
        *kept = Some(store);
        Ok(())
    }
}

impl Harden for Hardener {
    fn harden(&self, generation: Generation) -> Result<()> {
        let runtime = self.runtime.get().and_then(Weak::upgrade);
        let runtime = runtime.ok_or_else(|| Error::failed("flush", "the apparatus is not serving"))?;
        let mut kept = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if self.members.hardened() >= generation {
            return Ok(());
        }
        self.take_turn(&mut kept, &*runtime)?;
        let found = self.members.hardened();
        if found >= generation {
            Ok(())
        } else {
            Err(Error::failed(
                "store",
                format!("generation {generation} is in use, but it has only {found}"),
            ))
        }
    }
}
