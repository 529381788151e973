//! The work of a change: the blocks that it copies or fills.

use super::disk::BLOCKS;
use super::history::Tag;
use super::host::Piece;
use super::{Delay, Entry, ProcId, Task, World};
use apparatus::pool::model::{Area, Edit};
use apparatus::store::ChangeRecord;
use apparatus::units::DiskId;

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
    let edits = record.change.difference.edits.iter();
    let segments = edits.flat_map(|edit| match edit {
        Edit::Map { segments, .. } => segments.as_slice(),
        _ => &[],
    });
    segments.map(|segment| segment.home.disk).collect()
}

impl World {
    pub fn copy_read(&mut self, id: ProcId, key: u64, index: usize) {
        let Some(change) = self.ctls.get_mut(&id).and_then(|ctl| ctl.changes.get_mut(&key)) else {
            return;
        };
        let Some(copy) = change.copies.get_mut(index) else {
            return;
        };
        if let Some((disk, block)) = copy.from {
            copy.tag = self.disks[disk].read(block);
            self.late_access(disk, block);
        }
    }

    /// A disk access of a stopped or fenced apparatus likes to take place right after the copier has read that block.
    pub fn late_access(&mut self, disk: usize, block: u64) {
        let there = |entry: &Entry| match entry.task {
            Task::Io(req, index) => self.reqs.get(&req).is_some_and(|req| {
                let here = |piece: &Piece| piece.at() == (disk, block);
                req.pieces.get(index).is_some_and(here)
                    && (self.stopped.contains(&req.proc) || self.fenced(req.app))
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

    pub fn copy_write(&mut self, id: ProcId, key: u64, index: usize) {
        let Some(change) = self.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key)) else {
            return;
        };
        let Some(&Copy {
            to: (disk, block),
            tag,
            ..
        }) = change.copies.get(index)
        else {
            return;
        };
        self.check_copied_once(id, key, index);
        self.disks[disk].write(block, tag);
        self.trace(|| format!("copied {tag:?} to disk {} extent {}", disk + 1, block / BLOCKS));
        self.count("blocks copied");
    }
}

pub fn change_copies(world: &World, id: ProcId, key: u64) -> usize {
    let change = world.ctls.get(&id).and_then(|ctl| ctl.changes.get(&key));
    change.map_or(0, |change| change.copies.len())
}
