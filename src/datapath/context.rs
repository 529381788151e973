//! State of one serving thread. It is the thread's alone: the parts of the data path get it as an argument, and share nothing through it.

use super::cold::ColdWatch;
use super::metrics::ThreadMetrics;
use super::read_buffer::ReadBuffer;
use crate::cluster::{FlushLedger, FlushLedgers};
use crate::gate::Lane;
use crate::map::{Piece, Reader};
use crate::model::units::DiskId;
use std::sync::Arc;

/// Role of a serving thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes requests from hosts, and hands those that wait for a disk to workers.
    Reader,
    /// Takes requests from hosts while all readers block on disks, and hands every request that may block to workers.
    Spare,
    /// Takes requests from hosts, of which others wait behind each: it never waits for a disk, and hands every request that would to workers.
    Ring,
    /// Carries out queued requests, and waits for disks.
    Worker,
}

/// State of one serving thread.
pub struct IoContext {
    pub(super) role: Role,
    pub(super) lane: Lane,
    pub(super) scratch: Scratch,
}

/// The part of an [`IoContext`] that is used inside the gate.
pub(super) struct Scratch {
    pub(super) reader: Reader,
    /// The pieces of the present request.
    pub(super) pieces: Vec<Piece>,
    /// The disks of the present flush.
    pub(super) found: Vec<DiskId>,
    /// Bytes of a read that is not answered from a mapping.
    pub(super) buffer: ReadBuffer,
    pub(super) ledgers: LedgerCache,
    pub(super) thread_metrics: ThreadMetrics,
    pub(super) cold: ColdWatch,
}

impl Scratch {
    /// Makes the state of a new thread.
    pub(super) fn new(
        reader: Reader,
        ledgers: Arc<dyn FlushLedgers>,
        thread_metrics: ThreadMetrics,
        buffer: ReadBuffer,
    ) -> Self {
        Self {
            reader,
            pieces: Vec::new(),
            found: Vec::new(),
            buffer,
            ledgers: LedgerCache {
                all: ledgers,
                used: Vec::new(),
            },
            thread_metrics,
            cold: ColdWatch::default(),
        }
    }
}

/// The flush ledgers that this thread has used.
pub(super) struct LedgerCache {
    all: Arc<dyn FlushLedgers>,
    used: Vec<(DiskId, Arc<dyn FlushLedger>)>,
}

impl LedgerCache {
    /// Returns the ledger of a disk.
    pub(super) fn of(&mut self, id: DiskId) -> &dyn FlushLedger {
        let found = self.used.iter().position(|ledger| ledger.0 == id);
        let at = found.unwrap_or_else(|| {
            self.used.push((id, self.all.ledger(id)));
            self.used.len() - 1
        });
        &*self.used[at].1
    }
}
