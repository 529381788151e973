//! Checks whether the pool's records fit together. It reads everything and repairs nothing.

use super::{removed, space, table};
use crate::model::change::{Owner, UsedArea};
use crate::model::error::Result;
use crate::model::records::{Area, DiskRecord, SECTOR, Segment, VolumeRecord};
use crate::model::units::{DiskExtent, DiskId, ExtentSize, VolumeExtent, VolumeId};
use rusqlite::Connection;
use std::collections::BTreeSet;

/// Returns a line for each problem.
pub(super) fn problems(db: &Connection, place: table::OpenedIn<'_>) -> Result<Vec<String>> {
    let mut found = sqlites_own(db)?;
    if !found.is_empty() {
        // The tables cannot be relied on.
        return Ok(found);
    }
    let unit = table::header(db, place)?.extent_size;
    let disks = table::disks(db)?;
    let volumes = table::volumes(db)?;
    for disk in &disks {
        of_disk(disk, &space::owned(db, whole(disk.id))?, &mut found);
    }
    for volume in &volumes {
        let segments = table::segments(db, volume.id, VolumeExtent(0), VolumeExtent(u64::MAX))?;
        of_volume(volume, &segments, unit, &mut found);
    }
    orphans(db, &disks, &volumes, &mut found)?;
    leftovers(db, &mut found)?;
    given_away(db, &mut found)?;
    Ok(found)
}

/// Finds extents that are remembered as those of a removed volume, and have another owner.
fn given_away(db: &Connection, found: &mut Vec<String>) -> Result<()> {
    for removed in removed::all(db)? {
        let name = &removed.volume.name;
        for segment in &removed.left {
            let owned = space::owned(db, segment.placement)?.into_iter();
            let others = owned.filter(|used| !matches!(used.owner, Owner::Quarantine(_) | Owner::Change(_)));
            found.extend(others.map(|used| {
                let (owner, disk) = (used.owner, used.area.disk);
                format!(
                    "removed volume {name}: extents on disk number {disk} are remembered as its own, and have the owner {owner:?}"
                )
            }));
        }
    }
    Ok(())
}

fn sqlites_own(db: &Connection) -> Result<Vec<String>> {
    let mut query = db.prepare("PRAGMA integrity_check")?;
    let rows = query.query_map([], |row| row.get::<_, String>(0))?;
    let mut found: Vec<String> = rows.collect::<Result<_, _>>()?;
    found.retain(|line| line != "ok");
    Ok(found)
}

fn whole(disk: DiskId) -> Area {
    Area {
        disk,
        start: DiskExtent(0),
        len: u64::MAX,
    }
}

/// Checks a disk; `owned` is sorted by start.
fn of_disk(disk: &DiskRecord, owned: &[UsedArea], found: &mut Vec<String>) {
    let name = &disk.name;
    for pair in owned.windows(2) {
        if let [a, b] = pair
            && a.area.overlaps(b.area)
        {
            let (first, second) = (a.owner, b.owner);
            let at = b.area.start;
            found.push(format!(
                "disk {name}: extent {at} has two owners: {first:?} and {second:?}"
            ));
        }
    }
    let outside = owned.iter().filter(|owned| {
        // A change that has not been committed may map extents that the disk gets only with it.
        !matches!(owned.owner, Owner::Change(_)) && owned.area.end().0 > disk.extents
    });
    for owned in outside {
        let (end, extents, owner) = (owned.area.end(), disk.extents, owned.owner);
        found.push(format!(
            "disk {name}: {owner:?} has extents up to {end}, but the disk ends at {extents}"
        ));
    }
}

/// Checks a volume; `segments` is sorted by start.
fn of_volume(volume: &VolumeRecord, segments: &[Segment], unit: ExtentSize, found: &mut Vec<String>) {
    let (name, size) = (&volume.name, volume.size);
    if !size.0.is_multiple_of(SECTOR) {
        found.push(format!(
            "volume {name}: its size {size} is not a multiple of {SECTOR}"
        ));
    }
    let extents = unit.count_for(size);
    let mut next = VolumeExtent(0);
    for segment in segments {
        let start = segment.start;
        if start < next {
            found.push(format!("volume {name}: extent {start} has two placements"));
        } else if start > next {
            found.extend(no_placement(volume, next, start));
        }
        next = next.max(segment.end());
    }
    if next.0 > extents {
        found.push(format!(
            "volume {name}: has placements up to extent {next}, but ends at {extents}"
        ));
    } else if next.0 < extents {
        found.extend(no_placement(volume, next, VolumeExtent(extents)));
    }
}

/// Returns the problem, unless the volume is being created or removed.
fn no_placement(volume: &VolumeRecord, from: VolumeExtent, to: VolumeExtent) -> Option<String> {
    let name = &volume.name;
    (!name.is_hidden()).then(|| format!("volume {name}: extents {from} to {to} have no placement"))
}

/// Finds rows of disks and volumes that do not exist.
fn orphans(
    db: &Connection,
    disks: &[DiskRecord],
    volumes: &[VolumeRecord],
    found: &mut Vec<String>,
) -> Result<()> {
    let known: BTreeSet<u32> = disks.iter().map(|disk| disk.id.0).collect();
    let on = "SELECT DISTINCT disk FROM segments UNION SELECT disk FROM quarantine
              UNION SELECT disk FROM claims WHERE kind = 'job' ORDER BY 1";
    for id in db.prepare(on)?.query_map([], |row| row.get::<_, u32>(0))? {
        let id = id?;
        if !known.contains(&id) {
            found.push(format!("disk number {id}: has extents in use but does not exist"));
        }
    }
    let known: BTreeSet<VolumeId> = volumes.iter().map(|volume| volume.id).collect();
    let of = "SELECT DISTINCT volume FROM segments ORDER BY 1";
    for id in db.prepare(of)?.query_map([], |row| row.get(0).map(VolumeId))? {
        let id = id?;
        if !known.contains(&id) {
            found.push(format!("volume number {id}: has segments but does not exist"));
        }
    }
    Ok(())
}

/// Finds extents that would never be freed, and generations later than the current one.
fn leftovers(db: &Connection, found: &mut Vec<String>) -> Result<()> {
    let queries = [
        "SELECT 'change ' || owner || ': is not prepared but claims extents' FROM claims
         WHERE kind = 'change' AND owner NOT IN (SELECT id FROM changes WHERE state = 'prepared')",
        "SELECT DISTINCT 'job ' || owner || ': does not exist but claims extents' FROM claims
         WHERE kind = 'job' AND owner NOT IN (SELECT id FROM jobs)",
        "SELECT DISTINCT 'job ' || owner || ': has ended but claims extents' FROM claims
         WHERE kind = 'job' AND owner IN (SELECT id FROM jobs WHERE state IN ('done', 'failed', 'cancelled'))",
        "SELECT 'change ' || id || ': led to table ' || generation || ', which is later than the current one'
         FROM changes WHERE generation > (SELECT generation FROM pool)",
        "SELECT 'change ' || change || ': freed extents by a table later than the current one' FROM quarantine
         WHERE generation > (SELECT generation FROM pool)",
    ];
    for sql in queries {
        for line in db.prepare(sql)?.query_map([], |row| row.get::<_, String>(0))? {
            found.push(line?);
        }
    }
    Ok(())
}
