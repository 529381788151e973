//! Imports a pool from its disks alone, when its database is lost: makes a new database from the newest metadata copy on the disks.

mod refusals;

use super::disk::{DISK_TIMEOUT, describe};
use super::pool::check_absent;
use crate::blockdev::found::{Found, look_at};
use crate::blockdev::{Disk, Waived, within};
use crate::cluster::{self, Role, WaitLimit};
use crate::controller::pool;
use crate::controller::{Controller, Wait};
use crate::failpoint::{Point, hit};
use crate::metadata::contents::Facts;
use crate::metadata::copy::Copy;
use crate::metadata::place::Place;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::event::Severity;
use crate::model::names::Name;
use crate::model::records::{DiskRecord, Instance, PoolHeader, Segment, Snapshot};
use crate::model::units::{DiskId, MembershipVersion, Term, VolumeId};
use crate::model::words::count;
use crate::store::{self, Imported};
use refusals::{check, incomplete, newest, one_pool, refuse_living, refuse_older};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Conditions that an import accepts because the operator said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Missing disks of the pool.
    pub missing: bool,
    /// A label with a later layout number than any metadata copy covers, or an older copy of a disk.
    pub older: bool,
}

/// Summary of an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// UUID of the pool.
    pub uuid: Uuid,
    /// Layout number that the newest copy covers.
    pub layout: u64,
    /// Highest layout number among the labels.
    pub labels_layout: u64,
    /// Disk that carries the newest copy.
    pub from: Name,
    /// Disks of the pool that were found.
    pub disks: Vec<Name>,
    /// Disks of the pool that are missing.
    pub missing: Vec<Missing>,
    /// Number of volumes.
    pub volumes: usize,
    /// Parts of volumes on the missing disks.
    pub lacking: Vec<Lacking>,
    /// Copies that were not used, with the reason.
    pub passed_over: Vec<String>,
}

/// A disk of the pool that was not found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Name of the disk.
    pub disk: Name,
    /// Path of the disk, as the newest copy has it.
    pub path: PathBuf,
    /// Whether the disk carried a metadata copy, which may be newer than those found.
    pub carried_copy: bool,
}

/// Part of a volume on a missing disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// Name of the volume.
    pub volume: Name,
    /// Name of the missing disk.
    pub disk: Name,
    /// Bytes of the volume on that disk.
    pub bytes: u64,
}

/// A pool whose disks were inspected, and which can be imported.
#[derive(Debug)]
pub struct Plan {
    /// Summary of the import.
    pub report: Report,
    snapshot: Snapshot,
    facts: Facts,
    found: BTreeSet<DiskId>,
    copies: Vec<(DiskId, Place)>,
}

/// Inspects the disks and reads their metadata copies.
///
/// # Errors
/// Fails when the directory has a pool already; when a file is not a disk of a pool, belongs to another pool, or is in use; when no copy can be read; and when
/// disks are missing or may have newer metadata and that is not `accepted`.
pub fn inspect(pool: &PoolDir, paths: &[PathBuf], accepted: Accepted) -> Result<Plan> {
    check_absent(pool)?;
    let mut found = look_at_all(paths)?;
    let uuid = one_pool(&found)?;
    let (index, passed_over) = newest(&found)?;
    let copy = take_copy(&mut found, index)?;
    refuse_living(&copy.contents.facts.directory, uuid)?;
    let layout = copy.position.layout;
    let seen = found.iter().max_by_key(|disk| disk.label.layout);
    let labels_layout = seen.map_or(0, |disk| disk.label.layout);
    if !accepted.older {
        refuse_older(layout, seen, &found, &passed_over)?;
    }
    let facts = copy.contents.facts.clone();
    let chosen = &found[index];
    let header = header(chosen, &copy, layout.max(labels_layout));
    let mut snapshot = copy.contents.into_snapshot(header);
    let there = place(&mut snapshot, &facts, &found, accepted)?;
    check(&snapshot)?;
    let name_of = |found: &Found| {
        let record = snapshot
            .disks
            .iter()
            .find(|record| record.uuid == found.label.disk);
        record.map(|record| record.name.clone())
    };
    let from = name_of(chosen).ok_or_else(|| unknown(chosen))?;
    let absent: Vec<&DiskRecord> = snapshot
        .disks
        .iter()
        .filter(|disk| !there.contains(&disk.id))
        .collect();
    let report = Report {
        uuid,
        layout,
        labels_layout,
        from,
        disks: found.iter().filter_map(name_of).collect(),
        missing: absent
            .iter()
            .map(|disk| Missing {
                disk: disk.name.clone(),
                path: disk.path.clone(),
                carried_copy: facts.carriers.contains(&disk.id),
            })
            .collect(),
        volumes: snapshot
            .volumes
            .iter()
            .filter(|volume| !volume.name.is_hidden())
            .count(),
        lacking: lacking(&snapshot, &absent),
        passed_over,
    };
    if !absent.is_empty() && !accepted.missing {
        return Err(incomplete(&report));
    }
    let copies = copies_on(&found, &snapshot);
    Ok(Plan {
        report,
        snapshot,
        facts,
        found: there,
        copies,
    })
}

