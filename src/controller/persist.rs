//! Makes committed changes survive power loss: flushes the disks that they map, then persists their records.
//!
//! # When a disk loses what was written
//!
//! A change that moves data is persisted once its new disk has confirmed that the data
//! is there; then the old place is given away. So that confirmation has to be true:
//!
//! - A disk whose flush failed, in any process, since the first of the changes that are not persisted was prepared, is not flushed again
//!   ([`FlushLedger::has_lost`]): the kernel reports a lost page once, and may have dropped it. Nothing that maps onto that disk is
//!   persisted, nor what was committed after it, because a later change cannot outlive an earlier one. The old places stay in quarantine,
//!   and a power loss leads back to them. A host's flush that rests on such a change is answered with EIO; one that does not is not
//!   ([`Batch::of_volume`]).
//! - A flush with an unknown result ([`FlushLedger::is_in_doubt`]: its process was killed, and this one has opened the disk since) is no
//!   failure, so the data of the changes is marked as written again, with the content that hosts see, and flushed anew. If the page cache
//!   has not dropped a lost page in that short time, nothing is lost; if it has, hosts have read the content of the disk since, and no
//!   later flush makes it worse. A block device drops its pages when its last opening is closed, so there the doubt counts as a failure
//!   until a process that had it open all the time flushes it.
//! - Data that a later change has moved off the disk again need not be on it ([`new_placements`]). That is the way out: to go back to the
//!   old places (`admin/revert.rs`), or, where the readable content of the disk is good, to move all off it; then all of it is persisted at
//!   once.

use crate::blockdev::{Disk, Disks};
use crate::cluster::{FlushLedger, FlushLedgers};
use crate::controller::metadata::bring_up;
use crate::failpoint::{Point, hit};
use crate::model::change::{ChangeRecord, ChangeState};
use crate::model::error::{Error, Result};
use crate::model::ranges::{minus, union};
use crate::model::records::{Area, DiskRecord, Edit};
use crate::model::units::{ChangeId, DiskId, ExtentSize, Generation, VolumeExtent, VolumeId};
use crate::store::{ChangeStore, Store, TableStore};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

/// Which side persists, for the failpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A controller.
    Controller,
    /// An apparatus, for a host's flush.
    Apparatus,
}

impl Who {
    pub(crate) fn points(self) -> (Point, Point, Point) {
        match self {
            Self::Controller => (
                Point::ControllerFlushed,
                Point::ControllerRecorded,
                Point::ControllerPersisted,
            ),
            Self::Apparatus => (
                Point::ApparatusFlushed,
                Point::ApparatusRecorded,
                Point::ApparatusPersisted,
            ),
        }
    }
}

/// Changes that are persisted together: all that are committed, up to the last of them.
pub(crate) struct Batch {
    ids: Vec<ChangeId>,
    /// The generation that is persisted then.
    generation: Generation,
    placements: BTreeMap<DiskId, Vec<Area>>,
    records: Vec<DiskRecord>,
    size: ExtentSize,
}

impl Batch {
    /// Flushes the disks and records the changes as persisted, unless that has been done.
    ///
    /// # Errors
    /// Fails when a disk cannot be flushed or has lost writes (see the module), and returns the errors of the store; nothing is persisted
    /// then.
    pub(crate) fn persist(
        &self,
        store: &mut dyn Store,
        disks: &Disks,
        ledgers: &dyn FlushLedgers,
        who: Who,
    ) -> Result<()> {
        if !self.ids.is_empty() || ledgers.persisted() < self.generation {
            self.flush_disks(disks, ledgers)?;
            hit(who.points().0);
            self.record(store, disks, ledgers, who)?;
        }
        Ok(())
    }

    /// Collects all changes that are committed now.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub(crate) fn of_all(store: &mut dyn Store) -> Result<Self> {
        // The order of the reads matters: a change that is committed in between is above this generation.
        let current = store.header()?.generation;
        let committed = committed(store)?;
        let generation = committed
            .iter()
            .map(resulting_generation)
            .fold(current, Generation::max);
        Self::of(store, &committed, generation)
    }

    /// Collects what has to be persisted so that the changes of a volume up to this generation are; `None` when they are. Changes
    /// that come before one of them belong to it, because a later change cannot outlive an earlier one. Changes that come after are
    /// included only where that needs no other disk, so that no flush waits for a disk that only another volume's later change needs.
    ///
    /// # Errors
    /// Fails when the store does not know this generation; returns the errors of the store.
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
        let needed =
            |record: &ChangeRecord| resulting_generation(record) <= generation && concerns(record, volume);
        let Some(last) = committed.iter().rposition(needed) else {
            return Ok(None);
        };
        let whole = Self::of(
            store,
            &committed,
            committed
                .iter()
                .map(resulting_generation)
                .fold(current, Generation::max),
        )?;
        let (part, _) = committed.split_at(last + 1);
        let least = Self::of(
            store,
            part,
            part.iter()
                .map(resulting_generation)
                .fold(Generation(0), Generation::max),
        )?;
        let adds_none = whole
            .placements
            .keys()
            .all(|disk| least.placements.contains_key(disk));
        Ok(Some(if adds_none { whole } else { least }))
    }

    fn of(store: &mut dyn TableStore, committed: &[ChangeRecord], generation: Generation) -> Result<Self> {
        Ok(Self {
            ids: committed.iter().map(|record| record.id).collect(),
            generation,
            placements: new_placements(committed),
            records: store.disks()?,
            size: store.header()?.extent_size,
        })
    }

    /// Returns the disks that have to be flushed.
    pub(crate) fn disks(&self) -> BTreeSet<DiskId> {
        self.placements.keys().copied().collect()
    }

    /// Flushes those disks.
    ///
    /// # Errors
    /// Returns the error of a disk that cannot be flushed or has lost writes.
    pub(crate) fn flush_disks(&self, disks: &Disks, ledgers: &dyn FlushLedgers) -> Result<()> {
        let needed = || {
            let records = self.records.iter();
            records.filter_map(|record| Some((record, self.placements.get(&record.id)?)))
        };
        // This comes before any flush, so that a disk that hangs does not keep another's loss from being reported.
        for (record, _) in needed() {
            refuse_lost(record.name.as_str(), &*ledgers.ledger(record.id))?;
        }
        for (record, areas) in needed() {
            let failed = |why: String| Error::failed(format!("disk {}", record.name), why);
            let disk = disks
                .get(record.id)
                .ok_or_else(|| failed("is not open, so it cannot be flushed".into()))?;
            let ledger = ledgers.ledger(record.id);
            let flushed = flush_areas(&disk, &*ledger, areas, self.size);
            flushed.map_err(|why| failed(format!("flush: {why}")).hint(way_out(record.name.as_str())))?;
            refuse_lost(record.name.as_str(), &*ledger)?;
        }
        Ok(())
    }

    /// Records that the changes are persisted, once the disks are flushed: in the store, then in the copies of the metadata. It is needed even with
    /// no change to mark: what another process has marked may be visible and not yet durable.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub(crate) fn record(
        &self,
        store: &mut dyn Store,
        disks: &Disks,
        ledgers: &dyn FlushLedgers,
        who: Who,
    ) -> Result<()> {
        store.persist(&self.ids)?;
        hit(who.points().1);
        bring_up(store, disks)?;
        ledgers.set_persisted(self.generation);
        hit(who.points().2);
        Ok(())
    }
}

