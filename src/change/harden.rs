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
//!   A host's flush that rests on such a change is answered with EIO; one that does not is not ([`Batch::of_volume`]).
//! - A flush of which nobody knows how it ended ([`DiskMarks::is_in_doubt`]: its process was killed, and this one has opened the disk since) is no failure, so
//!   the data of the changes is marked as written again, with the content that hosts see, and flushed anew. If the page cache has not dropped
//!   a lost page in that short time, nothing is lost; if it has, hosts have read what is on the disk since, and no later flush makes it worse.
//!   A block device drops its pages when its last opening is closed, so there the doubt counts as a failure until somebody who had it open all the time flushes it.
//! - What a later change has taken away from the disk again need not be on it ([`new_homes`]). That is the way out: to go back to the old places (`ops/revert.rs`),
//!   or, where what can be read on the disk is good, to move all off it; then all of it is hardened at once.

use crate::change::failpoint::{Point, hit};
use crate::change::jobs::ranges::{minus, union};
use crate::disk::{Disk, Disks};
use crate::error::{Error, Result};
use crate::member::{DiskMarks, MemberTable};
use crate::pool::model::{Area, DiskRecord, Edit};
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
    pub(crate) fn points(self) -> (Point, Point) {
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
    let batch = Batch::of_all(store)?;
    if !batch.ids.is_empty() || members.hardened() < batch.generation {
        batch.make_safe(disks, members)?;
        hit(who.points().0);
        batch.record(store, members, who)?;
    }
    Ok(batch.homes.into_keys().collect())
}

/// Changes that are hardened together: all that are committed, up to the last of them.
pub(crate) struct Batch {
    ids: Vec<ChangeId>,
    /// What is hardened then.
    generation: Generation,
    homes: BTreeMap<DiskId, Vec<Area>>,
    records: Vec<DiskRecord>,
    size: ExtentSize,
}

impl Batch {
    fn of_all(store: &mut dyn Store) -> Result<Self> {
        // Read in this order: a change that is committed in between is above this generation.
        let current = store.header()?.generation;
        let committed = committed(store)?;
        let generation = committed.iter().map(led_to).fold(current, Generation::max);
        Self::of(store, &committed, generation)
    }

    /// What has to be hardened so that the changes that have to do with the volume are, up to this generation; `None` when they are. Those that come
    /// before one of them belong to it, because a later change cannot outlive an earlier one. Those that come after are taken along only where that needs no other disk,
    /// so that nobody waits for a disk that only another volume's later change needs.
    ///
    /// # Errors
    /// The store's; also when it does not know this generation.
    pub(crate) fn of_volume(
        store: &mut dyn Store,
        volume: VolumeId,
        generation: Generation,
    ) -> Result<Option<Self>> {
        let current = store.header()?.generation;
        if current < generation {
            let why = format!("generation {generation} is in use, but it has only {current}");
            return Err(Error::failed("store", why));
        }
        let committed = committed(store)?;
        let needed = |record: &ChangeRecord| led_to(record) <= generation && concerns(record, volume);
        let Some(last) = committed.iter().rposition(needed) else {
            return Ok(None);
        };
        let whole = Self::of(
            store,
            &committed,
            committed.iter().map(led_to).fold(current, Generation::max),
        )?;
        let (part, _) = committed.split_at(last + 1);
        let least = Self::of(
            store,
            part,
            part.iter().map(led_to).fold(Generation(0), Generation::max),
        )?;
        let adds_none = whole.homes.keys().all(|disk| least.homes.contains_key(disk));
        Ok(Some(if adds_none { whole } else { least }))
    }

    fn of(store: &mut dyn Store, committed: &[ChangeRecord], generation: Generation) -> Result<Self> {
        Ok(Self {
            ids: committed.iter().map(|record| record.id).collect(),
            generation,
            homes: new_homes(committed),
            records: store.disks()?,
            size: store.header()?.extent_size,
        })
    }

    /// The disks that have to be flushed for it.
    pub(crate) fn disks(&self) -> BTreeSet<DiskId> {
        self.homes.keys().copied().collect()
    }

    /// Flushes those disks.
    ///
    /// # Errors
    /// That of a disk which cannot be flushed or has lost something.
    pub(crate) fn make_safe(&self, disks: &Disks, members: &Arc<MemberTable>) -> Result<()> {
        let needed = || {
            let records = self.records.iter();
            records.filter_map(|record| Some((record, self.homes.get(&record.id)?)))
        };
        // Before any flush: a disk that waits shall not keep another's loss from being told.
        for (record, _) in needed() {
            refuse_lost(record.name.as_str(), &members.marks(record.id))?;
        }
        for (record, areas) in needed() {
            let failed = |why: String| Error::failed(format!("disk {}", record.name), why);
            let disk = disks
                .get(record.id)
                .ok_or_else(|| failed("is not open, so it cannot be flushed".into()))?;
            let marks = members.marks(record.id);
            let flushed = flush_areas(&disk, &marks, areas, self.size);
            flushed.map_err(|why| failed(format!("flush: {why}")).hint(way_out(record.name.as_str())))?;
            refuse_lost(record.name.as_str(), &marks)?;
        }
        Ok(())
    }

    /// Records that they are hardened, once the disks are flushed. With nothing to mark too: what another process has marked may be visible and
    /// not yet durable.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn record(&self, store: &mut dyn Store, members: &MemberTable, who: Who) -> Result<()> {
        store.harden(&self.ids)?;
        members.set_hardened(self.generation);
        hit(who.points().1);
        Ok(())
    }
}

/// The committed changes, in their order.
fn committed(store: &mut dyn Store) -> Result<Vec<ChangeRecord>> {
    let mut committed = store.unfinished()?;
    committed.retain(|record| record.state == ChangeState::Committed);
    committed.sort_by_key(led_to);
    Ok(committed)
}

fn led_to(record: &ChangeRecord) -> Generation {
    record.change.difference.from.next()
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
fn concerns(record: &ChangeRecord, volume: VolumeId) -> bool {
    let edits = &record.change.difference.edits;
    edits.iter().any(|edit| edit.volume() == Some(volume))
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
    format!("the old places are kept; go back to them: vctl disk revert {disk}")
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
