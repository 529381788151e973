//! What another boot left: its memory is gone, and with it what was committed and not hardened.

use super::change::{Stored, all_live, finish, give_up, prune, raise_layout, set_generation};
use super::convert::{Stage, damaged};
use super::edits::{apply, mapped};
use super::space::{self, Claimant};
use super::table::guards;
use super::{events, job, members};
use crate::error::Result;
use crate::pool::model::{Area, Difference, Edit};
use crate::store::Severity;
use crate::units::{BootId, ChangeId, DiskExtent, DiskId};
use rusqlite::{Connection, params};

/// What was found and done.
#[derive(Default)]
pub(super) struct Recovered {
    /// Changes taken back, latest first.
    pub(super) undone: Vec<ChangeId>,
    /// Something was written.
    pub(super) changed: bool,
}

/// Finishes what was hardening, takes back what was only committed, cancels what was prepared, ends what was joined.
pub(super) fn recover(db: &Connection, boot: BootId) -> Result<Recovered> {
    let mut left: Vec<Stored> = all_live(db)?
        .into_iter()
        .filter(|stored| stored.record.boot != boot)
        .collect();
    left.sort_by_key(|stored| std::cmp::Reverse(stored.generation));
    let mut done = Recovered {
        changed: !left.is_empty(),
        ..Recovered::default()
    };
    for (index, stored) in left.iter().enumerate() {
        match stored.stage {
            Stage::Hardening => {
                finish(db, stored.record.id, Stage::Hardened)?;
                raise_layout(db, 1)?;
            }
            Stage::Committed => {
                take_back(db, stored, &left[index + 1..])?;
                done.undone.push(stored.record.id);
            }
            _ => give_up(db, stored)?,
        }
    }
    prune(db)?;
    done.changed |= members::end_of_boot(db, boot)?;
    report(db, &done.undone)?;
    Ok(done)
}

fn report(db: &Connection, undone: &[ChangeId]) -> Result<()> {
    let (Some(latest), Some(earliest)) = (undone.first(), undone.last()) else {
        return Ok(());
    };
    let text = format!(
        "power was lost before {} changes were durable, {earliest} to {latest}: they are taken back",
        undone.len()
    );
    events::log(db, Severity::Warning, "pool", &text)
}

/// Committed -> undone. The generation goes up, not back: no number ever means two tables. `earlier`: those that are taken back after it.
fn take_back(db: &Connection, stored: &Stored, earlier: &[Stored]) -> Result<()> {
    let id = stored.record.id;
    let undo = stored
        .record
        .undo
        .as_ref()
        .ok_or_else(|| damaged("a committed change has no way back"))?;
    make_way(db, undo)?;
    let new = &stored.record.change.difference.edits;
    for area in space::without(mapped(&undo.edits).collect(), mapped(new)) {
        space::take_quarantine(db, area, id)?;
    }
    let guards = guards(db)?;
    let applied = apply(db, guards.extent_size, &undo.edits)?;
    return_to_quarantine(db, &applied.freed, earlier)?;
    return_to_job(db, stored, &applied.freed)?;
    set_generation(db, guards.generation.next())?;
    finish(db, id, Stage::Undone)
}

/// A place that the change had back from an earlier one's quarantine is that one's again: it is taken back next, and finds it there.
fn return_to_quarantine(db: &Connection, freed: &[Area], earlier: &[Stored]) -> Result<()> {
    let mut left = freed.to_vec();
    for stored in earlier.iter().filter(|stored| stored.stage == Stage::Committed) {
        let undo = stored.record.undo.as_ref().map_or(&[][..], |undo| &undo.edits);
        let kept = space::without(
            mapped(undo).collect(),
            mapped(&stored.record.change.difference.edits),
        );
        let others = space::without(kept.clone(), left.iter().copied());
        for area in space::without(kept.clone(), others.into_iter()) {
            let generation = stored
                .generation
                .ok_or_else(|| damaged("a committed change has no generation"))?;
            space::put_quarantine(db, area, stored.record.id, generation)?;
        }
        left = space::without(left, kept.into_iter());
    }
    Ok(())
}

/// A disk, or the end of a disk, that goes away again takes with it what jobs meant to place there.
fn make_way(db: &Connection, undo: &Difference) -> Result<()> {
    for edit in &undo.edits {
        let (disk, from) = match edit {
            Edit::RemoveDisk(id) => (*id, 0),
            Edit::SetDisk(disk) => (disk.id, disk.extents),
            _ => continue,
        };
        forget_claims(db, disk, DiskExtent(from))?;
    }
    Ok(())
}

fn forget_claims(db: &Connection, disk: DiskId, from: DiskExtent) -> Result<()> {
    db.prepare_cached("DELETE FROM claims WHERE disk = ?1 AND start + len > ?2")?
        .execute(params![disk.0, from.0])?;
    Ok(())
}

/// What a chunk had mapped is free again, or its job's destination if the job goes on.
fn return_to_job(db: &Connection, stored: &Stored, freed: &[Area]) -> Result<()> {
    let Some(id) = stored.record.change.job else {
        return Ok(());
    };
    let destinations = job::retreat(db, id, &stored.record.change.difference)?;
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
