//! Applies a delta to the table and computes its undo.
//!
//! The cost is proportional to the delta: replacing a segment reads the rows that it touches and their two neighbours.

use super::convert::to_ron;
use super::metadata::forget as forget_copy;
use super::space;
use super::table::{self, volume_extents};
use crate::model::error::{Error, Result};
use crate::model::records::{Area, DiskRecord, Edit, Segment, VolumeRecord};
use crate::model::units::{DiskId, ExtentSize, VolumeExtent, VolumeId};
use crate::model::words::count;
use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeSet;

/// Result of applying a delta.
pub(super) struct Applied {
    /// Areas that lost their volume.
    pub(super) freed: Vec<Area>,
    /// The edits that take the delta back.
    pub(super) undo: Vec<Edit>,
}

/// Returns the areas that edits map, in their order.
pub(super) fn mapped(edits: &[Edit]) -> impl Iterator<Item = Area> + '_ {
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
pub(super) fn placed(edits: &[Edit]) -> impl Iterator<Item = (VolumeId, Segment)> + '_ {
    edits
        .iter()
        .filter_map(|edit| match edit {
            Edit::Map { volume, segments } => Some((*volume, segments)),
            _ => None,
        })
        .flat_map(|(volume, segments)| segments.iter().map(move |segment| (volume, *segment)))
}

/// Applies all edits, or returns why it cannot (the transaction then takes back the first ones).
pub(super) fn apply(db: &Connection, unit: ExtentSize, edits: &[Edit]) -> Result<Applied> {
    let mut editor = Editor {
        db,
        unit,
        freed: Vec::new(),
        undo: Vec::new(),
        touched: BTreeSet::new(),
    };
    for edit in edits {
        let back = editor.edit(edit)?;
        editor.undo.push(back);
    }
    editor.finish(edits)
}

struct Editor<'a> {
    db: &'a Connection,
    unit: ExtentSize,
    freed: Vec<Area>,
    undo: Vec<Vec<Edit>>,
    touched: BTreeSet<VolumeId>,
}

