//! [`ChangeStore`] of this store.

use crate::model::change::{Cancel, ChangeRecord, Commit, NewChange};
use crate::model::error::Result;
use crate::model::records::Area;
use crate::model::units::{CacheEpoch, ChangeId, DiskId, Generation, MembershipVersion, Term};
use crate::store::ChangeStore;
use crate::store::memory::state::State;
use crate::store::memory::{MemoryStore, Shared};
use std::collections::BTreeSet;
use std::sync::Arc;

impl ChangeStore for MemoryStore {
    fn raise_term(&mut self) -> Result<Term> {
        self.write(|state, _| {
            state.header.term.0 += 1;
            Ok(state.header.term)
        })
    }

    fn prepare(&mut self, term: Term, change: &NewChange) -> Result<ChangeId> {
        self.write(|state, epoch| state.prepare(term, change, epoch))
    }

    fn commit(&mut self, term: Term, id: ChangeId, membership: MembershipVersion) -> Result<Commit> {
        self.write(|state, epoch| state.commit(term, id, membership, epoch))
    }

    fn cancel(&mut self, id: ChangeId) -> Result<Cancel> {
        self.write(|state, _| state.cancel(id))
    }

    fn change(&mut self, id: ChangeId) -> Result<Option<ChangeRecord>> {
        Ok(self.read().changes.get(&id).map(|stored| stored.record.clone()))
    }

    fn unfinished(&mut self) -> Result<Vec<ChangeRecord>> {
        Ok(self
            .read()
            .unfinished()
            .map(|stored| stored.record.clone())
            .collect())
    }

    fn persist(&mut self, ids: &[ChangeId]) -> Result<()> {
        self.write(|state, _| state.persist(ids))?;
        self.sync();
        Ok(())
    }

    fn recover_epoch(&mut self, epoch: CacheEpoch) -> Result<Vec<ChangeId>> {
        let mut shared = self.lock();
        let mut state = State::clone(&shared.visible);
        let (undone, changed) = state.recover(epoch)?;
        shared.epoch = epoch;
        if changed {
            let state = Arc::new(state);
            *shared = Shared {
                epoch,
                visible: Arc::clone(&state),
                durable: state,
                unsynced: Vec::new(),
                print: None,
                risk: None,
            };
        }
        Ok(undone)
    }

    fn freeable(&mut self, oldest: Generation) -> Result<Vec<Area>> {
        Ok(self.read().freeable(oldest))
    }

    fn free_quarantine_except(&mut self, oldest: Generation, disks: &BTreeSet<DiskId>) -> Result<Vec<Area>> {
        self.write(|state, _| Ok(state.free_quarantine(oldest, disks)))
    }
}
