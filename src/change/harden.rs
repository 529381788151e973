//! Making committed changes survive power loss: flush the disks that they map, then harden their records.
//!
//! # When a disk loses what was written
//!
//! A change that moves data is hardened on the word of its new disk that the data is there; then the old place is given away. So that word has to
//! be good:
//!
//! - A disk that was told to flush and failed, by whatever process, since the first of the changes that are not hardened was prepared, is not asked again
//!   ([`DiskMarks::has_lost`]): the kernel tells of a lost page once, and may have dropped it. Nothing that maps onto that disk is hardened, nor
//!   what was committed after it, because a later change cannot outlive an earlier one. The old places stay in quarantine, and a power loss leads back to them.
//!   A host's flush that rests on such a change is answered with EIO; one that does not is not ([`concerns`]).
//! - A flush of which nobody knows how it ended ([`DiskMarks::is_in_doubt`]: its process was killed, and this one has opened the disk since) is no failure, so
//!   the data of the changes is marked as written again, with the content that hosts see, and flushed anew. If the page cache has not dropped
//!   a lost page in that short time, nothing is lost; if it has, hosts have read what is on the disk since, and no later flush makes it worse.
//!   A block device drops its pages when its last opening is closed, so there the doubt counts as a failure until somebody who had it open all the time flushes it.
//! - What a later change has taken away from the disk again need not be on it ([`new_homes`]). That is the way out: to move all off a disk that has
//!   lost something carries over what hosts read there, and then all of it is hardened at once.

use crate::change::failpoint::{Point, hit};
use crate::change::jobs::ranges::{minus, union};
use crate::disk::{Disk, Disks};
use crate::error::{Error, Result};
use crate::member::{DiskMarks, MemberTable};
use crate::pool::model::{Area, Edit};
use crate::store::{ChangeRecord, ChangeState, Store};
use crate::units::{ChangeId, DiskId, ExtentSize, Generation, VolumeExtent, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Who hardens: for the failpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A controller.
    Controller,
    /// An apparatus, for a host's flush.
    Apparatus,
}

impl Who {
    fn points(self) -> (Point, Point) {
        match self {
            Self::Controller => (Point::ControllerFlushed, Point::ControllerHardened),
            Self::Apparatus => (Point::ApparatusFlushed, Point::ApparatusHardened),
        }
    }
}

/// Hardens every change that is committed now. Answers the disks that were flushed for it.
///
/// # Errors
/// A disk's that cannot be flushed or has lost something (see the module), or the store's; nothing is hardened then.
pub(crate) fn harden(
    store: &mut dyn Store,
    disks: &Disks,
    members: &Arc<MemberTable>,
    who: Who,
) -> Result<BTreeSet<DiskId>> {
    // Read in this order: a change that is committed in between is above this generation.
    let current = store.header()?.generation;
    let committed: Vec<ChangeRecord> = store
        .unfinished()?
        .into_iter()
        .filter(|record| record.state == ChangeState::Committed)
        .collect();
    let (flushed, hardened) = who.points();
    let homes = new_homes(&committed);
    let led_to = committed
        .iter()
        .map(|record| record.change.difference.from.next());
    let generation = led_to.fold(current, Generation::max);
    if !committed.is_empty() || members.hardened() < generation {
        make_safe(store, disks, members, &homes)?;
        hit(flushed);
        // With nothing to mark too: what another process has marked may be visible and not yet durable.
        let ids: Vec<ChangeId> = committed.iter().map(|record| record.id).collect();
        store.harden(&ids)?;
        members.set_hardened(generation);
        hit(hardened);
    }
    Ok(homes.into_keys().collect())
}

/// The homes that these changes, in their order, give to parts of volumes and that none of them takes away again: what has to be on the
/// disks before they count.
fn new_homes(records: &[ChangeRecord]) -> BTreeMap<DiskId, Vec<Area>> {
    let mut homes: BTreeMap<DiskId, Vec<Area>> = BTreeMap::new();
    // What later edits replace, by volume.
    let mut replaced: BTreeMap<VolumeId, Vec<Range<u64>>> = BTreeMap::new();
    let edits = records.iter().flat_map(|record| &record.change.difference.edits);
    for edit in edits.rev() {
        match edit {
            Edit::Map { volume, segments } => {
                let replaced = replaced.entry(*volume).or_default();
                let runs: Vec<_> = segments
                    .iter()
                    .map(|segment| segment.start.0..segment.end().0)
                    .collect();
                for (segment, run) in segments.iter().zip(&runs) {
                    for left in minus(std::slice::from_ref(run), replaced) {
                        let kept = segment.clip(VolumeExtent(left.start), VolumeExtent(left.end));
                        homes
                            .entry(segment.home.disk)
                            .or_default()
                            .extend(kept.map(|kept| kept.home));
                    }
                }
                *replaced = union(replaced, &runs);
            }
            Edit::Unmap { volume, start, end } => add(replaced.entry(*volume).or_default(), start.0..end.0),
            Edit::RemoveVolume(volume) => add(replaced.entry(*volume).or_default(), 0..u64::MAX),
            Edit::AddDisk(_)
            | Edit::SetDisk(_)
            | Edit::RemoveDisk(_)
            | Edit::AddVolume(_)
            | Edit::SetVolume(_) => {}
        }
    }
    homes.retain(|_, areas| !areas.is_empty());
    homes
}

fn add(set: &mut Vec<Range<u64>>, run: Range<u64>) {
    *set = union(set, std::slice::from_ref(&run));
}

