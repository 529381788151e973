//! Membership: the entries that members publish, and fencing.

use crate::model::error::Result;
use crate::model::member::MemberEntry;
use crate::model::units::{Generation, Incarnation, Slot};
use std::sync::Arc;

/// Entries that the members of a pool publish, in addition to the store's records of them.
///
/// A fence goes to the store first, and then to [`Membership::fence`]. An apparatus answers a request in this order: disk I/O,
/// [`FlushLedger::written`](super::FlushLedger::written) (for a write), [`OwnEntry::is_fenced`] and [`OwnEntry::has_lapsed`], reply.
pub trait Membership: Send + Sync {
    /// Returns the entry in a slot that this process publishes.
    fn own(&self, slot: Slot) -> Arc<dyn OwnEntry>;

    /// Reads the entry of the member in a slot.
    fn entry(&self, slot: Slot) -> MemberEntry;

    /// Fences an incarnation, after the store has. When this returns, all writes that this incarnation has acknowledged or will acknowledge have reached their
    /// disks. Incarnations increase, so a late fence of an earlier one changes nothing.
    fn fence(&self, slot: Slot, incarnation: Incarnation);

    /// Returns the highest generation that is known to be committed.
    fn committed(&self) -> Generation;

    /// Raises the committed generation, after the commit.
    fn set_committed(&self, generation: Generation);

    /// Restores deleted parts of the shared state, so that other processes find it. Returns whether any was deleted.
    ///
    /// # Errors
    /// Fails when it cannot be restored; the pool cannot be changed any more then.
    fn restore(&self) -> Result<bool>;

    /// Removes the shared state if no other process uses it and it holds no fact that has to be kept. Called by a process that no longer uses it.
    fn leave(&self);
}

/// Entry of an apparatus, which it publishes: its incarnation, and the generations that it serves by.
pub trait OwnEntry: Send + Sync {
    /// Begins an incarnation.
    fn begin(&self, incarnation: Incarnation, generation: Generation);

    /// Ends the incarnation: the slot is empty then, and nothing may be acknowledged.
    fn end(&self);

    /// Returns whether this incarnation is fenced, or none has begun. Called twice for each request; it neither takes a lock nor allocates. A write calls it
    /// after [`FlushLedger::written`](super::FlushLedger::written).
    fn is_fenced(&self) -> bool;

    /// Returns whether a lease has run out: nothing may be acknowledged until it is renewed. Called where [`OwnEntry::is_fenced`] is: before and
    /// after the I/O of each request. Without a lease it is false, for the cost of one load.
    fn has_lapsed(&self) -> bool {
        false
    }

    /// Sets the time of the clock of [`OwnEntry::lease_clock_us`] until which this process may acknowledge. Later calls only raise it; before the first there is
    /// no lease.
    fn set_lease(&self, _until_us: u64) {}

    /// Returns the time by the clock that leases are counted by. It goes on while the process or the machine is stopped.
    fn lease_clock_us(&self) -> u64 {
        0
    }

    /// Publishes the generation in use, after a switch.
    fn set_generation(&self, generation: Generation);

    /// Publishes the oldest generation that a request in flight may use.
    fn set_oldest(&self, oldest: Generation);

    /// Updates the heartbeat.
    fn beat(&self);
}
