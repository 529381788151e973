//! A store in memory, for tests, which loses power as SQLite does: the writes of a transaction are visible at once to every
//! handle, and a power loss keeps some prefix of the transactions since the last sync, never less than what was synced.

mod members;
mod placements;
mod roles;
mod state;
#[cfg(test)]
mod tests;

pub use placements::{Extent, Placements};

use crate::model::error::Result;
use crate::model::records::PoolHeader;
use crate::model::units::CacheEpoch;
use state::State;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle on a store. Its clones are handles on the same store, like connections of several processes.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Clone, Debug)]
struct Shared {
    epoch: CacheEpoch,
    visible: Arc<State>,
    durable: Arc<State>,
    /// The states since the durable one; the visible one is the last.
    unsynced: Vec<Arc<State>>,
    /// Fingerprint of the visible state, once it was computed.
    print: Option<u64>,
    /// Fingerprint of all states that a power loss may leave, once it was computed.
    risk: Option<u64>,
}

impl MemoryStore {
    /// Returns an empty pool, in this epoch.
    #[must_use]
    pub fn new(header: PoolHeader, epoch: CacheEpoch) -> Self {
        let state = Arc::new(State::new(header));
        let shared = Shared {
            epoch,
            visible: Arc::clone(&state),
            durable: state,
            unsynced: Vec::new(),
            print: None,
            risk: None,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Returns an independent store with the same state.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            shared: Arc::new(Mutex::new(self.lock().clone())),
        }
    }

    /// Returns the number of transactions that a power loss may take.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// Loses power and begins this epoch: of the transactions that were not synced, the first `keep` stay.
    pub fn power_loss(&self, keep: usize, epoch: CacheEpoch) {
        let mut shared = self.lock();
        let kept = keep
            .checked_sub(1)
            .and_then(|last| shared.unsynced.get(last).or(shared.unsynced.last()));
        let state = kept.map_or_else(|| Arc::clone(&shared.durable), Arc::clone);
        *shared = Shared {
            epoch,
            visible: Arc::clone(&state),
            durable: state,
            unsynced: Vec::new(),
            print: None,
            risk: None,
        };
    }

    /// Returns a hash of the visible state: stores that give the same answers have the same hash.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut shared = self.lock();
        if let Some(print) = shared.print {
            return print;
        }
        let print = hash_of(&*shared.visible);
        *shared.print.insert(print)
    }

    /// Returns a hash of the set of states that a power loss may leave.
    #[must_use]
    pub fn fingerprint_at_risk(&self) -> u64 {
        let mut shared = self.lock();
        if let Some(print) = shared.risk {
            return print;
        }
        let kept = shared.unsynced.iter().chain([&shared.durable]);
        let mut prints: Vec<u64> = kept.map(|state| hash_of(&**state)).collect();
        prints.sort_unstable();
        prints.dedup();
        *shared.risk.insert(hash_of(&prints))
    }

    /// Returns the visible table.
    #[must_use]
    pub fn placements(&self) -> Arc<Placements> {
        Arc::clone(&self.lock().visible.placements)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Arc<State> {
        Arc::clone(&self.lock().visible)
    }

    /// Runs one transaction; nothing changes if it fails.
    fn write<T>(&self, transaction: impl FnOnce(&mut State, CacheEpoch) -> Result<T>) -> Result<T> {
        let mut shared = self.lock();
        let mut state = State::clone(&shared.visible);
        let answer = transaction(&mut state, shared.epoch)?;
        shared.visible = Arc::new(state);
        (shared.print, shared.risk) = (None, None);
        let visible = Arc::clone(&shared.visible);
        shared.unsynced.push(visible);
        Ok(answer)
    }

    fn sync(&self) {
        let mut shared = self.lock();
        shared.durable = Arc::clone(&shared.visible);
        shared.unsynced.clear();
        shared.risk = None;
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
