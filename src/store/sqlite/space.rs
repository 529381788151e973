//! Owners of extents apart from volumes: claims (of prepared changes and jobs), quarantine, and copies of the metadata.

use super::convert::{Word, damaged};
use super::edits::inside;
use super::removed;
use super::table::{capped, disk_name};
use crate::model::areas::append;
use crate::model::change::{Owner, UsedArea};
use crate::model::error::{Error, Result};
use crate::model::records::Area;
use crate::model::units::{ChangeId, DiskExtent, DiskId, Generation, JobId, VolumeId};
use crate::model::words::count;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, params};
use std::collections::BTreeSet;

/// A change or job that claims extents in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimant {
    Change(ChangeId),
    Job(JobId),
}

impl Claimant {
    fn kind(self) -> Word<AreaKind> {
        Word(match self {
            Self::Change(_) => AreaKind::Change,
            Self::Job(_) => AreaKind::Job,
        })
    }

    fn number(self) -> u64 {
        match self {
            Self::Change(id) => id.0,
            Self::Job(id) => id.0,
        }
    }

    fn owner(self) -> Owner {
        match self {
            Self::Change(id) => Owner::Change(id),
            Self::Job(id) => Owner::Job(id),
        }
    }
}

#[derive(Clone, Copy)]
enum AreaKind {
    Change,
    Job,
}

impl ToSql for Word<AreaKind> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(match self.0 {
            AreaKind::Change => "change",
            AreaKind::Job => "job",
        }))
    }
}

impl FromSql for Word<AreaKind> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "change" => Ok(Self(AreaKind::Change)),
            "job" => Ok(Self(AreaKind::Job)),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

fn area_row(row: &Row<'_>) -> rusqlite::Result<Area> {
    Ok(Area {
        disk: DiskId(row.get(0)?),
        start: DiskExtent(row.get(1)?),
        len: row.get(2)?,
    })
}

fn segment_use(row: &Row<'_>) -> rusqlite::Result<UsedArea> {
    Ok(UsedArea {
        area: area_row(row)?,
        owner: Owner::Volume(VolumeId(row.get(3)?)),
    })
}

fn claim_use(row: &Row<'_>) -> rusqlite::Result<UsedArea> {
    let number = row.get(3)?;
    let claimant = match row.get::<_, Word<AreaKind>>(4)?.0 {
        AreaKind::Change => Claimant::Change(ChangeId(number)),
        AreaKind::Job => Claimant::Job(JobId(number)),
    };
    Ok(UsedArea {
        area: area_row(row)?,
        owner: claimant.owner(),
    })
}

fn quarantine_use(row: &Row<'_>) -> rusqlite::Result<UsedArea> {
    Ok(UsedArea {
        area: area_row(row)?,
        owner: Owner::Quarantine(ChangeId(row.get(3)?)),
    })
}

fn copy_use(row: &Row<'_>) -> rusqlite::Result<UsedArea> {
    Ok(UsedArea {
        area: area_row(row)?,
        owner: Owner::Metadata,
    })
}

