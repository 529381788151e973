//! Gathers what a change starts with: the participants, connected and greeted, and the disks that it maps onto.

use super::{Controller, settle};
use crate::cluster::Presence;
use crate::controller::observe::observe;
use crate::held::may_wait;
use crate::model::change::NewChange;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::{DiskRecord, Edit};
use crate::model::units::{DiskId, MembershipVersion, Slot};
use crate::protocol::controller::{Participant, Plan, Reason};
use crate::protocol::recovery::{late_writes, participants};
use crate::rpc::client::WaitOutcome;
use crate::rpc::message::Refusal;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an apparatus with a moving heartbeat may take to answer the greeting.
const GREETING: Duration = Duration::from_secs(10);

/// The members that take part in changes, at one moment.
pub(super) struct Range {
    pub(super) membership: MembershipVersion,
    pub(super) participants: Vec<Participant>,
    pub(super) late_writes: bool,
    /// The participants on other nodes.
    pub(super) elsewhere: BTreeSet<Slot>,
}

impl Controller {
    /// Reads the participants from the store, removes members whose process has ended, and makes sure that there is a connection
    /// to each of the others that answers. One that does not answer takes part all the same: the change will find it silent.
    pub(super) fn range(&mut self) -> Result<Range> {
        may_wait("connecting");
        let (membership, seen) = loop {
            let (membership, members) = self.store.members()?;
            self.names = members
                .iter()
                .map(|member| (member.slot, member.name.clone()))
                .collect();
            let here = (&*self.members, &*self.cluster as &dyn Presence);
            let seen = observe(&members, &mut *self.store, here, &mut self.elsewhere)?;
            let ended: Vec<Participant> = seen
                .iter()
                .filter(|seen| !seen.alive)
                .map(|seen| seen.who)
                .collect();
            if ended.is_empty() {
                match seen.iter().find(|seen| self.is_to_be_silenced(seen)) {
                    None => break (membership, seen),
                    Some(seen) => self.silence(seen.who)?,
                }
            }
            for who in ended {
                self.links.forget(who.slot);
                self.store.leave(who.slot, who.incarnation)?;
            }
        };
        let participants = participants(&seen);
        let slots = participants.iter().map(|who| who.slot);
        let elsewhere = slots.filter(|slot| self.elsewhere.has(*slot)).collect();
        self.greet(&participants)?;
        Ok(Range {
            membership,
            participants,
            late_writes: late_writes(&seen),
            elsewhere,
        })
    }

    /// Connects to all, and waits until each has answered the greeting, is found to be unreachable, or has had its time.
    fn greet(&mut self, participants: &[Participant]) -> Result<()> {
        // Events since the last change are dropped: they are links that broke.
        while self.links.wait(self.environment.now()).is_some() {}
        let mut awaited = BTreeSet::new();
        for slot in participants.iter().map(|who| who.slot) {
            match (self.elsewhere.address(slot), self.names.get(&slot)) {
                (Some(address), _) => self.links.connect_to(slot, address),
                (None, Some(name)) => self.links.connect(slot, &self.pool, name),
                (None, None) => {}
            }
            if !self.links.is_welcomed(slot) {
                awaited.insert(slot);
            }
        }
        let begun = self.environment.now();
        while !awaited.is_empty() {
            let before = self.heartbeats(participants);
            self.await_greetings(&mut awaited)?;
            let beats = |slot: &Slot| {
                let now = self.members.entry(*slot).heartbeat_us;
                before.get(slot).is_some_and(|before| now > *before)
            };
            let (slow, silent): (BTreeSet<Slot>, BTreeSet<Slot>) = awaited.into_iter().partition(beats);
            silent.into_iter().for_each(|slot| self.links.forget(slot));
            if let Some(slot) = slow
                .first()
                .filter(|_| self.environment.now().saturating_duration_since(begun) >= GREETING)
            {
                return Err(settle::given_up("change", &Reason::Slow(*slot), &|slot| {
                    self.title_of(slot)
                }));
            }
            awaited = slow;
        }
        Ok(())
    }

    /// Removes from `awaited` those that have answered the greeting or cannot be reached.
    fn await_greetings(&mut self, awaited: &mut BTreeSet<Slot>) -> Result<()> {
        let deadline = self.environment.now() + Duration::from_micros(self.patience.answer_us);
        while !awaited.is_empty() {
            match self.links.wait(deadline) {
                Some(WaitOutcome::Welcomed(slot, ..) | WaitOutcome::Lost(slot, _)) => awaited.remove(&slot),
                Some(WaitOutcome::Refused(slot, refusal)) => return Err(self.refused_by(slot, &refusal)),
                Some(WaitOutcome::Answered(..)) => false,
                None => break,
            };
        }
        Ok(())
    }

    /// Names an apparatus for messages, with its node where that is another one.
    pub(super) fn title_of(&self, slot: Slot) -> String {
        let name = self.names.get(&slot);
        let name = name.map_or_else(|| format!("in slot {slot}"), ToString::to_string);
        match self.elsewhere.node(slot) {
            Some(node) => format!("{name} on node {node}"),
            None => name,
        }
    }

    /// Returns the error for an apparatus that answers but refuses this controller: no reason to fence it.
    fn refused_by(&self, slot: Slot, refusal: &Refusal) -> Error {
        let name = self.title_of(slot);
        let kind = if *refusal == Refusal::TooMany {
            ErrorKind::Busy
        } else {
            ErrorKind::Failed
        };
        Error::new(
            kind,
            format!("apparatus {name}"),
            format!("refuses this controller: {refusal}"),
        )
    }

    /// Makes the plan of one change.
    pub(super) fn plan(&mut self, change: NewChange, range: &Range) -> Result<Plan> {
        let disks = self.disks_of(&change)?;
        // This process copies to and flushes the disks that the change maps onto, too.
        self.open(&disks)?;
        Ok(Plan {
            disks,
            change,
            participants: range.participants.clone(),
            membership: range.membership,
            late_writes: range.late_writes,
            copies_ahead: false,
            elsewhere: range.elsewhere.clone(),
            patience: self.patience,
        })
    }

    /// Returns the disks that the change maps onto, adds, enlarges or gives another path, and those whose record
    /// it sends unchanged to announce them. Other changes of a disk's record do not need the disk to be open.
    fn disks_of(&mut self, change: &NewChange) -> Result<Vec<DiskRecord>> {
        let known = self.store.disks()?;
        let needs_opening = |record: &DiskRecord| {
            let same = |old: &&DiskRecord| {
                old.id == record.id
                    && old.path == record.path
                    && old.extents >= record.extents
                    && *old != record
            };
            known.iter().find(same).is_none()
        };
        let mut new = Vec::new();
        let mut mapped: BTreeSet<DiskId> = BTreeSet::new();
        for edit in &change.delta.edits {
            match edit {
                Edit::AddDisk(record) | Edit::SetDisk(record) if needs_opening(record) => {
                    new.push(record.clone());
                }
                Edit::Map { segments, .. } => {
                    mapped.extend(segments.iter().map(|segment| segment.placement.disk))
                }
                _ => {}
            }
        }
        mapped.retain(|id| new.iter().all(|record| record.id != *id));
        new.extend(known.into_iter().filter(|record| mapped.contains(&record.id)));
        Ok(new)
    }
}
