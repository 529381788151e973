//! A disk: what the page cache holds, and what may be on the platter when power fails.

use super::history::Tag;
use std::hash::{Hash, Hasher};

/// Blocks per extent. A block is read and written in one piece.
pub const BLOCKS: u64 = 2;

#[derive(Clone, Debug)]
struct Cell {
    /// Values since the last flush, with the time each was written; the first may be the only one, and is durable then.
    written: Vec<(u64, Tag)>,
}

/// When a flush began, in the disk's time. Numbers differ from one way to a state to the next; what a flush covers is told by
/// [`Disk::at_risk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Begun(u64);

impl Hash for Begun {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Clone, Debug)]
pub struct Disk {
    cells: Vec<Cell>,
    clock: u64,
}

impl Disk {
    pub fn new(extents: u64) -> Self {
        let empty = Cell {
            written: vec![(0, Tag::GARBAGE)],
        };
        Self {
            cells: vec![empty; (extents * BLOCKS) as usize],
            clock: 0,
        }
    }

    pub fn read(&self, block: u64) -> Tag {
        self.cells[block as usize].written.last().unwrap().1
    }

    pub fn write(&mut self, block: u64, tag: Tag) {
        self.clock += 1;
        self.cells[block as usize].written.push((self.clock, tag));
    }

    /// A write that is durable when it ends: the block holds this, and nothing from before, whatever happens.
    pub fn write_durably(&mut self, block: u64, tag: Tag) {
        self.write(block, tag);
        let cell = &mut self.cells[block as usize];
        cell.written.drain(..cell.written.len() - 1);
    }

    /// A flush begins: what was written until now will be durable when it ends.
    pub fn begin_flush(&self) -> Begun {
        Begun(self.clock)
    }

    /// The flush that began at `begun` ends.
    pub fn end_flush(&mut self, begun: Begun) {
        for cell in &mut self.cells {
            let durable = cell
                .written
                .iter()
                .rposition(|&(at, _)| at <= begun.0)
                .unwrap_or(0);
            cell.written.drain(..durable);
        }
    }

    /// Power fails: each block holds its durable value, or any that was written after it. `choose` is given the block and how many there are.
    pub fn power_loss(&mut self, mut choose: impl FnMut(u64, usize) -> Option<usize>) {
        for (cell, block) in self.cells.iter_mut().zip(0..) {
            let kept = choose(block, cell.written.len());
            let tag = kept.map_or(Tag::GARBAGE, |kept| cell.written[kept].1);
            cell.written = vec![(0, tag)];
        }
        self.clock = 0;
    }

    /// How many values a block may hold after power loss.
    pub fn choices(&self, block: u64) -> usize {
        self.cells[block as usize].written.len()
    }

    /// For the fingerprint of a state in which power may fail: what each block may hold, and which of these flushes cover it.
    pub fn at_risk<'a>(&'a self, flushes: &'a [Begun]) -> impl Iterator<Item = (Tag, u64)> + 'a {
        let covered = |at| {
            flushes
                .iter()
                .fold(0, |bits, begun| bits << 1 | u64::from(at <= begun.0))
        };
        let possible = move |cell: &'a Cell| {
            let end = std::iter::once((Tag::GARBAGE, u64::MAX));
            cell.written
                .iter()
                .map(move |&(at, tag)| (tag, covered(at)))
                .chain(end)
        };
        self.cells.iter().flat_map(possible)
    }

    /// Whether power loss would change nothing.
    pub fn is_settled(&self) -> bool {
        self.cells.iter().all(|cell| cell.written.len() == 1)
    }

    /// Power fails no more: nothing is known of but what is there.
    pub fn settle(&mut self) {
        self.power_loss(|_, choices| Some(choices - 1));
    }

    /// What a block holds, for the fingerprint of a state.
    pub fn contents(&self) -> impl Iterator<Item = Tag> + '_ {
        (0..self.cells.len() as u64).map(|block| self.read(block))
    }
}
