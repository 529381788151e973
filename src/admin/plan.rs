//! Plans changes, pure: computes the delta from the present state to the wanted one.

use super::select;
use crate::model::change::HoldMode;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::records::{Area, Delta, DiskRecord, Edit, SECTOR, Segment, Snapshot, Span, VolumeRecord};
use crate::model::size;
use crate::model::units::{ByteCount, DiskId, DiskOffset, ExtentSize, VolumeExtent, VolumeId, VolumeOffset};
use std::collections::BTreeSet;

/// Size of the largest volume: a file's size is a signed 64-bit number.
const LARGEST: u64 = i64::MAX as u64 / SECTOR * SECTOR;

/// A run of bytes on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The disk.
    pub disk: DiskId,
    /// First byte.
    pub at: DiskOffset,
    /// Number of bytes.
    pub len: u64,
}

/// A planned change, and its preconditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The delta.
    pub delta: Delta,
    /// The ranges whose requests are held.
    pub spans: Vec<Span>,
    /// Which requests are held.
    pub mode: HoldMode,
    /// Runs that are zeroed before the delta is sent.
    pub zero: Vec<Run>,
    /// Volumes that must not be in use, unless that is overridden.
    pub vacate: Option<Vacate>,
}

/// Volumes whose users lose something by a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vacate {
    /// The volumes.
    pub volumes: BTreeSet<VolumeId>,
    /// Whether users lose only the right to write.
    pub writers_only: bool,
}

impl Planned {
    /// Plans edits that take nothing away from a host: no request is held for them.
    fn unheld(snapshot: &Snapshot, edits: Vec<Edit>) -> Self {
        Self::only(Delta {
            from: snapshot.header.generation,
            edits,
        })
    }

    /// Plans a delta without preconditions.
    pub(super) fn only(delta: Delta) -> Self {
        Self {
            delta,
            spans: Vec::new(),
            mode: HoldMode::All,
            zero: Vec::new(),
            vacate: None,
        }
    }

    /// Refuses the change while the volume is in use.
    fn vacating(mut self, volume: VolumeId, writers_only: bool) -> Self {
        self.vacate = Some(Vacate {
            volumes: BTreeSet::from([volume]),
            writers_only,
        });
        self
    }

    /// Allows the change though the volume is in use, if `overridden`.
    #[must_use]
    pub fn regardless_of_users(mut self, overridden: bool) -> Self {
        if overridden {
            self.vacate = None;
        }
        self
    }

    /// Holds all requests of the span.
    fn holding(mut self, span: Span) -> Self {
        self.spans.push(span);
        self
    }

    /// Zeroes these areas before the change.
    fn zeroing(mut self, extent_size: ExtentSize, areas: &[Area]) -> Self {
        self.zero.extend(areas.iter().map(|area| run(extent_size, *area)));
        self
    }
}

fn run(extent_size: ExtentSize, area: Area) -> Run {
    let bytes = extent_size.bytes();
    Run {
        disk: area.disk,
        at: DiskOffset(area.start.0.saturating_mul(bytes)),
        len: area.len.saturating_mul(bytes),
    }
}

/// Formats the delta for the user.
///
/// # Errors
/// Fails when it cannot be serialised.
pub fn as_ron(delta: &Delta) -> Result<String> {
    let pretty = ron::ser::PrettyConfig::new().depth_limit(4).struct_names(true);
    ron::ser::to_string_pretty(delta, pretty).map_err(|error| Error::because("delta", error))
}

/// Checks a volume's size.
///
/// # Errors
/// Fails with `Usage` and the nearest valid sizes.
pub fn check_size(size: ByteCount) -> Result<()> {
    let what = format!("size {size}");
    if size.0 == 0 {
        return Err(
            Error::usage(what, "a volume has at least one sector").hint(format!("{SECTOR} is the least"))
        );
    }
    if size.0 > LARGEST {
        return Err(Error::usage(what, "is more than a file can have").hint(format!("{LARGEST} is the most")));
    }
    if !size.0.is_multiple_of(SECTOR) {
        let below = size.0 - size.0 % SECTOR;
        let near = if below == 0 {
            SECTOR.to_string()
        } else {
            format!("{below} or {}", below + SECTOR)
        };
        return Err(
            Error::usage(what, format!("is no multiple of {SECTOR}")).hint(format!("nearest: {near}"))
        );
    }
    Ok(())
}

