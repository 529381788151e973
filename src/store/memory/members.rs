//! Members and jobs in a [`State`].

use super::placements::Extent;
use super::state::{State, Stored};
use crate::model::change::{ChangeState, Owner};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::job::{JobKind, JobRecord, JobState, Step};
use crate::model::member::{Joined, Joiner, Member, MemberState, SLOTS};
use crate::model::records::{Area, Delta, Edit, Segment};
use crate::model::units::{
    CacheEpoch, DiskExtent, Generation, Incarnation, JobId, MembershipVersion, Slot, Term, Timestamp,
    VolumeExtent, VolumeId,
};
use crate::store::{DISK_REMOVED, VOLUME_REMOVED};
use std::sync::Arc;

impl State {
    fn raise_membership(&mut self) -> MembershipVersion {
        self.header.membership.0 += 1;
        self.header.membership
    }

    fn next_incarnation(&mut self) -> Incarnation {
        self.incarnations += 1;
        Incarnation(self.incarnations)
    }

    pub(super) fn join(
        &mut self,
        joiner: &Joiner,
        epoch: CacheEpoch,
        alive: &dyn Fn(&Member) -> bool,
    ) -> Result<Joined> {
        let Joiner {
            name,
            pid,
            mount,
            node,
            port,
            known,
            ..
        } = joiner;
        let same = self
            .members
            .values()
            .map(|(member, _)| member)
            .find(|member| member.name == *name);
        let slot = match same {
            Some(same) if same.state != MemberState::Left && alive(same) => {
                let why = format!(
                    "runs already: process {}, mounted at {}",
                    same.pid,
                    same.mount.display()
                );
                return Err(Error::failed(format!("apparatus {name}"), why));
            }
            Some(same) => same.slot,
            None => self.free_slot(alive)?,
        };
        let incarnation = self.next_incarnation();
        let member = Member {
            slot,
            name: name.clone(),
            incarnation,
            state: MemberState::Joined,
            pid: *pid,
            mount: mount.clone(),
            joined_at: self.header.generation,
            since: Timestamp(0),
            origin: None,
            node: node.clone(),
            port: *port,
        };
        self.members.insert(slot, (member, epoch));
        self.raise_membership();
        self.joined(slot, *known)
    }

    fn joined(&self, slot: Slot, known: Option<Generation>) -> Result<Joined> {
        let member = self.members.get(&slot).map(|(member, _)| member.clone());
        let since = known.and_then(|known| self.deltas_since(known));
        let mut snapshot = self.snapshot();
        if since.is_some() {
            snapshot.segments.clear();
        }
        Ok(Joined {
            member: member.ok_or_else(|| Error::not_found("apparatus", &format!("in slot {slot}")))?,
            snapshot,
            since,
            unfinished: self.unfinished().map(|stored| stored.record.clone()).collect(),
        })
    }

    /// Returns `None` if one of the deltas was taken back.
    pub(super) fn deltas_since(&self, known: Generation) -> Option<Vec<Delta>> {
        let stands = |stored: &&Arc<Stored>| {
            let state = stored.record.state;
            matches!(state, ChangeState::Committed | ChangeState::Persisted)
                && stored.generation > Some(known)
        };
        let mut found: Vec<&Arc<Stored>> = self.changes.values().filter(stands).collect();
        found.sort_by_key(|stored| stored.generation);
        let led_to = found.iter().filter_map(|stored| Some(stored.generation?.0));
        let current = self.header.generation;
        let in_a_row = known <= current && led_to.eq(known.0 + 1..=current.0);
        in_a_row.then(|| {
            found
                .iter()
                .map(|stored| stored.record.change.delta.clone())
                .collect()
        })
    }

    /// Returns the lowest slot whose member has left or that was never used; else that of a member whose process has ended.
    fn free_slot(&mut self, alive: &dyn Fn(&Member) -> bool) -> Result<Slot> {
        let inside = |member: &Member| member.state != MemberState::Left;
        let taken = |slot: &Slot| self.members.get(slot).is_some_and(|(member, _)| inside(member));
        if let Some(slot) = (0..SLOTS).map(Slot).find(|slot| !taken(slot)) {
            return Ok(slot);
        }
        let dead = |member: &&Member| inside(member) && !alive(member);
        let dead = self
            .members
            .values()
            .map(|(member, _)| member)
            .find(dead)
            .map(|member| member.slot);
        dead.ok_or_else(|| {
            Error::failed(
                "pool",
                format!("has {SLOTS} apparatuses, which is the most it can have"),
            )
        })
    }

