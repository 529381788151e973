//! One state of the pool's database, and what its transactions do to it.

use super::homes::{Applied, Extent, Homes, areas, extents};
use crate::error::{Error, Kind, Result};
use crate::pool::model::{Area, Difference, Edit, PoolHeader, Segment, Snapshot};
use crate::pool::options::{Fullness, Options};
use crate::store::audit::{Entry, KEPT, Recorded};
use crate::store::{
    Cancel, ChangeRecord, ChangeState, Commit, Event, JobRecord, Member, NewChange, Owner, Severity, Step,
    Use,
};
use crate::units::{
    BootId, ChangeId, DiskId, Generation, JobId, MembershipVersion, Slot, Term, Timestamp, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that a transaction sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) header: PoolHeader,
    pub(super) homes: Arc<Homes>,
    /// Extents of prepared changes and of jobs.
    pub(super) claims: BTreeMap<Extent, Owner>,
    /// Extents that changes took from volumes.
    pub(super) quarantine: BTreeMap<Extent, (ChangeId, Generation)>,
    pub(super) changes: BTreeMap<ChangeId, Arc<Stored>>,
    pub(super) members: BTreeMap<Slot, (Member, BootId)>,
    pub(super) incarnations: u64,
    pub(super) jobs: BTreeMap<JobId, (JobRecord, Vec<Step>)>,
    pub(super) events: Vec<Event>,
    pub(super) audit: Vec<Recorded>,
    pub(super) options: Options,
    pub(super) fullness: Fullness,
    pub(super) next_disk: DiskId,
    pub(super) next_volume: VolumeId,
}

/// A change with what only the store knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stored {
    pub(super) record: ChangeRecord,
    /// That it led to, once committed.
    pub(super) generation: Option<Generation>,
}

/// The areas that edits map, in their order.
pub(super) fn mapped(edits: &[Edit]) -> impl Iterator<Item = Area> + '_ {
    edits
        .iter()
        .filter_map(|edit| match edit {
            Edit::Map { segments, .. } => Some(segments),
            _ => None,
        })
        .flatten()
        .map(|segment| segment.home)
}

/// The segments that edits map, each with its volume, in their order.
fn placed(edits: &[Edit]) -> impl Iterator<Item = (VolumeId, Segment)> + '_ {
    edits
        .iter()
        .filter_map(|edit| match edit {
            Edit::Map { volume, segments } => Some((*volume, segments)),
            _ => None,
        })
        .flat_map(|(volume, segments)| segments.iter().map(move |segment| (volume, *segment)))
}

