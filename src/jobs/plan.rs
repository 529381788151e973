//! Plans a job: turns a request into a copy progress table, or an error that explains the shortage. Reads the store, changes nothing.

use super::Request;
use super::layout::{SourceRun, lay_out};
use super::steps::{Remainder, moved, still_at, without};
use crate::controller::space::{Reserve, spaces};
use crate::model::alloc::{Faults, Policy, Space};
use crate::model::change::Owner;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::job::Step;
use crate::model::records::{Area, DiskRecord, Segment, Span, VolumeRecord};
use crate::model::units::{DiskId, ExtentSize, JobId, VolumeExtent, VolumeId};
use crate::store::{EventStore, Store, TableStore};
use std::collections::{BTreeMap, BTreeSet};

/// Plans a job. Returns the copy progress table that the job would have; it is empty when all data is in place already. Changes nothing. Disks
/// with `faults` are destinations only where all that are named have one.
///
/// # Errors
/// Fails when the request is invalid, or when there is not enough space; then the error explains for each disk why it was not used.
pub fn plan(store: &mut dyn Store, request: &Request, faults: &Faults) -> Result<Vec<Step>> {
    plan_without(store, request, faults, &[])
}

/// Plans a job as [`plan`] does, without the ranges in `left`, which stay where they are.
pub(super) fn plan_without(
    store: &mut dyn Store,
    request: &Request,
    faults: &Faults,
    left: &[Remainder],
) -> Result<Vec<Step>> {
    let disks = store.disks()?;
    match request {
        Request::Move {
            volume,
            range,
            from,
            to,
            policy,
        } => {
            let volume = find_volume(store, *volume)?;
            let subject = format!("volume {}", volume.name);
            check_disks(&disks, &subject, *from, to)?;
            let size = store.header()?.extent_size;
            let (start, end) = extents_of(&volume, range.as_ref(), size)?;
            let sources = sources_of_volume(store, volume.id, start, end, |segment| match from {
                Some(disk) => segment.placement.disk == *disk,
                None => !to.contains(&segment.placement.disk),
            })?;
            let mut spaces = spaces_without(store, *from, Reserve::Kept, faults)?;
            let policy = match policy {
                Some(policy) => *policy,
                None => policy_of_pool(store)?,
            };
            steps(store, &subject, &sources, &mut spaces, to, policy)
        }
        Request::Evacuate {
            disk,
            to,
            use_reserve,
        } => {
            let reserve = if *use_reserve {
                Reserve::Used
            } else {
                Reserve::Kept
            };
            let subject = format!("disk {}", find_disk(&disks, *disk)?.name);
            check_disks(&disks, &subject, Some(*disk), to)?;
            refuse_other_jobs(store, *disk, &subject)?;
            let sources = leave_out(sources_on_disk(store, *disk)?, left);
            let mut spaces = spaces_without(store, Some(*disk), reserve, faults)?;
            let policy = policy_of_pool(store)?;
            steps(store, &subject, &sources, &mut spaces, to, policy)
        }
    }
}

/// Plans the rollback of a job: what its steps have moved and still lies where they put it goes to the disks it came from, preferably to
/// its old place. Space that the job was not allowed to use on the way (`no-allocate`, reserve) may be used on the way back.
///
/// # Errors
/// Fails when there is no longer enough space.
pub fn plan_back(store: &mut dyn Store, steps: &[Step], subject: &str) -> Result<Vec<Step>> {
    let mut returning: BTreeMap<DiskId, Vec<SourceRun>> = BTreeMap::new();
    for chunk in steps.iter().filter_map(moved) {
        let there = Segment {
            start: chunk.from.start,
            placement: chunk.to,
        };
        let now = store.segments(
            chunk.volume,
            VolumeExtent(there.start.0.saturating_sub(1)),
            there.end(),
        )?;
        for run in still_at(there, &now) {
            let before = now
                .iter()
                .find(|segment| segment.end() == run.start)
                .map(|segment| segment.placement);
            let source = SourceRun {
                volume: chunk.volume,
                run,
                before,
            };
            returning
                .entry(chunk.from.placement.disk)
                .or_default()
                .push(source);
        }
    }
    let size = store.header()?.extent_size;
    let disks = store.disks()?;
    let mut spaces = spaces(store, disks, Reserve::Used, &Faults::new())?;
    spaces.iter_mut().for_each(|space| space.allocate = true);
    let mut back = Vec::new();
    for (disk, mut sources) in returning {
        sources.sort_by_key(|source| (source.volume, source.run.start));
        let part = lay_out(&sources, &mut spaces, &[disk], Policy::Order);
        back.extend(part.map_err(|shortage| shortage.error(subject, size))?);
    }
    Ok(back)
}

/// Returns the steps for the sources, or an error that explains the shortage.
fn steps(
    store: &mut dyn TableStore,
    subject: &str,
    sources: &[SourceRun],
    spaces: &mut [Space],
    to: &[DiskId],
    policy: Policy,
) -> Result<Vec<Step>> {
    let size = store.header()?.extent_size;
    lay_out(sources, spaces, to, policy).map_err(|shortage| shortage.error(subject, size))
}

/// Returns the free space of all disks but `from`.
fn spaces_without(
    store: &mut dyn Store,
    from: Option<DiskId>,
    reserve: Reserve,
    faults: &Faults,
) -> Result<Vec<Space>> {
    let others = store.disks()?.into_iter().filter(|disk| Some(disk.id) != from);
    spaces(store, others, reserve, faults)
}

