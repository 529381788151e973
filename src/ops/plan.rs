//! Planning, pure: from what the pool is and what is wanted, the difference that leads there.

use super::select;
use crate::error::{Error, Kind, Result};
use crate::pool::model::{Area, Difference, DiskRecord, Edit, SECTOR, Segment, Snapshot, Span, VolumeRecord};
use crate::pool::names::Name;
use crate::pool::size;
use crate::store::HoldMode;
use crate::units::{ByteCount, DiskId, DiskOffset, ExtentSize, VolumeExtent, VolumeId, VolumeOffset};
use std::collections::BTreeSet;

/// Largest volume: a file's size is a signed 64-bit number.
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

/// What is to be sent, and what has to be so before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The difference.
    pub difference: Difference,
    /// Whose requests are held.
    pub spans: Vec<Span>,
    /// Which of them.
    pub mode: HoldMode,
    /// Made to read as zeroes before the difference is sent.
    pub zero: Vec<Run>,
    /// What must not be in use, unless that is overridden.
    pub vacate: Option<Vacate>,
}

/// Volumes that a change takes something away from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vacate {
    /// The volumes.
    pub volumes: BTreeSet<VolumeId>,
    /// Only writing is taken away.
    pub writers_only: bool,
}

impl Planned {
    /// A difference that takes nothing away from a host: no request is held for it.
    fn unheld(snapshot: &Snapshot, edits: Vec<Edit>) -> Self {
        Self::only(Difference {
            from: snapshot.header.generation,
            edits,
        })
    }

    /// The difference, with nothing to do before.
    pub(super) fn only(difference: Difference) -> Self {
        Self {
            difference,
            spans: Vec::new(),
            mode: HoldMode::All,
            zero: Vec::new(),
            vacate: None,
        }
    }

    /// Refused while somebody uses the volume.
    fn vacating(mut self, volume: VolumeId, writers_only: bool) -> Self {
        self.vacate = Some(Vacate {
            volumes: BTreeSet::from([volume]),
            writers_only,
        });
        self
    }

    /// Carried out whoever uses the volume, if `overridden`.
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

    /// With these areas zeroed before.
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

/// The difference as a person reads it.
///
/// # Errors
/// When it cannot be written down.
pub fn as_ron(difference: &Difference) -> Result<String> {
    let pretty = ron::ser::PrettyConfig::new().depth_limit(4).struct_names(true);
    ron::ser::to_string_pretty(difference, pretty).map_err(|error| Error::because("difference", error))
}

/// Checks a volume's size.
///
/// # Errors
/// `Usage`, with the nearest sizes that would do.
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

/// What a new volume shall be.
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
    /// Writes are refused.
    pub read_only: bool,
}

/// Checks that the volume can be, apart from room for it.
///
/// # Errors
/// When the size or the name cannot be had.
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

/// A volume appears, in these areas in order.
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

/// Segments that put the areas one after the other.
fn laid_out(first: VolumeExtent, areas: &[Area]) -> Vec<Segment> {
    let mut next = first;
    let place = |home: &Area| {
        let segment = Segment {
            start: next,
            home: *home,
        };
        next = segment.end();
        segment
    };
    areas.iter().map(place).collect()
}

/// What a volume's record shall be; `None` leaves it.
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

/// A volume's record is replaced. `None` when it already is so. Turning writes off waits for those in flight.
///
/// # Errors
/// When there is no such volume, or the new name is taken.
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

/// How many extents a volume lacks for this size; 0 when it has them.
#[must_use]
pub fn extents_lacking(snapshot: &Snapshot, volume: &VolumeRecord, size: ByteCount) -> u64 {
    let extent_size = snapshot.header.extent_size;
    extent_size
        .count_for(size)
        .saturating_sub(extent_size.count_for(volume.size))
}

/// A volume grows to `size` with these areas behind its last one.
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

