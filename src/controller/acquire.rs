//! Takes the controller lock, and repairs what the last holder left unfinished.

use super::placing::COPIES;
use super::pool::PoolHandle;
use super::{Controller, Wait};
use crate::blockdev::Disks;
use crate::cluster::{Presence, Role, WaitLimit};
use crate::controller::elsewhere::Elsewhere;
use crate::controller::observe::observe;
use crate::controller::persist::disks_at_risk;
use crate::failpoint::{Point, hit};
use crate::model::change::ChangeState;
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::protocol::recovery::{Effect, Event, PoolObservation, Recovery, RecoveryAction};
use crate::rpc::client::Links;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How long disks are waited for at the beginning, when it is not known yet whether they are needed.
const INITIAL_WAIT: Duration = Duration::from_secs(1);

impl Controller {
    /// Takes the controller lock and the next term, then finishes or rolls back what the last holder left (sets fence words
    /// that the store has, cancels prepared changes, waits until committed ones are applied everywhere, takes back those of another boot).
    /// `purpose` is shown to those who find the lock taken: `job 7`, `volume create`.
    ///
    /// # Errors
    /// Fails with `ErrorKind::Busy` and the holder's name, or when a disk has seen a newer database than this one; returns the errors of
    /// the store.
    pub fn acquire(pool: &PoolDir, purpose: &str, wait: Wait) -> Result<Self> {
        Self::acquire_in(&PoolHandle::of(pool)?, Role::Command, purpose, wait)
    }

    /// Takes the controller lock as [`Controller::acquire`] does, to work on a job: others that find the lock taken wait for a gap.
    ///
    /// # Errors
    /// Returns the errors of [`Controller::acquire`].
    pub fn acquire_for_job(pool: &PoolDir, purpose: &str, wait: Wait) -> Result<Self> {
        Self::acquire_in(&PoolHandle::of(pool)?, Role::Job, purpose, wait)
    }

    /// Takes the controller lock as [`Controller::acquire`] does, with another wait for disks of which it is not known yet whether they
    /// are needed.
    ///
    /// # Errors
    /// Returns the errors of [`Controller::acquire`].
    pub fn acquire_with_disk_wait(
        pool: &PoolDir,
        purpose: &str,
        wait: Wait,
        disks: Duration,
    ) -> Result<Self> {
        Self::acquire_with(&PoolHandle::of(pool)?, Role::Command, purpose, wait, disks)
    }

    /// Takes the controller lock as [`Controller::acquire`] does, with any cluster and store, in any role.
    ///
    /// # Errors
    /// Returns the errors of [`Controller::acquire`].
    pub fn acquire_in(pool: &PoolHandle, role: Role, purpose: &str, wait: Wait) -> Result<Self> {
        Self::acquire_with(pool, role, purpose, wait, INITIAL_WAIT)
    }

    fn acquire_with(
        pool: &PoolHandle,
        role: Role,
        purpose: &str,
        wait: Wait,
        disks: Duration,
    ) -> Result<Self> {
        let waiting = match wait {
            Wait::IfFree => WaitLimit::No,
            Wait::No => WaitLimit::ForJobs,
            Wait::For(within) => WaitLimit::For(within),
        };
        let leadership = pool.cluster.lead(role, purpose, waiting)?;
        pool.environment.prepare_thread();
        hit(Point::ControllerLocked);
        let mut store = (pool.open_store)()?;
        pool.own(&mut *store)?;
        let term = store.raise_term()?;
        hit(Point::ControllerTermRaised);
        let header = store.header()?;
        let shared = pool.cluster.share(header.uuid)?;
        let mut controller = Self {
            pool: pool.dir.clone(),
            cluster: Arc::clone(&pool.cluster),
            environment: Arc::clone(&pool.environment),
            links: Links::over(pool.environment.transport(), header.uuid, term),
            elsewhere: Elsewhere::new(pool, header.uuid),
            store,
            members: shared.members,
            ledgers: shared.ledgers,
            disks: Disks::new(),
            opening: BTreeMap::new(),
            term,
            patience: pool.environment.timing().patience,
            names: BTreeMap::new(),
            recovered: Vec::new(),
            fenced: Vec::new(),
            unfinished: None,
            notes: Vec::new(),
            failed_copies: BTreeSet::new(),
            copies: COPIES,
            more_parts: false,
            discarded: BTreeMap::new(),
            leadership,
        };
        controller.recover()?;
        controller
            .ledgers
            .trust_disks(&mut || disks_at_risk(&mut *controller.store))?;
        controller.open_responsive_disks(disks)?;
        hit(Point::ControllerRecovered);
        controller.remove_partial_volumes();
        controller.log_notes();
        Ok(controller)
    }