/// Properties of a new volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// Its file name.
    pub name: Name,
    /// Its size.
    pub size: ByteCount,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Checks that the volume can be created, apart from space for it.
///
/// # Errors
/// Fails when the size is invalid or the name is taken.
pub fn check_new_volume(snapshot: &Snapshot, new: &NewVolume) -> Result<()> {
    check_size(new.size)?;
    check_volume_name(snapshot, &new.name)
}

fn check_volume_name(snapshot: &Snapshot, name: &Name) -> Result<()> {
    match snapshot.volumes.iter().any(|volume| &volume.name == name) {
        true => Err(Error::failed(format!("volume {name}"), "exists already").hint("choose another name")),
        false => Ok(()),
    }
}

/// Plans a new volume in these areas, in order.
#[must_use]
pub fn create_volume(snapshot: &Snapshot, id: VolumeId, new: &NewVolume, areas: &[Area]) -> Planned {
    let NewVolume {
        name,
        size,
        mode,
        uid,
        gid,
        read_only,
    } = new.clone();
    let record = VolumeRecord {
        id,
        name,
        size,
        mode,
        uid,
        gid,
        read_only,
    };
    let segments = laid_out(VolumeExtent(0), areas);
    let edits = vec![Edit::AddVolume(record), Edit::Map { volume: id, segments }];
    Planned::unheld(snapshot, edits).zeroing(snapshot.header.extent_size, areas)
}

/// Plans a volume with the placements, and the data, that it had when it was removed.
///
/// # Errors
/// Fails when the name is taken.
pub fn bring_back(snapshot: &Snapshot, record: VolumeRecord, segments: Vec<Segment>) -> Result<Planned> {
    check_volume_name(snapshot, &record.name)?;
    let volume = record.id;
    let edits = vec![Edit::AddVolume(record), Edit::Map { volume, segments }];
    Ok(Planned::unheld(snapshot, edits))
}

/// Returns segments that put the areas one after the other.
fn laid_out(first: VolumeExtent, areas: &[Area]) -> Vec<Segment> {
    let mut next = first;
    let place = |placement: &Area| {
        let segment = Segment {
            start: next,
            placement: *placement,
        };
        next = segment.end();
        segment
    };
    areas.iter().map(place).collect()
}

/// Changes of a volume's record; `None` keeps a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeChange {
    /// Its file name.
    pub name: Option<Name>,
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Whether writes are refused.
    pub read_only: Option<bool>,
}

/// Plans a change of a volume's record; `None` when nothing has to change. Disabling writes waits for those in flight.
///
/// # Errors
/// Fails when there is no such volume, or the new name is taken.
pub fn set_volume(snapshot: &Snapshot, volume: &str, change: &VolumeChange) -> Result<Option<Planned>> {
    let old = select::volume(&snapshot.volumes, volume)?;
    let mut new = old.clone();
    if let Some(name) = change.name.clone().filter(|name| *name != old.name) {
        check_volume_name(snapshot, &name)?;
        new.name = name;
    }
    new.mode = change.mode.unwrap_or(old.mode);
    new.uid = change.uid.unwrap_or(old.uid);
    new.gid = change.gid.unwrap_or(old.gid);
    new.read_only = change.read_only.unwrap_or(old.read_only);
    if new == *old {
        return Ok(None);
    }
    let planned = Planned::unheld(snapshot, vec![Edit::SetVolume(new.clone())]);
    Ok(Some(match new.read_only && !old.read_only {
        true => Planned {
            mode: HoldMode::Writes,
            ..planned.holding(Span::whole(old.id)).vacating(old.id, true)
        },
        false => planned,
    }))
}

/// Returns how many extents a volume needs in addition for this size.
#[must_use]
pub fn extents_lacking(snapshot: &Snapshot, volume: &VolumeRecord, size: ByteCount) -> u64 {
    let extent_size = snapshot.header.extent_size;
    extent_size
        .count_for(size)
        .saturating_sub(extent_size.count_for(volume.size))
}

