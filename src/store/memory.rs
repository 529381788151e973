//! A store in memory, for tests, with SQLite's way of losing power: what a transaction wrote is visible at once to every handle,
//! and a power loss keeps some prefix of the transactions since the last sync, never less than what was synced.

mod homes;
mod people;
mod state;
#[cfg(test)]
mod tests;

pub use homes::{Extent, Homes};

use super::audit::{Entry, Recorded};
use super::{
    Cancel, ChangeRecord, Commit, Event, JobLimits, JobRecord, JobState, Joined, Member, MemberState,
    NewChange, Progress, Severity, Step, Store, Use,
};
use crate::error::{Error, Result};
use crate::pool::holds::Holds;
use crate::pool::model::{Area, DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::pool::names::Name;
use crate::pool::options::{Fullness, Options};
use crate::units::{
    BootId, ByteCount, ChangeId, DiskId, Generation, Incarnation, JobId, MembershipVersion, Slot, Term,
    VolumeExtent, VolumeId,
};
use state::State;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle on a store. Its clones are handles on the same one, as connections of several processes are.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Clone, Debug)]
struct Shared {
    boot: BootId,
    visible: Arc<State>,
    durable: Arc<State>,
    /// The states since the durable one, the visible one last.
    unsynced: Vec<Arc<State>>,
    /// Of the visible one, once somebody has asked.
    print: Option<u64>,
    /// Of all that a power loss may leave, once somebody has asked.
    risk: Option<u64>,
}

impl MemoryStore {
    /// An empty pool, in this boot of the machine.
    #[must_use]
    pub fn new(header: PoolHeader, boot: BootId) -> Self {
        let state = Arc::new(State::new(header));
        let shared = Shared {
            boot,
            visible: Arc::clone(&state),
            durable: state,
            unsynced: Vec::new(),
            print: None,
            risk: None,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Another store that is now as this one is.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            shared: Arc::new(Mutex::new(self.lock().clone())),
        }
    }

    /// Transactions that a power loss may take.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// Power fails, and the machine comes up as `boot`: of the transactions that were not synced, the first `keep` are there.
    pub fn power_loss(&self, keep: usize, boot: BootId) {
        let mut shared = self.lock();
        let kept = keep
            .checked_sub(1)
            .and_then(|last| shared.unsynced.get(last).or(shared.unsynced.last()));
        let state = kept.map_or_else(|| Arc::clone(&shared.durable), Arc::clone);
        *shared = Shared {
            boot,
            visible: Arc::clone(&state),
            durable: state,
            unsynced: Vec::new(),
            print: None,
            risk: None,
        };
    }

