//! [`MemberStore`] of this store.

use crate::model::error::Result;
use crate::model::member::{Joined, Joiner, Member, MemberState};
use crate::model::units::{Generation, Incarnation, MembershipVersion, Slot, Term};
use crate::store::MemberStore;
use crate::store::memory::MemoryStore;

impl MemberStore for MemoryStore {
    fn join(&mut self, joiner: &Joiner, alive: &dyn Fn(&Member) -> bool) -> Result<Joined> {
        self.write(|state, epoch| {
            state.recover(epoch)?;
            state.join(joiner, epoch, alive)
        })
    }

    fn rejoin(&mut self, slot: Slot, incarnation: Incarnation, known: Option<Generation>) -> Result<Joined> {
        self.write(|state, _| state.rejoin(slot, incarnation, known))
    }

    fn fence(
        &mut self,
        term: Term,
        slot: Slot,
        incarnation: Incarnation,
    ) -> Result<Option<MembershipVersion>> {
        self.write(|state, _| state.fence(term, slot, incarnation))
    }

    fn leave(&mut self, slot: Slot, incarnation: Incarnation) -> Result<()> {
        self.write(|state, _| {
            state.leave(slot, incarnation);
            Ok(())
        })
    }

    fn members(&mut self) -> Result<(MembershipVersion, Vec<Member>)> {
        let state = self.read();
        let inside = state.members.values().map(|(member, _)| member);
        let inside = inside
            .filter(|member| member.state != MemberState::Left)
            .cloned()
            .collect();
        Ok((state.header.membership, inside))
    }
}