/// A table of owned areas: its query, the column of the first extent, and the conversion of a row.
struct AreaTable {
    select: &'static str,
    start: &'static str,
    row: fn(&Row<'_>) -> rusqlite::Result<UsedArea>,
}

const SEGMENTS: AreaTable = AreaTable {
    select: "SELECT disk, home, len, volume FROM segments WHERE disk = ?1",
    start: "home",
    row: segment_use,
};
const CLAIMS: AreaTable = AreaTable {
    select: "SELECT disk, start, len, owner, kind FROM claims WHERE disk = ?1",
    start: "start",
    row: claim_use,
};
const QUARANTINE: AreaTable = AreaTable {
    select: "SELECT disk, start, len, change FROM quarantine WHERE disk = ?1",
    start: "start",
    row: quarantine_use,
};
const COPIES: AreaTable = AreaTable {
    select: "SELECT disk, start, len FROM copy_extents WHERE disk = ?1",
    start: "start",
    row: copy_use,
};

impl AreaTable {
    /// Returns the rows that share an extent with `area`, by start, not clipped.
    fn overlapping(&self, db: &Connection, area: Area) -> Result<Vec<UsedArea>> {
        let Self { select, start, row } = self;
        let (from, to) = (
            capped(area.start.0),
            capped(area.start.0.saturating_add(area.len)),
        );
        let mut found = Vec::new();
        let before = format!("{select} AND {start} < ?2 ORDER BY {start} DESC LIMIT 1");
        for owned in db
            .prepare_cached(&before)?
            .query_map(params![area.disk.0, from], row)?
        {
            found.push(owned?);
        }
        found.retain(|owned| owned.area.end().0 > from && from < to);
        let within = format!("{select} AND {start} >= ?2 AND {start} < ?3 ORDER BY {start}");
        for owned in db
            .prepare_cached(&within)?
            .query_map(params![area.disk.0, from, to], row)?
        {
            found.push(owned?);
        }
        Ok(found)
    }
}

/// Returns everything owned that shares an extent with `area`, by start, not clipped.
pub(super) fn owned(db: &Connection, area: Area) -> Result<Vec<UsedArea>> {
    let mut found = SEGMENTS.overlapping(db, area)?;
    found.extend(CLAIMS.overlapping(db, area)?);
    found.extend(QUARANTINE.overlapping(db, area)?);
    found.extend(COPIES.overlapping(db, area)?);
    found.sort_by_key(|owned| owned.area);
    Ok(found)
}

/// Returns every run of extents of a disk that has an owner, by start; adjacent runs of one owner are merged.
pub(super) fn uses(db: &Connection, disk: DiskId) -> Result<Vec<UsedArea>> {
    let whole = Area {
        disk,
        start: DiskExtent(0),
        len: u64::MAX,
    };
    let mut merged: Vec<UsedArea> = Vec::new();
    for owned in owned(db, whole)? {
        match merged.last_mut() {
            Some(last) if last.owner == owned.owner && last.area.end() == owned.area.start => {
                last.area.len += owned.area.len;
            }
            _ => merged.push(owned),
        }
    }
    Ok(merged)
}

/// Returns the error for extents that have another owner.
pub(super) fn not_free(db: &Connection, found: &UsedArea) -> Result<Error> {
    let owner = match found.owner {
        Owner::Volume(id) => format!("volume number {id}"),
        Owner::Change(id) => format!("change {id}"),
        Owner::Job(id) => format!("job {id}"),
        Owner::Quarantine(id) => format!("the quarantine of change {id}"),
        Owner::Metadata => "the disk's copy of the pool's metadata".to_owned(),
    };
    let Area { start, len, .. } = found.area;
    let disk = disk_name(db, found.area.disk)?;
    Ok(Error::failed(
        disk,
        format!("{} at {start}: owned by {owner}", count(len, "extent")),
    ))
}

/// Returns the parts of `area` that none of `owned` (sorted by start) covers.
pub(super) fn gaps(area: Area, owned: &[UsedArea]) -> Vec<Area> {
    let mut gaps = Vec::new();
    let mut at = area.start;
    for found in owned {
        append(&mut gaps, area.disk, at, found.area.start.min(area.end()));
        at = at.max(found.area.end());
    }
    append(&mut gaps, area.disk, at, area.end());
    gaps
}

/// Claims free extents of the disk; fails if one is not free. Returns whether a removed volume has lost some.
pub(super) fn claim(db: &Connection, area: Area, claimant: Claimant) -> Result<bool> {
    check_free(db, area)?;
    put_claim(db, area, claimant)?;
    removed::lose(db, area, None)
}

/// Gives free extents to the copy of the metadata on their disk; fails if one is not free. Returns whether a removed volume has lost
/// some.
pub(super) fn claim_for_copy(db: &Connection, area: Area) -> Result<bool> {
    check_free(db, area)?;
    put_of_copy(db, area)?;
    removed::lose(db, area, None)
}

/// Fails unless the disk has these extents and all are free.
fn check_free(db: &Connection, area: Area) -> Result<()> {
    inside(db, area)?;
    match owned(db, area)?.first() {
        Some(found) => Err(not_free(db, found)?),
        None => Ok(()),
    }
}

/// Records extents of a copy, known to be free.
pub(super) fn put_of_copy(db: &Connection, area: Area) -> Result<()> {
    db.prepare_cached("INSERT INTO copy_extents (disk, start, len) VALUES (?1, ?2, ?3)")?
        .execute(params![area.disk.0, area.start.0, area.len])?;
    Ok(())
}

/// Returns the extents that copies of the metadata own on this disk.
pub(super) fn of_copies(db: &Connection, disk: DiskId) -> Result<Vec<Area>> {
    let whole = Area {
        disk,
        start: DiskExtent(0),
        len: u64::MAX,
    };
    let found = COPIES.overlapping(db, whole)?;
    Ok(found.into_iter().map(|owned| owned.area).collect())
}

/// Returns the extents that copies of the metadata own.
pub(super) fn of_all_copies(db: &Connection) -> Result<Vec<Area>> {
    let mut query = db.prepare_cached("SELECT disk, start, len FROM copy_extents ORDER BY disk, start")?;
    let found = query.query_map([], area_row)?;
    found.map(|area| Ok(area?)).collect()
}

/// Frees what copies of the metadata own on this disk, except for `own`.
pub(super) fn free_of_copies(db: &Connection, disk: DiskId, own: Option<Area>) -> Result<()> {
    let kept = own.map_or(0, |area| area.start.0);
    db.prepare_cached("DELETE FROM copy_extents WHERE disk = ?1 AND start <> ?2")?
        .execute(params![disk.0, kept])?;
    Ok(())
}

/// Records a claim on extents known to be free, merged with adjacent ones of the same claimant.
pub(super) fn put_claim(db: &Connection, area: Area, claimant: Claimant) -> Result<()> {
    let around = Area {
        disk: area.disk,
        start: DiskExtent(area.start.0.saturating_sub(1)),
        len: area.len.saturating_add(2),
    };
    let mut whole = area;
    for found in CLAIMS.overlapping(db, around)? {
        if found.owner == claimant.owner() {
            delete_claim(db, found.area)?;
            whole = joined(whole, found.area);
        }
    }
    insert_claim(db, whole, claimant)
}

fn joined(a: Area, b: Area) -> Area {
    let start = a.start.min(b.start);
    let end = a.end().max(b.end());
    Area {
        disk: a.disk,
        start,
        len: end.0 - start.0,
    }
}

fn delete_claim(db: &Connection, area: Area) -> Result<()> {
    db.prepare_cached("DELETE FROM claims WHERE disk = ?1 AND start = ?2")?
        .execute(params![area.disk.0, area.start.0])?;
    Ok(())
}

fn insert_claim(db: &Connection, area: Area, claimant: Claimant) -> Result<()> {
    db.prepare_cached("INSERT INTO claims (disk, start, len, kind, owner) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            area.disk.0,
            area.start.0,
            area.len,
            claimant.kind(),
            claimant.number()
        ])?;
    Ok(())
}

