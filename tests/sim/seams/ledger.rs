//! The ledgers of the disks, as production code sees them.

use crate::sim::fault::Fault;
use crate::sim::ledger::Wanted;
use crate::sim::request;
use crate::sim::thread::{me, pause, world};
use crate::sim::{Delay, World};
use apparatus::cluster::{FlushLedger, FlushLedgers};
use apparatus::model::error::Result;
use apparatus::model::units::{DiskId, Generation};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// Time between two attempts to flush a disk that another thread of the process flushes, in microseconds.
const RETRY_US: u64 = 120;

#[derive(Clone, Copy)]
pub struct SimLedgers;

impl FlushLedgers for SimLedgers {
    fn ledger(&self, disk: DiskId) -> Arc<dyn FlushLedger> {
        Arc::new(SimLedger(disk))
    }

    fn trust_disks(&self, at_risk: &mut dyn FnMut() -> Result<BTreeSet<DiskId>>) -> Result<()> {
        at_risk().map(drop)
    }

    fn persisted(&self) -> Generation {
        world(|world| world.shown.1).unwrap_or_default()
    }

    fn set_persisted(&self, generation: Generation) {
        world(|world| world.shown.1 = world.shown.1.max(generation));
    }
}

struct SimLedger(DiskId);

impl SimLedger {
    fn disk_index(&self) -> usize {
        self.0.0 as usize - 1
    }

    /// Flushes of one process take turns: production code holds a lock meanwhile.
    fn in_turn(&self, here: bool, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let (me, disk) = (me(), self.disk_index());
        loop {
            let wanted = world(|world| world.want_flush(me, disk, here));
            match wanted.ok_or_else(|| io::Error::other("the process has been killed"))? {
                Wanted::Nothing => return Ok(()),
                Wanted::Later => pause(Delay::Exactly(RETRY_US)),
                Wanted::Flush(covered) => {
                    let flushed = flush();
                    world(|world| world.flush_ended(me, disk, covered, flushed.is_ok()));
                    return flushed;
                }
            }
        }
    }
}

impl FlushLedger for SimLedger {
    fn disk(&self) -> DiskId {
        self.0
    }

    fn written(&self) {
        request::has_marked();
        world(|world| {
            if !world.wrong(Fault::WriteNotMarked) {
                world.mark_written(self.disk_index());
            }
        });
    }

    fn flush(&self, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let another = request::has_flushed_before();
        let wrong = |world: &mut World| world.wrong(Fault::FirstDiskOnly) && world.app_of(me()).is_some();
        if another && world(wrong) == Some(true) {
            return Ok(());
        }
        self.in_turn(false, flush)
    }

    fn flush_here(&self, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        self.in_turn(true, flush)
    }

    fn watch(&self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        work()
    }

    fn note_failure(&self) {}

    fn doubt_others(&self) {}

    fn is_in_doubt(&self) -> bool {
        false
    }

    fn is_dirty(&self) -> bool {
        world(|world| world.is_dirty(self.disk_index())).unwrap_or(true)
    }

    fn failures(&self) -> u64 {
        0
    }

    fn failures_here(&self) -> u64 {
        0
    }

    fn has_lost(&self) -> bool {
        false
    }
}
