//! Taking the arbitration, and setting right what the last holder left.

use super::{Controller, PATIENCE, Wait};
use crate::change::failpoint::{Point, hit};
use crate::change::harden::disks_at_risk;
use crate::change::recovery::{Did, Effect, Event, Recovery, View};
use crate::change::survey::look_at;
use crate::control::client::Links;
use crate::disk::Disks;
use crate::error::Result;
use crate::member::{ArbitrationLock, MemberTable};
use crate::pool::dir::PoolDir;
use crate::store::sqlite::SqliteStore;
use crate::store::{ChangeState, Severity, Store};
use crate::sys::{boot_id, prefer_latency, reclaim_without_io};
use crate::units::BootId;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How often the member table is looked at for those who are behind, and how many times before they are fenced: a second.
const POLL_US: u64 = 2_000;
const POLLS: u32 = 500;

impl Controller {
    /// Takes the arbitration lock and the next term, then finishes or rolls back what the last holder left (sets fence words
    /// that the store has, cancels prepared changes, waits until committed ones are applied everywhere, takes back those of another boot).
    /// `purpose` is for those who find it busy: `job 7`, `volume create`.
    ///
    /// # Errors
    /// `Kind::Busy` with the holder's name; the store's; a disk that has seen a newer database than this one.
    pub fn acquire(pool: &PoolDir, purpose: &str, wait: Wait) -> Result<Self> {
        let within = match wait {
            Wait::No => Some(Duration::ZERO),
            Wait::For(within) => within,
        };
        let arbitration = ArbitrationLock::take(pool, purpose, within)?;
        if let Err(why) = prefer_latency() {
            log::debug!("the controller runs as any other: {why}");
        }
        if let Err(why) = reclaim_without_io() {
            log::debug!("memory for the controller may wait for its own disks: {why}");
        }
        hit(Point::ControllerLocked);
        let mut store = SqliteStore::open(pool)?;
        store.own(pool)?;
        let mut store: Box<dyn Store> = Box::new(store);
        let term = store.raise_term()?;
        hit(Point::ControllerTermRaised);
        let header = store.header()?;
        let boot = boot_id()?;
        let members = MemberTable::open(pool, header.uuid, boot)?;
        let mut controller = Self {
            pool: arbitration.pool(),
            links: Links::new(header.uuid, term),
            store,
            members,
            disks: Disks::new(),
            opening: BTreeMap::new(),
            term,
            patience: PATIENCE,
            names: BTreeMap::new(),
            recovered: Vec::new(),
            fenced: Vec::new(),
            unfinished: None,
            notes: Vec::new(),
            discarded: BTreeMap::new(),
            arbitration,
        };
        controller.recover(boot)?;
        controller
            .members
            .trust_disks(|| disks_at_risk(&mut *controller.store))?;
        controller.open_at_once()?;
        hit(Point::ControllerRecovered);
        controller.sweep();
        controller.tell();
        Ok(controller)
    }

    fn recover(&mut self, boot: BootId) -> Result<()> {
        let (mut machine, effects) = Recovery::new(POLL_US, POLLS);
        let mut todo = VecDeque::from(effects);
        while let Some(effect) = todo.pop_front() {
            if let Effect::Finish(did) = effect {
                let lines: Vec<String> = did.iter().map(|did| self.in_words(*did)).collect();
                let note = |line: &String| (Severity::Warning, "recovery".to_owned(), line.clone());
                self.notes.extend(lines.iter().map(note));
                self.recovered = lines;
            } else if let Some(event) = self.recovery_step(effect, boot)? {
                todo.extend(machine.on(event));
            }
        }
        Ok(())
    }

    fn recovery_step(&mut self, effect: Effect, boot: BootId) -> Result<Option<Event>> {
        Ok(match effect {
            Effect::RecoverBoot => Some(Event::BootRecovered(self.store.recover_boot(boot)?)),
            Effect::Look => Some(Event::Looked(self.view()?)),
            Effect::Cancel(change) => Some(Event::Cancelled(change, self.store.cancel(change)?)),
            Effect::SetWord(who) => {
                self.members.fence(who.slot, who.incarnation);
                None
            }
            Effect::Leave(who) => {
                self.store.leave(who.slot, who.incarnation)?;
                None
            }
            Effect::Fence(who) => {
                let version = self.store.fence(self.term, who.slot, who.incarnation)?;
                hit(Point::ControllerFenceRecorded);
                self.members.fence(who.slot, who.incarnation);
                hit(Point::ControllerFenced);
                self.fenced
                    .extend(version.and(self.names.get(&who.slot)).cloned());
                Some(Event::Fenced(who.slot, version))
            }
            Effect::Arm(us) => {
                // There is no link yet, so nothing happens until the time is over.
                self.links.wait(Instant::now() + Duration::from_micros(us));
                Some(Event::TimedOut)
            }
            Effect::Finish(_) => None,
        })
    }

    fn view(&mut self) -> Result<View> {
        let current = self.store.header()?.generation;
        let unfinished = self.store.unfinished()?;
        let prepared = unfinished
            .iter()
            .filter(|record| record.state == ChangeState::Prepared);
        let prepared = prepared.map(|record| record.id).collect();
        let (_, members) = self.store.members()?;
        // Added to those known: what is done to somebody is told after he is gone.
        self.names
            .extend(members.iter().map(|member| (member.slot, member.name.clone())));
        let look = |member| look_at(member, &self.members, &self.pool);
        let members = members.iter().map(look).collect::<Result<_>>()?;
        self.members.set_committed(current);
        Ok(View {
            current,
            members,
            prepared,
        })
    }

    fn in_words(&self, did: Did) -> String {
        let name = |slot| {
            self.names
                .get(&slot)
                .map_or_else(|| format!("in slot {slot}"), ToString::to_string)
        };
        match did {
            Did::Undone(id) => format!("change {id} was not on the disks when power was lost: taken back"),
            Did::Cancelled(id) => format!("change {id} was left unfinished by its controller: cancelled"),
            Did::SetWord(slot) => format!("apparatus {} was fenced by half: fenced", name(slot)),
            Did::Left(slot) => format!("apparatus {} has ended: not a member any more", name(slot)),
            Did::Fenced(slot) => format!("apparatus {} did not follow the last change: fenced", name(slot)),
        }
    }
}