/// Returns the pool's placement policy. `Contiguous` becomes `Order` here: one piece is
/// preferred then, and is not a condition, because data that lies in pieces has to move too.
fn policy_of_pool(store: &mut dyn EventStore) -> Result<Policy> {
    Ok(match store.options()?.policy {
        Policy::Contiguous => Policy::Order,
        other => other,
    })
}

fn find_volume(store: &mut dyn TableStore, id: VolumeId) -> Result<VolumeRecord> {
    let found = store.volumes()?.into_iter().find(|volume| volume.id == id);
    found.ok_or_else(|| Error::not_found("volume", &id.to_string()))
}

fn find_disk(disks: &[DiskRecord], id: DiskId) -> Result<&DiskRecord> {
    disks
        .iter()
        .find(|disk| disk.id == id)
        .ok_or_else(|| Error::not_found("disk", &id.to_string()))
}

/// Checks that all named disks exist, and that the source is not a destination.
fn check_disks(disks: &[DiskRecord], subject: &str, from: Option<DiskId>, to: &[DiskId]) -> Result<()> {
    for id in from.iter().chain(to) {
        find_disk(disks, *id)?;
    }
    match from {
        Some(id) if to.contains(&id) => {
            let name = &find_disk(disks, id)?.name;
            Err(
                Error::usage(format!("disk {name}"), "is both source and destination")
                    .hint("name another disk with --to"),
            )
        }
        None if to.is_empty() => {
            Err(Error::usage(subject, "neither source nor destination is named")
                .hint("name a disk with --to"))
        }
        _ => Ok(()),
    }
}

/// Returns the volume's extents that the range touches: rounded outward.
fn extents_of(
    volume: &VolumeRecord,
    range: Option<&Span>,
    size: ExtentSize,
) -> Result<(VolumeExtent, VolumeExtent)> {
    let all = Span::whole(volume.id);
    let range = range.unwrap_or(&all);
    let open = range.end.0 == u64::MAX;
    let end = if open { volume.size.0 } else { range.end.0 };
    let subject = format!("volume {}", volume.name);
    if range.volume != volume.id {
        return Err(Error::usage(subject, "the range belongs to another volume"));
    }
    if end > volume.size.0 {
        let why = format!("the range ends at {end}, and the volume at {}", volume.size);
        return Err(Error::usage(subject, why));
    }
    if range.start.0 >= end && !(open && range.start.0 == 0) {
        return Err(Error::usage(
            subject,
            format!("the range from {} to {end} is empty", range.start),
        ));
    }
    let (first, _) = size.locate(range.start);
    Ok((first, VolumeExtent(end.div_ceil(size.bytes()))))
}

/// Returns a volume's segments in `[start, end)` that are `wanted`.
fn sources_of_volume(
    store: &mut dyn TableStore,
    volume: VolumeId,
    start: VolumeExtent,
    end: VolumeExtent,
    wanted: impl Fn(&Segment) -> bool,
) -> Result<Vec<SourceRun>> {
    let segments = store.segments(volume, VolumeExtent(start.0.saturating_sub(1)), end)?;
    let mut sources = Vec::new();
    let mut last: Option<Segment> = None;
    for segment in segments {
        let before: Option<Area> = last
            .filter(|last| last.end() == segment.start)
            .map(|last| last.placement);
        last = Some(segment);
        let run = segment.clip(start, end).filter(|_| wanted(&segment));
        sources.extend(run.map(|run| SourceRun { volume, run, before }));
    }
    Ok(sources)
}

/// Returns all segments whose placement is on the disk, by volume and address.
fn sources_on_disk(store: &mut dyn TableStore, disk: DiskId) -> Result<Vec<SourceRun>> {
    let owners = store
        .uses(disk)?
        .into_iter()
        .filter_map(|taken| match taken.owner {
            Owner::Volume(volume) => Some(volume),
            _ => None,
        });
    let mut sources = Vec::new();
    for volume in owners.collect::<BTreeSet<_>>() {
        let all = (VolumeExtent(0), VolumeExtent(u64::MAX));
        sources.extend(sources_of_volume(store, volume, all.0, all.1, |s| {
            s.placement.disk == disk
        })?);
    }
    Ok(sources)
}

fn leave_out(sources: Vec<SourceRun>, left: &[Remainder]) -> Vec<SourceRun> {
    if left.is_empty() {
        return sources;
    }
    let parts = |source: SourceRun| {
        let parts = without(source.volume, source.run, left).into_iter();
        parts.map(move |run| SourceRun { run, ..source })
    };
    sources.into_iter().flat_map(parts).collect()
}

/// Refuses to empty a disk that a job still writes to.
fn refuse_other_jobs(store: &mut dyn TableStore, disk: DiskId, subject: &str) -> Result<()> {
    match reserved_by(store, disk)? {
        None => Ok(()),
        Some(job) => Err(Error::new(
            ErrorKind::Failed,
            subject,
            format!("job {job} has a destination on it"),
        )
        .hint(format!(
            "let that job end (`vctl job resume {job}`) or cancel it (`vctl job cancel {job}`)"
        ))),
    }
}

fn reserved_by(store: &mut dyn TableStore, disk: DiskId) -> Result<Option<JobId>> {
    Ok(store.uses(disk)?.into_iter().find_map(|taken| match taken.owner {
        Owner::Job(job) => Some(job),
        _ => None,
    }))
}
