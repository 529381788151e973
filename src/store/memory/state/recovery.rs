//! Recovery from another epoch: takes back the changes that a loss of power may have undone.

use super::changes::mapped;
use super::{State, Stored};
use crate::model::change::{ChangeRecord, ChangeState};
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::model::records::{Delta, Edit};
use crate::model::units::{CacheEpoch, ChangeId};
use crate::model::words::count;
use crate::store::memory::placements::{Extent, extents};
use std::sync::Arc;

impl State {
    /// Recovers from another epoch. Returns the changes taken back, latest first, and whether anything changed.
    pub(in crate::store::memory) fn recover(&mut self, epoch: CacheEpoch) -> Result<(Vec<ChangeId>, bool)> {
        let foreign =
            |stored: &&Arc<Stored>| stored.record.epoch != epoch && !self.is_of_a_node(stored.record.epoch);
        let mut left: Vec<Arc<Stored>> = self.unfinished().filter(foreign).cloned().collect();
        left.sort_by_key(|stored| std::cmp::Reverse(stored.generation));
        let mut changed = !left.is_empty();
        let mut undone = Vec::new();
        for stored in left {
            match &stored.record.undo {
                Some(undo) => {
                    self.take_back(&stored.record, undo)?;
                    undone.push(stored.record.id);
                }
                None => self.give_up(stored.record.id),
            }
        }
        changed |= self.end_of_epoch(epoch);
        if !undone.is_empty() {
            let text = format!(
                "power was lost before {} could be made durable; the pool has taken back what was not",
                count(undone.len(), "change")
            );
            self.log(Severity::Warning, "pool", &text);
        }
        Ok((undone, changed))
    }

    /// Returns whether it is the present epoch of a node.
    pub(in crate::store::memory) fn is_of_a_node(&self, epoch: CacheEpoch) -> bool {
        self.nodes.values().any(|node| node.epoch == epoch)
    }

    fn take_back(&mut self, record: &ChangeRecord, undo: &Delta) -> Result<()> {
        self.make_way(undo);
        for extent in mapped(&undo.edits).flat_map(extents) {
            self.quarantine.remove(&extent);
        }
        let freed = self.apply(&undo.edits)?.freed;
        for &extent in &freed {
            self.return_to_quarantine(extent, record.id);
        }
        if let Some(job) = record.change.job {
            self.retreat(job, &record.change.delta, &freed);
        }
        // The generation goes up, not back, so that no number ever means two tables.
        self.header.generation = self.header.generation.next();
        self.set(record.id, ChangeState::Undone);
        Ok(())
    }

    /// Returns an extent that a change had mapped again from an earlier change's quarantine to that quarantine.
    fn return_to_quarantine(&mut self, extent: Extent, undone: ChangeId) {
        let before = self.changes.get(&undone).and_then(|stored| stored.generation);
        let took = |stored: &&Arc<Stored>| {
            let edits = |delta: &Delta| mapped(&delta.edits).flat_map(extents).any(|at| at == extent);
            stored.record.state == ChangeState::Committed
                && stored.generation < before
                && stored.record.undo.as_ref().is_some_and(edits)
                && !edits(&stored.record.change.delta)
        };
        let earlier = self
            .changes
            .values()
            .filter(took)
            .max_by_key(|stored| stored.generation);
        if let Some((id, Some(at))) = earlier.map(|stored| (stored.record.id, stored.generation)) {
            self.quarantine.insert(extent, (id, at));
        }
    }

    /// Drops the claims of jobs on a disk, or the end of a disk, that is removed again.
    fn make_way(&mut self, undo: &Delta) {
        for edit in &undo.edits {
            let (disk, from) = match edit {
                Edit::RemoveDisk(id) => (*id, 0),
                Edit::SetDisk(disk) => (disk.id, disk.extents),
                _ => continue,
            };
            self.claims.retain(|&(on, at), _| on != disk || at.0 < from);
        }
    }
}
