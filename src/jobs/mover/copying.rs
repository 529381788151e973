//! Copies a chunk: before its hold and under it, or under it alone.
//!
//! Disks that are used through the page cache are copied under the hold, from memory to memory. A copy between disks that are used directly takes as long as the
//! disks, so it is done ahead, durably, and the hold copies only what hosts have written meanwhile.

use crate::cluster::FlushLedgers;
use crate::jobs::chunks::ChunkCopier;
use crate::jobs::copier::{CopyFault, Route, Scratch, Staged, copy, copy_durably};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The bytes of a chunk under way.
pub(super) struct Run {
    pub(super) route: Route,
    pub(super) staged: Staged,
    /// Bytes that have been charged to the rate limit.
    pub(super) charged: u64,
    /// Time of the copy under the hold.
    pub(super) copying: Duration,
    /// The work has been done once already, so what is clean is not known any more.
    pub(super) retried: bool,
}

impl Run {
    /// Returns whether both disks are used directly.
    pub(super) fn is_direct(&self) -> bool {
        self.route.source.is_direct() && self.route.target.is_direct()
    }
}

/// Copies from disk to disk.
pub(super) struct Copier {
    ledgers: Arc<dyn FlushLedgers>,
    scratch: Scratch,
}

impl Copier {
    pub(super) fn new(ledgers: Arc<dyn FlushLedgers>) -> Self {
        Self {
            ledgers,
            scratch: Scratch::new(),
        }
    }
}

impl ChunkCopier for Copier {
    type Run = Run;
    type Fault = CopyFault;

    /// Copies all of a chunk, except what is known to be zero on both sides.
    fn copy(&mut self, run: &mut Run, durably: bool) -> Result<u64, CopyFault> {
        if std::mem::replace(&mut run.retried, true) {
            run.staged = Staged::default();
        }
        let start = Instant::now();
        let bytes = copy(&run.route, &run.staged, &mut self.scratch)?;
        if durably {
            let target = &run.route.target;
            let ledger = self.ledgers.ledger(target.id());
            target.flush_here(&*ledger).map_err(CopyFault::Target)?;
        } else {
            run.copying = start.elapsed();
        }
        Ok(bytes)
    }

    fn copy_parts(&mut self, run: &mut Run, parts: &[Range<u64>]) -> Result<u64, CopyFault> {
        let start = Instant::now();
        let ledger = self.ledgers.ledger(run.route.target.id());
        let bytes = copy_durably(&run.route, parts, &*ledger)?;
        run.copying = start.elapsed();
        Ok(bytes)
    }
}
