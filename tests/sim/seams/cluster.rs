//! The processes of the pool, as a driver sees them: life locks, the member table, the controller lock.

use super::ledger::SimLedgers;
use super::{ask, glance};
use crate::sim::driver::Goal;
use crate::sim::fault::Fault;
use crate::sim::thread::{me, pause, world};
use crate::sim::{Delay, ProcId, World};
use apparatus::cluster::{
    Claimed, Claims, Cluster, Guard, JobClaim, Leadership, Membership, NameClaim, OwnEntry, Presence, Role,
    SharedState, SharedTimes, WaitLimit,
};
use apparatus::model::audit::Process;
use apparatus::model::error::{Error, Result};
use apparatus::model::member::{Member, MemberEntry, Origin};
use apparatus::model::names::Name;
use apparatus::model::records::DiskRecord;
use apparatus::model::units::{CacheEpoch, DiskId, Generation, Incarnation, JobId, Slot};
use apparatus::protocol::controller::Participant;
use apparatus::store::roles::*;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Time between two attempts to take the controller lock, in microseconds.
const RETRY_US: u64 = 900;

#[derive(Clone, Copy, Debug)]
pub struct SimCluster;

fn not_simulated(what: &str) -> Error {
    Error::failed(what, "is not simulated")
}

impl Presence for SimCluster {
    fn claim(&self, _name: &str) -> Result<Option<Arc<dyn NameClaim>>> {
        Err(not_simulated("claiming a name"))
    }

    fn is_claimed(&self, name: &str) -> Result<bool> {
        ask(|world| {
            let lives = world.apps.iter().flatten().any(|app| app.name.as_str() == name);
            // A fault: who is fenced is taken for dead.
            lives && !world.wrong(Fault::ReadsNotHeld)
        })
    }

    fn await_end(&self, _name: &str, _within: Duration) -> Result<bool> {
        Err(not_simulated("waiting for the end of a process"))
    }

    fn any_claimed(&self) -> Result<Option<Claimed>> {
        ask(|world| {
            let app = world.apps.iter().flatten().next();
            app.map(|app| Claimed::Named(app.name.to_string()))
        })
    }

    fn has_ended(&self, member: &Member) -> Result<bool> {
        ask(|world| {
            let stopped =
                |app: &crate::sim::app::App| app.name == member.name && world.stopped.contains(&app.proc);
            let wrong = world.wrong(Fault::StoppedCountsAsEnded)
                && world.apps.iter().flatten().any(|app| stopped(app));
            wrong || !world.lives(member)
        })
    }

    fn origin(&self) -> Option<Origin> {
        None
    }

    fn this_process(&self) -> io::Result<Process> {
        Err(io::Error::other("is not simulated"))
    }

    fn process_lives(&self, _process: Process, _pid: u32) -> io::Result<Option<bool>> {
        Ok(None)
    }
}

impl Claims for SimCluster {
    fn claim_job(&self, job: JobId, _within: Duration) -> Result<Option<JobClaim>> {
        Ok(Some(JobClaim::new(job, Guard::new(()))))
    }

    fn worker_of(&self, _job: JobId) -> Result<Option<String>> {
        Ok(None)
    }

    fn any_job_claimed(&self) -> Result<bool> {
        Ok(false)
    }

    fn claim_attaching(&self, _within: Duration) -> Result<Guard> {
        Ok(Guard::new(()))
    }

    fn claim_discards(&self, _disk: DiskId) -> Result<Option<Guard>> {
        Ok(Some(Guard::new(())))
    }

    fn mark_left_write(&self, _disk: DiskId) -> Result<Guard> {
        Ok(Guard::new(()))
    }

    fn refuse_left_write(&self, _disk: &DiskRecord) -> Result<()> {
        Ok(())
    }
}

impl Cluster for SimCluster {
    fn epoch(&self) -> Result<CacheEpoch> {
        ask(|world| world.boot())
    }

    fn share(&self, _pool: Uuid) -> Result<SharedState> {
        Ok(SharedState {
            members: Arc::new(SimMembers),
            ledgers: Arc::new(SimLedgers),
        })
    }

    fn share_existing(&self, pool: Uuid) -> Result<Option<SharedState>> {
        self.share(pool).map(Some)
    }

    fn lost_state(&self) -> Result<Option<Error>> {
        Ok(None)
    }