/// Plans the growth of a volume to `size`, with these areas behind its last one.
#[must_use]
pub fn grow_volume(snapshot: &Snapshot, volume: &VolumeRecord, size: ByteCount, areas: &[Area]) -> Planned {
    let extent_size = snapshot.header.extent_size;
    let mut edits = vec![Edit::SetVolume(VolumeRecord {
        size,
        ..volume.clone()
    })];
    if !areas.is_empty() {
        let segments = laid_out(VolumeExtent(extent_size.count_for(volume.size)), areas);
        edits.push(Edit::Map {
            volume: volume.id,
            segments,
        });
    }
    let mut planned = Planned::unheld(snapshot, edits).zeroing(extent_size, areas);
    planned.zero.extend(tail_beyond(snapshot, volume));
    planned
}

/// Returns the part of a volume's last extent beyond its size. It is zeroed, because data of a formerly larger volume must not reappear.
fn tail_beyond(snapshot: &Snapshot, volume: &VolumeRecord) -> Option<Run> {
    let extent_size = snapshot.header.extent_size;
    let (extent, within) = extent_size.locate(VolumeOffset(volume.size.0));
    let holds = |(id, segment): &&(VolumeId, Segment)| {
        *id == volume.id && segment.start <= extent && extent < segment.end()
    };
    let (_, segment) = snapshot.segments.iter().find(holds)?;
    let placement = segment.clip(extent, VolumeExtent(extent.0 + 1))?.placement;
    let whole = run(extent_size, placement);
    (within > 0).then(|| Run {
        at: DiskOffset(whole.at.0 + within),
        len: whole.len - within,
        ..whole
    })
}

/// Plans the shrinking of a volume to `size`: the data behind is lost.
#[must_use]
pub fn shrink_volume(snapshot: &Snapshot, volume: &VolumeRecord, size: ByteCount) -> Planned {
    let extent_size = snapshot.header.extent_size;
    let start = VolumeExtent(extent_size.count_for(size));
    let end = VolumeExtent(extent_size.count_for(volume.size));
    let mut edits = Vec::new();
    if start < end {
        edits.push(Edit::Unmap {
            volume: volume.id,
            start,
            end,
        });
    }
    edits.push(Edit::SetVolume(VolumeRecord {
        size,
        ..volume.clone()
    }));
    let span = Span {
        start: VolumeOffset(size.0),
        ..Span::whole(volume.id)
    };
    Planned::unheld(snapshot, edits)
        .holding(span)
        .vacating(volume.id, false)
}

/// Plans the removal of a volume with all its data.
#[must_use]
pub fn remove_volume(snapshot: &Snapshot, volume: VolumeId) -> Planned {
    Planned::unheld(snapshot, vec![Edit::RemoveVolume(volume)])
        .holding(Span::whole(volume))
        .vacating(volume, false)
}

/// Plans a hold of these spans without edits.
#[must_use]
pub fn hold(snapshot: &Snapshot, spans: Vec<Span>, mode: HoldMode) -> Planned {
    Planned {
        spans,
        mode,
        ..Planned::unheld(snapshot, Vec::new())
    }
}

/// Checks that a disk of that name can be added.
///
/// # Errors
/// Fails when the name is taken.
pub fn check_disk_name(snapshot: &Snapshot, name: &Name) -> Result<()> {
    match snapshot.disks.iter().any(|disk| &disk.name == name) {
        true => {
            Err(Error::failed(format!("disk {name}"), "exists already").hint("choose another with --name"))
        }
        false => Ok(()),
    }
}

/// Plans the addition of a disk.
#[must_use]
pub fn add_disk(snapshot: &Snapshot, record: DiskRecord) -> Planned {
    Planned::unheld(snapshot, vec![Edit::AddDisk(record)])
}