impl Editor<'_> {
    /// Applies one edit and returns the edits that take it back.
    fn edit(&mut self, edit: &Edit) -> Result<Vec<Edit>> {
        match edit {
            Edit::AddDisk(disk) => self.add_disk(disk),
            Edit::SetDisk(disk) => self.set_disk(disk),
            Edit::RemoveDisk(id) => self.remove_disk(*id),
            Edit::AddVolume(volume) => self.add_volume(volume),
            Edit::SetVolume(volume) => self.set_volume(volume),
            Edit::RemoveVolume(id) => self.remove_volume(*id),
            Edit::Map { volume, segments } => self.map(*volume, segments),
            Edit::Unmap { volume, start, end } => self.unmap(*volume, *start, *end),
        }
    }

    fn finish(self, edits: &[Edit]) -> Result<Applied> {
        for &volume in &self.touched {
            self.no_segment_past_the_end(volume)?;
        }
        for area in mapped(edits) {
            inside(self.db, area)?;
        }
        Ok(Applied {
            freed: self.freed,
            undo: self.undo.into_iter().rev().flatten().collect(),
        })
    }

    fn no_segment_past_the_end(&self, volume: VolumeId) -> Result<()> {
        let Some(extents) = volume_extents(self.db, volume, self.unit)? else {
            return Ok(());
        };
        let mut last = Vec::new();
        table::segments_where(
            self.db,
            "TRUE ORDER BY start DESC LIMIT 1",
            &[&volume.0],
            &mut last,
        )?;
        match last.first().filter(|last| last.end().0 > extents) {
            None => Ok(()),
            Some(last) => Err(Error::failed(
                format!("volume number {volume}"),
                format!(
                    "would have a segment up to extent {}, but has only {}",
                    last.end(),
                    count(extents, "extent")
                ),
            )),
        }
    }

    fn add_disk(&self, disk: &DiskRecord) -> Result<Vec<Edit>> {
        if let Some(other) = table::disk(self.db, disk.id)? {
            return Err(taken("disk number", &disk.id, other.name.as_str()));
        }
        self.disk_is_unique(disk)?;
        self.put_disk(disk)?;
        self.row("UPDATE pool SET disk = max(disk, ?1)", &[&disk.id.0])?;
        Ok(vec![Edit::RemoveDisk(disk.id)])
    }

    fn set_disk(&self, disk: &DiskRecord) -> Result<Vec<Edit>> {
        let old = self.known_disk(disk.id)?;
        self.disk_is_unique(disk)?;
        if disk.extents < old.extents {
            self.unused_from(disk, disk.extents)?;
            self.carries_nothing_from(disk, disk.extents)?;
        }
        self.put_disk(disk)?;
        Ok(vec![Edit::SetDisk(old)])
    }

    fn remove_disk(&self, id: DiskId) -> Result<Vec<Edit>> {
        let old = self.known_disk(id)?;
        self.unused_from(&old, 0)?;
        forget_copy(self.db, id)?;
        self.db
            .prepare_cached("DELETE FROM disks WHERE id = ?1")?
            .execute([id.0])?;
        Ok(vec![Edit::AddDisk(old)])
    }

    fn known_disk(&self, id: DiskId) -> Result<DiskRecord> {
        table::disk(self.db, id)?.ok_or_else(|| Error::not_found("disk", &format!("number {id}")))
    }

    /// Fails if anything at or after this extent has an owner.
    fn unused_from(&self, disk: &DiskRecord, extent: u64) -> Result<()> {
        let sql = "SELECT
            ifnull((SELECT home + len > ?2 FROM segments WHERE disk = ?1 ORDER BY home DESC LIMIT 1), FALSE),
            ifnull((SELECT start + len > ?2 FROM claims WHERE disk = ?1 ORDER BY start DESC LIMIT 1), FALSE),
            ifnull((SELECT start + len > ?2 FROM quarantine WHERE disk = ?1 ORDER BY start DESC LIMIT 1), FALSE)";
        let used: [bool; 3] = self
            .db
            .prepare_cached(sql)?
            .query_row(params![disk.id.0, extent], |row| {
                Ok([row.get(0)?, row.get(1)?, row.get(2)?])
            })?;
        let (why, hint) = match used {
            [true, ..] => (
                "still holds parts of volumes",
                "evacuate it first: vctl disk evacuate",
            ),
            [_, true, _] => (
                "is the destination of a job",
                "let the job end, or cancel it: vctl job list",
            ),
            [.., true] => (
                "holds extents that an apparatus may still use",
                "wait, or stop the fenced apparatus",
            ),
            _ => return Ok(()),
        };
        Err(Error::failed(format!("disk {}", disk.name), why).hint(hint))
    }

    /// Fails if the disk's copy of the metadata lies at or after this extent. (A disk that leaves the pool takes its copy along.)
    fn carries_nothing_from(&self, disk: &DiskRecord, extent: u64) -> Result<()> {
        let copies = space::of_copies(self.db, disk.id)?;
        if copies.iter().all(|area| area.end().0 <= extent) {
            return Ok(());
        }
        let why = "carries a copy of the pool's metadata there";
        Err(Error::failed(format!("disk {}", disk.name), why)
            .hint("try again: vctl disk resize moves it first"))
    }

    fn disk_is_unique(&self, disk: &DiskRecord) -> Result<()> {
        let uuid = disk.uuid.to_string();
        self.unique(
            "disk",
            "name",
            "SELECT name FROM disks WHERE name = ?1 AND id <> ?2",
            disk.name.as_str(),
            disk.id.0.into(),
        )?;
        self.unique(
            "disk",
            "UUID",
            "SELECT name FROM disks WHERE uuid = ?1 AND id <> ?2",
            &uuid,
            disk.id.0.into(),
        )
    }

    fn unique(&self, noun: &str, what: &str, sql: &str, value: &str, id: u64) -> Result<()> {
        let other: Option<String> = self
            .db
            .prepare_cached(sql)?
            .query_row(params![value, id], |row| row.get(0))
            .optional()?;
        other.map_or(Ok(()), |other| {
            Err(taken(&format!("{noun} {what}"), &value, &other))
        })
    }

    fn put_disk(&self, disk: &DiskRecord) -> Result<()> {
        let path = disk.path.to_str().ok_or_else(|| {
            Error::usage(
                format!("disk {}", disk.name),
                format!("path {:?} is not UTF-8", disk.path),
            )
        })?;
        let sql = "INSERT INTO disks (id, name, uuid, path, extents, tags, allocate, reserve, label)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                   ON CONFLICT (id) DO UPDATE SET (name, uuid, path, extents, tags, allocate, reserve, label)
                   = (excluded.name, excluded.uuid, excluded.path, excluded.extents, excluded.tags, excluded.allocate, excluded.reserve,
                      max(label, excluded.label))";
        let tags = to_ron(&disk.tags)?;
        let uuid = disk.uuid.to_string();
        let values = params![
            disk.id.0,
            disk.name.as_str(),
            uuid,
            path,
            disk.extents,
            tags,
            disk.allocate,
            disk.reserve,
            disk.label
        ];
        self.db.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    fn add_volume(&mut self, volume: &VolumeRecord) -> Result<Vec<Edit>> {
        if let Some(other) = table::volume(self.db, volume.id)? {
            return Err(taken("volume number", &volume.id, other.name.as_str()));
        }
        self.put_volume(volume)?;
        self.row("UPDATE pool SET volume = max(volume, ?1)", &[&volume.id.0])?;
        Ok(vec![Edit::RemoveVolume(volume.id)])
    }

    fn set_volume(&mut self, volume: &VolumeRecord) -> Result<Vec<Edit>> {
        let old = self.known_volume(volume.id)?;
        self.put_volume(volume)?;
        Ok(vec![Edit::SetVolume(old)])
    }

    fn put_volume(&mut self, volume: &VolumeRecord) -> Result<()> {
        let clash = "SELECT name FROM volumes WHERE name = ?1 AND id <> ?2";
        self.unique("volume", "name", clash, volume.name.as_str(), volume.id.0)?;
        let sql = "INSERT INTO volumes (id, name, size, mode, uid, gid, read_only) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                   ON CONFLICT (id) DO UPDATE SET (name, size, mode, uid, gid, read_only)
                   = (excluded.name, excluded.size, excluded.mode, excluded.uid, excluded.gid, excluded.read_only)";
        let VolumeRecord {
            id,
            name,
            size,
            mode,
            uid,
            gid,
            read_only,
        } = volume;
        let values = params![id.0, name.as_str(), size.0, mode, uid, gid, read_only];
        self.db.prepare_cached(sql)?.execute(values)?;
        self.touched.insert(*id);
        Ok(())
    }

    fn known_volume(&self, id: VolumeId) -> Result<VolumeRecord> {
        table::volume(self.db, id)?.ok_or_else(|| Error::not_found("volume", &format!("number {id}")))
    }

    fn remove_volume(&mut self, id: VolumeId) -> Result<Vec<Edit>> {
        let old = self.known_volume(id)?;
        let segments = table::segments(self.db, id, VolumeExtent(0), VolumeExtent(u64::MAX))?;
        self.freed
            .extend(segments.iter().map(|segment| segment.placement));
        self.db
            .prepare_cached("DELETE FROM segments WHERE volume = ?1")?
            .execute([id.0])?;
        self.db
            .prepare_cached("DELETE FROM volumes WHERE id = ?1")?
            .execute([id.0])?;
        self.touched.remove(&id);
        let mut back = vec![Edit::AddVolume(old)];
        if !segments.is_empty() {
            back.push(Edit::Map { volume: id, segments });
        }
        Ok(back)
    }

    fn map(&mut self, volume: VolumeId, segments: &[Segment]) -> Result<Vec<Edit>> {
        self.exists(volume)?;
        let mut back = Vec::new();
        let mut lost = Vec::new();
        for run in segments.chunk_by(|a, b| a.end() == b.start) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let replaced = self.replace(volume, first.start, last.end(), run)?;
            if !covers(&replaced, first.start, last.end()) {
                back.push(Edit::Unmap {
                    volume,
                    start: first.start,
                    end: last.end(),
                });
            }
            lost.extend(replaced);
        }
        if !lost.is_empty() {
            back.push(Edit::Map {
                volume,
                segments: lost,
            });
        }
        Ok(back)
    }

    fn unmap(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Edit>> {
        self.exists(volume)?;
        let segments = self.replace(volume, start, end, &[])?;
        Ok(if segments.is_empty() {
            Vec::new()
        } else {
            vec![Edit::Map { volume, segments }]
        })
    }

    fn exists(&mut self, volume: VolumeId) -> Result<()> {
        let first = self.touched.insert(volume);
        if first && volume_extents(self.db, volume, self.unit)?.is_none() {
            return Err(Error::not_found("volume", &format!("number {volume}")));
        }
        Ok(())
    }

    /// Replaces `[start, end)` by `new`, which fills the range or is empty, and returns the replaced segments.
    fn replace(
        &mut self,
        volume: VolumeId,
        start: VolumeExtent,
        end: VolumeExtent,
        new: &[Segment],
    ) -> Result<Vec<Segment>> {
        let around = VolumeExtent(start.0.saturating_sub(1))..VolumeExtent(end.0.saturating_add(1));
        let old = table::segments(self.db, volume, around.start, around.end)?;
        let clipped = |from, to| old.iter().filter_map(move |segment| segment.clip(from, to));
        let left = clipped(VolumeExtent(0), start);
        let right = clipped(end, VolumeExtent(u64::MAX));
        let now = merged(left.chain(new.iter().copied()).chain(right));
        let replaced: Vec<Segment> = clipped(start, end).collect();
        self.rewrite(volume, &old, &now)?;
        self.freed
            .extend(replaced.iter().map(|segment| segment.placement));
        Ok(replaced)
    }

    /// Writes the rows that differ; both lists are sorted.
    fn rewrite(&self, volume: VolumeId, old: &[Segment], now: &[Segment]) -> Result<()> {
        let same_place = |list: &[Segment], row: &Segment| {
            let found = list
                .binary_search_by_key(&row.start, |other| other.start)
                .ok()
                .map(|at| list[at]);
            found.filter(|other| {
                (other.placement.disk, other.placement.start) == (row.placement.disk, row.placement.start)
            })
        };
        for row in old {
            match same_place(now, row) {
                None => self.row(
                    "DELETE FROM segments WHERE volume = ?1 AND start = ?2",
                    &[&volume.0, &row.start.0],
                )?,
                Some(kept) if kept.placement.len != row.placement.len => self.row(
                    "UPDATE segments SET len = ?3 WHERE volume = ?1 AND start = ?2",
                    &[&volume.0, &row.start.0, &kept.placement.len],
                )?,
                Some(_) => {}
            }
        }
        for row in now.iter().filter(|row| same_place(old, row).is_none()) {
            self.row(
                "INSERT INTO segments (volume, start, disk, home, len) VALUES (?1, ?2, ?3, ?4, ?5)",
                &[
                    &volume.0,
                    &row.start.0,
                    &row.placement.disk.0,
                    &row.placement.start.0,
                    &row.placement.len,
                ],
            )?;
        }
        Ok(())
    }

    fn row(&self, sql: &str, values: &[&dyn ToSql]) -> Result<()> {
        self.db.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }
}

