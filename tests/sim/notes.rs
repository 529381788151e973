//! What wrong protocols make of notes of writes.

use super::fault::Fault;
use super::{LinkId, ProcId, World};
use apparatus::model::units::{MembershipVersion, Slot, Term};
use apparatus::protocol::controller::Participant;
use apparatus::rpc::message::{Answer, Request};
use apparatus::rpc::written::Written;
use apparatus::store::roles::*;

impl World {
    /// A fault: a driver does not notice that a connection is broken between a note and the hold.
    pub fn overlooks(&self, id: ProcId) -> bool {
        let notes = self
            .drivers
            .get(&id)
            .is_some_and(|driver| !driver.noted.is_empty());
        notes && self.wrong(Fault::NoteLost)
    }

    /// A fault: whoever has ended since it was asked for a note is fenced, and counts as one that holds and has noted nothing. Returns whether it is so.
    pub fn holds_without_note(
        &mut self,
        id: ProcId,
        slot: Slot,
        link: LinkId,
        term: Term,
        request: &Request,
    ) -> bool {
        let Request::Hold {
            change, incarnation, ..
        } = *request
        else {
            return false;
        };
        let alive = self
            .wires
            .get(&link)
            .is_some_and(|wire| self.alive.contains(&wire.app_proc));
        let noted = self
            .drivers
            .get_mut(&id)
            .is_some_and(|driver| driver.noted.remove(&(slot, change)));
        if alive || !noted || !self.wrong(Fault::NoteLost) {
            return false;
        }
        let fenced = self.store.fence(term, slot, incarnation);
        self.word(Participant { slot, incarnation });
        let written = Written::NOTHING;
        if let Some(driver) = self.drivers.get_mut(&id) {
            driver.fenced_unasked += u64::from(matches!(fenced, Ok(Some(_))));
            driver
                .inbox
                .entry(slot)
                .or_default()
                .push(Answer::Held { change, written });
            driver.broken.insert(slot);
        }
        self.wake_driver(id);
        true
    }

    /// The version of the membership that a driver names in a commit, with those that a fault has fenced for it.
    pub fn with_unasked(&self, id: ProcId, membership: MembershipVersion) -> MembershipVersion {
        let unasked = self.drivers.get(&id).map_or(0, |driver| driver.fenced_unasked);
        MembershipVersion(membership.0 + unasked)
    }
}