/// Removes `area` from the claims; returns false, and changes nothing, unless `mine` owns all of it.
pub(super) fn take_claim(db: &Connection, area: Area, mine: &dyn Fn(Owner) -> bool) -> Result<bool> {
    let found = CLAIMS.overlapping(db, area)?;
    let all_mine = found.iter().all(|owned| mine(owned.owner));
    if !all_mine || !gaps(area, &found).is_empty() {
        return Ok(false);
    }
    for owned in found {
        delete_claim(db, owned.area)?;
        let claimant = match owned.owner {
            Owner::Job(id) => Claimant::Job(id),
            Owner::Change(id) => Claimant::Change(id),
            _ => return Err(damaged("a claim of no claimant")),
        };
        for rest in outside(owned.area, area) {
            insert_claim(db, rest, claimant)?;
        }
    }
    Ok(true)
}

/// Returns the parts of `whole` outside `part`.
fn outside(whole: Area, part: Area) -> impl Iterator<Item = Area> {
    let Area { disk, start, .. } = whole;
    let left = part.start.0.saturating_sub(start.0);
    let right = whole.end().0.saturating_sub(part.end().0);
    [
        Area {
            disk,
            start,
            len: left,
        },
        Area {
            disk,
            start: part.end(),
            len: right,
        },
    ]
    .into_iter()
    .filter(|area| area.len > 0)
}

