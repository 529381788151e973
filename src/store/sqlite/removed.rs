//! Removed volumes that may be had back: what is left of their extents, which have no owner.
//!
//! A row belongs to the change that removed the volume, and to the change that has brought it back (`back`) until that is persisted: each
//! of them can be taken back by a power loss, and the row with it.

use super::change::all_live;
use super::convert::{StoredState, Word};
use super::space::{gaps, owned, put_quarantine};
use super::table::{capped, segment_row};
use crate::model::error::Result;
use crate::model::records::{Area, Edit, Segment, VolumeRecord};
use crate::model::removed::{MOST_SEGMENTS, RemovedVolume};
use crate::model::units::{
    ByteCount, ChangeId, DiskExtent, DiskId, ExtentSize, Generation, Timestamp, VolumeExtent, VolumeId,
};
use rusqlite::{Connection, Row, params};

/// Follows a commit: remembers the volumes that it removes, marks those that it brings back, and forgets extents that disks lose.
/// `undo` takes the edits back.
pub(super) fn follow(
    db: &Connection,
    id: ChangeId,
    unit: ExtentSize,
    edits: &[Edit],
    undo: &[Edit],
) -> Result<()> {
    for edit in edits {
        match edit {
            Edit::AddVolume(volume) => mark_back(db, id, volume.id)?,
            Edit::RemoveDisk(disk) => _ = lose_from(db, *disk, 0)?,
            Edit::SetDisk(disk) => _ = lose_from(db, disk.id, disk.extents)?,
            _ => {}
        }
    }
    for edit in edits {
        if let Edit::RemoveVolume(volume) = edit
            && let Some((record, segments)) = whole(unit, *volume, edits, undo)
            && !is_placed_anew(db, *volume)?
        {
            remember(db, id, record, segments)?;
        }
    }
    Ok(())
}

/// Returns a removed volume as the undo of its removal has it; `None` for one that is not remembered.
fn whole<'a>(
    unit: ExtentSize,
    id: VolumeId,
    edits: &[Edit],
    undo: &'a [Edit],
) -> Option<(&'a VolumeRecord, &'a [Segment])> {
    let adds = |edit: &Edit| matches!(edit, Edit::AddVolume(volume) if volume.id == id);
    if edits.iter().any(adds) {
        return None;
    }
    let at = undo.iter().position(adds)?;
    let (Edit::AddVolume(record), Edit::Map { volume, segments }) = (undo.get(at)?, undo.get(at + 1)?) else {
        return None;
    };
    let extents: u64 = segments.iter().map(|segment| segment.placement.len).sum();
    let is_whole = *volume == id && extents == unit.count_for(record.size);
    (is_whole && segments.len() <= MOST_SEGMENTS && !record.name.is_hidden()).then_some((record, segments))
}

/// Returns whether a change that is not persisted has placed a part of the volume: its new extents need not have its bytes, or zeroes,
/// after a power loss.
fn is_placed_anew(db: &Connection, id: VolumeId) -> Result<bool> {
    let places = |edit: &Edit| matches!(edit, Edit::Map { volume, .. } if *volume == id);
    let mut live = all_live(db)?.into_iter();
    Ok(live.any(|stored| {
        stored.stage == StoredState::Committed && stored.record.change.delta.edits.iter().any(places)
    }))
}

fn remember(db: &Connection, id: ChangeId, record: &VolumeRecord, segments: &[Segment]) -> Result<()> {
    let VolumeRecord {
        id: volume,
        name,
        size,
        mode,
        uid,
        gid,
        read_only,
    } = record;
    let sql = "INSERT INTO removed (change, volume, name, size, mode, uid, gid, read_only, at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let now = Timestamp::now().0;
    db.prepare_cached(sql)?.execute(params![
        id.0,
        volume.0,
        name.as_str(),
        size.0,
        mode,
        uid,
        gid,
        read_only,
        now
    ])?;
    segments
        .iter()
        .try_for_each(|segment| put(db, (id, *volume), *segment))
}

fn put(db: &Connection, (change, volume): (ChangeId, VolumeId), segment: Segment) -> Result<()> {
    let sql = "INSERT INTO removed_segments (change, volume, start, disk, extent, len) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let Segment { start, placement } = segment;
    db.prepare_cached(sql)?.execute(params![
        change.0,
        volume.0,
        start.0,
        placement.disk.0,
        placement.start.0,
        placement.len
    ])?;
    Ok(())
}

fn mark_back(db: &Connection, id: ChangeId, volume: VolumeId) -> Result<()> {
    db.prepare_cached("UPDATE removed SET back = ?1 WHERE volume = ?2 AND back IS NULL")?
        .execute([id.0, volume.0])?;
    Ok(())
}

/// Follows the end of a change that is persisted: a volume that it brought back is no removed one any more.
pub(super) fn persisted(db: &Connection, id: ChangeId) -> Result<()> {
    if delete(db, "back", id)? {
        drop_orphans(db)?;
    }
    Ok(())
}

/// Follows the end of a change that was taken back: a volume that it removed is there again, one that it brought back is removed again.
pub(super) fn undone(db: &Connection, id: ChangeId) -> Result<()> {
    if delete(db, "change", id)? {
        drop_orphans(db)?;
    }
    db.prepare_cached("UPDATE removed SET back = NULL WHERE back = ?1")?
        .execute([id.0])?;
    Ok(())
}

/// Deletes the rows with this change in this column. Returns whether there were any.
fn delete(db: &Connection, column: &str, id: ChangeId) -> Result<bool> {
    let sql = format!("DELETE FROM removed WHERE {column} = ?1");
    Ok(db.prepare_cached(&sql)?.execute([id.0])? > 0)
}