    fn is(&self, slot: Slot, incarnation: Incarnation, state: MemberState) -> bool {
        let same = |(member, _): &(Member, _)| (member.incarnation, member.state) == (incarnation, state);
        self.members.get(&slot).is_some_and(same)
    }

    fn set_member(&mut self, slot: Slot, state: MemberState) -> MembershipVersion {
        if let Some((member, _)) = self.members.get_mut(&slot) {
            member.state = state;
        }
        self.raise_membership()
    }

    pub(super) fn rejoin(
        &mut self,
        slot: Slot,
        incarnation: Incarnation,
        known: Option<Generation>,
    ) -> Result<Joined> {
        if !self.is(slot, incarnation, MemberState::Fenced) {
            let why = format!("incarnation {incarnation} is not fenced");
            return Err(Error::new(
                ErrorKind::Stale,
                format!("apparatus in slot {slot}"),
                why,
            ));
        }
        let (next, generation) = (self.next_incarnation(), self.header.generation);
        if let Some((member, _)) = self.members.get_mut(&slot) {
            member.incarnation = next;
            member.joined_at = generation;
        }
        self.set_member(slot, MemberState::Joined);
        self.joined(slot, known)
    }

    pub(super) fn fence(
        &mut self,
        term: Term,
        slot: Slot,
        incarnation: Incarnation,
    ) -> Result<Option<MembershipVersion>> {
        self.not_stale(term)?;
        let joined = self.is(slot, incarnation, MemberState::Joined);
        Ok(joined.then(|| self.set_member(slot, MemberState::Fenced)))
    }

    pub(super) fn leave(&mut self, slot: Slot, incarnation: Incarnation) -> bool {
        let mut inside = [MemberState::Joined, MemberState::Fenced].into_iter();
        let leaves = inside.any(|state| self.is(slot, incarnation, state));
        if leaves {
            self.set_member(slot, MemberState::Left);
        }
        leaves
    }

    /// Marks the members of another epoch as left: their processes have ended.
    pub(super) fn end_of_epoch(&mut self, epoch: CacheEpoch) -> bool {
        let mut any = false;
        let present: Vec<CacheEpoch> = self.nodes.values().map(|node| node.epoch).collect();
        for (member, joined_in) in self.members.values_mut() {
            let is_over = *joined_in != epoch && !present.contains(joined_in);
            if is_over && member.state != MemberState::Left {
                member.state = MemberState::Left;
                any = true;
            }
        }
        if any {
            self.raise_membership();
        }
        any
    }

    pub(super) fn create_job(&mut self, job: &JobRecord, steps: &[Step]) -> Result<JobId> {
        let id = JobId(self.jobs.last_key_value().map_or(0, |(id, _)| id.0) + 1);
        self.jobs
            .insert(id, (JobRecord { id, ..job.clone() }, Vec::new()));
        self.put_steps(id, steps)?;
        Ok(id)
    }

    /// Sets the table and reserves the destinations of the rest.
    fn put_steps(&mut self, id: JobId, steps: &[Step]) -> Result<()> {
        let ended = self.job(id)?.state.has_ended();
        for (seq, step) in steps.iter().enumerate() {
            if step.from.placement.len != step.to.len || step.done > step.to.len {
                let why = "moves more extents than it has, or its destination has another length";
                return Err(Error::failed(format!("step {seq}"), why));
            }
            if step.done < step.to.len && !ended {
                let start = DiskExtent(step.to.start.0 + step.done);
                self.reserve(
                    id,
                    Area {
                        start,
                        len: step.to.len - step.done,
                        ..step.to
                    },
                )?;
            }
        }
        if let Some((_, old)) = self.jobs.get_mut(&id) {
            *old = steps.to_vec();
        }
        Ok(())
    }

    pub(super) fn replace_steps(&mut self, id: JobId, steps: &[Step], back: bool) -> Result<()> {
        self.job(id)?.back = back;
        self.unreserve(id);
        self.put_steps(id, steps)
    }

    pub(super) fn job(&mut self, id: JobId) -> Result<&mut JobRecord> {
        let job = self.jobs.get_mut(&id).map(|(job, _)| job);
        job.ok_or_else(|| Error::not_found("job", &id.to_string()))
    }

    pub(super) fn set_job_state(
        &mut self,
        id: JobId,
        from: JobState,
        to: JobState,
        why: &str,
    ) -> Result<bool> {
        let job = self.job(id)?;
        let changes = job.state == from;
        if changes {
            job.state = to;
            job.ended = to.has_ended().then_some(Timestamp(0));
            why.clone_into(&mut job.why);
            if to.has_ended() {
                self.unreserve(id);
            }
        }
        Ok(changes)
    }

