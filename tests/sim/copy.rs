//! The work of a change: the blocks that it copies or fills.

use super::disk::{BLOCKS, Begun};
use super::fault::Fault;
use super::history::Tag;
use super::{Delay, Entry, ProcId, Task, World};
use apparatus::model::change::{ChangeRecord, ChangeState, Owner};
use apparatus::model::records::{Area, Edit};
use apparatus::model::units::{ChangeId, DiskId};
use apparatus::rpc::message::Request;
use apparatus::store::roles::*;
use std::collections::BTreeSet;

/// One block of a disk.
pub type At = (usize, u64);

/// One block to be copied, or filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Where from; nowhere for a fill.
    pub from: Option<At>,
    pub to: At,
    /// What was read, or what it is filled with.
    pub tag: Tag,
}

/// The blocks of an area, in order.
pub fn blocks(area: Area) -> impl Iterator<Item = At> {
    (area.start.0 * BLOCKS..area.end().0 * BLOCKS).map(move |block| (area.disk.0 as usize - 1, block))
}

/// Copies of one area to another.
pub fn copies(from: Area, to: Area) -> Vec<Copy> {
    let pairs = blocks(from).zip(blocks(to));
    pairs
        .map(|(from, to)| Copy {
            from: Some(from),
            to,
            tag: Tag::GARBAGE,
        })
        .collect()
}

/// The disks that a change maps onto.
pub fn mapped(record: &ChangeRecord) -> Vec<DiskId> {
    let edits = record.change.delta.edits.iter();
    let segments = edits.flat_map(|edit| match edit {
        Edit::Map { segments, .. } => segments.as_slice(),
        _ => &[],
    });
    segments.map(|segment| segment.placement.disk).collect()
}

