//! Flush ledgers: whether any process has written a disk since its last flush, and whether the disk has lost writes.

use crate::model::error::Result;
use crate::model::units::{DiskId, Generation};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// Flush ledgers of a pool's disks, shared by all its processes.
pub trait FlushLedgers: Send + Sync {
    /// Returns the ledger of a disk.
    fn ledger(&self, disk: DiskId) -> Arc<dyn FlushLedger>;

    /// Clears the failures of all disks except those that `at_risk` returns: the disks with data that has an old placement elsewhere. Only the leader
    /// calls it, before it writes to any disk: all errors that have been reported by then are of writes by earlier leaders.
    ///
    /// # Errors
    /// Fails with the error of `at_risk`, or when it cannot be determined which processes live.
    fn trust_disks(&self, at_risk: &mut dyn FnMut() -> Result<BTreeSet<DiskId>>) -> Result<()>;

    /// Returns the highest generation that is known to be persisted.
    fn persisted(&self) -> Generation;

    /// Raises the persisted generation. The caller never sets it higher than what is durable.
    fn set_persisted(&self, generation: Generation);
}

/// Flush ledger of one disk.
///
/// A write-back error is reported once, to one of the processes that flush. So a flush that succeeds proves only that there was no failure since its own
/// opening of the disk, and failures are recorded here for all processes.
pub trait FlushLedger: Send + Sync {
    /// Returns the disk that the ledger is for.
    fn disk(&self) -> DiskId;

    /// Marks the disk dirty. Called after each write, before [`OwnEntry::is_fenced`](super::OwnEntry::is_fenced) is checked and the write is acknowledged.
    /// It is a full barrier, and neither takes a lock nor allocates.
    fn written(&self);

    /// Runs `flush` (once) unless a flush that began after every acknowledged write has finished. One flush at a time runs in each process: a thread
    /// that has waited for another one's flush often finds that a third one's covers its writes.
    ///
    /// # Errors
    /// Fails with the error of `flush`; the disk stays dirty then.
    fn flush(&self, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;

    /// Runs `flush` (once), whatever other processes have flushed, where their flushes are not sufficient.
    ///
    /// # Errors
    /// Fails with the error of `flush`.
    fn flush_here(&self, flush: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;

    /// Runs `work` (once), which may get the error of an earlier write-back, and records such an error, even if this process dies.
    ///
    /// # Errors
    /// Fails with the error of `work`.
    fn watch(&self, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;

    /// Records that the disk has lost writes.
    fn note_failure(&self);

    /// Marks the running flushes of other processes as doubtful. Called after the disk was opened, before the first flush through that opening: those
    /// flushes may get reports that this opening does not get.
    fn doubt_others(&self);

    /// Returns whether a flush with an unknown result began before this process opened the disk. This process's own flushes do not cover earlier writes
    /// then.
    fn is_in_doubt(&self) -> bool;

    /// Returns whether there are writes that no finished flush covers.
    fn is_dirty(&self) -> bool;

    /// Returns the number of flushes that have failed in this epoch.
    fn failures(&self) -> u64;

    /// Returns the number of flushes that have failed since this process opened the shared state.
    fn failures_here(&self) -> u64;

    /// Returns whether the disk may have lost data that still has an old placement elsewhere. A later successful flush does not restore it, so no change
    /// that depends on this disk may be persisted, and no such old placement freed.
    fn has_lost(&self) -> bool;
}

impl dyn FlushLedger + '_ {
    /// Runs work that returns a value by [`FlushLedger::watch`].
    ///
    /// # Errors
    /// Fails with the error of `work`.
    pub fn watch_for<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let (mut work, mut answer) = (Some(work), None);
        self.watch(&mut || {
            let Some(work) = work.take() else { return Ok(()) };
            answer = Some(work()?);
            Ok(())
        })?;
        answer.ok_or_else(|| io::Error::other("the ledger of write errors did not run the operation"))
    }
}
