//! What a request comes to: the copy progress table, or why there is no room for it. Reads the store, changes nothing.

use super::Request;
use super::layout::{Source, lay_out};
use super::steps::{Left, moved, still_at, without};
use crate::change::space::{Reserve, spaces};
use crate::error::{Error, Kind, Result};
use crate::pool::alloc::{Policy, Space};
use crate::pool::model::{Area, DiskRecord, Segment, Span, VolumeRecord};
use crate::store::{Owner, Step, Store};
use crate::units::{DiskId, ExtentSize, JobId, VolumeExtent, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// Plans a job: the copy progress table it would have. Changes nothing. Empty when everything lies there already.
///
/// # Errors
/// When the request makes no sense, or there is not enough room: says for each disk why it was not taken.
pub fn plan(store: &mut dyn Store, request: &Request) -> Result<Vec<Step>> {
    plan_without(store, request, &[])
}

/// The same for all but what stays where it is.
pub(super) fn plan_without(store: &mut dyn Store, request: &Request, left: &[Left]) -> Result<Vec<Step>> {
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
                Some(disk) => segment.home.disk == *disk,
                None => !to.contains(&segment.home.disk),
            })?;
            let mut spaces = spaces_without(store, *from, Reserve::Kept)?;
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
            let mut spaces = spaces_without(store, Some(*disk), reserve)?;
            let policy = policy_of_pool(store)?;
            steps(store, &subject, &sources, &mut spaces, to, policy)
        }
    }
}

/// The way back of a job: what its steps have moved and still lies where they put it, to the disks it came from, and best to where it
/// was. What the job was not allowed to use on the way (`no-allocate`, reserve) it may use on the way back.
///
/// # Errors
/// When there is not enough room any more.
pub(super) fn plan_back(store: &mut dyn Store, steps: &[Step], subject: &str) -> Result<Vec<Step>> {
    let mut homeward: BTreeMap<DiskId, Vec<Source>> = BTreeMap::new();
    for chunk in steps.iter().filter_map(moved) {
        let there = Segment {
            start: chunk.from.start,
            home: chunk.to,
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
                .map(|segment| segment.home);
            let source = Source {
                volume: chunk.volume,
                run,
                before,
            };
            homeward.entry(chunk.from.home.disk).or_default().push(source);
        }
    }
    let size = store.header()?.extent_size;
    let disks = store.disks()?;
    let mut spaces = spaces(store, disks, Reserve::Used)?;
    spaces.iter_mut().for_each(|space| space.allocate = true);
    let mut back = Vec::new();
    for (disk, mut sources) in homeward {
        sources.sort_by_key(|source| (source.volume, source.run.start));
        let part = lay_out(&sources, &mut spaces, &[disk], Policy::Order);
        back.extend(part.map_err(|shortage| shortage.error(subject, size))?);
    }
    Ok(back)
}

/// Steps for the sources, or why there is no room for them.
fn steps(
    store: &mut dyn Store,
    subject: &str,
    sources: &[Source],
    spaces: &mut [Space],
    to: &[DiskId],
    policy: Policy,
) -> Result<Vec<Step>> {
    let size = store.header()?.extent_size;
    lay_out(sources, spaces, to, policy).map_err(|shortage| shortage.error(subject, size))
}

/// What is free on all disks but that which is left.
fn spaces_without(store: &mut dyn Store, from: Option<DiskId>, reserve: Reserve) -> Result<Vec<Space>> {
    let others = store.disks()?.into_iter().filter(|disk| Some(disk.id) != from);
    spaces(store, others, reserve)
}

/// What holds where nothing else is said. One piece is taken then where there is one, and is no condition: what lies in pieces has to move
/// too.
fn policy_of_pool(store: &mut dyn Store) -> Result<Policy> {
    Ok(match store.options()?.policy {
        Policy::Contiguous => Policy::Order,
        other => other,
    })
}

fn find_volume(store: &mut dyn Store, id: VolumeId) -> Result<VolumeRecord> {
    let found = store.volumes()?.into_iter().find(|volume| volume.id == id);
    found.ok_or_else(|| Error::not_found("volume", &id.to_string()))
}

fn find_disk(disks: &[DiskRecord], id: DiskId) -> Result<&DiskRecord> {
    disks
        .iter()
        .find(|disk| disk.id == id)
        .ok_or_else(|| Error::not_found("disk", &id.to_string()))
}

/// All disks named exist, and the source is not a destination.
fn check_disks(disks: &[DiskRecord], subject: &str, from: Option<DiskId>, to: &[DiskId]) -> Result<()> {
    for id in from.iter().chain(to) {
        find_disk(disks, *id)?;
    }
    match from {
        Some(id) if to.contains(&id) => {
            let name = &find_disk(disks, id)?.name;
            Err(Error::usage(
                subject,
                format!("disk {name} is both source and destination"),
            ))
        }
        None if to.is_empty() => {
            Err(Error::usage(subject, "neither source nor destination is named")
                .hint("name a disk with --to"))
        }
        _ => Ok(()),
    }
}

/// The volume's extents that the range touches: rounded outward.
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
        return Err(Error::usage(subject, "the range is one of another volume"));
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

/// A volume's segments in `[start, end)` that are `wanted`.
fn sources_of_volume(
    store: &mut dyn Store,
    volume: VolumeId,
    start: VolumeExtent,
    end: VolumeExtent,
    wanted: impl Fn(&Segment) -> bool,
) -> Result<Vec<Source>> {
    let segments = store.segments(volume, VolumeExtent(start.0.saturating_sub(1)), end)?;
    let mut sources = Vec::new();
    let mut last: Option<Segment> = None;
    for segment in segments {
        let before: Option<Area> = last
            .filter(|last| last.end() == segment.start)
            .map(|last| last.home);
        last = Some(segment);
        let run = segment.clip(start, end).filter(|_| wanted(&segment));
        sources.extend(run.map(|run| Source { volume, run, before }));
    }
    Ok(sources)
}

/// All segments whose home is on the disk, by volume and address.
fn sources_on_disk(store: &mut dyn Store, disk: DiskId) -> Result<Vec<Source>> {
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
            s.home.disk == disk
        })?);
    }
    Ok(sources)
}

fn leave_out(sources: Vec<Source>, left: &[Left]) -> Vec<Source> {
    if left.is_empty() {
        return sources;
    }
    let parts = |source: Source| {
        let parts = without(source.volume, source.run, left).into_iter();
        parts.map(move |run| Source { run, ..source })
    };
    sources.into_iter().flat_map(parts).collect()
}

/// A disk that a job still writes to cannot be emptied.
fn refuse_other_jobs(store: &mut dyn Store, disk: DiskId, subject: &str) -> Result<()> {
    match reserved_by(store, disk)? {
        None => Ok(()),
        Some(job) => Err(Error::new(
            Kind::Failed,
            subject,
            format!("job {job} has a destination on it"),
        )
        .hint(format!(
            "let it end (`vctl job resume {job}`) or give it up (`vctl job cancel {job}`)"
        ))),
    }
}

fn reserved_by(store: &mut dyn Store, disk: DiskId) -> Result<Option<JobId>> {
    Ok(store.uses(disk)?.into_iter().find_map(|taken| match taken.owner {
        Owner::Job(job) => Some(job),
        _ => None,
    }))
}
