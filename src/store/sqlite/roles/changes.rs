//! [`ChangeStore`] of this store.

use crate::model::change::{Cancel, ChangeRecord, Commit, NewChange};
use crate::model::error::Result;
use crate::model::records::Area;
use crate::model::units::{CacheEpoch, ChangeId, DiskId, Generation, MembershipVersion, Term};
use crate::store::ChangeStore;
use crate::store::sqlite::{SqliteStore, change, recover, space};
use std::collections::BTreeSet;

impl ChangeStore for SqliteStore {
    fn raise_term(&mut self) -> Result<Term> {
        let sql = "UPDATE pool SET term = term + 1 RETURNING term";
        self.write(|db| Ok(Term(db.query_row(sql, [], |row| row.get(0))?)))
    }

    fn prepare(&mut self, term: Term, change: &NewChange) -> Result<ChangeId> {
        let epoch = self.epoch;
        self.write(|db| change::prepare(db, term, change, epoch))
    }

    fn commit(&mut self, term: Term, id: ChangeId, membership: MembershipVersion) -> Result<Commit> {
        let epoch = self.epoch;
        self.write(|db| change::commit(db, term, id, membership, epoch))
    }

    fn cancel(&mut self, id: ChangeId) -> Result<Cancel> {
        self.write(|db| change::cancel(db, id))
    }

    fn change(&mut self, id: ChangeId) -> Result<Option<ChangeRecord>> {
        self.read(|db, _| change::record(db, id))
    }

    fn unfinished(&mut self) -> Result<Vec<ChangeRecord>> {
        change::unfinished(self.current()?)
    }

    fn persist(&mut self, ids: &[ChangeId]) -> Result<()> {
        let latest = self.write(|db| change::begin_persisting(db, ids))?;
        self.log.sync()?;
        match latest {
            None => Ok(()),
            Some(latest) => self.write(|db| change::end_persisting(db, latest)),
        }
    }

    fn lost(&self) -> Option<String> {
        self.log.lost()
    }

    fn recover_epoch(&mut self, epoch: CacheEpoch) -> Result<Vec<ChangeId>> {
        let recovered = self.write(|db| recover::recover(db, epoch))?;
        if recovered.changed {
            self.log.sync()?;
        }
        Ok(recovered.undone)
    }

    fn freeable(&mut self, oldest: Generation) -> Result<Vec<Area>> {
        self.read(|db, _| space::freeable(db, oldest))
    }

    fn free_quarantine_except(&mut self, oldest: Generation, disks: &BTreeSet<DiskId>) -> Result<Vec<Area>> {
        let mut all = Vec::new();
        loop {
            let freed = self.write(|db| space::free_quarantine(db, oldest, disks))?;
            let is_last = freed.len() < space::FREED;
            all.extend(freed);
            if is_last {
                return Ok(all);
            }
        }
    }
}
