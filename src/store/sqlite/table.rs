//! Queries of the table: header, disks, volumes, segments.

use super::convert::{Ron, Word, damaged};
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::records::{Area, DiskRecord, Instance, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::model::units::{
    ByteCount, CacheEpoch, DiskExtent, DiskId, ExtentSize, Generation, MembershipVersion, Term, VolumeExtent,
    VolumeId,
};
use crate::place::Place;
use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// The epoch and the directory that the database is opened in.
pub(super) type OpenedIn<'a> = (CacheEpoch, &'a PoolDir);

/// Returns the header. Its layout number includes changes that another epoch had left as persisting, because recovery makes them
/// persisted.
pub(super) fn header(db: &Connection, (epoch, dir): OpenedIn<'_>) -> Result<PoolHeader> {
    let sql = "SELECT uuid, extent_size, generation, membership, term,
               layout + (SELECT count(*) FROM changes WHERE state = 'hardening' AND boot <> ?1), instance, former, access FROM pool";
    let (size, mut header) = db.prepare_cached(sql)?.query_row([Word(epoch)], |row| {
        let header = PoolHeader {
            uuid: row.get::<_, Word<_>>(0)?.0,
            extent_size: ExtentSize::DEFAULT,
            access: row.get::<_, Word<_>>(8)?.0,
            generation: Generation(row.get(2)?),
            membership: MembershipVersion(row.get(3)?),
            term: Term(row.get(4)?),
            layout: row.get(5)?,
            instance: Instance {
                id: row.get::<_, Word<_>>(6)?.0,
                former: row.get::<_, Word<_>>(7)?.0,
                dir: dir.clone(),
                ..Instance::default()
            },
        };
        Ok((row.get(1)?, header))
    })?;
    header.extent_size = extent_size(size)?;
    if let Some(own) = Place::read(dir)?.and_then(|place| place.node) {
        header.instance.node = Some(own.name);
        header.instance.paths = own.paths;
    }
    Ok(header)
}

/// Raises the layout number: the labels of the disks will have it, and an older database is one that does not.
pub(super) fn raise_layout(db: &Connection) -> Result<()> {
    db.prepare_cached("UPDATE pool SET layout = layout + 1")?
        .execute([])?;
    Ok(())
}

fn extent_size(bytes: u64) -> Result<ExtentSize> {
    ExtentSize::try_from(bytes).map_err(|why| damaged(&format!("extent size {why}")))
}

/// The fields of the header that decide whether a change may be made.
pub(super) struct Guards {
    pub(super) extent_size: ExtentSize,
    pub(super) generation: Generation,
    pub(super) membership: MembershipVersion,
    pub(super) term: Term,
}

pub(super) fn guards(db: &Connection) -> Result<Guards> {
    let sql = "SELECT extent_size, generation, membership, term FROM pool";
    let (size, generation, membership, term) = db
        .prepare_cached(sql)?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    Ok(Guards {
        extent_size: extent_size(size)?,
        generation: Generation(generation),
        membership: MembershipVersion(membership),
        term: Term(term),
    })
}

const DISK: &str = "SELECT id, name, uuid, path, extents, tags, allocate, reserve, label FROM disks";

fn disk_row(row: &Row<'_>) -> rusqlite::Result<DiskRecord> {
    Ok(DiskRecord {
        id: DiskId(row.get(0)?),
        name: row.get::<_, Word<_>>(1)?.0,
        uuid: row.get::<_, Word<_>>(2)?.0,
        path: row.get::<_, String>(3)?.into(),
        extents: row.get(4)?,
        tags: row.get::<_, Ron<_>>(5)?.0,
        allocate: row.get(6)?,
        reserve: row.get(7)?,
        label: row.get(8)?,
    })
}