/// Returns the places of the copies, by the labels.
fn copies_on(found: &[Found], snapshot: &Snapshot) -> Vec<(DiskId, Place)> {
    let copy = |disk: &Found| {
        let mut records = snapshot.disks.iter();
        let record = records.find(|record| record.uuid == disk.label.disk)?;
        Some((record.id, disk.label.copy?))
    };
    found.iter().filter_map(copy).collect()
}

/// Reads all copies in parallel, because reading the copy of a large table takes a while.
fn look_at_all(paths: &[PathBuf]) -> Result<Vec<Found>> {
    std::thread::scope(|scope| {
        let looks: Vec<_> = paths.iter().map(|path| scope.spawn(|| look(path))).collect();
        let ended = |path: &PathBuf| Error::failed(path.display().to_string(), "cannot be looked at");
        let found = |(look, path): (std::thread::ScopedJoinHandle<'_, Result<Found>>, &PathBuf)| {
            look.join().map_err(|_| ended(path))?
        };
        looks.into_iter().zip(paths).map(found).collect()
    })
}

/// Takes the contents of one disk's copy, and drops those of the others.
fn take_copy(found: &mut [Found], index: usize) -> Result<Copy> {
    let whole = |disk: &mut Found| match &disk.copy {
        Some(Ok(_)) => disk.copy.take(),
        _ => None,
    };
    let mut taken: Vec<_> = found.iter_mut().map(whole).collect();
    let chosen = taken.get_mut(index).and_then(Option::take).and_then(Result::ok);
    chosen.ok_or_else(|| {
        Error::failed(
            "pool import",
            "none of these disks carries a copy of the pool's metadata",
        )
    })
}

fn look(path: &Path) -> Result<Found> {
    let own = path.to_owned();
    within(DISK_TIMEOUT, &path.display().to_string(), path, move || {
        look_at(&own)
    })
}

/// Returns the header of the new database. Its layout and label numbers are above all that the disks have, and it owns the disks.
fn header(chosen: &Found, copy: &Copy, layout: u64) -> PoolHeader {
    PoolHeader {
        uuid: chosen.label.pool,
        extent_size: chosen.label.extent_size,
        access: copy.contents.facts.access,
        generation: copy.position.generation,
        layout,
        membership: MembershipVersion(0),
        term: Term(0),
        instance: Instance {
            id: chosen.label.instance,
            ..Instance::default()
        },
    }
}

fn unknown(found: &Found) -> Error {
    let why =
        "is labelled as a disk of this pool, and is none of those that the newest copy of its metadata names";
    Error::failed(found.path.display().to_string(), why)
        .hint("it has left the pool, or has joined it after the copy was written: leave it out")
}

