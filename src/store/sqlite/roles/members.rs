//! [`MemberStore`] of this store.

use crate::model::error::Result;
use crate::model::member::{Joined, Joiner, Member};
use crate::model::units::{Generation, Incarnation, MembershipVersion, Slot, Term};
use crate::store::MemberStore;
use crate::store::sqlite::{SqliteStore, members, recover};

impl MemberStore for SqliteStore {
    fn join(&mut self, joiner: &Joiner, alive: &dyn Fn(&Member) -> bool) -> Result<Joined> {
        let (epoch, dir) = (self.epoch, self.dir.clone());
        self.write(|db| {
            recover::recover(db, epoch)?;
            members::join(db, joiner, (epoch, &dir), alive)
        })
    }

    fn rejoin(&mut self, slot: Slot, incarnation: Incarnation, known: Option<Generation>) -> Result<Joined> {
        let (epoch, dir) = (self.epoch, self.dir.clone());
        self.write(|db| members::rejoin(db, slot, incarnation, ((epoch, &dir), known)))
    }

    fn fence(
        &mut self,
        term: Term,
        slot: Slot,
        incarnation: Incarnation,
    ) -> Result<Option<MembershipVersion>> {
        self.write(|db| members::fence(db, term, slot, incarnation))
    }

    fn leave(&mut self, slot: Slot, incarnation: Incarnation) -> Result<()> {
        self.write(|db| members::leave(db, slot, incarnation))
    }

    fn members(&mut self) -> Result<(MembershipVersion, Vec<Member>)> {
        self.read(|db, _| members::members(db))
    }
}