pub(super) fn disks(db: &Connection) -> Result<Vec<DiskRecord>> {
    let mut query = db.prepare_cached(&format!("{DISK} ORDER BY id"))?;
    let rows = query.query_map([], disk_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn disk(db: &Connection, id: DiskId) -> Result<Option<DiskRecord>> {
    let mut query = db.prepare_cached(&format!("{DISK} WHERE id = ?1"))?;
    Ok(query.query_row([id.0], disk_row).optional()?)
}

/// Records that the disk's label has been written with this sequence number.
pub(super) fn label_written(db: &Connection, id: DiskId, sequence: u64) -> Result<()> {
    db.prepare_cached("UPDATE disks SET label = max(label, ?2) WHERE id = ?1")?
        .execute(params![id.0, sequence])?;
    Ok(())
}

/// Returns the number of extents of the disk, if it exists.
pub(super) fn disk_extents(db: &Connection, id: DiskId) -> Result<Option<u64>> {
    let mut query = db.prepare_cached("SELECT extents FROM disks WHERE id = ?1")?;
    Ok(query.query_row([id.0], |row| row.get(0)).optional()?)
}

/// Returns the disk's name for messages.
pub(super) fn disk_name(db: &Connection, id: DiskId) -> Result<String> {
    Ok(disk(db, id)?.map_or_else(
        || format!("disk number {id}"),
        |disk| format!("disk {}", disk.name),
    ))
}

const VOLUME: &str = "SELECT id, name, size, mode, uid, gid, read_only FROM volumes";

fn volume_row(row: &Row<'_>) -> rusqlite::Result<VolumeRecord> {
    Ok(VolumeRecord {
        id: VolumeId(row.get(0)?),
        name: row.get::<_, Word<_>>(1)?.0,
        size: ByteCount(row.get(2)?),
        mode: row.get(3)?,
        uid: row.get(4)?,
        gid: row.get(5)?,
        read_only: row.get(6)?,
    })
}

pub(super) fn volumes(db: &Connection) -> Result<Vec<VolumeRecord>> {
    let mut query = db.prepare_cached(&format!("{VOLUME} ORDER BY id"))?;
    let rows = query.query_map([], volume_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn volume(db: &Connection, id: VolumeId) -> Result<Option<VolumeRecord>> {
    let mut query = db.prepare_cached(&format!("{VOLUME} WHERE id = ?1"))?;
    Ok(query.query_row([id.0], volume_row).optional()?)
}

/// Returns a volume's size in extents, if it exists.
pub(super) fn volume_extents(db: &Connection, id: VolumeId, unit: ExtentSize) -> Result<Option<u64>> {
    let mut query = db.prepare_cached("SELECT size FROM volumes WHERE id = ?1")?;
    let size = query
        .query_row([id.0], |row| row.get(0).map(ByteCount))
        .optional()?;
    Ok(size.map(|size| unit.count_for(size)))
}

pub(super) fn segment_row(row: &Row<'_>) -> rusqlite::Result<Segment> {
    Ok(Segment {
        start: VolumeExtent(row.get(0)?),
        placement: Area {
            disk: DiskId(row.get(1)?),
            start: DiskExtent(row.get(2)?),
            len: row.get(3)?,
        },
    })
}

const SEGMENT: &str = "SELECT start, disk, home, len FROM segments WHERE volume = ?1";

pub(super) fn segments_where(
    db: &Connection,
    condition: &str,
    values: &[&dyn ToSql],
    found: &mut Vec<Segment>,
) -> Result<()> {
    let mut query = db.prepare_cached(&format!("{SEGMENT} AND {condition}"))?;
    for segment in query.query_map(values, segment_row)? {
        found.push(segment?);
    }
    Ok(())
}

/// Limits a number to 2^63 - 1, where SQLite's integers and the numbers of extents end.
pub(super) fn capped(end: u64) -> u64 {
    end.min(i64::MAX.unsigned_abs())
}

/// Returns the segments that share an extent with `[start, end)`.
pub(super) fn segments(
    db: &Connection,
    volume: VolumeId,
    start: VolumeExtent,
    end: VolumeExtent,
) -> Result<Vec<Segment>> {
    let (start, end) = (capped(start.0), capped(end.0));
    let mut found = Vec::new();
    segments_where(
        db,
        "start < ?2 ORDER BY start DESC LIMIT 1",
        &[&volume.0, &start],
        &mut found,
    )?;
    found.retain(|segment| segment.end().0 > start && start < end);
    segments_where(
        db,
        "start >= ?2 AND start < ?3 ORDER BY start",
        &[&volume.0, &start, &end],
        &mut found,
    )?;
    Ok(found)
}

/// Returns the table without the segments.
pub(super) fn without_segments(db: &Connection, place: OpenedIn<'_>) -> Result<Snapshot> {
    Ok(Snapshot {
        header: header(db, place)?,
        disks: disks(db)?,
        volumes: volumes(db)?,
        segments: Vec::new(),
    })
}

pub(super) fn snapshot(db: &Connection, place: OpenedIn<'_>) -> Result<Snapshot> {
    let mut query =
        db.prepare_cached("SELECT start, disk, home, len, volume FROM segments ORDER BY volume, start")?;
    let rows = query.query_map([], |row| Ok((VolumeId(row.get(4)?), segment_row(row)?)))?;
    let segments = rows.collect::<Result<_, _>>()?;
    Ok(Snapshot {
        segments,
        ..without_segments(db, place)?
    })
}
