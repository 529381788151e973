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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::copier::{LastRun, stage};
    use crate::jobs::testing::Images;
    use crate::jobs::write_gate::WriteGate;
    use crate::model::units::DiskOffset;
    use rustix::fs::{FallocateFlags, fallocate};
    use std::os::unix::fs::FileExt;

    const LEN: u64 = 1 << 20;

    fn begun(images: &Images) -> (Copier, Run) {
        let [source, target] = images.open();
        let (at, to) = (DiskOffset(LEN), DiskOffset(LEN));
        let route = Route {
            source,
            at,
            target,
            to,
            len: LEN,
        };
        let staged = stage(&route, &mut LastRun::default(), &WriteGate::new(images.ledgers())).unwrap();
        let run = Run {
            route,
            staged,
            charged: 0,
            copying: Duration::ZERO,
            retried: false,
        };
        (Copier::new(images.ledgers()), run)
    }

    /// What was clean at the destination before the first attempt has its bytes by the second.
    #[test]
    fn a_second_attempt_leaves_nothing_of_the_first() {
        let images = Images::new();
        let (mut copier, mut run) = begun(&images);
        images.files[0].write_all_at(&[7; 4096], LEN).unwrap();
        copier.copy(&mut run, false).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&images.files[0], punch, LEN, LEN).unwrap();
        copier.copy(&mut run, false).unwrap();
        let mut copied = vec![1; 4096];
        images.files[1].read_exact_at(&mut copied, LEN).unwrap();
        assert!(copied.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_copy_ahead_is_flushed_before_it_counts() {
        let images = Images::new();
        let (mut copier, mut run) = begun(&images);
        let ledger = images.ledgers().ledger(run.route.target.id());
        ledger.flush(&mut || Ok(())).unwrap();
        ledger.written();
        copier.copy(&mut run, true).unwrap();
        assert!(!ledger.is_dirty());
    }
}