impl State {
    pub(super) fn new(header: PoolHeader) -> Self {
        Self {
            header,
            homes: Arc::default(),
            claims: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            changes: BTreeMap::new(),
            members: BTreeMap::new(),
            incarnations: 0,
            jobs: BTreeMap::new(),
            events: Vec::new(),
            audit: Vec::new(),
            options: Options::default(),
            fullness: Fullness::default(),
            next_disk: DiskId(1),
            next_volume: VolumeId(1),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let segments = self.homes.volumes.keys();
        let segments = segments.flat_map(|&id| self.homes.segments(id).into_iter().map(move |one| (id, one)));
        Snapshot {
            header: self.header.clone(),
            disks: self.homes.disks.values().cloned().collect(),
            volumes: self.homes.volumes.values().cloned().collect(),
            segments: segments.collect(),
        }
    }

    /// Refused under a higher term.
    pub(super) fn not_stale(&self, term: Term) -> Result<()> {
        if self.header.term <= term {
            return Ok(());
        }
        let why = format!("another controller has taken over as number {}", self.header.term);
        Err(Error::new(Kind::Stale, format!("arbitration {term}"), why))
    }

    pub(super) fn owner(&self, extent: Extent) -> Option<Owner> {
        let claimed = self.claims.get(&extent).copied();
        let kept = || {
            self.quarantine
                .get(&extent)
                .map(|&(change, _)| Owner::Quarantine(change))
        };
        let mapped = || {
            self.homes
                .iter()
                .find(|&(_, _, home)| home == extent)
                .map(|(id, ..)| Owner::Volume(id))
        };
        claimed.or_else(kept).or_else(mapped)
    }

    pub(super) fn uses(&self, disk: DiskId) -> Vec<Use> {
        let claims = self.claims.iter().map(|(&at, &owner)| (at, owner));
        let kept = self
            .quarantine
            .iter()
            .map(|(&at, &(change, _))| (at, Owner::Quarantine(change)));
        let homes = self
            .homes
            .iter()
            .map(|(volume, _, at)| (at, Owner::Volume(volume)));
        let mut all: Vec<(Extent, Owner)> = claims.chain(kept).chain(homes).collect();
        all.retain(|((on, _), _)| *on == disk);
        all.sort_unstable_by_key(|&(at, _)| at);
        let runs = all.chunk_by(|a, b| a.1 == b.1 && a.0.1.0 + 1 == b.0.1.0);
        runs.flat_map(|run| {
            let owner = run.first().map(|&(_, owner)| owner);
            areas(run.iter().map(|&(at, _)| at)).into_iter().zip(owner)
        })
        .map(|(area, owner)| Use { area, owner })
        .collect()
    }

    fn apply(&mut self, edits: &[Edit]) -> Result<Applied> {
        let (claims, kept) = (&self.claims, &self.quarantine);
        let claimed = |disk, from| {
            claims
                .keys()
                .chain(kept.keys())
                .any(|&(on, at)| on == disk && at.0 >= from)
        };
        Arc::make_mut(&mut self.homes).edit_all(self.header.extent_size, edits, &claimed)
    }

    pub(super) fn prepare(&mut self, term: Term, change: &NewChange, boot: BootId) -> Result<ChangeId> {
        self.not_stale(term)?;
        well_formed(&change.difference.edits)?;
        let last = self.changes.last_key_value().map_or(0, |(id, _)| id.0);
        let id = ChangeId(last + 1);
        for (volume, segment) in placed(&change.difference.edits) {
            self.fits(segment.home, &change.difference.edits)?;
            self.claim_for(volume, segment, id, change.job)?;
        }
        if self.header.generation == change.difference.from {
            let mut trial = self.clone();
            trial.go_forward(id, change)?;
        }
        let (state, change) = (ChangeState::Prepared, change.clone());
        let record = ChangeRecord {
            id,
            state,
            term,
            boot,
            change,
            undo: None,
        };
        self.changes.insert(
            id,
            Arc::new(Stored {
                record,
                generation: None,
            }),
        );
        Ok(id)
    }

    /// An area to be mapped is the job's already or free; what is free becomes the change's. Or it is the kept place of this part of the
    /// volume, and stays in quarantine until the commit.
    fn claim_for(
        &mut self,
        volume: VolumeId,
        segment: Segment,
        id: ChangeId,
        job: Option<JobId>,
    ) -> Result<()> {
        if self.kept(volume, segment) {
            return Ok(());
        }
        for extent in extents(segment.home) {
            match self.owner(extent) {
                None => _ = self.claims.insert(extent, Owner::Change(id)),
                Some(Owner::Job(owner)) if Some(owner) == job => {}
                Some(owner) => return Err(not_free(extent, owner)),
            }
        }
        Ok(())
    }

    /// Whether all of this place is in the quarantine of one committed, not yet hardened change that took this part of the volume from there.
    fn kept(&self, volume: VolumeId, segment: Segment) -> bool {
        let takers: BTreeSet<Option<ChangeId>> = extents(segment.home)
            .map(|extent| self.quarantine.get(&extent).map(|&(taker, _)| taker))
            .collect();
        let [Some(taker)] = takers.into_iter().collect::<Vec<_>>()[..] else {
            return false;
        };
        let stored = self.changes.get(&taker);
        let taken = |stored: &&Arc<Stored>| {
            let undo = stored.record.undo.as_ref().map_or(&[][..], |undo| &undo.edits);
            stored.record.state == ChangeState::Committed
                && placed(undo)
                    .any(|(of, old)| of == volume && old.clip(segment.start, segment.end()) == Some(segment))
        };
        stored.filter(taken).is_some()
    }

    /// The disk has the area, now or by this difference.
    fn fits(&self, area: Area, edits: &[Edit]) -> Result<()> {
        let sized = edits.iter().rev().find_map(|edit| match edit {
            Edit::AddDisk(disk) | Edit::SetDisk(disk) if disk.id == area.disk => Some(disk.extents),
            _ => None,
        });
        match sized {
            Some(size) if area.end().0 <= size => Ok(()),
            _ => self.homes.inside(area),
        }
    }

    /// What the change maps stops being claimed by it and its job.
    fn take_mapped(&mut self, id: ChangeId, change: &NewChange) -> Result<()> {
        let (back, new): (Vec<_>, Vec<_>) =
            placed(&change.difference.edits).partition(|&(volume, segment)| self.kept(volume, segment));
        for extent in back.into_iter().flat_map(|(_, segment)| extents(segment.home)) {
            self.quarantine.remove(&extent);
        }
        for extent in new.into_iter().flat_map(|(_, segment)| extents(segment.home)) {
            match self.claims.remove(&extent) {
                Some(Owner::Change(owner)) if owner == id => {}
                Some(Owner::Job(owner)) if Some(owner) == change.job => {}
                _ => {
                    return Err(Error::failed(
                        format!("change {id}"),
                        "has lost extents that it was to map",
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn known(&self, id: ChangeId) -> Result<&Arc<Stored>> {
        self.changes
            .get(&id)
            .ok_or_else(|| Error::not_found("change", &id.to_string()))
    }

    pub(super) fn commit(
        &mut self,
        term: Term,
        id: ChangeId,
        membership: MembershipVersion,
        boot: BootId,
    ) -> Result<Commit> {
        if self.header.term > term {
            return Ok(Commit::StaleTerm(self.header.term));
        }
        let stored = Arc::clone(self.known(id)?);
        match (stored.record.state, stored.generation) {
            (ChangeState::Cancelled | ChangeState::Undone, _) => return Ok(Commit::Cancelled),
            (ChangeState::Committed | ChangeState::Hardened, Some(at)) => return Ok(Commit::Committed(at)),
            _ => {}
        }
        if self.header.membership != membership {
            return Ok(Commit::MembershipMoved(self.header.membership));
        }
        if self.header.generation != stored.record.change.difference.from {
            return Ok(Commit::GenerationMoved(self.header.generation));
        }
        self.make_current(&stored.record, boot)
    }

    /// Applies the difference, with what it maps taken from its owner.
    fn go_forward(&mut self, id: ChangeId, change: &NewChange) -> Result<Applied> {
        self.take_mapped(id, change)?;
        let applied = self.apply(&change.difference.edits)?;
        // A disk does not go, or shrink, in the same change that takes its extents from a volume.
        for &(disk, start) in &applied.freed {
            self.homes.inside(Area { disk, start, len: 1 })?;
        }
        Ok(applied)
    }

    fn make_current(&mut self, record: &ChangeRecord, boot: BootId) -> Result<Commit> {
        let (id, change) = (record.id, &record.change);
        let generation = self.header.generation.next();
        let applied = self.go_forward(id, change)?;
        self.quarantine
            .extend(applied.freed.into_iter().map(|extent| (extent, (id, generation))));
        if let Some(job) = change.job {
            self.advance(job, &change.difference);
        }
        self.end_jobs_of_removed(&change.difference.edits)?;
        self.take_numbers(&change.difference.edits);
        let undo = Some(Difference {
            from: generation,
            edits: applied.undo,
        });
        let record = ChangeRecord {
            state: ChangeState::Committed,
            boot,
            undo,
            ..record.clone()
        };
        self.changes.insert(
            id,
            Arc::new(Stored {
                record,
                generation: Some(generation),
            }),
        );
        self.header.generation = generation;
        Ok(Commit::Committed(generation))
    }

    fn take_numbers(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::AddDisk(disk) => self.next_disk = self.next_disk.max(DiskId(disk.id.0 + 1)),
                Edit::AddVolume(volume) => self.next_volume = self.next_volume.max(VolumeId(volume.id.0 + 1)),
                _ => {}
            }
        }
    }

    pub(super) fn cancel(&mut self, id: ChangeId) -> Result<Cancel> {
        let stored = self.known(id)?;
        match stored.record.state {
            ChangeState::Cancelled | ChangeState::Undone => {}
            ChangeState::Committed | ChangeState::Hardened => {
                return Ok(Cancel::Committed(Box::new(stored.record.clone())));
            }
            ChangeState::Prepared => self.give_up(id),
        }
        Ok(Cancel::Cancelled)
    }

    fn give_up(&mut self, id: ChangeId) {
        self.claims.retain(|_, owner| *owner != Owner::Change(id));
        self.set(id, ChangeState::Cancelled);
    }

    fn set(&mut self, id: ChangeId, state: ChangeState) {
        if let Some(stored) = self.changes.get_mut(&id) {
            Arc::make_mut(stored).record.state = state;
        }
    }

    pub(super) fn unfinished(&self) -> impl Iterator<Item = &Arc<Stored>> {
        let open = |state| matches!(state, ChangeState::Prepared | ChangeState::Committed);
        self.changes
            .values()
            .filter(move |stored| open(stored.record.state))
    }

    /// Refused when a committed change that comes before one of these is not among them.
    pub(super) fn harden(&mut self, ids: &[ChangeId]) -> Result<()> {
        let committed = |stored: &&Arc<Stored>| stored.record.state == ChangeState::Committed;
        let among = |stored: &&Arc<Stored>| ids.contains(&stored.record.id);
        let latest = self
            .unfinished()
            .filter(committed)
            .filter(among)
            .map(|stored| stored.generation)
            .max();
        let Some(latest) = latest else { return Ok(()) };
        let upto: Vec<ChangeId> = self
            .unfinished()
            .filter(committed)
            .filter(|stored| stored.generation <= latest)
            .map(|stored| stored.record.id)
            .collect();
        if let Some(left_out) = upto.iter().find(|id| !ids.contains(id)) {
            let why = "comes before one that is to be hardened, and is not to be";
            return Err(Error::failed(format!("change {left_out}"), why));
        }
        for id in upto {
            self.set(id, ChangeState::Hardened);
            self.header.layout += 1;
        }
        Ok(())
    }

    /// Takes back what another boot left. Answers the changes undone, latest first, and whether anything changed.
    pub(super) fn recover(&mut self, boot: BootId) -> Result<(Vec<ChangeId>, bool)> {
        let foreign = |stored: &&Arc<Stored>| stored.record.boot != boot;
        let mut left: Vec<Arc<Stored>> = self.unfinished().filter(foreign).cloned().collect();
        left.sort_by_key(|stored| std::cmp::Reverse(stored.generation));
        let mut changed = !left.is_empty();
        let mut undone = Vec::new();
        for stored in left {
            match &stored.record.undo {
                Some(undo) => {
                    self.take_back(&stored.record, undo)?;
                    undone.push(stored.record.id);
                }
                None => self.give_up(stored.record.id),
            }
        }
        changed |= self.end_of_boot(boot);
        if !undone.is_empty() {
            let text = format!(
                "power was lost before {} changes were durable: they are taken back",
                undone.len()
            );
            self.log(Severity::Warning, "pool", &text);
        }
        Ok((undone, changed))
    }

    pub(super) fn log(&mut self, severity: Severity, subject: &str, text: &str) {
        self.events.push(Event {
            seq: self.events.last().map_or(1, |event| event.seq + 1),
            at: Timestamp(0),
            severity,
            subject: subject.to_owned(),
            text: text.to_owned(),
        });
    }

    pub(super) fn record(&mut self, entry: &Entry) {
        let next = |number: fn(&Recorded) -> u64| self.audit.iter().map(number).max().unwrap_or(0) + 1;
        let (seq, mark) = (next(|each| each.seq), next(|each| each.mark));
        match self.audit.iter_mut().find(|each| each.entry.id == entry.id) {
            Some(there) if there.entry.end.is_some() || entry.end.is_none() => {}
            Some(there) => (there.mark, there.entry.end) = (mark, entry.end.clone()),
            None => self.audit.push(Recorded {
                seq,
                mark,
                entry: entry.clone(),
            }),
        }
        let newest = self.audit.last().map_or(0, |each| each.seq);
        self.audit.retain(|each| each.seq + KEPT > newest);
    }

    fn take_back(&mut self, record: &ChangeRecord, undo: &Difference) -> Result<()> {
        self.make_way(undo);
        for extent in mapped(&undo.edits).flat_map(extents) {
            self.quarantine.remove(&extent);
        }
        let freed = self.apply(&undo.edits)?.freed;
        for &extent in &freed {
            self.return_to_quarantine(extent, record.id);
        }
        if let Some(job) = record.change.job {
            self.retreat(job, &record.change.difference, &freed);
        }
        // Up, not back: no number ever means two tables.
        self.header.generation = self.header.generation.next();
        self.set(record.id, ChangeState::Undone);
        Ok(())
    }

    /// A place that a change had back from an earlier one's quarantine is that one's again.
    fn return_to_quarantine(&mut self, extent: Extent, undone: ChangeId) {
        let before = self.changes.get(&undone).and_then(|stored| stored.generation);
        let took = |stored: &&Arc<Stored>| {
            let edits =
                |difference: &Difference| mapped(&difference.edits).flat_map(extents).any(|at| at == extent);
            stored.record.state == ChangeState::Committed
                && stored.generation < before
                && stored.record.undo.as_ref().is_some_and(edits)
                && !edits(&stored.record.change.difference)
        };
        let earlier = self
            .changes
            .values()
            .filter(took)
            .max_by_key(|stored| stored.generation);
        if let Some((id, Some(at))) = earlier.map(|stored| (stored.record.id, stored.generation)) {
            self.quarantine.insert(extent, (id, at));
        }
    }

    /// A disk, or the end of a disk, that goes away again takes with it what jobs meant to place there.
    fn make_way(&mut self, undo: &Difference) {
        for edit in &undo.edits {
            let (disk, from) = match edit {
                Edit::RemoveDisk(id) => (*id, 0),
                Edit::SetDisk(disk) => (disk.id, disk.extents),
                _ => continue,
            };
            self.claims.retain(|&(on, at), _| on != disk || at.0 < from);
        }
    }

    /// What changes that are over put into quarantine up to generation `oldest`.
    pub(super) fn freeable(&self, oldest: Generation) -> Vec<Area> {
        let unfinished: Vec<ChangeId> = self.unfinished().map(|stored| stored.record.id).collect();
        let over = |&(change, at): &(ChangeId, Generation)| at <= oldest && !unfinished.contains(&change);
        let found = self.quarantine.iter().filter(|(_, kept)| over(kept));
        areas(found.map(|(&extent, _)| extent))
    }

    /// Frees that, without what lies on these disks.
    pub(super) fn free_quarantine(&mut self, oldest: Generation, except: &BTreeSet<DiskId>) -> Vec<Area> {
        let mut freed = self.freeable(oldest);
        freed.retain(|area| !except.contains(&area.disk));
        for extent in freed.iter().flat_map(|area| extents(*area)) {
            self.quarantine.remove(&extent);
        }
        freed
    }

    pub(super) fn reserve(&mut self, job: JobId, area: Area) -> Result<()> {
        self.homes.inside(area)?;
        for extent in extents(area) {
            if let Some(owner) = self.owner(extent) {
                return Err(not_free(extent, owner));
            }
            self.claims.insert(extent, Owner::Job(job));
        }
        Ok(())
    }

    pub(super) fn unreserve(&mut self, job: JobId) {
        self.claims.retain(|_, owner| *owner != Owner::Job(job));
    }
}

fn not_free((disk, extent): Extent, owner: Owner) -> Error {
    Error::failed(
        format!("disk number {disk}"),
        format!("extent {extent} belongs to {owner:?}"),
    )
}

/// What can be said without the table: ranges are ranges, in order, and no extent is mapped twice.
fn well_formed(edits: &[Edit]) -> Result<()> {
    let malformed = |why: &str| Err(Error::failed("difference", why));
    for edit in edits {
        match edit {
            Edit::Map { segments, .. } => {
                let sound = |area: Area| {
                    area.start.0 > 0 && area.len > 0 && area.start.0.checked_add(area.len).is_some()
                };
                let ends = |at: u64, len| at.checked_add(len).is_some();
                let whole = segments
                    .iter()
                    .all(|one| sound(one.home) && ends(one.start.0, one.home.len));
                if !whole || segments.windows(2).any(|pair| pair[0].end() > pair[1].start) {
                    return malformed("has segments that are empty, out of order or overlap");
                }
            }
            Edit::Unmap { start, end, .. } if start >= end => return malformed("unmaps an empty range"),
            _ => {}
        }
    }
    let mut areas: Vec<Area> = mapped(edits).collect();
    areas.sort_unstable();
    if areas.windows(2).any(|pair| pair[0].overlaps(pair[1])) {
        return malformed("maps an extent twice");
    }
    Ok(())
}
