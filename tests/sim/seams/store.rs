//! The store of a driver: each transaction of the store in memory takes time, and the answer to a commit may be lost.

use super::{ask, glance, not_in_a_hold};
use crate::sim::fault::Fault;
use crate::sim::thread::{me, pause};
use crate::sim::{Delay, World};
use apparatus::blockdev::label::choose;
use apparatus::model::audit;
use apparatus::model::change::{Cancel, ChangeRecord, Commit, NewChange, UsedArea};
use apparatus::model::error::{Error, Result};
use apparatus::model::event::{Event, Severity};
use apparatus::model::holds::Holds;
use apparatus::model::job::{JobLimits, JobRecord, JobState, Step};
use apparatus::model::member::{Joined, Joiner, Member, MemberState};
use apparatus::model::names::Name;
use apparatus::model::node::Node;
use apparatus::model::options::{Fullness, Options};
use apparatus::model::records::{Area, Delta, DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use apparatus::model::units::{
    ByteCount, CacheEpoch, ChangeId, DiskId, Generation, Incarnation, JobId, MembershipVersion, Slot, Term,
    VolumeExtent, VolumeId,
};
use apparatus::protocol::recovery;
use apparatus::store::memory::MemoryStore;
use apparatus::store::roles::*;
use std::collections::BTreeSet;

pub struct SimStore {
    store: MemoryStore,
}

impl SimStore {
    pub fn new(store: MemoryStore) -> Self {
        Self { store }
    }

    /// A transaction that only reads.
    fn reads(&mut self, what: &str) -> &mut MemoryStore {
        not_in_a_hold(what);
        glance();
        &mut self.store
    }

    /// A transaction that writes.
    fn writes(&mut self, what: &str) -> &mut MemoryStore {
        not_in_a_hold(what);
        self.writes_in_a_hold()
    }

    /// A transaction that a hold may wait for.
    fn writes_in_a_hold(&mut self) -> &mut MemoryStore {
        pause(Delay::Store);
        &mut self.store
    }
}

impl TableStore for SimStore {
    fn header(&mut self) -> Result<PoolHeader> {
        self.reads("header").header()
    }

    fn snapshot(&mut self) -> Result<Snapshot> {
        self.reads("snapshot").snapshot()
    }

    fn deltas_since(&mut self, known: Generation) -> Result<Option<Vec<Delta>>> {
        self.reads("deltas_since").deltas_since(known)
    }

    fn disks(&mut self) -> Result<Vec<DiskRecord>> {
        self.reads("disks").disks()
    }

    fn label_written(&mut self, disk: DiskId, sequence: u64) -> Result<()> {
        self.writes("label_written").label_written(disk, sequence)
    }

    fn volumes(&mut self) -> Result<Vec<VolumeRecord>> {
        self.reads("volumes").volumes()
    }

    fn segments(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Segment>> {
        self.reads("segments").segments(volume, start, end)
    }

    fn uses(&mut self, disk: DiskId) -> Result<Vec<UsedArea>> {
        self.reads("uses").uses(disk)
    }

    fn next_disk_id(&mut self) -> Result<DiskId> {
        self.reads("next_disk_id").next_disk_id()
    }

    fn next_volume_id(&mut self) -> Result<VolumeId> {
        self.reads("next_volume_id").next_volume_id()
    }
}

impl ChangeStore for SimStore {
    fn raise_term(&mut self) -> Result<Term> {
        let term = self.writes("raise_term").raise_term()?;
        ask(|world| {
            world.count("turns of controllers");
            if let Some(driver) = world.drivers.get_mut(&me()) {
                driver.term = term;
            }
            world.give_up_of_others(me(), term);
        })?;
        Ok(term)
    }

    fn prepare(&mut self, term: Term, change: &NewChange) -> Result<ChangeId> {
        let prepared = self.writes("prepare").prepare(term, change)?;
        ask(World::label_first)?;
        Ok(prepared)
    }

    fn commit(&mut self, term: Term, id: ChangeId, membership: MembershipVersion) -> Result<Commit> {
        let store = self.writes_in_a_hold();
        let unchecked = ask(|world| world.wrong(Fault::MembershipUnchecked))?;
        let current = store.members()?.0;
        let membership = ask(|world| world.with_unasked(me(), membership))?;
        let answer = store.commit(term, id, if unchecked { current } else { membership })?;
        if matches!(answer, Commit::Committed(_)) {
            ask(|world| world.persist_at_commit(id))?;
        }
        if ask(|world| world.committed_by_driver(&answer))? {
            return Err(Error::failed("commit", "the answer was lost"));
        }
        if ask(|world| world.wrong(Fault::PersistInHold))? {
            self.persist(&[id])?;
        }
        Ok(answer)
    }

    fn cancel(&mut self, id: ChangeId) -> Result<Cancel> {
        let store = self.writes_in_a_hold();
        if ask(|world| world.wrong(Fault::CancelNotAsked))? {
            return Ok(Cancel::Cancelled);
        }
        store.cancel(id)
    }

    fn change(&mut self, id: ChangeId) -> Result<Option<ChangeRecord>> {
        self.reads("change").change(id)
    }

    fn unfinished(&mut self) -> Result<Vec<ChangeRecord>> {
        self.reads("unfinished").unfinished()
    }

    fn persist(&mut self, ids: &[ChangeId]) -> Result<()> {
        let store = self.writes("persist");
        let last_only = ask(|world| {
            let by_controller = world.drivers.contains_key(&me());
            world.count(if by_controller {
                "persisted by a controller"
            } else {
                "persisted by a flush"
            });
            world.wrong(Fault::PersistLastOnly)
        })?;
        match ids {
            [.., last] if last_only => store.persist(&[*last]),
            _ => store.persist(ids),
        }
    }

    fn recover_epoch(&mut self, boot: CacheEpoch) -> Result<Vec<ChangeId>> {
        self.writes("recover_epoch").recover_epoch(boot)
    }

    fn freeable(&mut self, oldest: Generation) -> Result<Vec<Area>> {
        self.reads("freeable").freeable(oldest)
    }

    fn free_quarantine_except(&mut self, oldest: Generation, disks: &BTreeSet<DiskId>) -> Result<Vec<Area>> {
        let store = self.writes("free_quarantine_except");
        let oldest = ask(|world| world.oldest_for_driver(oldest))?;
        let freed = store.free_quarantine_except(oldest, disks)?;
        ask(|world| {
            if !freed.is_empty() {
                world.count("extents freed");
            }
            world.check_ownership();
        })?;
        Ok(freed)
    }
}

impl NodeStore for SimStore {
    fn set_node(&mut self, node: &Node) -> Result<()> {
        self.writes("set_node").set_node(node)
    }

    fn remove_node(&mut self, name: &Name) -> Result<bool> {
        self.writes("remove_node").remove_node(name)
    }

    fn nodes(&mut self) -> Result<Vec<Node>> {
        self.reads("nodes").nodes()
    }
}

impl MemberStore for SimStore {
    fn join(&mut self, _joiner: &Joiner, _alive: &dyn Fn(&Member) -> bool) -> Result<Joined> {
        Err(Error::failed("join", "a controller does not join"))
    }

    fn rejoin(
        &mut self,
        _slot: Slot,
        _incarnation: Incarnation,
        _known: Option<Generation>,
    ) -> Result<Joined> {
        Err(Error::failed("rejoin", "a controller does not join"))
    }

    fn fence(
        &mut self,
        term: Term,
        slot: Slot,
        incarnation: Incarnation,
    ) -> Result<Option<MembershipVersion>> {
        let store = self.writes_in_a_hold();
        let wrong = ask(|world| {
            world.count("fences");
            if let Some(driver) = world.drivers.get_mut(&me()) {
                driver.fences = true;
            }
            world.wrong(Fault::FenceNotRecorded)
        })?;
        if wrong {
            return Ok(Some(store.members()?.0));
        }
        store.fence(term, slot, incarnation)
    }

    fn leave(&mut self, slot: Slot, incarnation: Incarnation) -> Result<()> {
        let store = self.writes("leave");
        ask(|world| world.count("dead members marked"))?;
        store.leave(slot, incarnation)
    }

    fn members(&mut self) -> Result<(MembershipVersion, Vec<Member>)> {
        let (version, mut members) = self.reads("members").members()?;
        ask(|world| {
            world.overlook_late_writers(&mut members);
            if let Some(driver) = world.drivers.get_mut(&me()) {
                driver.fenced_unasked = 0;
            }
        })?;
        Ok((version, members))
    }
}

impl JobStore for SimStore {
    fn reserve(&mut self, term: Term, job: JobId, areas: &[Area]) -> Result<()> {
        self.writes("reserve").reserve(term, job, areas)
    }

    fn create_job(&mut self, term: Term, job: &JobRecord, steps: &[Step]) -> Result<JobId> {
        self.writes("create_job").create_job(term, job, steps)
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>> {
        self.reads("jobs").jobs()
    }

    fn job(&mut self, id: JobId) -> Result<Option<JobRecord>> {
        self.reads("job").job(id)
    }

    fn steps(&mut self, id: JobId) -> Result<Vec<Step>> {
        self.reads("steps").steps(id)
    }

    fn replace_steps(&mut self, term: Term, id: JobId, steps: &[Step], back: bool) -> Result<()> {
        self.writes("replace_steps").replace_steps(term, id, steps, back)
    }

    fn set_job_state(&mut self, id: JobId, from: JobState, to: JobState, why: &str) -> Result<bool> {
        self.writes("set_job_state").set_job_state(id, from, to, why)
    }

    fn set_job_limits(&mut self, id: JobId, limits: JobLimits) -> Result<()> {
        self.writes("set_job_limits").set_job_limits(id, limits)
    }

    fn set_job_figures(
        &mut self,
        id: JobId,
        copied: ByteCount,
        longest_hold_us: u64,
        held: u64,
        holds: &Holds,
    ) -> Result<()> {
        self.writes("set_job_figures")
            .set_job_figures(id, copied, longest_hold_us, held, holds)
    }
}

impl EventStore for SimStore {
    fn options(&mut self) -> Result<Options> {
        self.reads("options").options()
    }

    fn set_options(&mut self, options: &Options) -> Result<()> {
        self.writes("set_options").set_options(options)
    }

    fn fullness(&mut self) -> Result<Fullness> {
        self.reads("fullness").fullness()
    }

    fn set_fullness(&mut self, fullness: Fullness) -> Result<()> {
        self.writes("set_fullness").set_fullness(fullness)
    }

    fn log(&mut self, severity: Severity, subject: &str, text: &str) -> Result<()> {
        self.writes("log").log(severity, subject, text)
    }

    fn events(&mut self, after: u64, most: usize) -> Result<Vec<Event>> {
        self.reads("events").events(after, most)
    }

    fn record(&mut self, entry: &audit::Entry) -> Result<()> {
        self.writes("record").record(entry)
    }

    fn recorded(&mut self, after: u64, most: usize) -> Result<Vec<audit::Recorded>> {
        self.reads("recorded").recorded(after, most)
    }
}

/// The disks of the simulation carry no copies of the metadata.
impl MetadataStore for SimStore {}

/// A simulated pool remembers no removed volumes.
impl RemovedStore for SimStore {}

impl UpkeepStore for SimStore {
    fn checkpoint(&mut self) -> Result<()> {
        self.writes("checkpoint").checkpoint()
    }
}

impl World {
    /// A driver's commit was answered so. Returns whether the answer is lost.
    fn committed_by_driver(&mut self, answer: &Commit) -> bool {
        if self.wrong(Fault::FreeAtOnce) {
            self.free_at_once();
        }
        if self.rng.permille(self.options.chaos.store_fails) {
            self.count("answers to a commit lost");
            return true;
        }
        self.note_commit(answer);
        false
    }

    /// A fault: the labels get the layout number that the database will have.
    fn label_first(&mut self) {
        let Ok(header) = self.store.header() else { return };
        if !self.wrong(Fault::LabelFirst) {
            return;
        }
        for copies in &mut self.labels {
            if let Ok((mut label, copy)) = choose(copies) {
                label.layout = label.layout.max(header.layout + 1);
                copies[copy] = label.encode();
            }
        }
    }

    /// A fault: fenced apparatuses that live are not looked for before a copy. What else rests on them is as it should be.
    fn overlook_late_writers(&self, members: &mut Vec<Member>) {
        if self.wrong(Fault::AheadWithLateWriter) {
            members.retain(|member| {
                let row = self.rows.get(member.slot.0 as usize).copied().unwrap_or_default();
                member.state != MemberState::Fenced || row.fenced != member.incarnation || !self.lives(member)
            });
        }
    }

    /// The oldest generation that counts when a driver frees.
    fn oldest_for_driver(&mut self, oldest: Generation) -> Generation {
        let current = self.store.header().map_or(oldest, |header| header.generation);
        if oldest < current {
            self.count("old tables still in use");
        }
        if self.wrong(Fault::AheadWithLateWriter) {
            return oldest.min(recovery::oldest_in_use(&self.see(), current));
        }
        if !self.wrong(Fault::NoQuarantine) {
            return oldest;
        }
        let mut seen = self.see();
        seen.retain(|seen| seen.state == MemberState::Joined);
        recovery::oldest_in_use(&seen, current)
    }
}