    fn leadership(&self, role: Role, _purpose: &str) -> Result<Box<dyn Leadership>> {
        Ok(Box::new(SimLeadership { me: me(), role }))
    }

    fn leader(&self) -> Result<Option<String>> {
        ask(|world| world.lock.map(|id| format!("{id:?}")))
    }

    fn times(&self, _apparatus: &Name, _pool: Uuid) -> Box<dyn SharedTimes> {
        unreachable!("a controller has no use for times")
    }
}

/// The controller lock, or a request for it.
struct SimLeadership {
    me: ProcId,
    role: Role,
}

impl SimLeadership {
    fn set_waits(&self, waits: bool) {
        let role = Some(self.role).filter(|_| waits);
        world(|world| world.drivers.get_mut(&self.me).map(|driver| driver.waits = role));
    }
}

impl Leadership for SimLeadership {
    fn acquire(&mut self, wait: WaitLimit) -> Result<bool> {
        let begun = ask(|world| world.now)?;
        loop {
            pause(Delay::Store);
            let (taken, now, jobs) = ask(|world| {
                let taken = world.take_lock_for(self.me);
                (taken, world.now, world.a_job_leads())
            })?;
            let goes_on = match wait {
                WaitLimit::No => false,
                WaitLimit::ForJobs => jobs,
                WaitLimit::For(None) => true,
                WaitLimit::For(Some(within)) => u128::from(now - begun) < within.as_micros(),
            };
            self.set_waits(!taken && goes_on);
            if taken || !goes_on {
                return Ok(taken);
            }
            pause(Delay::Exactly(RETRY_US));
        }
    }

    fn is_held(&self) -> bool {
        world(|world| world.lock == Some(self.me)) == Some(true)
    }

    fn is_wanted_by(&self, role: Role) -> Result<bool> {
        ask(|world| world.drivers.values().any(|driver| driver.waits == Some(role)))
    }

    fn yield_in_gaps(&mut self) -> Result<()> {
        Ok(())
    }

    fn release(&mut self) {
        world(|world| {
            if world.lock == Some(self.me) {
                world.lock = None;
            }
        });
    }

    fn set_purpose(&mut self, _purpose: &str) -> Result<()> {
        Ok(())
    }
}

impl Drop for SimLeadership {
    fn drop(&mut self) {
        self.release();
    }
}

impl World {
    fn take_lock_for(&mut self, id: ProcId) -> bool {
        if self.lock.is_some() && self.lock != Some(id) {
            self.count("found the controller lock taken");
            return false;
        }
        self.lock = Some(id);
        true
    }

    fn a_job_leads(&self) -> bool {
        let leader = self.lock.and_then(|id| self.drivers.get(&id));
        leader.is_some_and(|driver| driver.goal == Goal::Work)
    }
}

/// The member table.
struct SimMembers;

impl Membership for SimMembers {
    fn own(&self, _slot: Slot) -> Arc<dyn OwnEntry> {
        unreachable!("a controller has no entry")
    }

    fn entry(&self, slot: Slot) -> MemberEntry {
        glance();
        let entry = world(|world| {
            let mut entry = world.row(slot).line();
            entry.heartbeat_us = world.heartbeat(slot);
            if world.wrong(Fault::RecoveryIgnoresBehind) {
                entry.generation = world
                    .store
                    .header()
                    .map_or(entry.generation, |header| header.generation);
            }
            entry
        });
        entry.unwrap_or_else(|| crate::sim::Row::default().line())
    }

    fn fence(&self, slot: Slot, incarnation: Incarnation) {
        pause(Delay::Step);
        world(|world| {
            let fences = world.drivers.get_mut(&me());
            if !fences.is_some_and(|driver| std::mem::take(&mut driver.fences)) {
                world.count("words set by the next controller");
            } else if world.apps.iter().flatten().any(|app| app.slot == slot) {
                world.count("fenced alive");
            }
            world.word(Participant { slot, incarnation });
        });
    }

    fn committed(&self) -> Generation {
        world(|world| world.shown.0).unwrap_or_default()
    }

    fn set_committed(&self, generation: Generation) {
        world(|world| world.shown.0 = world.shown.0.max(generation));
    }

    fn restore(&self) -> Result<bool> {
        Ok(false)
    }

    fn leave(&self) {}
}
