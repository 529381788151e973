//! The ledger of a disk, which all processes share: whether it has been written since its last flush. No disk of the simulation loses writes.

use super::{ProcId, World};
use std::collections::BTreeSet;

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Writes that have been marked.
    written: u64,
    /// How many of them a finished flush covers.
    flushed: u64,
    /// Processes that flush it now.
    flushing: BTreeSet<ProcId>,
}

/// What a thread that wants a flush is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A finished flush covers all writes.
    Nothing,
    /// Another thread of its process flushes.
    Later,
    /// Flush; what is marked until now will be covered.
    Flush(u64),
}

impl World {
    /// The disk has been written.
    pub fn mark_written(&mut self, disk: usize) {
        self.ledgers[disk].written += 1;
    }

    pub fn is_dirty(&self, disk: usize) -> bool {
        self.ledgers[disk].written > self.ledgers[disk].flushed
    }

    /// A thread of this process wants a flush, of its own if `here`.
    pub fn want_flush(&mut self, proc: ProcId, disk: usize, here: bool) -> Wanted {
        let ledger = &mut self.ledgers[disk];
        if !here && ledger.written == ledger.flushed {
            self.count("flushes that were not needed");
            return Wanted::Nothing;
        }
        if !ledger.flushing.insert(proc) {
            self.count("flushes that waited for another");
            return Wanted::Later;
        }
        Wanted::Flush(ledger.written)
    }

    pub fn flush_ended(&mut self, proc: ProcId, disk: usize, covered: u64, well: bool) {
        let ledger = &mut self.ledgers[disk];
        ledger.flushing.remove(&proc);
        if well {
            ledger.flushed = ledger.flushed.max(covered);
        }
    }
}