fn taken(what: &str, value: &dyn std::fmt::Display, owner: &str) -> Error {
    Error::failed(format!("{what} {value}"), format!("is taken by {owner}"))
}

fn covers(segments: &[Segment], start: VolumeExtent, end: VolumeExtent) -> bool {
    let total: u64 = segments.iter().map(|segment| segment.placement.len).sum();
    total == end.0 - start.0
}

fn merged(segments: impl Iterator<Item = Segment>) -> Vec<Segment> {
    let mut rows: Vec<Segment> = Vec::new();
    for segment in segments {
        match rows.last_mut() {
            Some(last) if last.continues_as(segment) => last.placement.len += segment.placement.len,
            _ => rows.push(segment),
        }
    }
    rows
}

/// Checks that the disk exists and has these extents.
pub(super) fn inside(db: &Connection, area: Area) -> Result<()> {
    let extents = table::disk_extents(db, area.disk)?
        .ok_or_else(|| Error::not_found("disk", &format!("number {}", area.disk)))?;
    let end = area.start.0.checked_add(area.len);
    if area.start.0 > 0 && area.len > 0 && end.is_some_and(|end| end <= extents) {
        return Ok(());
    }
    Err(Error::failed(
        table::disk_name(db, area.disk)?,
        format!(
            "has no area of {} at {}: it has extents 1 to {}",
            count(area.len, "extent"),
            area.start,
            extents - 1
        ),
    ))
}
