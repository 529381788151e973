//! What a request comes to: the copy progress table, or why there is no room for it. Reads the store, changes nothing.

use super::Request;
use super::layout::{Preference, Source, Target, lay_out};
use super::steps::{moved, still_at};
use crate::error::{Error, Kind, Result};
use crate::pool::model::{DiskRecord, Segment, Span, VolumeRecord};
use crate::store::{Owner, Step, Store, Use};
use crate::units::{DiskExtent, DiskId, ExtentSize, JobId, VolumeExtent, VolumeId};
use std::collections::BTreeSet;

/// Plans a job: the copy progress table it would have. Changes nothing. Empty when everything lies there already.
///
/// # Errors
/// When the request makes no sense, or there is not enough room: says for each disk why it was not taken.
pub fn plan(store: &mut dyn Store, request: &Request) -> Result<Vec<Step>> {
    let disks = store.disks()?;
    match request {
        Request::Move {
            volume,
            range,
            from,
            to,
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
            let room = Room {
                disks: &disks,
                to,
                except: *from,
                closed_too: false,
            };
            room.steps(store, &subject, &sources)
        }
        Request::Evacuate { disk, to } => {
            let subject = format!("disk {}", find_disk(&disks, *disk)?.name);
            check_disks(&disks, &subject, Some(*disk), to)?;
            refuse_other_jobs(store, *disk, &subject)?;
            let sources = sources_on_disk(store, *disk)?;
            let room = Room {
                disks: &disks,
                to,
                except: Some(*disk),
                closed_too: false,
            };
            room.steps(store, &subject, &sources)
        }
    }
}

/// The way back of a job: what its steps have moved and still lies where they put it, to the disks it came from; the very
/// extents where they are free. What it was not allowed to use on the way (`no-allocate`) it may use on the way back.
///
/// # Errors
/// When there is not enough room any more.
pub(super) fn plan_back(store: &mut dyn Store, steps: &[Step], subject: &str) -> Result<Vec<Step>> {
    let disks = store.disks()?;
    let mut table = Vec::new();
    for chunk in steps.iter().filter_map(moved) {
        let there = Segment {
            start: chunk.from.start,
            home: chunk.to,
        };
        let now = store.segments(chunk.volume, there.start, there.end())?;
        for run in still_at(there, &now) {
            let skip = run.start.0 - there.start.0;
            let source = Source {
                volume: chunk.volume,
                run,
                before: None,
            };
            let old = chunk.from.home;
            let exact = Source {
                before: Some((old.disk, DiskExtent(old.start.0 + skip))),
                ..source
            };
            table.push((old.disk, exact));
        }
    }
    let mut back = Vec::new();
    for disk in table.iter().map(|(disk, _)| *disk).collect::<BTreeSet<_>>() {
        let mut sources: Vec<Source> = table
            .iter()
            .filter(|(old, _)| *old == disk)
            .map(|(_, s)| *s)
            .collect();
        sources.sort_by_key(|source| (source.volume, source.run.start));
        let room = Room {
            disks: &disks,
            to: &[disk],
            except: None,
            closed_too: true,
        };
        back.extend(room.steps(store, subject, &sources)?);
    }
    Ok(back)
}

/// The disks that may be taken.
struct Room<'a> {
    disks: &'a [DiskRecord],
    /// In order of preference; all if empty.
    to: &'a [DiskId],
    /// The source.
    except: Option<DiskId>,
    /// Disks with `no-allocate` too.
    closed_too: bool,
}

impl Room<'_> {
    /// Steps for the sources, or why there is no room for them.
    fn steps(&self, store: &mut dyn Store, subject: &str, sources: &[Source]) -> Result<Vec<Step>> {
        let mut targets = Vec::new();
        let mut reasons = Vec::new();
        for record in self.candidates() {
            let uses = store.uses(record.id)?;
            let target = Target::new(record.id, record.extents, &uses);
            reasons.push(format!(
                "disk {}: {}",
                record.name,
                self.reason(record, &target, &uses)
            ));
            if self.takes(record) {
                targets.push(target);
            }
        }
        let preference = if self.to.is_empty() {
            Preference::Room
        } else {
            Preference::Order
        };
        let room: u64 = targets.iter().map(Target::room).sum();
        let steps = lay_out(sources, &mut targets, preference);
        let size = store.header()?.extent_size;
        steps.ok_or_else(|| shortage(subject, sources, room, size, &reasons))
    }

    /// Those named, in their order, or all.
    fn candidates(&self) -> Vec<&DiskRecord> {
        if self.to.is_empty() {
            return self.disks.iter().collect();
        }
        let named = |id: &DiskId| self.disks.iter().find(|record| record.id == *id);
        self.to.iter().filter_map(named).collect()
    }

    fn takes(&self, record: &DiskRecord) -> bool {
        (record.allocate || self.closed_too) && self.except != Some(record.id)
    }

    fn reason(&self, record: &DiskRecord, target: &Target, uses: &[Use]) -> String {
        if self.except == Some(record.id) {
            return "is what is to be emptied".into();
        }
        if !record.allocate && !self.closed_too {
            return "no-allocate is set".into();
        }
        let waiting: u64 = uses
            .iter()
            .filter(|u| matches!(u.owner, Owner::Quarantine(_)))
            .map(|u| u.area.len)
            .sum();
        let jobs: u64 = uses
            .iter()
            .filter(|u| matches!(u.owner, Owner::Job(_)))
            .map(|u| u.area.len)
            .sum();
        let mut text = format!(
            "{} of {} extents free",
            target.room(),
            record.extents.saturating_sub(1)
        );
        if waiting > 0 {
            text.push_str(&format!(", {waiting} in quarantine"));
        }
        if jobs > 0 {
            text.push_str(&format!(", {jobs} kept for jobs"));
        }
        text
    }
}

fn shortage(subject: &str, sources: &[Source], room: u64, size: ExtentSize, reasons: &[String]) -> Error {
    let needed: u64 = sources.iter().map(|source| source.run.home.len).sum();
    let kib = size.bytes() >> 10;
    let why = format!(
        "needs {needed} extents of {kib} KiB and there is room for {room}: {}",
        reasons.join("; ")
    );
    Error::failed(subject, why)
        .hint("make room, add a disk with `vctl disk add`, or name other disks with --to")
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
        let before = last
            .filter(|last| last.end() == segment.start)
            .map(|last| (last.home.disk, last.home.end()));
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
