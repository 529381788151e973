//! Interface of the data path to the control thread.

use crate::blockdev::Disks;
use crate::map::Draft;
use crate::model::change::HoldMode;
use crate::model::error::Result;
use crate::model::records::{Delta, DiskRecord, Span};
use crate::model::units::{ChangeId, DiskId, Generation, VolumeId};
use crate::rpc::message::{ApparatusMetrics, Opens};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Requests that a drain still waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Number of requests in flight that overlap the hold.
    pub in_flight: u64,
    /// Age of the oldest of them.
    pub age: Duration,
    /// Name of the disk that it waits for; empty when that is not known.
    pub disk: String,
}

/// Requests that the end of a hold released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Number of requests that this hold had parked.
    pub parked: u64,
    /// Longest wait of one of them.
    pub longest: Duration,
}

/// The data path of one apparatus. All methods are called by the control thread alone, return at once (no disk I/O, no lock that
/// disk I/O is done under, no notice to the kernel that waits for requests), and are idempotent.
pub trait Runtime: Send + Sync + 'static {
    /// Puts a hold in place: after the return, no new request that overlaps `spans` enters. Returns false when there are too many holds.
    fn hold(&self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool;
    /// Notes from now on which regions of `spans` are written; [`Runtime::lag`] tells when the writes in flight are done. Nothing is parked. Returns false
    /// when there are too many notes.
    fn note_writes(&self, _change: ChangeId, _spans: &[Span]) -> bool {
        false
    }
    /// Returns what was written since the note of this change was placed, or `None` if it has no note (any more).
    fn written(&self, _change: ChangeId) -> Option<Vec<Span>> {
        None
    }
    /// Ends the note of this change. The end of a hold ends its note too.
    fn end_note(&self, _change: ChangeId) {}
    /// Returns what the drain of this hold or note waits for, or `None` when it is done. Until then the control thread is woken as lanes are left.
    fn lag(&self, change: ChangeId) -> Option<Lag>;
    /// Removes the hold, and has other threads run the requests that it parked.
    fn release(&self, change: ChangeId) -> Resumed;
    /// Patches the table and switches versions; a delta that leads to the current generation is ignored. Another thread notifies the kernel
    /// of changed names and sizes later.
    ///
    /// # Errors
    /// Fails when the delta does not fit the table, which stays unchanged then.
    fn apply(&self, delta: &Delta) -> Result<Generation>;
    /// Returns the generation of the current version.
    fn generation(&self) -> Generation;
    /// Returns the oldest generation that a request in flight may use.
    fn oldest(&self) -> Generation;
    /// Closes the gate of a fenced apparatus: parks every request from now on, including those in flight that see the fence before their
    /// acknowledgement. Ends all holds.
    fn close(&self);
    /// Returns the number of requests in flight, of all ranges. While the gate is closed the control thread is woken as lanes are left.
    fn in_flight(&self) -> u64;
    /// Replaces the table. Called while the gate is closed, with no request in flight and all `disks` of the new table open.
    ///
    /// # Errors
    /// Fails when the table is another pool's; the old one stays then.
    fn reload(&self, table: Draft, disks: &[DiskRecord]) -> Result<()>;
    /// Ends [`Runtime::close`]: other threads finish the parked requests by the rule of rejoining.
    fn open(&self);
    /// Has other threads run the requests that were parked because the lease had run out: it is renewed. Any thread may call it.
    fn renewed(&self) {}
    /// Returns the open disks; the caller may add and remove some.
    fn disks(&self) -> &Disks;
    /// Records the requests in flight. The interval between calls is the precision of their ages.
    fn note(&self);
    /// Returns the names of the disks that requests of hosts have waited for longer than a working disk takes. Any thread may call it.
    fn waited_for(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
    /// Returns the number of finished writes to each disk. Any thread may call it.
    fn writes(&self) -> BTreeMap<DiskId, u64> {
        BTreeMap::new()
    }
    /// Has other threads retry waiting flushes, because an event has occurred that they wait for. Any thread may call it.
    fn flush_again(&self) {}
    /// Clears the error count of a disk, and has its whole length used again once a check finds that it is there.
    fn clear_disk(&self, _disk: DiskId) {}
    /// Returns the metrics. The control thread overwrites the fields that it knows better (incarnation, term, jobs).
    fn figures(&self) -> ApparatusMetrics;
    /// Asks the process to unmount and end. Does not wait for that.
    fn stop(&self);
    /// Returns the open handles of hosts.
    fn opens(&self) -> Opens;
    /// Blocks opens of these volumes (of all if the set is empty) until [`Runtime::allow_opens`], on behalf of `owner`.
    ///
    /// # Errors
    /// Fails with the handles that hosts have open of them; with `writers_only`, those for writing. Nothing is blocked then.
    fn block_opens(&self, owner: u64, volumes: BTreeSet<VolumeId>, writers_only: bool) -> Result<(), Opens>;
    /// Ends a block of [`Runtime::block_opens`], and replies to the opens that waited for it.
    fn allow_opens(&self, owner: u64);
}