impl World {
    /// The explorer's: a block is read.
    pub fn copy_read(&mut self, id: ProcId, key: u64, index: usize) {
        let change = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key));
        let Some(mut copy) = change.and_then(|change| change.copies.get(index)).copied() else {
            return;
        };
        self.read_copy(&mut copy);
        if let Some(change) = self.ctls.get_mut(&id).and_then(|ctl| ctl.changes.get_mut(&key)) {
            change.copies[index] = copy;
        }
    }

    /// Reads a block that is to be copied.
    pub fn read_copy(&mut self, copy: &mut Copy) {
        if let Some((disk, block)) = copy.from {
            copy.tag = self.disks[disk].read(block);
            self.late_access(disk, block);
        }
    }

    /// A disk access of a stopped or fenced apparatus likes to take place right after the copier has read that block.
    pub fn late_access(&mut self, disk: usize, block: u64) {
        let there = |entry: &Entry| match entry.task {
            Task::Access(id) => self.accesses.get(&id).is_some_and(|access| {
                let fenced = || self.app_of(access.proc).is_some_and(|index| self.fenced(index));
                access.at == (disk, block) && (self.stopped.contains(&access.proc) || fenced())
            }),
            _ => false,
        };
        let key = self
            .queue
            .iter()
            .find(|(_, entry)| there(entry))
            .map(|(&key, _)| key);
        if let Some(key) = key.filter(|_| !self.options.explore)
            && let Some(entry) = self.queue.remove(&key)
        {
            self.count("late accesses after a copy");
            let soon = self.rng.between(0, 60);
            self.after(entry.owner, Delay::Exactly(soon), entry.task);
        }
    }

    /// The explorer's: a block is written.
    pub fn copy_write(&mut self, id: ProcId, key: u64, index: usize) {
        let Some(change) = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key)) else {
            return;
        };
        let Some(&copy) = change.copies.get(index) else {
            return;
        };
        let (this, new) = (change.machine.id(), change.machine.plan().change.clone());
        self.check_copied_once(this, &new, index);
        self.land_copy(copy);
    }

    /// The explorer's: a block is written once more.
    pub fn copy_write_again(&mut self, id: ProcId, key: u64, index: usize) {
        let Some(change) = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key)) else {
            return;
        };
        if let Some(&copy) = change.copies.get(index) {
            self.land_copy(copy);
        }
    }

    /// Writes a block of the change that the driver works on: of those that are prepared, the first.
    pub fn write_copy(&mut self, copy: Copy, index: usize) {
        let unfinished = self.store.unfinished().unwrap_or_default();
        let prepared = unfinished
            .into_iter()
            .filter(|record| record.state == ChangeState::Prepared);
        if let Some(record) = prepared.min_by_key(|record| record.id) {
            self.check_copied_once(record.id, &record.change, index);
        }
        self.check_claimed(copy.to);
        self.land_copy(copy);
    }

    /// Writes a block once more, which hosts may have changed since it was copied ahead.
    pub fn write_copy_again(&mut self, copy: Copy, index: usize) {
        self.count("blocks copied again under the hold");
        let unfinished = self.store.unfinished().unwrap_or_default();
        let prepared = unfinished
            .into_iter()
            .filter(|record| record.state == ChangeState::Prepared);
        if let Some(record) = prepared.min_by_key(|record| record.id) {
            self.check_copied_again_once(record.id, index);
        }
        self.check_claimed(copy.to);
        self.land_copy(copy);
        if !self.wrong(Fault::CommitBeforeDurable) {
            self.disks[copy.to.0].write_durably(copy.to.1, copy.tag);
        }
    }

    /// The change that a driver has just copied ahead: of those that are prepared, the first.
    pub fn note_copied_ahead(&mut self) {
        let unfinished = self.store.unfinished().unwrap_or_default();
        let prepared = unfinished
            .iter()
            .filter(|record| record.state == ChangeState::Prepared);
        self.durable.extend(prepared.map(|record| record.id).min());
    }

    /// In some runs the commit of a change that was copied ahead is durable at once, as in a store that syncs each transaction, and a power loss does not take
    /// it back: what it maps has to be durable by then.
    pub fn persist_at_commit(&mut self, id: ChangeId) {
        if !self.durable.remove(&id) || !self.options.durable_commits {
            return;
        }
        let unfinished = self.store.unfinished().unwrap_or_default();
        let committed = unfinished
            .iter()
            .filter(|record| record.state == ChangeState::Committed);
        if committed.map(|record| record.id).eq([id]) {
            self.count("commits that were durable at once");
            let persisted = self.store.persist(&[id]);
            self.must(persisted.is_ok(), || format!("persist: {persisted:?}"));
        }
    }

    /// Whether a driver copies ahead.
    pub fn copies_ahead(&mut self) -> bool {
        let chance = self.rng.permille(500);
        chance || self.options.ahead
    }

    /// A flush of the disks that these blocks were copied to.
    pub fn begin_flush_of(&mut self, copies: &[Copy]) -> Vec<(usize, Begun)> {
        if self.wrong(Fault::CommitBeforeDurable) {
            return Vec::new();
        }
        let disks: BTreeSet<usize> = copies.iter().map(|copy| copy.to.0).collect();
        let begun = disks
            .into_iter()
            .map(|disk| (disk, self.disks[disk].begin_flush()));
        begun.collect()
    }

    pub fn end_flush_of(&mut self, begun: Vec<(usize, Begun)>) {
        begun
            .into_iter()
            .for_each(|(disk, begun)| self.disks[disk].end_flush(begun));
    }

    /// P6: a controller writes only where its change or job has claimed the space.
    fn check_claimed(&mut self, (disk, block): At) {
        let extent = block / BLOCKS;
        let uses = self.store.uses(DiskId(disk as u32 + 1)).unwrap_or_default();
        let claimed = uses.iter().any(|one| {
            let there = one.area.start.0 <= extent && extent < one.area.end().0;
            there && matches!(one.owner, Owner::Change(_) | Owner::Job(_))
        });
        // At the end of a run jobs are cancelled under their controllers, which gives their space back.
        self.must(claimed || self.ending, || {
            format!(
                "P6: a controller writes to disk {} extent {extent}, which nothing has claimed",
                disk + 1
            )
        });
    }

    fn land_copy(&mut self, copy: Copy) {
        let ((disk, block), tag) = (copy.to, copy.tag);
        self.disks[disk].write(block, tag);
        self.mark_written(disk);
        self.trace(|| format!("copied {tag:?} to disk {} extent {}", disk + 1, block / BLOCKS));
        self.count("blocks copied");
    }

    /// A fault: the delta of the change that the driver works on is sent before it is committed.
    pub fn apply_before_commit(&mut self, id: ProcId) {
        let unfinished = self.store.unfinished().unwrap_or_default();
        let prepared = unfinished
            .into_iter()
            .filter(|record| record.state == ChangeState::Prepared);
        let (Some(record), true) = (
            prepared.min_by_key(|record| record.id),
            self.wrong(Fault::ApplyBeforeCommit),
        ) else {
            return;
        };
        let delta = record.change.delta;
        let request = Request::Apply {
            change: record.id,
            generation: delta.from.next(),
            delta,
        };
        let Some(driver) = self.drivers.get(&id) else {
            return;
        };
        let (term, links): (_, Vec<_>) = (driver.term, driver.links.values().copied().collect());
        links
            .into_iter()
            .for_each(|link| self.send_to_app(link, term, &request));
    }

    /// How many times the work of a change is done.
    pub fn passes(&mut self) -> u64 {
        if self.wrong(Fault::CopyTwice) { 2 } else { 1 }
    }
}

pub fn change_copies(world: &World, id: ProcId, key: u64) -> usize {
    let change = world.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key));
    change.map_or(0, |change| change.copies.len())
}
