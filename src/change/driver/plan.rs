//! What a change is started with: who takes part, reached and greeted, and the disks it maps onto.

use super::Controller;
use crate::change::controller::{Participant, Plan};
use crate::change::recovery::{Seen, late_writes, participants};
use crate::change::survey::look_at;
use crate::control::client::Happening;
use crate::disk::Disk;
use crate::error::{Error, Kind, Result};
use crate::held::may_wait;
use crate::pool::model::{DiskRecord, Edit};
use crate::store::NewChange;
use crate::units::{DiskId, MembershipVersion, Slot};
use crate::wire::message::Refusal;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        let deadline = Instant::now() + Duration::from_micros(self.patience.answer_us);
        while !awaited.is_empty() {
            match self.links.wait(deadline) {
                Some(Happening::Welcomed(slot, ..) | Happening::Lost(slot, _)) => awaited.remove(&slot),
                Some(Happening::Refused(slot, refusal)) => return Err(self.unwelcome(slot, &refusal)),
                Some(Happening::Answered(..)) => false,
                None => break,
            };
        }
        awaited.into_iter().for_each(|slot| self.links.forget(slot));
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
        self.open_for(&disks)?;
        Ok(Plan {
            disks,
            change,
            participants: range.participants.clone(),
            membership: range.membership,
            late_writes: range.late_writes,
            patience: self.patience,
        })
    }

    /// What the change maps onto is copied to and flushed here too.
    fn open_for(&mut self, records: &[DiskRecord]) -> Result<()> {
        if records.iter().any(|record| !self.disks.has(record)) {
            let header = self.store.header()?;
            for record in records.iter().filter(|record| !self.disks.has(record)) {
                let disk = Disk::open(record, &header)?;
                self.disks.insert(Arc::new(disk));
            }
        }
        Ok(())
    }

    /// The disks that the change maps onto, or whose record it brings.
    fn disks_of(&mut self, change: &NewChange) -> Result<Vec<DiskRecord>> {
        let mut new = Vec::new();
        let mut mapped: BTreeSet<DiskId> = BTreeSet::new();
        for edit in &change.difference.edits {
            match edit {
                Edit::AddDisk(record) | Edit::SetDisk(record) => new.push(record.clone()),
                Edit::Map { segments, .. } => mapped.extend(segments.iter().map(|segment| segment.home.disk)),
                _ => {}
            }
        }
        mapped.retain(|id| new.iter().all(|record| record.id != *id));
        if !mapped.is_empty() {
            new.extend(
                self.store
                    .disks()?
                    .into_iter()
                    .filter(|record| mapped.contains(&record.id)),
            );
        }
        Ok(new)
    }
}
