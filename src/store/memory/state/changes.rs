//! Transactions on changes: prepare, commit, cancel, persist.

use super::{State, Stored, not_free};
use crate::model::change::{Cancel, ChangeRecord, ChangeState, Commit, NewChange, Owner};
use crate::model::error::{Error, Result};
use crate::model::records::{Area, Delta, Edit, Segment};
use crate::model::units::{CacheEpoch, ChangeId, DiskId, JobId, MembershipVersion, Term, VolumeId};
use crate::store::memory::placements::{Applied, extents};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Returns the areas that edits map, in their order.
pub(in crate::store::memory) fn mapped(edits: &[Edit]) -> impl Iterator<Item = Area> + '_ {
    edits
        .iter()
        .filter_map(|edit| match edit {
            Edit::Map { segments, .. } => Some(segments),
            _ => None,
        })
        .flatten()
        .map(|segment| segment.placement)
}

/// Returns the segments that edits map, each with its volume, in their order.
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
    pub(in crate::store::memory) fn prepare(
        &mut self,
        term: Term,
        change: &NewChange,
        epoch: CacheEpoch,
    ) -> Result<ChangeId> {
        self.not_stale(term)?;
        well_formed(&change.delta.edits)?;
        let last = self.changes.last_key_value().map_or(0, |(id, _)| id.0);
        let id = ChangeId(last + 1);
        for (volume, segment) in placed(&change.delta.edits) {
            self.fits(segment.placement, &change.delta.edits)?;
            self.claim_for(volume, segment, id, change.job)?;
        }
        if self.header.generation == change.delta.from {
            let mut trial = self.clone();
            trial.go_forward(id, change)?;
        }
        let (state, change) = (ChangeState::Prepared, change.clone());
        let record = ChangeRecord {
            id,
            state,
            term,
            epoch,
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

    /// Claims an area to be mapped: it belongs to the job already, or is free and becomes the change's. Or it is the kept place
    /// of this part of the volume, and stays in quarantine until the commit.
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
        for extent in extents(segment.placement) {
            match self.owner(extent) {
                None => _ = self.claims.insert(extent, Owner::Change(id)),
                Some(Owner::Job(owner)) if Some(owner) == job => {}
                Some(owner) => return Err(not_free(extent, owner)),
            }
        }
        Ok(())
    }

    /// Returns whether the whole area is in the quarantine of one committed but not persisted change that moved this part of
    /// the volume away from there.
    fn kept(&self, volume: VolumeId, segment: Segment) -> bool {
        let takers: BTreeSet<Option<ChangeId>> = extents(segment.placement)
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

    /// Checks that the disk has the area, now or through this delta.
    fn fits(&self, area: Area, edits: &[Edit]) -> Result<()> {
        let sized = edits.iter().rev().find_map(|edit| match edit {
            Edit::AddDisk(disk) | Edit::SetDisk(disk) if disk.id == area.disk => Some(disk.extents),
            _ => None,
        });
        match sized {
            Some(size) if area.end().0 <= size => Ok(()),
            _ => self.placements.inside(area),
        }
    }

    /// Removes the areas that the change maps from the claims of the change and its job.
    fn take_mapped(&mut self, id: ChangeId, change: &NewChange) -> Result<()> {
        let (back, new): (Vec<_>, Vec<_>) =
            placed(&change.delta.edits).partition(|&(volume, segment)| self.kept(volume, segment));
        for extent in back
            .into_iter()
            .flat_map(|(_, segment)| extents(segment.placement))
        {
            self.quarantine.remove(&extent);
        }
        for extent in new
            .into_iter()
            .flat_map(|(_, segment)| extents(segment.placement))
        {
            match self.claims.remove(&extent) {
                Some(Owner::Change(owner)) if owner == id => {}
                Some(Owner::Job(owner)) if Some(owner) == change.job => {}
                _ => {
                    return Err(Error::failed(
                        format!("change {id}"),
                        "does not own extents that it maps any more",
                    ));
                }
            }
        }
        Ok(())
    }

    pub(in crate::store::memory) fn known(&self, id: ChangeId) -> Result<&Arc<Stored>> {
        self.changes
            .get(&id)
            .ok_or_else(|| Error::not_found("change", &id.to_string()))
    }

    pub(in crate::store::memory) fn commit(
        &mut self,
        term: Term,
        id: ChangeId,
        membership: MembershipVersion,
        epoch: CacheEpoch,
    ) -> Result<Commit> {
        if self.header.term > term {
            return Ok(Commit::StaleTerm(self.header.term));
        }
        let stored = Arc::clone(self.known(id)?);
        match (stored.record.state, stored.generation) {
            (ChangeState::Cancelled | ChangeState::Undone, _) => return Ok(Commit::Cancelled),
            (ChangeState::Committed | ChangeState::Persisted, Some(at)) => return Ok(Commit::Committed(at)),
            _ => {}
        }
        if self.header.membership != membership {
            return Ok(Commit::MembershipMoved(self.header.membership));
        }
        if self.header.generation != stored.record.change.delta.from {
            return Ok(Commit::GenerationMoved(self.header.generation));
        }
        self.make_current(&stored.record, epoch)
    }

    /// Applies the delta and takes the mapped areas from their owners.
    fn go_forward(&mut self, id: ChangeId, change: &NewChange) -> Result<Applied> {
        self.take_mapped(id, change)?;
        let applied = self.apply(&change.delta.edits)?;
        // A disk cannot be removed or made smaller in the same change that takes its extents from a volume.
        for &(disk, start) in &applied.freed {
            self.placements.inside(Area { disk, start, len: 1 })?;
        }
        Ok(applied)
    }

    fn make_current(&mut self, record: &ChangeRecord, epoch: CacheEpoch) -> Result<Commit> {
        let (id, change) = (record.id, &record.change);
        let generation = self.header.generation.next();
        let applied = self.go_forward(id, change)?;
        self.quarantine
            .extend(applied.freed.into_iter().map(|extent| (extent, (id, generation))));
        if let Some(job) = change.job {
            self.advance(job, &change.delta);
        }
        self.end_jobs_of_removed(&change.delta.edits)?;
        self.take_numbers(&change.delta.edits);
        let undo = Some(Delta {
            from: generation,
            edits: applied.undo,
        });
        let record = ChangeRecord {
            state: ChangeState::Committed,
            epoch,
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

    pub(in crate::store::memory) fn cancel(&mut self, id: ChangeId) -> Result<Cancel> {
        let stored = self.known(id)?;
        match stored.record.state {
            ChangeState::Cancelled | ChangeState::Undone => {}
            ChangeState::Committed | ChangeState::Persisted => {
                return Ok(Cancel::Committed(Box::new(stored.record.clone())));
            }
            ChangeState::Prepared => self.give_up(id),
        }
        Ok(Cancel::Cancelled)
    }

    pub(super) fn give_up(&mut self, id: ChangeId) {
        self.claims.retain(|_, owner| *owner != Owner::Change(id));
        self.set(id, ChangeState::Cancelled);
    }

    pub(super) fn set(&mut self, id: ChangeId, state: ChangeState) {
        if let Some(stored) = self.changes.get_mut(&id) {
            Arc::make_mut(stored).record.state = state;
        }
    }

    pub(in crate::store::memory) fn unfinished(&self) -> impl Iterator<Item = &Arc<Stored>> {
        let open = |state| matches!(state, ChangeState::Prepared | ChangeState::Committed);
        self.changes
            .values()
            .filter(move |stored| open(stored.record.state))
    }

    /// Fails if a committed change that precedes one of these is not among them.
    pub(in crate::store::memory) fn persist(&mut self, ids: &[ChangeId]) -> Result<()> {
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
            let why = "precedes a change that is to be persisted, but is not in the list";
            return Err(Error::failed(format!("change {left_out}"), why));
        }
        for id in upto {
            self.set(id, ChangeState::Persisted);
            self.header.layout += 1;
        }
        Ok(())
    }
}

/// Checks the properties that need no table: ranges are not empty and in order, and no extent is mapped twice.
fn well_formed(edits: &[Edit]) -> Result<()> {
    let malformed = |why: &str| Err(Error::failed("delta", why));
    for edit in edits {
        match edit {
            Edit::Map { segments, .. } => {
                let sound = |area: Area| {
                    area.start.0 > 0 && area.len > 0 && area.start.0.checked_add(area.len).is_some()
                };
                let ends = |at: u64, len| at.checked_add(len).is_some();
                let whole = segments
                    .iter()
                    .all(|one| sound(one.placement) && ends(one.start.0, one.placement.len));
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
