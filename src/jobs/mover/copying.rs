//! Copies a chunk: before its hold and under it, or under it alone.
//!
//! Disks that are used through the page cache are copied under the hold, from memory to memory. A copy between disks that are used directly takes as long as the
//! disks, so it is done ahead, durably, and the hold copies only what hosts have written meanwhile.

use super::{EarlyEnd, Mover};
use crate::jobs::copier::{CopyFault, Route, Scratch, Staged, copy, copy_durably};
use crate::jobs::steps::Chunk;
use crate::rpc::written::Written;
use std::time::{Duration, Instant};

/// A change under way, from planning to its end.
pub(super) struct BegunChange {
    pub(super) chunk: Chunk,
    pub(super) route: Route,
    pub(super) staged: Staged,
    /// Bytes that have been charged to the rate limit.
    pub(super) charged: u64,
    /// Bytes copied before the hold.
    pub(super) ahead: u64,
    /// Bytes copied in all.
    pub(super) copied: u64,
    /// Time of the copy under the hold.
    pub(super) copying: Duration,
    /// The work has been done once already, so what is clean is not known any more.
    pub(super) retried: bool,
}

impl BegunChange {
    /// Returns whether both disks are used directly.
    pub(super) fn is_direct(&self) -> bool {
        self.route.source.is_direct() && self.route.target.is_direct()
    }

    /// Copies all of the chunk, except what is known to be zero on both sides. Returns how many bytes were copied.
    fn copy_all(&mut self, scratch: &mut Scratch) -> Result<u64, CopyFault> {
        if std::mem::replace(&mut self.retried, true) {
            self.staged = Staged::default();
        }
        copy(&self.route, &self.staged, scratch)
    }
}

impl Mover {
    /// Copies the chunk that is next, and flushes its target.
    pub(super) fn copy_chunk_ahead(&mut self) -> Result<(), String> {
        let Some(begun) = self.begun.front_mut() else {
            return Err("no chunk was begun".into());
        };
        let copied = begun.copy_all(&mut self.scratch);
        let target = &begun.route.target;
        let ledger = self.ledgers.ledger(target.id());
        let durable = copied.and_then(|bytes| match target.flush_here(&*ledger) {
            Ok(()) => Ok(bytes),
            Err(why) => Err(CopyFault::Target(why)),
        });
        let bytes = self.report(durable)?;
        if let Some(begun) = self.begun.front_mut() {
            begun.ahead = bytes;
        }
        Ok(())
    }

    /// Copies, under the hold, what was written to the chunk since it was copied ahead; all of it, where it was not.
    pub(super) fn copy_chunk(&mut self, written: &Written) -> Result<(), String> {
        let Some(begun) = self.begun.front_mut() else {
            return Err("no chunk was begun".into());
        };
        let start = Instant::now();
        let copied = match written.within(&begun.chunk.span(self.size)) {
            Some(ranges) => {
                let ledger = self.ledgers.ledger(begun.route.target.id());
                copy_durably(&begun.route, &ranges, &*ledger)
            }
            None => begun.copy_all(&mut self.scratch),
        };
        let bytes = self.report(copied)?;
        if let Some(begun) = self.begun.front_mut() {
            begun.copied = begun.ahead + bytes;
            begun.copying = start.elapsed();
        }
        Ok(())
    }

    /// Returns what was copied; a disk that failed ends the pipeline.
    fn report(&mut self, copied: Result<u64, CopyFault>) -> Result<u64, String> {
        copied.map_err(|fault| {
            let text = fault.to_string();
            let chunk = self.begun.front().map(|begun| begun.chunk);
            self.early_end = chunk.map(|chunk| EarlyEnd::Disk(chunk, fault));
            text
        })
    }
}
