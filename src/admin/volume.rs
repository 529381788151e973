//! Plans changes of volumes from the content of the store.

use super::plan::{self, NewVolume, Planned, VolumeChange};
use super::select;
use crate::controller::space::{Reserve, spaces};
use crate::model::alloc::{self, AllocRequest, Faults, Policy, Space};
use crate::model::change::HoldMode;
use crate::model::error::{Error, Result};
use crate::model::records::{Area, Delta, Segment, Snapshot, Span, VolumeRecord};
use crate::model::units::{ByteCount, VolumeId, VolumeOffset};
use crate::protocol::parts::LIGHT;
use crate::store::{EventStore, Store, TableStore};

/// Where new extents may go.
#[derive(Clone, Copy, Debug)]
pub struct Placing<'a> {
    /// The disks (`DISK`, `@TAG`); any disk with free space if there are none.
    pub on: &'a [String],
    /// The order in which disks are filled; the pool's policy if `None`.
    pub policy: Option<Policy>,
    /// The disks with known faults: they are used only if all that are named have one.
    pub faults: &'a Faults,
}

/// Plans a new volume.
///
/// # Errors
/// Fails when it cannot be created; if space is missing, with the reason for each disk.
pub fn plan_create(store: &mut dyn Store, new: &NewVolume, placing: Placing<'_>) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    plan::check_new_volume(&snapshot, new)?;
    let extents = snapshot.header.extent_size.count_for(new.size);
    let request = AllocRequest {
        extents,
        on: select::disks(&snapshot.disks, placing.on)?,
        after: None,
        policy: chosen(store, placing.policy)?,
    };
    let what = format!("volume {}", new.name);
    let areas = allocate(store, &snapshot, &what, &request, placing.faults)?;
    let id = store.next_volume_id()?;
    Ok(plan::create_volume(&snapshot, id, new, &areas))
}

/// Plans as many of these volumes as one change can hold, each on its disks or any disk with free
/// space, by the pool's policy. Returns the plan and how many volumes it creates, at least one.
///
/// # Errors
/// Fails when the first cannot be created; if space is missing, with the reason for each disk.
pub fn plan_create_some(
    store: &mut dyn Store,
    all: &[(NewVolume, Vec<String>)],
    faults: &Faults,
) -> Result<(Planned, usize)> {
    let snapshot = store.snapshot()?;
    let mut spaces = spaces(store, snapshot.disks.iter().cloned(), Reserve::Kept, faults)?;
    let policy = chosen(store, None)?;
    let (mut id, mut taken) = (store.next_volume_id()?, 0);
    let mut planned = Planned::only(Delta {
        from: snapshot.header.generation,
        edits: Vec::new(),
    });
    for (new, on) in all {
        let one = plan_one_of_many(&snapshot, &mut spaces, id, (new, on, policy));
        match one {
            Err(error) if taken == 0 => return Err(error),
            // The error is reported when this volume is the first of a later call.
            Err(_) => break,
            Ok(one) if taken > 0 && planned.delta.weight() + one.delta.weight() > LIGHT => break,
            Ok(one) => {
                planned.delta.edits.extend(one.delta.edits);
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
    let request = AllocRequest {
        extents: extent_size.count_for(new.size),
        on: select::disks(&snapshot.disks, on)?,
        after: None,
        policy,
    };
    let areas = alloc::allocate(spaces, &request);
    let areas = areas.map_err(|shortage| shortage.error(format!("volume {}", new.name), extent_size))?;
    alloc::take(spaces, &areas);
    Ok(plan::create_volume(snapshot, id, new, &areas))
}

/// Plans another size of a volume: what `size` makes of its old one; `None` when nothing has to change.
///
/// # Errors
/// Fails when it cannot have that size.
pub fn plan_resize(
    store: &mut dyn Store,
    volume: &str,
    size: &dyn Fn(ByteCount) -> Result<ByteCount>,
    placing: Placing<'_>,
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
    let lacking = plan::extents_lacking(&snapshot, record, size);
    let after = last_segment(&snapshot, record.id).map(|segment| segment.placement);
    let request = AllocRequest {
        extents: lacking,
        on: select::disks(&snapshot.disks, placing.on)?,
        after,
        policy: chosen(store, placing.policy)?,
    };
    let what = format!("volume {volume}");
    let areas = allocate(store, &snapshot, &what, &request, placing.faults)?;
    Ok(Some(plan::grow_volume(&snapshot, record, size, &areas)))
}

/// Plans a change of a volume's record; `None` when nothing has to change.
///
/// # Errors
/// Fails when there is no such volume, or the new name is taken.
pub fn plan_set(store: &mut dyn TableStore, volume: &str, change: &VolumeChange) -> Result<Option<Planned>> {
    plan::set_volume(&store.snapshot()?, volume, change)
}

/// Plans the removal of a volume.
///
/// # Errors
/// Fails when there is no such volume.
pub fn plan_remove(store: &mut dyn TableStore, volume: &str) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    let record = select::volume(&snapshot.volumes, volume)?;
    Ok(plan::remove_volume(&snapshot, record.id))
}

/// Plans a hold of volumes, or of a range of each, without edits.
///
/// # Errors
/// Fails when there is no such volume, or the range is not in it.
pub fn plan_hold(
    store: &mut dyn TableStore,
    volumes: &[String],
    range: Option<(ByteCount, Option<ByteCount>)>,
    mode: HoldMode,
) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    let span = |name: &String| span_of(select::volume(&snapshot.volumes, name)?, range);
    let spans = volumes.iter().map(span).collect::<Result<_>>()?;
    Ok(plan::hold(&snapshot, spans, mode))
}

/// Returns a range of a volume; the whole volume if none is given.
///
/// # Errors
/// Fails when the range is not in the volume.
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

/// Allocates extents for `what`, on these disks or any disk with free space, preferably right behind a given segment.
fn allocate(
    store: &mut dyn Store,
    snapshot: &Snapshot,
    what: &str,
    request: &AllocRequest,
    faults: &Faults,
) -> Result<Vec<Area>> {
    let spaces = spaces(store, snapshot.disks.iter().cloned(), Reserve::Kept, faults)?;
    alloc::allocate(&spaces, request).map_err(|shortage| shortage.error(what, snapshot.header.extent_size))
}

/// Returns the given policy, else the pool's.
fn chosen(store: &mut dyn EventStore, policy: Option<Policy>) -> Result<Policy> {
    policy.map_or_else(|| Ok(store.options()?.policy), Ok)
}
