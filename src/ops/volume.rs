//! Volumes: planned from what the store has.

use super::plan::{self, NewVolume, Planned, VolumeChange};
use super::select;
use crate::change::parts::LIGHT;
use crate::change::space::{Reserve, spaces};
use crate::error::{Error, Result};
use crate::pool::alloc::{self, Policy, Space, Wish};
use crate::pool::model::{Area, Difference, Segment, Snapshot, Span, VolumeRecord};
use crate::store::{HoldMode, Store};
use crate::units::{ByteCount, VolumeId, VolumeOffset};

/// A volume appears, on these disks (`DISK`, `@TAG`) or wherever there is room, by this policy or the pool's.
///
/// # Errors
/// When it cannot be; for want of room, with the reason for each disk.
pub fn plan_create(
    store: &mut dyn Store,
    new: &NewVolume,
    on: &[String],
    policy: Option<Policy>,
) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    plan::check_new_volume(&snapshot, new)?;
    let disks = select::disks(&snapshot.disks, on)?;
    let extents = snapshot.header.extent_size.count_for(new.size);
    let wish = Wish {
        extents,
        on: disks,
        after: None,
        policy: chosen(store, policy)?,
    };
    let areas = allocate(store, &snapshot, &format!("volume {}", new.name), &wish)?;
    let id = store.next_volume_id()?;
    Ok(plan::create_volume(&snapshot, id, new, &areas))
}

/// As many of these volumes appear as one change can have, each on its disks or wherever there is room, by the pool's policy. Answers
/// how many, at least one.
///
/// # Errors
/// When the first cannot be; for want of room, with the reason for each disk.
pub fn plan_create_some(store: &mut dyn Store, all: &[(NewVolume, Vec<String>)]) -> Result<(Planned, usize)> {
    let snapshot = store.snapshot()?;
    let mut spaces = spaces(store, snapshot.disks.iter().cloned(), Reserve::Kept)?;
    let policy = chosen(store, None)?;
    let (mut id, mut taken) = (store.next_volume_id()?, 0);
    let mut planned = Planned::only(Difference {
        from: snapshot.header.generation,
        edits: Vec::new(),
    });
    for (new, on) in all {
        let one = plan_one_of_many(&snapshot, &mut spaces, id, (new, on, policy));
        match one {
            Err(error) if taken == 0 => return Err(error),
            // It is looked at again, when it is the first.
            Err(_) => break,
            Ok(one) if taken > 0 && planned.difference.weight() + one.difference.weight() > LIGHT => break,
            Ok(one) => {
                planned.difference.edits.extend(one.difference.edits);
                planned.zero.extend(one.zero);
            }
        }
        (id, taken) = (VolumeId(id.0 + 1), taken + 1);
    }
    Ok((planned, taken))
}

fn plan_one_of_many(
    snapshot: &Snapshot,
    spaces: &mut [Space],
    id: VolumeId,
    (new, on, policy): (&NewVolume, &[String], Policy),
) -> Result<Planned> {
    plan::check_size(new.size)?;
    let extent_size = snapshot.header.extent_size;
    let wish = Wish {
        extents: extent_size.count_for(new.size),
        on: select::disks(&snapshot.disks, on)?,
        after: None,
        policy,
    };
    let areas = alloc::allocate(spaces, &wish);
    let areas = areas.map_err(|shortage| shortage.error(format!("volume {}", new.name), extent_size))?;
    alloc::take(spaces, &areas);
    Ok(plan::create_volume(snapshot, id, new, &areas))
}

/// A volume gets another size: what `size` makes of its old one. `None` when it has it already.
///
/// # Errors
/// When it cannot have that size.
pub fn plan_resize(
    store: &mut dyn Store,
    volume: &str,
    size: &dyn Fn(ByteCount) -> Result<ByteCount>,
    on: &[String],
    policy: Option<Policy>,
) -> Result<Option<Planned>> {
    let snapshot = store.snapshot()?;
    let record = select::volume(&snapshot.volumes, volume)?;
    let size = size(record.size)?;
    plan::check_size(size)?;
    if size == record.size {
        return Ok(None);
    }
    if size < record.size {
        return Ok(Some(plan::shrink_volume(&snapshot, record, size)));
    }
    let disks = select::disks(&snapshot.disks, on)?;
    let lacking = plan::extents_lacking(&snapshot, record, size);
    let after = last_segment(&snapshot, record.id).map(|segment| segment.home);
    let wish = Wish {
        extents: lacking,
        on: disks,
        after,
        policy: chosen(store, policy)?,
    };
    let areas = allocate(store, &snapshot, &format!("volume {volume}"), &wish)?;
    Ok(Some(plan::grow_volume(&snapshot, record, size, &areas)))
}

/// A volume's record changes. `None` when it is so already.
///
/// # Errors
/// When there is no such volume, or the new name is taken.
pub fn plan_set(store: &mut dyn Store, volume: &str, change: &VolumeChange) -> Result<Option<Planned>> {
    plan::set_volume(&store.snapshot()?, volume, change)
}

/// A volume disappears.
///
/// # Errors
/// When there is no such volume.
pub fn plan_remove(store: &mut dyn Store, volume: &str) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    let record = select::volume(&snapshot.volumes, volume)?;
    Ok(plan::remove_volume(&snapshot, record.id))
}

/// Volumes, or a range of each, are held and nothing changes.
///
/// # Errors
/// When there is no such volume, or the range is not in it.
pub fn plan_hold(
    store: &mut dyn Store,
    volumes: &[String],
    range: Option<(ByteCount, Option<ByteCount>)>,
    mode: HoldMode,
) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    let span = |name: &String| span_of(select::volume(&snapshot.volumes, name)?, range);
    let spans = volumes.iter().map(span).collect::<Result<_>>()?;
    Ok(plan::hold(&snapshot, spans, mode))
}

/// A range of a volume; the whole of it if none is given.
///
/// # Errors
/// When the range is not in the volume.
pub fn span_of(volume: &VolumeRecord, range: Option<(ByteCount, Option<ByteCount>)>) -> Result<Span> {
    let Some((start, end)) = range else {
        return Ok(Span::whole(volume.id));
    };
    let end = end.unwrap_or(volume.size);
    if start >= end || end > volume.size {
        let what = format!("range {start}..{end}");
        let why = format!(
            "is not in volume {}, which has {} bytes",
            volume.name, volume.size
        );
        return Err(Error::usage(what, why));
    }
    Ok(Span {
        volume: volume.id,
        start: VolumeOffset(start.0),
        end: VolumeOffset(end.0),
    })
}

fn last_segment(snapshot: &Snapshot, volume: VolumeId) -> Option<Segment> {
    let own = snapshot.segments.iter().filter(|(id, _)| *id == volume);
    own.map(|(_, segment)| *segment)
        .max_by_key(|segment| segment.start)
}

/// Extents for `what`, on these disks or wherever there is room, best right behind a segment that is there.
fn allocate(store: &mut dyn Store, snapshot: &Snapshot, what: &str, wish: &Wish) -> Result<Vec<Area>> {
    let spaces = spaces(store, snapshot.disks.iter().cloned(), Reserve::Kept)?;
    alloc::allocate(&spaces, wish).map_err(|shortage| shortage.error(what, snapshot.header.extent_size))
}

/// The policy asked for, else the pool's.
fn chosen(store: &mut dyn Store, policy: Option<Policy>) -> Result<Policy> {
    policy.map_or_else(|| Ok(store.options()?.policy), Ok)
}
