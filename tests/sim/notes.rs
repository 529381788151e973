//! Notes of writes at an apparatus, and what wrong protocols make of them.

use super::fault::Fault;
use super::host::Lane;
use super::{LinkId, ProcId, ReqId, World};
use apparatus::gate::Access;
use apparatus::model::records::Span;
use apparatus::model::units::{ChangeId, MembershipVersion, Slot, Term};
use apparatus::protocol::controller::Participant;
use apparatus::protocol::participant::{Event, Link};
use apparatus::rpc::message::{Answer, Request};
use apparatus::rpc::written::Written;
use apparatus::store::roles::*;
use std::collections::BTreeSet;

impl World {
    pub fn place_note(&mut self, index: usize, change: ChangeId, spans: &[Span]) {
        self.count("notes");
        let undrained = self.wrong(Fault::NoteWithoutDrain);
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        let placed = match &app.served {
            Some(served) => served.runtime.note_writes(change, spans),
            None => {
                app.holds.place_note(change, spans);
                true
            }
        };
        if !placed {
            return self.deliver(index, Event::NoteRefused(change));
        }
        let overlaps = |lane: &Lane| spans.iter().any(|span| span.overlaps(&lane.span));
        let inside = app
            .lanes
            .iter()
            .filter(|(_, lane)| lane.access == Access::Write && overlaps(lane));
        let inside = inside.map(|(&id, _)| id).collect();
        app.settling.insert(change, inside);
        if undrained {
            app.settling.remove(&change);
            return self.deliver(index, Event::NoteSettled(change));
        }
        self.look_at_notes(index);
    }

    pub fn end_note(&mut self, index: usize, change: ChangeId) {
        self.count("notes that ended before their hold");
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        app.settling.remove(&change);
        match &app.served {
            Some(served) => served.runtime.end_note(change),
            None => app.holds.end_note(change),
        }
    }

    pub fn look_at_notes(&mut self, index: usize) {
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        let settled = |(change, inside): &(&ChangeId, &BTreeSet<ReqId>)| match &app.served {
            Some(served) => served.runtime.lag(**change).is_none(),
            None => !inside.iter().any(|id| app.lanes.contains_key(id)),
        };
        let settled: Vec<ChangeId> = app
            .settling
            .iter()
            .filter(settled)
            .map(|(&change, _)| change)
            .collect();
        for change in settled {
            if let Some(app) = self.apps[index].as_mut() {
                app.settling.remove(&change);
            }
            self.deliver(index, Event::NoteSettled(change));
        }
    }

    pub fn report_held(&mut self, index: usize, change: ChangeId, link: Link) {
        let written = self.apps[index].as_ref().and_then(|app| match &app.served {
            Some(served) => served.runtime.written(change),
            None => app.holds.written(change),
        });
        let written = Written::of_note(written);
        self.send_to_ctl(LinkId(link.0), Answer::Held { change, written });
    }

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
