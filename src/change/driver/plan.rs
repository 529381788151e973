//! What a change is started with: who takes part, reached and greeted, and the disks it maps onto.

use super::{Controller, settle};
use crate::change::controller::{Participant, Plan, Reason};
use crate::change::recovery::{Seen, late_writes, participants};
use crate::change::survey::look_at;
use crate::control::client::Happening;
use crate::error::{Error, Kind, Result};
use crate::held::may_wait;
use crate::pool::model::{DiskRecord, Edit};
use crate::store::NewChange;
use crate::units::{DiskId, MembershipVersion, Slot};
use crate::wire::message::Refusal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long an apparatus that shows life may take to greet.
const GREETING: Duration = Duration::from_secs(10);

/// The control range at one moment.
pub(super) struct Range {
    pub(super) membership: MembershipVersion,
    pub(super) participants: Vec<Participant>,
    pub(super) late_writes: bool,
}

impl Controller {
    /// Reads who is in the control range, strikes out those whose process has ended, and sees to it that there is a connection
    /// to each of the others that answers. Who does not answer takes part all the same: the change will find it silent.
    pub(super) fn range(&mut self) -> Result<Range> {
        may_wait("connecting");
        let (membership, seen) = loop {
            let (membership, members) = self.store.members()?;
            self.names = members
                .iter()
                .map(|member| (member.slot, member.name.clone()))
                .collect();
            let seen: Vec<Seen> = members
                .iter()
                .map(|member| look_at(member, &self.members, &self.pool))
                .collect::<Result<_>>()?;
            let ended: Vec<Participant> = seen
                .iter()
                .filter(|seen| !seen.alive)
                .map(|seen| seen.who)
                .collect();
            if ended.is_empty() {
                break (membership, seen);
            }
            for who in ended {
                self.links.forget(who.slot);
                self.store.leave(who.slot, who.incarnation)?;
            }
        };
        let participants = participants(&seen);
        self.greet(&participants)?;
        Ok(Range {
            membership,
            participants,
            late_writes: late_writes(&seen),
        })
    }

    /// Connects to all, and waits until each has said who it is, is found to be unreachable, or has had its time.
    fn greet(&mut self, participants: &[Participant]) -> Result<()> {
        // What came since the last change: links that broke.
        while self.links.wait(Instant::now()).is_some() {}
        let mut awaited = BTreeSet::new();
        for slot in participants.iter().map(|who| who.slot) {
            if let Some(name) = self.names.get(&slot) {
                self.links.connect(slot, &self.pool, name);
            }
            if !self.links.is_welcomed(slot) {
                awaited.insert(slot);
            }
        }
        let begun = Instant::now();
        while !awaited.is_empty() {
            let before = self.heartbeats(participants);
            self.await_greetings(&mut awaited)?;
            let beats = |slot: &Slot| {
                let now = self.members.line(*slot).heartbeat_us;
                before.get(slot).is_some_and(|before| now > *before)
            };
            let (slow, silent): (BTreeSet<Slot>, BTreeSet<Slot>) = awaited.into_iter().partition(beats);
            silent.into_iter().for_each(|slot| self.links.forget(slot));
            if let Some(slot) = slow.first().filter(|_| begun.elapsed() >= GREETING) {
                return Err(settle::given_up("change", &Reason::Slow(*slot), &self.names));
            }
            awaited = slow;
        }
        Ok(())
    }

    /// Takes those out who have said who they are, or cannot be reached.
    fn await_greetings(&mut self, awaited: &mut BTreeSet<Slot>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_micros(self.patience.answer_us);
        while !awaited.is_empty() {
            match self.links.wait(deadline) {
                Some(Happening::Welcomed(slot, ..) | Happening::Lost(slot, _)) => awaited.remove(&slot),
                Some(Happening::Refused(slot, refusal)) => return Err(self.unwelcome(slot, &refusal)),
                Some(Happening::Answered(..)) => false,
                None => break,
            };
        }
        Ok(())
    }

    /// It is there, but would not have us: nothing to fence anybody for.
    fn unwelcome(&self, slot: Slot, refusal: &Refusal) -> Error {
        let name = self
            .names
            .get(&slot)
            .map_or_else(String::new, ToString::to_string);
        let kind = if *refusal == Refusal::TooMany {
            Kind::Busy
        } else {
            Kind::Failed
        };
        Error::new(
            kind,
            format!("apparatus {name}"),
            format!("refuses this controller: {refusal}"),
        )
    }

    /// The plan of one change in this range.
    pub(super) fn plan(&mut self, change: NewChange, range: &Range) -> Result<Plan> {
        let disks = self.disks_of(&change)?;
        // What the change maps onto is copied to and flushed here too.
        self.open(&disks)?;
        Ok(Plan {
            disks,
            change,
            participants: range.participants.clone(),
            membership: range.membership,
            late_writes: range.late_writes,
            patience: self.patience,
        })
    }

    /// The disks that the change maps onto, that it brings, or that it makes larger or finds elsewhere; and those that it announces: a record that is
    /// sent as it was. Nothing else that is said of a disk needs that disk to be open.
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
        for edit in &change.difference.edits {
            match edit {
                Edit::AddDisk(record) | Edit::SetDisk(record) if needs_opening(record) => {
                    new.push(record.clone());
                }
                Edit::Map { segments, .. } => mapped.extend(segments.iter().map(|segment| segment.home.disk)),
                _ => {}
            }
        }
        mapped.retain(|id| new.iter().all(|record| record.id != *id));
        new.extend(known.into_iter().filter(|record| mapped.contains(&record.id)));
        Ok(new)
    }
}