fn drop_orphans(db: &Connection) -> Result<()> {
    let sql =
        "DELETE FROM removed_segments WHERE (change, volume) NOT IN (SELECT change, volume FROM removed)";
    db.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// Forgets all removed volumes: this database may be a copy, so their extents may have been given away.
pub(super) fn clear(db: &Connection) -> Result<()> {
    Ok(db.execute_batch("DELETE FROM removed; DELETE FROM removed_segments")?)
}

/// Records that these extents get another owner than the volume `except`. Returns whether a removed volume had them.
pub(super) fn lose(db: &Connection, area: Area, except: Option<VolumeId>) -> Result<bool> {
    let sql = "SELECT start, disk, extent, len, change, volume FROM removed_segments
               WHERE disk = ?1 AND extent < ?3 AND extent + len > ?2 AND volume IS NOT ?4";
    let end = capped(area.start.0.saturating_add(area.len));
    let row = |row: &Row<'_>| Ok((segment_row(row)?, ChangeId(row.get(4)?), VolumeId(row.get(5)?)));
    let found: Vec<(Segment, ChangeId, VolumeId)> = db
        .prepare_cached(sql)?
        .query_map(
            params![
                area.disk.0,
                capped(area.start.0),
                end,
                except.map(|volume| volume.0)
            ],
            row,
        )?
        .collect::<Result<_, _>>()?;
    for (segment, change, volume) in &found {
        db.prepare_cached("DELETE FROM removed_segments WHERE change = ?1 AND volume = ?2 AND start = ?3")?
            .execute([change.0, volume.0, segment.start.0])?;
        for rest in outside(*segment, area.start.0, end) {
            put(db, (*change, *volume), rest)?;
        }
    }
    Ok(!found.is_empty())
}

/// Returns the parts of a segment whose extents are outside `[from, to)` of its disk.
fn outside(segment: Segment, from: u64, to: u64) -> impl Iterator<Item = Segment> {
    let Segment { start, placement } = segment;
    let at = |extent: u64| VolumeExtent(start.0 + extent.saturating_sub(placement.start.0));
    let before = segment.clip(start, at(from));
    let behind = segment.clip(at(to), segment.end());
    before.into_iter().chain(behind)
}

fn lose_from(db: &Connection, disk: DiskId, extent: u64) -> Result<bool> {
    let beyond = Area {
        disk,
        start: DiskExtent(extent),
        len: u64::MAX,
    };
    lose(db, beyond, None)
}

/// Returns the removed volumes, the oldest first, without what is left of them.
fn records(db: &Connection) -> Result<Vec<RemovedVolume>> {
    let sql = "SELECT change, at, volume, name, size, mode, uid, gid, read_only FROM removed
               WHERE back IS NULL ORDER BY change, volume";
    let row = |row: &Row<'_>| {
        Ok(RemovedVolume {
            change: ChangeId(row.get(0)?),
            at: Timestamp(row.get(1)?),
            volume: VolumeRecord {
                id: VolumeId(row.get(2)?),
                name: row.get::<_, Word<_>>(3)?.0,
                size: ByteCount(row.get(4)?),
                mode: row.get(5)?,
                uid: row.get(6)?,
                gid: row.get(7)?,
                read_only: row.get(8)?,
            },
            left: Vec::new(),
        })
    };
    let mut query = db.prepare_cached(sql)?;
    let found = query.query_map([], row)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Returns the removed volumes, the oldest first.
pub(super) fn all(db: &Connection) -> Result<Vec<RemovedVolume>> {
    let mut all = records(db)?;
    for removed in &mut all {
        removed.left = left(db, removed)?;
    }
    Ok(all)
}

fn left(db: &Connection, removed: &RemovedVolume) -> Result<Vec<Segment>> {
    let sql = "SELECT start, disk, extent, len FROM removed_segments WHERE change = ?1 AND volume = ?2 ORDER BY start";
    let mut query = db.prepare_cached(sql)?;
    let found = query.query_map([removed.change.0, removed.volume.id.0], segment_row)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Forgets the volumes that persisted changes among these have removed. Returns whether there were any.
pub(super) fn forget(db: &Connection, wanted: impl Fn(&RemovedVolume) -> bool) -> Result<bool> {
    let unfinished: Vec<ChangeId> = all_live(db)?.iter().map(|stored| stored.record.id).collect();
    let mut any = false;
    for removed in records(db)? {
        if !wanted(&removed) || unfinished.contains(&removed.change) {
            continue;
        }
        for segment in left(db, &removed)? {
            let area = segment.placement;
            // What the removal has in quarantine is discarded with that.
            for free in gaps(area, &owned(db, area)?) {
                put_quarantine(db, free, removed.change, Generation(0))?;
            }
        }
        any |= delete(db, "change", removed.change)?;
    }
    if any {
        drop_orphans(db)?;
    }
    Ok(any)
}

/// Returns whether [`forget_oldest`] would forget any.
pub(super) fn has_older(db: &Connection, most: usize, since: Timestamp) -> Result<bool> {
    let sql = "SELECT count(*) > ?1 OR ifnull(min(at), ?2) < ?2 FROM removed WHERE back IS NULL";
    Ok(db
        .prepare_cached(sql)?
        .query_row(params![most, since.0], |row| row.get(0))?)
}

/// Forgets all but the newest `most`, and those that were removed before `since`. Returns whether there were any.
pub(super) fn forget_oldest(db: &Connection, most: usize, since: Timestamp) -> Result<bool> {
    let all = records(db)?;
    let surplus = all.len().saturating_sub(most);
    let last = all[..surplus].last().map(|removed| removed.change);
    forget(db, |removed| removed.at < since || Some(removed.change) <= last)
}

#[cfg(test)]
mod tests;