/// Gives the records the paths and labels that were found.
fn place(
    snapshot: &mut Snapshot,
    facts: &Facts,
    found: &[Found],
    accepted: Accepted,
) -> Result<BTreeSet<DiskId>> {
    let unit = snapshot.header.extent_size;
    let mut there = BTreeSet::new();
    for disk in found {
        let record = snapshot
            .disks
            .iter_mut()
            .find(|record| record.uuid == disk.label.disk);
        let record = record.ok_or_else(|| unknown(disk))?;
        let what = format!("disk {} ({})", record.name, disk.path.display());
        let needed = record.extents.saturating_mul(unit.bytes());
        if disk.label.extent_size != unit || disk.size.min(disk.label.size.0) < needed {
            let why = format!("has {} bytes, and {needed} belong to the pool", disk.size);
            return Err(Error::failed(what, why).hint("name the whole disk, its newest copy"));
        }
        let last = facts
            .labels
            .get(&record.id)
            .copied()
            .unwrap_or(0)
            .max(record.label);
        if disk.label.sequence < last && !accepted.older {
            let why = format!(
                "is an older copy: its label is number {}, and number {} has been written to this disk",
                disk.label.sequence, last
            );
            return Err(Error::failed(what, why).hint(
                "name its newest copy; or go on with this one and lose what was written since, with --accept-older-layout",
            ));
        }
        record.path.clone_from(&disk.path);
        record.label = disk.label.sequence;
        there.insert(record.id);
    }
    Ok(there)
}

/// Returns what lies on disks that are not there, by volume and disk.
fn lacking(snapshot: &Snapshot, absent: &[&DiskRecord]) -> Vec<Lacking> {
    let unit = snapshot.header.extent_size.bytes();
    let mut bytes: BTreeMap<(VolumeId, DiskId), u64> = BTreeMap::new();
    let on_absent = |segment: &Segment| absent.iter().any(|disk| disk.id == segment.placement.disk);
    for (volume, segment) in snapshot.segments.iter().filter(|(_, segment)| on_absent(segment)) {
        *bytes.entry((*volume, segment.placement.disk)).or_default() += segment.placement.len * unit;
    }
    let named = |((volume, disk), bytes): ((VolumeId, DiskId), u64)| {
        let volume = snapshot.volumes.iter().find(|record| record.id == volume)?;
        let disk = absent.iter().find(|record| record.id == disk)?;
        Some(Lacking {
            volume: volume.name.clone(),
            disk: disk.name.clone(),
            bytes,
        })
    };
    bytes.into_iter().filter_map(named).collect()
}

/// Makes the pool in its directory, and the new database the owner of the disks.
///
/// # Errors
/// Those of [`inspect`]; when the directory cannot be written; a disk's. What was begun after the database was made, the next command ends.
pub fn import(
    pool: &PoolDir,
    paths: &[PathBuf],
    accepted: Accepted,
    within: Option<Duration>,
) -> Result<Report> {
    let plan = inspect(pool, paths, accepted)?;
    let imported = Imported {
        snapshot: &plan.snapshot,
        facts: &plan.facts,
        copies: &plan.copies,
    };
    store::import(pool, &imported)?;
    hit(Point::ImportStored);
    take_over(pool, &plan, within)?;
    hit(Point::ImportTookOver);
    let mut controller = Controller::acquire(pool, "pool import", Wait::For(within))?;
    let text = format!(
        "made again from {}, by the copy on disk {} at layout {}",
        count(plan.report.disks.len(), "disk"),
        plan.report.from,
        plan.report.layout
    );
    controller.store().log(Severity::Warning, "pool", &text)?;
    controller.persist()?;
    Ok(plan.report)
}

/// Makes the labels of the disks name the new database. Until then it accepts what they name.
fn take_over(pool: &PoolDir, plan: &Plan, patience: Option<Duration>) -> Result<()> {
    let cluster = cluster::open(pool)?;
    let _leadership = cluster.lead(Role::Command, "pool import", WaitLimit::of(patience))?;
    let mut store = pool::open(pool)?;
    let (pools, records) = (store.header()?, store.disks()?);
    let ledgers = cluster.share(pools.uuid)?.ledgers;
    for record in records.iter().filter(|record| plan.found.contains(&record.id)) {
        let (wanted, header, ledger) = (record.clone(), pools.clone(), ledgers.ledger(record.id));
        let waived = Waived {
            owner: true,
            age: true,
        };
        let what = describe(record);
        let label = within(DISK_TIMEOUT, &what, &record.path, move || {
            Disk::open_waiving(waived, &wanted, &header)?.take_over(wanted.label, &*ledger)
        })?;
        hit(Point::ImportLabelled);
        store.label_written(record.id, label.sequence)?;
    }
    Ok(())
}