/// The part of a volume's last extent that lies beyond its size. What a larger volume had there must not come back.
fn tail_beyond(snapshot: &Snapshot, volume: &VolumeRecord) -> Option<Run> {
    let extent_size = snapshot.header.extent_size;
    let (extent, within) = extent_size.locate(VolumeOffset(volume.size.0));
    let holds = |(id, segment): &&(VolumeId, Segment)| {
        *id == volume.id && segment.start <= extent && extent < segment.end()
    };
    let (_, segment) = snapshot.segments.iter().find(holds)?;
    let home = segment.clip(extent, VolumeExtent(extent.0 + 1))?.home;
    let whole = run(extent_size, home);
    (within > 0).then(|| Run {
        at: DiskOffset(whole.at.0 + within),
        len: whole.len - within,
        ..whole
    })
}

/// A volume shrinks to `size`: what lies behind is gone.
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

/// A volume and all that it holds disappears.
#[must_use]
pub fn remove_volume(snapshot: &Snapshot, volume: VolumeId) -> Planned {
    Planned::unheld(snapshot, vec![Edit::RemoveVolume(volume)])
        .holding(Span::whole(volume))
        .vacating(volume, false)
}

/// Nothing changes, under a hold of these spans.
#[must_use]
pub fn hold(snapshot: &Snapshot, spans: Vec<Span>, mode: HoldMode) -> Planned {
    Planned {
        spans,
        mode,
        ..Planned::unheld(snapshot, Vec::new())
    }
}

/// Checks that a disk of that name can join.
///
/// # Errors
/// When the name is taken.
pub fn check_disk_name(snapshot: &Snapshot, name: &Name) -> Result<()> {
    match snapshot.disks.iter().any(|disk| &disk.name == name) {
        true => {
            Err(Error::failed(format!("disk {name}"), "exists already").hint("choose another with --name"))
        }
        false => Ok(()),
    }
}

/// A disk joins the pool.
#[must_use]
pub fn add_disk(snapshot: &Snapshot, record: DiskRecord) -> Planned {
    Planned::unheld(snapshot, vec![Edit::AddDisk(record)])
}

/// What a disk's record shall be; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskChange {
    /// What people call it.
    pub name: Option<Name>,
    /// Tags to put on.
    pub tag: BTreeSet<Name>,
    /// Tags to take off.
    pub untag: BTreeSet<Name>,
    /// Whether something new may be placed there.
    pub allocate: Option<bool>,
    /// Where it is.
    pub path: Option<std::path::PathBuf>,
    /// How many extents it has.
    pub extents: Option<u64>,
    /// How much of it stays free, rounded up to whole extents.
    pub reserve: Option<ByteCount>,
}

/// A disk's record is replaced. `None` when it already is so.
///
/// # Errors
/// When there is no such disk, the new name is taken, or the reserve is more than the disk has.
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

/// A disk's record is sent as it is: every apparatus that could not open the disk tries again.
#[must_use]
pub fn announce_disk(snapshot: &Snapshot, record: DiskRecord) -> Planned {
    Planned::unheld(snapshot, vec![Edit::SetDisk(record)])
}

/// A disk's reserve in whole extents.
///
/// # Errors
/// When it is more than the disk has.
pub fn reserve_extents(extent_size: ExtentSize, disk: &DiskRecord, reserve: ByteCount) -> Result<u64> {
    let extents = extent_size.count_for(reserve);
    if extents < disk.extents {
        return Ok(extents);
    }
    let most = size::Human(ByteCount((disk.extents - 1).saturating_mul(extent_size.bytes())));
    let why = format!("cannot keep {} free", size::Human(reserve));
    Err(Error::usage(format!("disk {}", disk.name), why).hint(format!("{most} is all it has")))
}

/// A disk leaves the pool; `in_use` is what still has extents on it, as words.
///
/// # Errors
/// When something has.
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
    Err(Error::new(Kind::Busy, format!("disk {name}"), why)
        .hint(format!("empty it first: vctl disk evacuate {name}")))
}

/// Sizes of a disk's whole extents, label included.
///
/// # Errors
/// When there is no room for the label and one extent.
pub fn whole_extents(what: &str, bytes: ByteCount, extent_size: ExtentSize) -> Result<u64> {
    let extents = bytes.0 / extent_size.bytes();
    if extents < 2 {
        let least = size::Human(ByteCount(2 * extent_size.bytes()));
        let why = format!("has {bytes} bytes, too few for the label and one extent");
        return Err(Error::usage(what, why).hint(format!("{least} is the least in this pool")));
    }
    Ok(extents)
}

#[cfg(test)]
mod tests;
