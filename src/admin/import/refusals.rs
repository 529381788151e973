//! What an import refuses: disks that do not belong together, copies that do not agree or are not the newest, and a pool that has its database.

use super::super::copies::table_of;
use super::Report;
use crate::blockdev::found::Found;
use crate::controller::pool;
use crate::metadata::copy::Copy;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::records::{Area, Snapshot};
use crate::model::units::DiskId;
use crate::model::words::count;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use uuid::Uuid;

/// Checks that all are disks of one pool, each named once; returns the pool.
pub(super) fn one_pool(found: &[Found]) -> Result<Uuid> {
    let first = found
        .first()
        .ok_or_else(|| Error::usage("pool import", "no disk is named").hint("name the pool's disks"))?;
    for (index, disk) in found.iter().enumerate() {
        let what = disk.path.display();
        if disk.label.pool != first.label.pool {
            let why = format!(
                "belongs to pool {}, and {} to pool {}",
                disk.label.pool,
                first.path.display(),
                first.label.pool
            );
            return Err(Error::usage(what.to_string(), why).hint("name the disks of one pool"));
        }
        if let Some(twin) = found[..index]
            .iter()
            .find(|other| other.label.disk == disk.label.disk)
        {
            let why = format!("is the same disk as {}, or a copy of it", twin.path.display());
            return Err(Error::usage(what.to_string(), why).hint("name each disk once, its newest copy"));
        }
    }
    Ok(first.label.pool)
}

/// Returns which disk has the copy that covers the latest layout, and lines about copies that could not be used or are behind.
pub(super) fn newest(found: &[Found]) -> Result<(usize, Vec<String>)> {
    let mut passed_over = Vec::new();
    let mut whole: Vec<(usize, &Found, &Copy)> = Vec::new();
    for (index, disk) in found.iter().enumerate() {
        match &disk.copy {
            Some(Ok(copy)) => whole.push((index, disk, copy)),
            Some(Err(fault)) => passed_over.push(format!(
                "{}: its copy cannot be used: {fault}",
                disk.path.display()
            )),
            None => {}
        }
    }
    let latest = whole
        .iter()
        .copied()
        .max_by_key(|(.., copy)| copy.position.layout);
    let Some((index, disk, best)) = latest else {
        let why = if passed_over.is_empty() {
            "none of these disks carries a copy of the pool's metadata".to_owned()
        } else {
            passed_over.join("; ")
        };
        return Err(Error::failed("pool import", why)
            .hint("name more of the pool's disks; or restore a backup: vctl pool restore FILE"));
    };
    for (_, other, copy) in &whole {
        if copy.position.layout < best.position.layout {
            let layout = copy.position.layout;
            passed_over.push(format!(
                "{}: its copy is behind, at layout {layout}",
                other.path.display()
            ));
        } else if copy.header.identity.lineage != best.header.identity.lineage
            && table_of(copy.contents.clone()) != table_of(best.contents.clone())
        {
            let why = format!(
                "covers another table than {} does, both at layout {}: a database was put back between the two",
                disk.path.display(),
                best.position.layout
            );
            return Err(Error::failed(other.path.display().to_string(), why)
                .hint("leave out the disk that was away when the database was put back"));
        }
    }
    Ok((index, passed_over))
}

/// Refuses a pool whose database is still in the directory that it was last used in.
pub(super) fn refuse_living(directory: &Path, uuid: Uuid) -> Result<()> {
    let pool = PoolDir::new(directory);
    let header = pool::open(&pool).and_then(|mut store| store.header());
    if header.is_ok_and(|header| header.uuid == uuid) {
        let at = pool.display();
        let why = format!("has its database, at {at}");
        return Err(
            Error::new(ErrorKind::Failed, format!("pool {uuid}"), why).hint(format!(
                "use that: --pool {at}; if it shall not be used again, move it away"
            )),
        );
    }
    Ok(())
}

/// Refuses to go on where a disk has seen more than the newest copy covers, or a copy that cannot be read may cover more.
pub(super) fn refuse_older(
    layout: u64,
    seen: Option<&Found>,
    found: &[Found],
    passed_over: &[String],
) -> Result<()> {
    let later = seen.filter(|disk| disk.label.layout > layout);
    let damaged = found.iter().find(|disk| matches!(disk.copy, Some(Err(_))));
    let mut why = format!("the newest copy that can be used covers layout {layout}");
    match (later, damaged) {
        (Some(disk), _) => {
            let (path, layout) = (disk.path.display(), disk.label.layout);
            why.push_str(&format!(", and {path} has seen layout {layout}"));
        }
        (None, Some(disk)) => {
            let path = disk.path.display();
            why.push_str(&format!(", and the one on {path} may cover a later one"));
        }
        (None, None) => return Ok(()),
    }
    for line in passed_over {
        why.push_str("; ");
        why.push_str(line);
    }
    let hint = "name the pool's other disks too; with --accept-older-layout, what was changed or moved since then will read as wrong data";
    Err(Error::failed("pool import", why).hint(hint))
}

/// Checks that no extent has two owners, and that none lies outside its disk.
pub(super) fn check(snapshot: &Snapshot) -> Result<()> {
    let extents: BTreeMap<DiskId, u64> = snapshot
        .disks
        .iter()
        .map(|disk| (disk.id, disk.extents))
        .collect();
    let mut areas: Vec<Area> = snapshot
        .segments
        .iter()
        .map(|(_, segment)| segment.placement)
        .collect();
    let outside = |area: &&Area| {
        extents
            .get(&area.disk)
            .is_none_or(|extents| area.end().0 > *extents)
    };
    let wrong = |why: String| {
        Err(Error::failed(
            "pool import",
            format!("the newest copy contradicts itself: {why}"),
        ))
    };
    if let Some(area) = areas.iter().find(outside) {
        return wrong(format!(
            "a volume lies at extent {} of disk number {}",
            area.start, area.disk
        ));
    }
    areas.sort_unstable();
    match areas.windows(2).find(|pair| pair[0].overlaps(pair[1])) {
        Some(pair) => wrong(format!(
            "extent {} of disk number {} has two owners",
            pair[1].start, pair[1].disk
        )),
        None => Ok(()),
    }
}

pub(super) fn incomplete(report: &Report) -> Error {
    let disks: Vec<String> = report
        .missing
        .iter()
        .map(|each| format!("{} ({})", each.disk, each.path.display()))
        .collect();
    let volumes: BTreeSet<&Name> = report.lacking.iter().map(|each| &each.volume).collect();
    let volumes: Vec<&str> = volumes.into_iter().map(Name::as_str).collect();
    let miss = if volumes.is_empty() {
        "no volume lies on them".to_owned()
    } else {
        format!(
            "parts of {} lie on them: {}",
            count(volumes.len(), "volume"),
            volumes.join(", ")
        )
    };
    let mut why = format!("disks are missing: {}; {miss}", disks.join(", "));
    let carried = report.missing.iter().filter(|each| each.carried_copy);
    for each in carried {
        why.push_str(&format!(
            "; {} carried a copy of the metadata, which may cover later changes than those that are there",
            each.disk
        ));
    }
    Error::failed("pool import", why).hint(
        "name them too; to go on without them, --accept-missing-disks: what lies on them cannot be read, and what was changed without the others will read as wrong data",
    )
}
