//! The copies of the pool's metadata: what they have to cover, and how far each is.

use super::change::{Stored, all_live};
use super::convert::{Ron, StoredState, Word, damaged};
use super::{options, removed, space};
use crate::metadata::contents::{Contents, Facts, body_of};
use crate::metadata::header::Position;
use crate::metadata::place::Place;
use crate::model::error::{Error, Result};
use crate::model::records::{Delta, Edit, Snapshot};
use crate::model::units::{DiskId, ExtentSize, Generation};
use crate::store::metadata::{CopyRecord, Persisted};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Begins another history: what is on the disks may be of a later past.
pub(super) fn begin_lineage(db: &Connection) -> Result<()> {
    db.prepare_cached("UPDATE pool SET lineage = ?1")?
        .execute([Word(Uuid::new_v4())])?;
    db.prepare_cached("UPDATE copies SET layout = 0, generation = 0")?
        .execute([])?;
    Ok(())
}

/// Raises the layout number above `seen` (the highest that a disk has seen) unless it is at least that, so that a restored database counts as the newest. It
/// remembers no removed volumes: their extents may be used by now.
pub(super) fn overtake(db: &Connection, seen: u64) -> Result<()> {
    let sql = "UPDATE pool SET layout = CASE WHEN layout < ?1 THEN ?1 + 1 ELSE layout END";
    db.execute(sql, [seen])?;
    removed::clear(db)
}

pub(super) fn read(db: &Connection) -> Result<Persisted> {
    let chosen = options::read(db)?;
    // What is committed, and not yet persisted or on its way to be, is no part of it.
    let sql = "SELECT uuid, lineage, layout,
               ifnull((SELECT min(generation) FROM changes WHERE state IN ('committed', 'hardening')) - 1, generation),
               home, disk, volume, access FROM pool";
    let mut query = db.prepare_cached(sql)?;
    Ok(query.query_row([], |row| {
        Ok(Persisted {
            pool: row.get::<_, Word<_>>(0)?.0,
            lineage: row.get::<_, Word<_>>(1)?.0,
            position: Position {
                layout: row.get(2)?,
                generation: Generation(row.get(3)?),
            },
            facts: Facts {
                directory: row.get::<_, String>(4)?.into(),
                last_disk: row.get(5)?,
                last_volume: row.get(6)?,
                policy: chosen.policy.word().to_owned(),
                nearfull: chosen.thresholds.nearfull(),
                full: chosen.thresholds.full(),
                access: row.get::<_, Word<_>>(7)?.0,
                labels: BTreeMap::new(),
                carriers: BTreeSet::new(),
            },
            copies: Vec::new(),
            steps: Vec::new(),
        })
    })?)
    .and_then(|mut persisted| {
        persisted.facts.labels = labels(db)?;
        persisted.copies = copies(db)?;
        let current = persisted.copies.iter().filter(|copy| copy.lag.is_none());
        persisted.facts.carriers = current.map(|copy| copy.disk).collect();
        Ok(persisted)
    })
}

fn labels(db: &Connection) -> Result<BTreeMap<DiskId, u64>> {
    let mut query = db.prepare_cached("SELECT id, label FROM disks")?;
    let rows = query.query_map([], |row| Ok((DiskId(row.get(0)?), row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn copies(db: &Connection) -> Result<Vec<CopyRecord>> {
    let mut query = db.prepare_cached(
        "SELECT disk, layout, generation, lag, start, slot FROM copies WHERE disk IN (SELECT id FROM disks) ORDER BY disk",
    )?;
    let rows = query.query_map([], |row| {
        Ok(CopyRecord {
            disk: DiskId(row.get(0)?),
            place: Place {
                at: row.get(4)?,
                slot: row.get(5)?,
            },
            position: Position {
                layout: row.get(1)?,
                generation: Generation(row.get(2)?),
            },
            lag: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn extent_size(db: &Connection) -> Result<ExtentSize> {
    let mut query = db.prepare_cached("SELECT extent_size FROM pool")?;
    let bytes = query.query_row([], |row| row.get(0))?;
    ExtentSize::new(bytes).ok_or_else(|| damaged("the extent size"))
}

/// Forgets that a disk carries a copy.
pub(super) fn forget(db: &Connection, disk: DiskId) -> Result<()> {
    db.prepare_cached("DELETE FROM copies WHERE disk = ?1")?
        .execute([disk.0])?;
    space::free_of_copies(db, disk, None)
}

/// Returns from where the copies that are due have to be told.
pub(super) fn oldest_due(persisted: &Persisted) -> Option<Generation> {
    persisted.due().map(|copy| copy.position.generation).min()
}

/// Returns the persisted changes that led to later generations. Their numbers grow with the generations, and the newest are few.
pub(super) fn steps(db: &Connection, since: Generation) -> Result<Vec<(Generation, Vec<Edit>)>> {
    let sql = "SELECT generation, difference FROM history WHERE state = 'hardened' ORDER BY id DESC";
    let mut query = db.prepare_cached(sql)?;
    let mut rows = query.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let generation = Generation(row.get(0)?);
        if generation <= since {
            break;
        }
        found.push((generation, row.get::<_, Ron<Delta>>(1)?.0.edits));
    }
    found.sort_by_key(|(generation, _)| *generation);
    Ok(found)
}

/// Returns the ways back of the changes that are committed and not persisted, latest first.
pub(super) fn unpersisted(db: &Connection) -> Result<Vec<Delta>> {
    let mut left: Vec<Stored> = all_live(db)?;
    left.retain(|stored| stored.stage != StoredState::Prepared);
    left.sort_by_key(|stored| std::cmp::Reverse(stored.generation));
    let back = |stored: Stored| {
        stored
            .record
            .undo
            .ok_or_else(|| damaged("a committed change has no way back"))
    };
    left.into_iter().map(back).collect()
}

pub(super) fn body(facts: &Facts, snapshot: Snapshot, unpersisted: Vec<Delta>) -> Result<Vec<u8>> {
    let failed = |fault: crate::metadata::Fault| Error::failed("pool metadata", fault.to_string());
    if unpersisted.is_empty() {
        return body_of(facts, &snapshot).map_err(failed);
    }
    let mut contents = Contents::of(facts.clone(), snapshot);
    for edit in unpersisted.into_iter().flat_map(|undo| undo.edits) {
        contents.edit(edit).map_err(failed)?;
    }
    contents.body().map_err(failed)
}

#[cfg(test)]
mod tests;
