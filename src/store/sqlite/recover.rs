//! Recovery from another epoch: its page caches are lost, and with them the changes that were committed but not persisted.

use super::change::{Stored, all_live, finish, give_up, prune, raise_layout, set_generation};
use super::convert::{StoredState, damaged};
use super::edits::{apply, mapped};
use super::space::{self, Claimant};
use super::table::guards;
use super::{events, job, members, metadata, nodes};
use crate::model::areas::without;
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::model::records::{Area, Delta, Edit};
use crate::model::units::{CacheEpoch, ChangeId, DiskExtent, DiskId};
use crate::model::words::count;
use rusqlite::{Connection, params};

/// Result of a recovery.
#[derive(Default)]
pub(super) struct Recovered {
    /// Changes that were taken back, latest first.
    pub(super) undone: Vec<ChangeId>,
    /// Whether anything was written.
    pub(super) changed: bool,
}

/// Finishes changes that were persisting, takes back those that were only committed, cancels those that were prepared, and marks
/// members as left.
pub(super) fn recover(db: &Connection, epoch: CacheEpoch) -> Result<Recovered> {
    // Another node's page cache is as it was.
    let present = nodes::epochs(db)?;
    let is_over = |stored: &Stored| stored.record.epoch != epoch && !present.contains(&stored.record.epoch);
    let mut left: Vec<Stored> = all_live(db)?.into_iter().filter(is_over).collect();
    left.sort_by_key(|stored| std::cmp::Reverse(stored.generation));
    let mut done = Recovered {
        changed: !left.is_empty(),
        ..Recovered::default()
    };
    for (index, stored) in left.iter().enumerate() {
        match stored.stage {
            StoredState::Persisting => {
                finish(db, stored.record.id, StoredState::Persisted)?;
                raise_layout(db, 1)?;
            }
            StoredState::Committed => {
                take_back(db, stored, &left[index + 1..])?;
                done.undone.push(stored.record.id);
            }
            _ => give_up(db, stored)?,
        }
    }
    prune(db)?;
    done.changed |= members::end_of_epoch(db, epoch)?;
    report(db, &done.undone)?;
    Ok(done)
}

fn report(db: &Connection, undone: &[ChangeId]) -> Result<()> {
    let (Some(latest), Some(earliest)) = (undone.first(), undone.last()) else {
        return Ok(());
    };
    let text = format!(
        "power was lost before {} ({earliest} to {latest}) could be made durable; the pool has taken back what was not",
        count(undone.len(), "change")
    );
    events::log(db, Severity::Warning, "pool", &text)
}

/// Takes back a committed change. The generation goes up, not back, so that no number ever means two tables. `earlier` are the
/// changes that are taken back after it.
fn take_back(db: &Connection, stored: &Stored, earlier: &[Stored]) -> Result<()> {
    let id = stored.record.id;
    let undo = stored
        .record
        .undo
        .as_ref()
        .ok_or_else(|| damaged("a committed change has no way back"))?;
    make_way(db, undo)?;
    let new = &stored.record.change.delta.edits;
    for area in without(mapped(&undo.edits).collect(), mapped(new)) {
        space::take_quarantine(db, area, id)?;
    }
    let guards = guards(db)?;
    let applied = apply(db, guards.extent_size, &undo.edits)?;
    return_to_quarantine(db, &applied.freed, earlier)?;
    return_to_job(db, stored, &applied.freed)?;
    set_generation(db, guards.generation.next())?;
    finish(db, id, StoredState::Undone)
}

/// Returns areas that the change had mapped again from an earlier change's quarantine to that quarantine: that change is taken
/// back next, and needs them there.
fn return_to_quarantine(db: &Connection, freed: &[Area], earlier: &[Stored]) -> Result<()> {
    let mut left = freed.to_vec();
    for stored in earlier
        .iter()
        .filter(|stored| stored.stage == StoredState::Committed)
    {
        let undo = stored.record.undo.as_ref().map_or(&[][..], |undo| &undo.edits);
        let kept = without(mapped(undo).collect(), mapped(&stored.record.change.delta.edits));
        let others = without(kept.clone(), left.iter().copied());
        for area in without(kept.clone(), others.into_iter()) {
            let generation = stored
                .generation
                .ok_or_else(|| damaged("a committed change has no generation"))?;
            space::put_quarantine(db, area, stored.record.id, generation)?;
        }
        left = without(left, kept.into_iter());
    }
    Ok(())
}

/// Drops the claims of jobs, and the copy of the metadata, on a disk, or the end of a disk, that is removed again.
fn make_way(db: &Connection, undo: &Delta) -> Result<()> {
    for edit in &undo.edits {
        let (disk, from) = match edit {
            Edit::RemoveDisk(id) => (*id, 0),
            Edit::SetDisk(disk) => (disk.id, disk.extents),
            _ => continue,
        };
        forget_claims(db, disk, DiskExtent(from))?;
        let copies = space::of_copies(db, disk)?;
        if copies.iter().any(|area| area.end().0 > from) {
            metadata::forget(db, disk)?;
        }
    }
    Ok(())
}

fn forget_claims(db: &Connection, disk: DiskId, from: DiskExtent) -> Result<()> {
    db.prepare_cached("DELETE FROM claims WHERE disk = ?1 AND start + len > ?2")?
        .execute(params![disk.0, from.0])?;
    Ok(())
}

/// Returns the areas that a chunk had mapped to its job's destination if the job goes on; else they are free.
fn return_to_job(db: &Connection, stored: &Stored, freed: &[Area]) -> Result<()> {
    let Some(id) = stored.record.change.job else {
        return Ok(());
    };
    let destinations = job::retreat(db, id, &stored.record.change.delta)?;
    if destinations.is_empty() || !job::reopen(db, id)? {
        return Ok(());
    }
    for area in destinations
        .into_iter()
        .filter(|area| freed.iter().any(|one| one.overlaps(*area)))
    {
        space::put_claim(db, area, Claimant::Job(id))?;
    }
    Ok(())
}