    /// A hash of what is visible: stores that answer alike have the same.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut shared = self.lock();
        if let Some(print) = shared.print {
            return print;
        }
        let print = hash_of(&*shared.visible);
        *shared.print.insert(print)
    }

    /// A hash of what a power loss may leave, in whatever order it came about.
    #[must_use]
    pub fn fingerprint_at_risk(&self) -> u64 {
        let mut shared = self.lock();
        if let Some(print) = shared.risk {
            return print;
        }
        let kept = shared.unsynced.iter().chain([&shared.durable]);
        let mut prints: Vec<u64> = kept.map(|state| hash_of(&**state)).collect();
        prints.sort_unstable();
        prints.dedup();
        *shared.risk.insert(hash_of(&prints))
    }

    /// The visible table.
    #[must_use]
    pub fn homes(&self) -> Arc<Homes> {
        Arc::clone(&self.lock().visible.homes)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Arc<State> {
        Arc::clone(&self.lock().visible)
    }

    /// One transaction: nothing changes when it fails.
    fn write<T>(&self, transaction: impl FnOnce(&mut State, BootId) -> Result<T>) -> Result<T> {
        let mut shared = self.lock();
        let mut state = State::clone(&shared.visible);
        let answer = transaction(&mut state, shared.boot)?;
        shared.visible = Arc::new(state);
        (shared.print, shared.risk) = (None, None);
        let visible = Arc::clone(&shared.visible);
        shared.unsynced.push(visible);
        Ok(answer)
    }

    fn sync(&self) {
        let mut shared = self.lock();
        shared.durable = Arc::clone(&shared.visible);
        shared.unsynced.clear();
        shared.risk = None;
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A job as it is read: with how far its copy progress table is.
fn with_progress((job, steps): &(JobRecord, Vec<Step>)) -> JobRecord {
    JobRecord {
        progress: Progress::of(steps),
        ..job.clone()
    }
}

impl Store for MemoryStore {
    fn header(&mut self) -> Result<PoolHeader> {
        Ok(self.read().header.clone())
    }

    fn snapshot(&mut self) -> Result<Snapshot> {
        Ok(self.read().snapshot())
    }

    fn disks(&mut self) -> Result<Vec<DiskRecord>> {
        Ok(self.read().homes.disks.values().cloned().collect())
    }

    fn label_written(&mut self, disk: DiskId, sequence: u64) -> Result<()> {
        self.write(|state, _| {
            Arc::make_mut(&mut state.homes).label_written(disk, sequence);
            Ok(())
        })
    }

    fn volumes(&mut self) -> Result<Vec<VolumeRecord>> {
        Ok(self.read().homes.volumes.values().cloned().collect())
    }

    fn segments(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Segment>> {
        let mut all = self.read().homes.segments(volume);
        all.retain(|segment| start < end && segment.start < end && start < segment.end());
        Ok(all)
    }

    fn uses(&mut self, disk: DiskId) -> Result<Vec<Use>> {
        Ok(self.read().uses(disk))
    }

    fn next_disk_id(&mut self) -> Result<DiskId> {
        Ok(self.read().next_disk)
    }

    fn next_volume_id(&mut self) -> Result<VolumeId> {
        Ok(self.read().next_volume)
    }

    fn raise_term(&mut self) -> Result<Term> {
        self.write(|state, _| {
            state.header.term.0 += 1;
            Ok(state.header.term)
        })
    }

    fn prepare(&mut self, term: Term, change: &NewChange) -> Result<ChangeId> {
        self.write(|state, boot| state.prepare(term, change, boot))
    }

    fn commit(&mut self, term: Term, id: ChangeId, membership: MembershipVersion) -> Result<Commit> {
        self.write(|state, boot| state.commit(term, id, membership, boot))
    }

    fn cancel(&mut self, id: ChangeId) -> Result<Cancel> {
        self.write(|state, _| state.cancel(id))
    }

    fn change(&mut self, id: ChangeId) -> Result<Option<ChangeRecord>> {
        Ok(self.read().changes.get(&id).map(|stored| stored.record.clone()))
    }

    fn unfinished(&mut self) -> Result<Vec<ChangeRecord>> {
        Ok(self
            .read()
            .unfinished()
            .map(|stored| stored.record.clone())
            .collect())
    }

    fn harden(&mut self, ids: &[ChangeId]) -> Result<()> {
        self.write(|state, _| state.harden(ids))?;
        self.sync();
        Ok(())
    }

    fn recover_boot(&mut self, boot: BootId) -> Result<Vec<ChangeId>> {
        let mut shared = self.lock();
        let mut state = State::clone(&shared.visible);
        let (undone, changed) = state.recover(boot)?;
        shared.boot = boot;
        if changed {
            let state = Arc::new(state);
            *shared = Shared {
                boot,
                visible: Arc::clone(&state),
                durable: state,
                unsynced: Vec::new(),
                print: None,
                risk: None,
            };
        }
        Ok(undone)
    }

    fn reserve(&mut self, term: Term, job: JobId, areas: &[Area]) -> Result<()> {
        self.write(|state, _| {
            state.not_stale(term)?;
            if state.job(job)?.state.has_ended() {
                return Err(Error::failed(
                    format!("job {job}"),
                    "has ended, and reserves nothing",
                ));
            }
            areas.iter().try_for_each(|&area| state.reserve(job, area))
        })
    }

    fn freeable(&mut self, oldest: Generation) -> Result<Vec<Area>> {
        Ok(self.read().freeable(oldest))
    }

    fn free_quarantine_except(&mut self, oldest: Generation, disks: &BTreeSet<DiskId>) -> Result<Vec<Area>> {
        self.write(|state, _| Ok(state.free_quarantine(oldest, disks)))
    }

    fn join(
        &mut self,
        name: &Name,
        pid: u32,
        mount: &Path,
        alive: &dyn Fn(&Member) -> bool,
        known: Option<Generation>,
    ) -> Result<Joined> {
        self.write(|state, boot| {
            state.recover(boot)?;
            state.join(name, pid, mount, (boot, known), alive)
        })
    }

    fn rejoin(&mut self, slot: Slot, incarnation: Incarnation, known: Option<Generation>) -> Result<Joined> {
        self.write(|state, _| state.rejoin(slot, incarnation, known))
    }

    fn fence(
        &mut self,
        term: Term,
        slot: Slot,
        incarnation: Incarnation,
    ) -> Result<Option<MembershipVersion>> {
        self.write(|state, _| state.fence(term, slot, incarnation))
    }

    fn leave(&mut self, slot: Slot, incarnation: Incarnation) -> Result<()> {
        self.write(|state, _| {
            state.leave(slot, incarnation);
            Ok(())
        })
    }

    fn members(&mut self) -> Result<(MembershipVersion, Vec<Member>)> {
        let state = self.read();
        let inside = state.members.values().map(|(member, _)| member);
        let inside = inside
            .filter(|member| member.state != MemberState::Left)
            .cloned()
            .collect();
        Ok((state.header.membership, inside))
    }

    fn create_job(&mut self, term: Term, job: &JobRecord, steps: &[Step]) -> Result<JobId> {
        let id = self.write(|state, _| {
            state.not_stale(term)?;
            state.create_job(job, steps)
        })?;
        self.sync();
        Ok(id)
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>> {
        Ok(self.read().jobs.values().map(with_progress).collect())
    }

    fn job(&mut self, id: JobId) -> Result<Option<JobRecord>> {
        Ok(self.read().jobs.get(&id).map(with_progress))
    }

    fn steps(&mut self, id: JobId) -> Result<Vec<Step>> {
        Ok(self
            .read()
            .jobs
            .get(&id)
            .map(|(_, steps)| steps.clone())
            .unwrap_or_default())
    }

    fn replace_steps(&mut self, term: Term, id: JobId, steps: &[Step], back: bool) -> Result<()> {
        self.write(|state, _| {
            state.not_stale(term)?;
            state.replace_steps(id, steps, back)
        })
    }

    fn set_job_state(&mut self, id: JobId, from: JobState, to: JobState, why: &str) -> Result<bool> {
        self.write(|state, _| state.set_job_state(id, from, to, why))
    }

    fn set_job_limits(&mut self, id: JobId, limits: JobLimits) -> Result<()> {
        self.write(|state, _| {
            state.job(id)?.limits = limits;
            Ok(())
        })
    }

    fn set_job_figures(
        &mut self,
        id: JobId,
        copied: ByteCount,
        longest_hold_us: u64,
        held: u64,
        holds: &Holds,
    ) -> Result<()> {
        self.write(|state, _| {
            let job = state.job(id)?;
            (job.copied, job.longest_hold_us, job.held) = (copied, longest_hold_us, held);
            job.holds.clone_from(holds);
            Ok(())
        })
    }

    fn options(&mut self) -> Result<Options> {
        Ok(self.read().options)
    }

    fn set_options(&mut self, options: &Options) -> Result<()> {
        self.write(|state, _| {
            state.options = *options;
            Ok(())
        })?;
        self.sync();
        Ok(())
    }

    fn fullness(&mut self) -> Result<Fullness> {
        Ok(self.read().fullness)
    }

    fn set_fullness(&mut self, fullness: Fullness) -> Result<()> {
        self.write(|state, _| {
            state.fullness = fullness;
            Ok(())
        })
    }

    fn log(&mut self, severity: Severity, subject: &str, text: &str) -> Result<()> {
        self.write(|state, _| {
            state.log(severity, subject, text);
            Ok(())
        })
    }

    fn events(&mut self, after: u64, most: usize) -> Result<Vec<Event>> {
        let state = self.read();
        Ok(state
            .events
            .iter()
            .filter(|event| event.seq > after)
            .take(most)
            .cloned()
            .collect())
    }

    fn record(&mut self, entry: &Entry) -> Result<()> {
        self.write(|state, _| {
            state.record(entry);
            Ok(())
        })
    }

    fn recorded(&mut self, after: u64, most: usize) -> Result<Vec<Recorded>> {
        let mut all = self.read().audit.clone();
        all.retain(|each| each.mark > after);
        all.sort_by_key(|each| each.mark);
        all.truncate(most);
        Ok(all)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.sync();
        Ok(())
    }
}