/// Returns the committed changes, in their order.
fn committed(store: &mut dyn ChangeStore) -> Result<Vec<ChangeRecord>> {
    let mut committed = store.unfinished()?;
    committed.retain(|record| record.state == ChangeState::Committed);
    committed.sort_by_key(resulting_generation);
    Ok(committed)
}

fn resulting_generation(record: &ChangeRecord) -> Generation {
    record.change.delta.from.next()
}

/// Returns the placements that these changes, in their order, give to parts of volumes and that none
/// of them takes away again: this data has to be on the disks before the changes are persisted.
fn new_placements(records: &[ChangeRecord]) -> BTreeMap<DiskId, Vec<Area>> {
    let mut placements: BTreeMap<DiskId, Vec<Area>> = BTreeMap::new();
    // The ranges that later edits replace, by volume.
    let mut replaced: BTreeMap<VolumeId, Vec<Range<u64>>> = BTreeMap::new();
    let edits = records.iter().flat_map(|record| &record.change.delta.edits);
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
                        placements
                            .entry(segment.placement.disk)
                            .or_default()
                            .extend(kept.map(|kept| kept.placement));
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
    placements.retain(|_, areas| !areas.is_empty());
    placements
}

fn add(set: &mut Vec<Range<u64>>, run: Range<u64>) {
    *set = union(set, std::slice::from_ref(&run));
}

/// Returns whether the content that hosts see of a volume rests on this change.
fn concerns(record: &ChangeRecord, volume: VolumeId) -> bool {
    let edits = &record.change.delta.edits;
    edits.iter().any(|edit| edit.volume() == Some(volume))
}

/// Returns the disks with data that has an old placement elsewhere: those that unfinished changes map onto.
///
/// # Errors
/// Returns the errors of the store.
pub(crate) fn disks_at_risk(store: &mut dyn ChangeStore) -> Result<BTreeSet<DiskId>> {
    let unfinished = store.unfinished()?;
    let edits = unfinished.iter().flat_map(|record| &record.change.delta.edits);
    let segments = edits.filter_map(|edit| match edit {
        Edit::Map { segments, .. } => Some(segments),
        _ => None,
    });
    Ok(segments.flatten().map(|segment| segment.placement.disk).collect())
}

/// Refuses a disk that has lost writes which may have their old placement elsewhere.
///
/// # Errors
/// Fails with the disk's name and the way out.
pub(crate) fn refuse_lost(disk: &str, ledger: &dyn FlushLedger) -> Result<()> {
    if !ledger.has_lost() {
        return Ok(());
    }
    let why = "has failed to write data, so what was moved there may not be on it";
    Err(Error::failed(format!("disk {disk}"), why).hint(way_out(disk)))
}

fn way_out(disk: &str) -> String {
    format!("the old places are kept; go back to them: vctl disk revert {disk}")
}

fn flush_areas(disk: &Disk, ledger: &dyn FlushLedger, areas: &[Area], size: ExtentSize) -> io::Result<()> {
    // A write past the page cache has returned its own error, and leaves nothing that the kernel could still fail to write.
    if disk.is_in_doubt(ledger)? && !disk.is_direct() {
        if disk.is_device() {
            let why = "a process was killed while it flushed the disk, and may have received an error";
            return Err(io::Error::other(why));
        }
        for area in areas {
            let outside = || io::Error::from(io::ErrorKind::InvalidInput);
            let at = size.disk_offset(area.start).ok_or_else(outside)?;
            disk.rewrite(at, area.len.saturating_mul(size.bytes()))?;
        }
    }
    // The copier does not mark what it wrote, so this does.
    ledger.written();
    disk.flush_here(ledger)
}

#[cfg(test)]
mod tests;
