//! A database made from a table that was found elsewhere: on the pool's disks.

use super::convert::{DATABASE, Word, to_ron};
use super::edits::inside;
use super::space;
use crate::metadata::contents::Facts;
use crate::metadata::place::Place;
use crate::model::alloc::Policy;
use crate::model::error::{Error, Result};
use crate::model::records::{DiskRecord, Segment, Snapshot, VolumeRecord};
use crate::model::units::{DiskId, ExtentSize, VolumeId};
use rusqlite::{Connection, params};

/// What a new database begins with. The instance in the header is the one that the labels have.
pub struct Imported<'a> {
    /// The table, and the pool's identity.
    pub snapshot: &'a Snapshot,
    /// What is one per pool.
    pub facts: &'a Facts,
    /// Where the labels say that copies lie.
    pub copies: &'a [(DiskId, Place)],
}

/// Fills an empty database, in one transaction.
pub(super) fn fill(db: &mut Connection, imported: &Imported<'_>) -> Result<()> {
    let tx = db.transaction()?;
    pool(&tx, imported)?;
    // Sorted and made at once, not row by row.
    tx.execute_batch("DROP INDEX homes")?;
    for record in &imported.snapshot.disks {
        disk(&tx, record)?;
    }
    for record in &imported.snapshot.volumes {
        volume(&tx, record)?;
    }
    segments(&tx, &imported.snapshot.segments)?;
    tx.execute_batch("CREATE UNIQUE INDEX homes ON segments (disk, home)")?;
    for (id, place) in imported.copies {
        copy(&tx, *id, *place, imported.snapshot.header.extent_size)?;
    }
    Ok(tx.commit()?)
}

fn pool(db: &Connection, imported: &Imported<'_>) -> Result<()> {
    let (header, facts) = (&imported.snapshot.header, imported.facts);
    let ids = |records: &mut dyn Iterator<Item = u64>| records.max().unwrap_or(0);
    let disk = ids(&mut imported.snapshot.disks.iter().map(|disk| disk.id.0.into()));
    let volume = ids(&mut imported.snapshot.volumes.iter().map(|volume| volume.id.0));
    let policies = [Policy::Order, Policy::Spread, Policy::Pack, Policy::Contiguous];
    let policy = policies.into_iter().find(|policy| policy.word() == facts.policy);
    db.execute(
        "INSERT INTO pool (one, uuid, extent_size, generation, layout, membership, term, incarnation, disk, volume,
         checkpoints, policy, nearfull, full, instance, access)
         VALUES (1, ?1, ?2, ?3, ?4, 0, 0, 0, ?5, ?6, 0, ?7, ?8, ?9, ?10, ?11)",
        params![
            Word(header.uuid),
            header.extent_size.bytes(),
            header.generation.0,
            header.layout,
            disk.max(facts.last_disk.into()),
            volume.max(facts.last_volume),
            Word(policy.unwrap_or_default()),
            facts.nearfull,
            facts.full,
            Word(header.instance.id),
            Word(header.access),
        ],
    )?;
    Ok(())
}

fn disk(db: &Connection, record: &DiskRecord) -> Result<()> {
    let path = record.path.to_str().ok_or_else(|| {
        Error::usage(
            format!("{}: {}", DATABASE, record.path.display()),
            "the path is not UTF-8",
        )
    })?;
    let sql = "INSERT INTO disks (id, name, uuid, path, extents, tags, allocate, reserve, label)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    db.prepare_cached(sql)?.execute(params![
        record.id.0,
        record.name.as_str(),
        record.uuid.to_string(),
        path,
        record.extents,
        to_ron(&record.tags)?,
        record.allocate,
        record.reserve,
        record.label,
    ])?;
    Ok(())
}

/// Keeps what a copy lies in: the pool is made from it, until the new database has written another. Where that cannot be, the copy gets another place.
fn copy(db: &Connection, id: DiskId, place: Place, unit: ExtentSize) -> Result<()> {
    if let Some(area) = place.extents(unit, id) {
        if !space::owned(db, area)?.is_empty() || inside(db, area).is_err() {
            return Ok(());
        }
        space::put_of_copy(db, area)?;
    }
    let sql = "INSERT INTO copies (disk, start, slot, layout, generation) VALUES (?1, ?2, ?3, 0, 0)";
    db.prepare_cached(sql)?
        .execute(params![id.0, place.at, place.slot])?;
    Ok(())
}

fn volume(db: &Connection, record: &VolumeRecord) -> Result<()> {
    let sql =
        "INSERT INTO volumes (id, name, size, mode, uid, gid, read_only) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    db.prepare_cached(sql)?.execute(params![
        record.id.0,
        record.name.as_str(),
        record.size.0,
        record.mode,
        record.uid,
        record.gid,
        record.read_only,
    ])?;
    Ok(())
}

fn segments(db: &Connection, all: &[(VolumeId, Segment)]) -> Result<()> {
    // Prepared once: there may be millions of rows.
    let mut insert =
        db.prepare("INSERT INTO segments (volume, start, disk, home, len) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (volume, segment) in all {
        insert.execute(params![
            volume.0,
            segment.start.0,
            segment.placement.disk.0,
            segment.placement.start.0,
            segment.placement.len,
        ])?;
    }
    Ok(())
}
