//! Records of members: which apparatuses have joined, left, or are fenced.

use crate::model::error::Result;
use crate::model::member::{Joined, Joiner, Member};
use crate::model::units::{Generation, Incarnation, MembershipVersion, Slot, Term};

/// Records of members.
pub trait MemberStore: Send {
    /// Joins the control range in a new incarnation, in the slot that its name had or the lowest free one. First it does what
    /// [`ChangeStore::recover_epoch`](super::ChangeStore::recover_epoch) does, so that no apparatus serves a table that a power loss took back. If no slot is free, members
    /// whose process is dead leave. Fails if a member with its name is joined or fenced and `alive` returns true for it.
    fn join(&mut self, joiner: &Joiner, alive: &dyn Fn(&Member) -> bool) -> Result<Joined>;
    /// Compare-and-set fenced -> joined in a new incarnation. Fails with `Stale` if this incarnation is not the one that was
    /// fenced. `known` is that of [`Joiner`].
    fn rejoin(&mut self, slot: Slot, incarnation: Incarnation, known: Option<Generation>) -> Result<Joined>;
    /// Compare-and-set joined -> fenced for this incarnation. Returns the version after it, or `None` if this incarnation was
    /// not joined any more (it left, rejoined, or is fenced already).
    fn fence(
        &mut self,
        term: Term,
        slot: Slot,
        incarnation: Incarnation,
    ) -> Result<Option<MembershipVersion>>;
    /// Marks a member as left: its process has ended or is about to, and no request of it is in flight.
    fn leave(&mut self, slot: Slot, incarnation: Incarnation) -> Result<()>;
    /// Returns all members that have not left, with the version that a commit names, from one transaction.
    fn members(&mut self) -> Result<(MembershipVersion, Vec<Member>)>;
}