/// Whether what hosts see of a volume rests on this change.
pub(crate) fn concerns(record: &ChangeRecord, volume: VolumeId) -> bool {
    record.change.difference.edits.iter().any(|edit| match edit {
        Edit::AddVolume(of) | Edit::SetVolume(of) => of.id == volume,
        Edit::RemoveVolume(of) | Edit::Map { volume: of, .. } | Edit::Unmap { volume: of, .. } => {
            *of == volume
        }
        Edit::AddDisk(_) | Edit::SetDisk(_) | Edit::RemoveDisk(_) => false,
    })
}

/// The disks with data that has an old home elsewhere: those that unfinished changes map onto.
///
/// # Errors
/// The store's.
pub(crate) fn disks_at_risk(store: &mut dyn Store) -> Result<BTreeSet<DiskId>> {
    let unfinished = store.unfinished()?;
    let edits = unfinished
        .iter()
        .flat_map(|record| &record.change.difference.edits);
    let segments = edits.filter_map(|edit| match edit {
        Edit::Map { segments, .. } => Some(segments),
        _ => None,
    });
    Ok(segments.flatten().map(|segment| segment.home.disk).collect())
}

fn make_safe(
    store: &mut dyn Store,
    disks: &Disks,
    members: &Arc<MemberTable>,
    homes: &BTreeMap<DiskId, Vec<Area>>,
) -> Result<()> {
    let size = store.header()?.extent_size;
    let records = store.disks()?;
    let needed: Vec<_> = records
        .iter()
        .filter_map(|record| Some((record, homes.get(&record.id)?)))
        .collect();
    // Before any flush: a disk that waits shall not keep another's loss from being told.
    for (record, _) in &needed {
        refuse_lost(record.name.as_str(), &members.marks(record.id))?;
    }
    for (record, areas) in needed {
        let failed = |why: String| Error::failed(format!("disk {}", record.name), why);
        let disk = disks
            .get(record.id)
            .ok_or_else(|| failed("is not open, so it cannot be flushed".into()))?;
        let marks = members.marks(record.id);
        let flushed = flush_areas(&disk, &marks, areas, size);
        flushed.map_err(|why| failed(format!("flush: {why}")).hint(way_out(record.name.as_str())))?;
        refuse_lost(record.name.as_str(), &marks)?;
    }
    Ok(())
}

/// Refuses a disk that has lost something which may have its old home elsewhere.
///
/// # Errors
/// Names the disk and the way out.
pub(crate) fn refuse_lost(disk: &str, marks: &DiskMarks) -> Result<()> {
    if !marks.has_lost() {
        return Ok(());
    }
    let why = "has failed to write what it was given, so what was moved there may not be on it";
    Err(Error::failed(format!("disk {disk}"), why).hint(way_out(disk)))
}

fn way_out(disk: &str) -> String {
    format!("the old places are kept; move all off that disk: vctl disk evacuate {disk}")
}

fn flush_areas(disk: &Disk, marks: &DiskMarks, areas: &[Area], size: ExtentSize) -> io::Result<()> {
    if disk.is_in_doubt(marks)? {
        if disk.is_device() {
            let why = "a process was killed while it flushed the disk, and may have been told of an error";
            return Err(io::Error::other(why));
        }
        for area in areas {
            let outside = || io::Error::from(io::ErrorKind::InvalidInput);
            let at = size.disk_offset(area.start).ok_or_else(outside)?;
            disk.rewrite(at, area.len.saturating_mul(size.bytes()))?;
        }
    }
    // What the copier wrote is marked by nobody else.
    marks.written();
    disk.flush_here(marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::model::{Difference, Segment};
    use crate::store::{HoldMode, NewChange};
    use crate::units::{BootId, DiskExtent, Term};
    use uuid::Uuid;

    fn area(disk: u32, start: u64, len: u64) -> Area {
        Area {
            disk: DiskId(disk),
            start: DiskExtent(start),
            len,
        }
    }

    fn map(at: u64, home: Area) -> Edit {
        Edit::Map {
            volume: VolumeId(1),
            segments: vec![Segment {
                start: VolumeExtent(at),
                home,
            }],
        }
    }

    fn homes(edits: Vec<Edit>) -> Vec<Area> {
        let record = |(id, edit): (u64, Edit)| ChangeRecord {
            id: ChangeId(id),
            state: ChangeState::Committed,
            term: Term(1),
            boot: BootId(Uuid::nil()),
            change: NewChange {
                title: String::new(),
                job: None,
                difference: Difference {
                    from: Generation(id),
                    edits: vec![edit],
                },
                spans: Vec::new(),
                mode: HoldMode::Writes,
            },
            undo: None,
        };
        let records: Vec<_> = (0..).zip(edits).map(record).collect();
        new_homes(&records).into_values().flatten().collect()
    }

    #[test]
    fn what_a_later_change_takes_away_again_need_not_be_on_its_disk() {
        let there = area(1, 100, 8);
        assert_eq!(homes(vec![map(10, there)]), [there]);
        let middle = homes(vec![map(10, there), map(12, area(2, 5, 3))]);
        assert_eq!(middle, [area(1, 100, 2), area(1, 105, 3), area(2, 5, 3)]);
        assert_eq!(
            homes(vec![map(10, there), map(10, area(2, 5, 8))]),
            [area(2, 5, 8)]
        );
        assert_eq!(
            homes(vec![map(12, area(2, 5, 3)), map(10, there)]),
            [there],
            "an earlier one takes nothing away"
        );
        let unmap = Edit::Unmap {
            volume: VolumeId(1),
            start: VolumeExtent(0),
            end: VolumeExtent(17),
        };
        assert_eq!(homes(vec![map(10, there), unmap]), [area(1, 107, 1)]);
        assert_eq!(homes(vec![map(10, there), Edit::RemoveVolume(VolumeId(1))]), []);
        assert_eq!(
            homes(vec![map(10, there), Edit::RemoveVolume(VolumeId(2))]),
            [there]
        );
    }
}
