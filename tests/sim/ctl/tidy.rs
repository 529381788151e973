//! Between changes: persisting, and freeing what nobody uses any more.

use super::Todo;
use crate::sim::disk::Begun;
use crate::sim::fault::Fault;
use crate::sim::{ProcId, World};
use apparatus::model::member::MemberState;
use apparatus::model::units::{ChangeId, Generation};
use apparatus::protocol::recovery;
use apparatus::store::roles::*;

impl World {
    pub fn persist_list(&mut self, id: ProcId) {
        let (disks, ids) = self.not_persisted();
        if ids.is_empty() {
            return;
        }
        let unflushed = self.wrong(Fault::PersistWithoutFlush);
        let disks = disks.into_iter().filter(|_| !unflushed);
        let begun = disks.map(|disk| (disk, self.disks[disk].begin_flush())).collect();
        self.do_next(id, vec![Todo::PersistFlush(begun, ids)]);
    }

    pub fn persist_flush(&mut self, id: ProcId, begun: Vec<(usize, Begun)>, ids: Vec<ChangeId>) {
        for (disk, at) in begun {
            self.disks[disk].end_flush(at);
        }
        self.do_next(id, vec![Todo::Persist(ids)]);
    }

    pub fn free_look(&mut self, id: ProcId) {
        let current = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        let mut seen = self.see();
        if self.wrong(Fault::NoQuarantine) {
            seen.retain(|seen| seen.state == MemberState::Joined);
        }
        let oldest = recovery::oldest_in_use(&seen, current);
        if oldest < current {
            self.count("old tables still in use");
        }
        self.do_next(id, vec![Todo::Free(oldest)]);
    }

    pub fn free(&mut self, oldest: Generation) {
        let freed = self.store.free_quarantine(oldest).unwrap_or_default();
        if !freed.is_empty() {
            self.count("extents freed");
        }
        self.check_ownership();
    }

    /// After a change: persist, free, and go on.
    pub fn what_next(&mut self, id: ProcId) {
        [Todo::PersistList, Todo::FreeLook, Todo::Plan]
            .into_iter()
            .for_each(|todo| self.do_last(id, todo));
    }
}