    /// Ends the jobs about the volumes and disks that these edits remove, and removes the volumes' steps from the other jobs.
    pub(super) fn end_jobs_of_removed(&mut self, edits: &[Edit]) -> Result<()> {
        for edit in edits {
            match edit {
                Edit::RemoveVolume(volume) => {
                    self.end_jobs(|kind| kind.is_about_volume(*volume), VOLUME_REMOVED)?;
                    self.forget_steps(*volume)?;
                }
                Edit::RemoveDisk(disk) => self.end_jobs(|kind| kind.is_about_disk(*disk), DISK_REMOVED)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn end_jobs(&mut self, about: impl Fn(&JobKind) -> bool, why: &str) -> Result<()> {
        let open = |(job, _): &&(JobRecord, Vec<Step>)| !job.state.has_ended() && about(&job.kind);
        let ended: Vec<_> = self
            .jobs
            .values()
            .filter(open)
            .map(|(job, _)| (job.id, job.state))
            .collect();
        for (id, state) in ended {
            self.set_job_state(id, state, JobState::Cancelled, why)?;
        }
        Ok(())
    }

    fn forget_steps(&mut self, volume: VolumeId) -> Result<()> {
        let open = |(job, _): &&(JobRecord, Vec<Step>)| !job.state.has_ended();
        let open: Vec<_> = self.jobs.values().filter(open).map(|(job, _)| job.id).collect();
        for id in open {
            let mut steps = self
                .jobs
                .get(&id)
                .map(|(_, steps)| steps.clone())
                .unwrap_or_default();
            steps.retain(|step| step.volume != volume);
            self.unreserve(id);
            self.put_steps(id, &steps)?;
        }
        Ok(())
    }

    /// Advances the copy progress table by the segments that a chunk has mapped.
    pub(super) fn advance(&mut self, job: JobId, delta: &Delta) {
        let Some((_, steps)) = self.jobs.get_mut(&job) else {
            return;
        };
        for (volume, segment) in segments(delta) {
            if let Some(step) = step_at(steps, volume, segment.start)
                && segment.start.0 == step.from.start.0 + step.done
                && goes_to(step, segment)
            {
                step.done += segment.placement.len;
            }
        }
    }

    /// Sets the table back by the segments of a chunk that is taken back; their areas are the job's destination again, if the
    /// job goes on.
    pub(super) fn retreat(&mut self, id: JobId, delta: &Delta, freed: &[Extent]) {
        let Some((job, steps)) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut back = Vec::new();
        let all: Vec<_> = segments(delta).collect();
        for (volume, segment) in all.into_iter().rev() {
            if let Some(step) = step_at(steps, volume, segment.start)
                && segment.end().0 == step.from.start.0 + step.done
                && goes_to(step, segment)
            {
                step.done -= segment.placement.len;
                back.push(segment.placement);
            }
        }
        if back.is_empty() {
            return;
        }
        if job.state == JobState::Done {
            (job.state, job.ended) = (JobState::Running, None);
            "power was lost before its last chunks were durable".clone_into(&mut job.why);
        }
        if !job.state.has_ended() {
            let mine = |extent: &&Extent| back.iter().any(|area| holds(*area, **extent));
            self.claims
                .extend(freed.iter().filter(mine).map(|&extent| (extent, Owner::Job(id))));
        }
    }
}

fn holds(area: Area, (disk, extent): Extent) -> bool {
    area.disk == disk && (area.start..area.end()).contains(&extent)
}

fn segments(delta: &Delta) -> impl Iterator<Item = (VolumeId, Segment)> + '_ {
    delta.edits.iter().flat_map(|edit| match edit {
        Edit::Map { volume, segments } => segments.iter().map(|segment| (*volume, *segment)).collect(),
        _ => Vec::new(),
    })
}

/// Returns the step whose run of the volume contains this extent.
fn step_at(steps: &mut [Step], volume: VolumeId, at: VolumeExtent) -> Option<&mut Step> {
    let inside = |step: &&mut Step| step.volume == volume && (step.from.start..step.from.end()).contains(&at);
    steps.iter_mut().find(inside)
}

/// Returns whether the segment lies where the step puts that part of the volume.
fn goes_to(step: &Step, segment: Segment) -> bool {
    let into = segment.start.0 - step.from.start.0;
    segment.end() <= step.from.end()
        && segment.placement.disk == step.to.disk
        && segment.placement.start.0 == step.to.start.0 + into
}
