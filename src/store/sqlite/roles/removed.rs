//! [`RemovedStore`] of this store.

use crate::model::error::Result;
use crate::model::records::Area;
use crate::model::removed::RemovedVolume;
use crate::model::units::{ChangeId, Timestamp};
use crate::store::RemovedStore;
use crate::store::sqlite::{SqliteStore, removed};

impl RemovedStore for SqliteStore {
    fn removed(&mut self) -> Result<Vec<RemovedVolume>> {
        self.read(|db, _| removed::all(db))
    }

    fn give_away(&mut self, areas: &[Area]) -> Result<()> {
        let lost = self.write(|db| {
            let lose = |lost, area: &Area| Ok(removed::lose(db, *area, None)? | lost);
            areas.iter().try_fold(false, lose)
        })?;
        self.sync_if(lost)
    }

    fn forget_removed(&mut self, changes: &[ChangeId]) -> Result<()> {
        let forgotten = self.write(|db| removed::forget(db, |removed| changes.contains(&removed.change)))?;
        self.sync_if(forgotten)
    }

    fn forget_oldest_removed(&mut self, most: usize, since: Timestamp) -> Result<()> {
        if !self.read(|db, _| removed::has_older(db, most, since))? {
            return Ok(());
        }
        let forgotten = self.write(|db| removed::forget_oldest(db, most, since))?;
        self.sync_if(forgotten)
    }
}

impl SqliteStore {
    /// Makes what a transaction has taken from removed volumes durable, before anything is written there.
    pub(in crate::store::sqlite) fn sync_if(&mut self, lost: bool) -> Result<()> {
        if lost { self.log.sync() } else { Ok(()) }
    }
}