    pub(super) fn recover(&mut self) -> Result<()> {
        let timing = self.environment.timing();
        let (mut machine, effects) = Recovery::new(timing.poll_us, timing.polls);
        let mut todo = VecDeque::from(effects);
        while let Some(effect) = todo.pop_front() {
            if let Effect::Finish(did) = effect {
                let lines: Vec<String> = did.iter().map(|did| self.describe(*did)).collect();
                let note = |line: &String| (Severity::Warning, "recovery".to_owned(), line.clone());
                self.notes.extend(lines.iter().map(note));
                self.recovered = lines;
            } else if let Some(event) = self.recovery_step(effect)? {
                todo.extend(machine.on(event));
            }
        }
        Ok(())
    }

    fn recovery_step(&mut self, effect: Effect) -> Result<Option<Event>> {
        Ok(match effect {
            Effect::RecoverEpoch => {
                let epoch = self.cluster.epoch()?;
                Some(Event::EpochRecovered(self.store.recover_epoch(epoch)?))
            }
            Effect::Look => Some(Event::Looked(self.observe_pool()?)),
            Effect::Cancel(change) => Some(Event::Cancelled(change, self.store.cancel(change)?)),
            Effect::SetWord(who) => {
                self.silence(who)?;
                None
            }
            Effect::Leave(who) => {
                self.store.leave(who.slot, who.incarnation)?;
                None
            }
            Effect::Fence(who) => {
                let version = self.store.fence(self.term, who.slot, who.incarnation)?;
                hit(Point::ControllerFenceRecorded);
                self.silence(who)?;
                hit(Point::ControllerFenced);
                self.fenced
                    .extend(version.and(self.names.get(&who.slot)).cloned());
                Some(Event::Fenced(who.slot, version))
            }
            Effect::Arm(us) => {
                // There is no link yet, so nothing happens before the time is over.
                self.links
                    .wait(self.environment.now() + Duration::from_micros(us));
                Some(Event::TimedOut)
            }
            Effect::Finish(_) => None,
        })
    }

    fn observe_pool(&mut self) -> Result<PoolObservation> {
        let current = self.store.header()?.generation;
        let unfinished = self.store.unfinished()?;
        let prepared = unfinished
            .iter()
            .filter(|record| record.state == ChangeState::Prepared);
        let prepared = prepared.map(|record| record.id).collect();
        let (_, members) = self.store.members()?;
        // The names are added to those known, because a member may have gone when the recovery reports what it did to it.
        self.names
            .extend(members.iter().map(|member| (member.slot, member.name.clone())));
        let here = (&*self.members, &*self.cluster as &dyn Presence);
        let members = observe(&members, &mut *self.store, here, &mut self.elsewhere)?;
        self.members.set_committed(current);
        Ok(PoolObservation {
            current,
            members,
            prepared,
        })
    }

    fn describe(&self, did: RecoveryAction) -> String {
        let name = |slot| self.title_of(slot);
        match did {
            RecoveryAction::Undone(id) => {
                format!("change {id} was not on the disks when power was lost: taken back")
            }
            RecoveryAction::Cancelled(id) => {
                format!("change {id} was left unfinished by its controller: cancelled")
            }
            RecoveryAction::SetWord(slot) => {
                format!("apparatus {} was fenced in the store only: fenced", name(slot))
            }
            RecoveryAction::Left(slot) => {
                format!("apparatus {} has ended: not a member any more", name(slot))
            }
            RecoveryAction::Fenced(slot) => {
                format!("apparatus {} did not follow the last change: fenced", name(slot))
            }
        }
    }
}
