//! What a host's flush calls, so that the changes its data rests on survive power loss too.

use super::Runtime;
use super::server::OpenStore;
use crate::change::harden::{Who, concerns, harden};
use crate::data::Harden;
use crate::error::{Error, Result};
use crate::member::MemberTable;
use crate::store::{ChangeRecord, ChangeState, Store};
use crate::units::{Generation, VolumeId};
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

    /// Hardens what is committed; where that cannot be, sees whether the volume can do without.
    fn take_turn(
        &self,
        kept: &mut Option<Box<dyn Store>>,
        runtime: &dyn Runtime,
        volume: VolumeId,
        generation: Generation,
    ) -> Result<()> {
        let mut store = match kept.take() {
            Some(store) => store,
            None => (self.open)()?,
        };
        let hardened = harden(&mut *store, runtime.disks(), &self.members, Who::Apparatus)
            .and_then(|_| self.has_hardened(generation));
        if let Err(why) = hardened
            && rests_on_unhardened(&mut *store, volume, generation)?
        {
            return Err(why);
        }
        // Kept only if it works: after a failure the next turn opens it anew.
        *kept = Some(store);
        Ok(())
    }

    fn has_hardened(&self, generation: Generation) -> Result<()> {
        let found = self.members.hardened();
        if found >= generation {
            return Ok(());
        }
        Err(Error::failed(
            "store",
            format!("generation {generation} is in use, but it has only {found}"),
        ))
    }
}

/// Whether a committed change that is not hardened, and led to this generation or an earlier one, has to do with the volume.
fn rests_on_unhardened(store: &mut dyn Store, volume: VolumeId, generation: Generation) -> Result<bool> {
    let current = store.header()?.generation;
    let unfinished = store.unfinished()?;
    let concerned = |record: &ChangeRecord| {
        let led_to = record.change.difference.from.next();
        record.state == ChangeState::Committed && led_to <= generation && concerns(record, volume)
    };
    Ok(current < generation || unfinished.iter().any(concerned))
}

impl Harden for Hardener {
    fn harden(&self, volume: VolumeId, generation: Generation) -> Result<()> {
        let runtime = self.runtime.get().and_then(Weak::upgrade);
        let runtime = runtime.ok_or_else(|| Error::failed("flush", "the apparatus is not serving"))?;
        let mut kept = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if self.members.hardened() >= generation {
            return Ok(());
        }
        self.take_turn(&mut kept, &*runtime, volume, generation)
    }
}