/// Changes of a disk's record; `None` keeps a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskChange {
    /// Its name.
    pub name: Option<Name>,
    /// Tags to add.
    pub tag: BTreeSet<Name>,
    /// Tags to remove.
    pub untag: BTreeSet<Name>,
    /// Whether new data may be placed on it.
    pub allocate: Option<bool>,
    /// Its path.
    pub path: Option<std::path::PathBuf>,
    /// How many extents it has.
    pub extents: Option<u64>,
    /// How many bytes of it stay free, rounded up to whole extents.
    pub reserve: Option<ByteCount>,
}

/// Plans a change of a disk's record; `None` when nothing has to change.
///
/// # Errors
/// Fails when there is no such disk, the new name is taken, or the reserve is more than the disk has.
pub fn set_disk(snapshot: &Snapshot, disk: &str, change: &DiskChange) -> Result<Option<Planned>> {
    let old = select::disk(&snapshot.disks, disk)?;
    let mut new = old.clone();
    if let Some(name) = change.name.clone().filter(|name| *name != old.name) {
        check_disk_name(snapshot, &name)?;
        new.name = name;
    }
    new.tags.extend(change.tag.iter().cloned());
    new.tags.retain(|tag| !change.untag.contains(tag));
    new.allocate = change.allocate.unwrap_or(old.allocate);
    new.path = change.path.clone().unwrap_or_else(|| old.path.clone());
    new.extents = change.extents.unwrap_or(old.extents);
    let extent_size = snapshot.header.extent_size;
    let kept = ByteCount(old.reserve.saturating_mul(extent_size.bytes()));
    new.reserve = reserve_extents(extent_size, &new, change.reserve.unwrap_or(kept))?;
    Ok((new != *old).then(|| Planned::unheld(snapshot, vec![Edit::SetDisk(new)])))
}

/// Plans to send a disk's record unchanged: every apparatus that could not open the disk tries again.
#[must_use]
pub fn announce_disk(snapshot: &Snapshot, record: DiskRecord) -> Planned {
    Planned::unheld(snapshot, vec![Edit::SetDisk(record)])
}

/// Returns a disk's reserve in whole extents.
///
/// # Errors
/// Fails when it is more than the disk has.
pub fn reserve_extents(extent_size: ExtentSize, disk: &DiskRecord, reserve: ByteCount) -> Result<u64> {
    let extents = extent_size.count_for(reserve);
    if extents < disk.extents {
        return Ok(extents);
    }
    let most = size::HumanSize(ByteCount((disk.extents - 1).saturating_mul(extent_size.bytes())));
    let why = format!("cannot keep {} free", size::HumanSize(reserve));
    Err(Error::usage(format!("disk {}", disk.name), why).hint(format!("{most} is all it has")))
}

/// Plans the removal of a disk; `in_use` lists the owners of extents on it, for the user.
///
/// # Errors
/// Fails when there is such an owner.
pub fn remove_disk(snapshot: &Snapshot, disk: &DiskRecord, in_use: &[String]) -> Result<Planned> {
    const NAMED: usize = 8;
    if in_use.is_empty() {
        return Ok(Planned::unheld(snapshot, vec![Edit::RemoveDisk(disk.id)]));
    }
    let name = &disk.name;
    let mut users = in_use[..in_use.len().min(NAMED)].join(", ");
    if in_use.len() > NAMED {
        users += &format!(", and {} more", in_use.len() - NAMED);
    }
    let why = format!("is in use by {users}");
    Err(Error::new(ErrorKind::Busy, format!("disk {name}"), why)
        .hint(format!("empty it first: vctl disk evacuate {name}")))
}

/// Returns the number of whole extents in `bytes`, label included.
///
/// # Errors
/// Fails when there is no space for the label and one extent.
pub fn whole_extents(what: &str, bytes: ByteCount, extent_size: ExtentSize) -> Result<u64> {
    let extents = bytes.0 / extent_size.bytes();
    if extents < 2 {
        let least = size::HumanSize(ByteCount(2 * extent_size.bytes()));
        let why = format!("has {bytes} bytes, too few for the label and one extent");
        return Err(Error::usage(what, why).hint(format!("{least} is the least in this pool")));
    }
    Ok(extents)
}

#[cfg(test)]
mod tests;
