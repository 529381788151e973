//! A disk: what the page cache holds, and what may be on the platter when power fails.

use super::history::Tag;

/// Blocks per extent. A block is read and written in one piece.
pub const BLOCKS: u64 = 2;

#[derive(Clone, Debug)]
struct Cell {
    /// Values since the last flush, with the time each was written; the first may be the only one, and is durable then.
    written: Vec<(u64, Tag)>,
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

    /// A flush begins: what was written until now will be durable when it ends.
    pub fn begin_flush(&self) -> u64 {
        self.clock
    }

    /// The flush that began at `begun` ends.
    pub fn end_flush(&mut self, begun: u64) {
        for cell in &mut self.cells {
            let durable = cell.written.iter().rposition(|&(at, _)| at <= begun).unwrap_or(0);
            cell.written.drain(..durable);
        }
    }

    /// Power fails: each block holds its durable value, or any that was written after it.
    pub fn power_loss(&mut self, mut choose: impl FnMut(usize) -> usize) {
        for cell in &mut self.cells {
            let kept = choose(cell.written.len());
            cell.written = vec![(0, cell.written[kept].1)];
        }
        self.clock = 0;
    }

    /// What a block holds, for the fingerprint of a state.
    pub fn contents(&self) -> impl Iterator<Item = Tag> + '_ {
        (0..self.cells.len() as u64).map(|block| self.read(block))
    }
}