/// Drops the claims of this claimant in `area`.
pub(super) fn drop_claims(db: &Connection, area: Area, claimant: Claimant) -> Result<()> {
    for owned in CLAIMS.overlapping(db, area)? {
        if owned.owner == claimant.owner() {
            delete_claim(db, owned.area)?;
        }
    }
    Ok(())
}

/// Drops all claims of a job.
pub(super) fn drop_job(db: &Connection, job: JobId) -> Result<()> {
    db.prepare_cached("DELETE FROM claims WHERE kind = 'job' AND owner = ?1")?
        .execute([job.0])?;
    Ok(())
}

/// Records extents that a change took from a volume: they have no owner until no apparatus can use them.
pub(super) fn put_quarantine(db: &Connection, area: Area, change: ChangeId, at: Generation) -> Result<()> {
    let sql = "INSERT INTO quarantine (disk, start, len, change, generation) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(sql)?
        .execute(params![area.disk.0, area.start.0, area.len, change.0, at.0])?;
    Ok(())
}

/// Removes extents from a change's quarantine; all of them must be there.
pub(super) fn take_quarantine(db: &Connection, area: Area, change: ChangeId) -> Result<()> {
    let found = QUARANTINE.overlapping(db, area)?;
    let all_its = found.iter().all(|owned| owned.owner == Owner::Quarantine(change));
    if !all_its || !gaps(area, &found).is_empty() {
        return Err(damaged(&format!(
            "change {change} cannot be taken back: its quarantine lacks {} at {} of disk number {}",
            count(area.len, "extent"),
            area.start,
            area.disk
        )));
    }
    for owned in found {
        let (disk, start) = (owned.area.disk.0, owned.area.start.0);
        let of = "WHERE disk = ?1 AND start = ?2";
        let at: u64 = db
            .prepare_cached(&format!("SELECT generation FROM quarantine {of}"))?
            .query_row(params![disk, start], |row| row.get(0))?;
        db.prepare_cached(&format!("DELETE FROM quarantine {of}"))?
            .execute(params![disk, start])?;
        for rest in outside(owned.area, area) {
            put_quarantine(db, rest, change, Generation(at))?;
        }
    }
    Ok(())
}

/// Condition for areas that finished changes put into quarantine up to generation `?1`.
const OVER: &str = "generation <= ?1 AND change NOT IN (SELECT id FROM changes)";

/// Returns the areas that finished changes put into quarantine up to generation `oldest`.
pub(super) fn freeable(db: &Connection, oldest: Generation) -> Result<Vec<Area>> {
    let mut query = db.prepare_cached(&format!(
        "SELECT disk, start, len FROM quarantine WHERE {OVER} ORDER BY disk, start"
    ))?;
    let found = query.query_map([capped(oldest.0)], area_row)?;
    found.map(|area| Ok(area?)).collect()
}

/// Largest number of areas that one transaction frees, because others wait for the store meanwhile.
pub(super) const FREED: usize = 4096;

/// Frees areas that finished changes put into quarantine up to generation `oldest`, except on the disks `except`, at most
/// [`FREED`] of them.
pub(super) fn free_quarantine(
    db: &Connection,
    oldest: Generation,
    except: &BTreeSet<DiskId>,
) -> Result<Vec<Area>> {
    let except: Vec<String> = except.iter().map(|disk| disk.0.to_string()).collect();
    let except = except.join(", ");
    let some = format!(
        "DELETE FROM quarantine WHERE (disk, start) IN
         (SELECT disk, start FROM quarantine WHERE {OVER} AND disk NOT IN ({except}) LIMIT ?2)
         RETURNING disk, start, len"
    );
    let mut query = db.prepare_cached(&some)?;
    let freed = query.query_map(params![capped(oldest.0), FREED], area_row)?;
    let mut freed: Vec<Area> = freed.collect::<Result<_, _>>()?;
    freed.sort_unstable();
    Ok(freed)
}
