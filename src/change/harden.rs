//! Making committed changes survive power loss: flush the disks that they map, then harden their records.

use crate::change::failpoint::{Point, hit};
use crate::disk::Disks;
use crate::error::{Error, Result};
use crate::member::MemberTable;
use crate::pool::model::Edit;
use crate::store::{ChangeRecord, ChangeState, Store};
use crate::units::{ChangeId, DiskId, Generation};
use std::collections::BTreeSet;
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

/// Hardens every change that is committed now. Answers the disks that they map.
///
/// # Errors
/// A disk's that cannot be flushed, or the store's; nothing is hardened then.
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
    let mapped = committed.iter().flat_map(mapped_by).collect::<BTreeSet<_>>();
    let led_to = committed
        .iter()
        .map(|record| record.change.difference.from.next());
    let generation = led_to.fold(current, Generation::max);
    if !committed.is_empty() || members.hardened() < generation {
        flush(store, disks, members, &mapped)?;
        hit(flushed);
        // With nothing to mark too: what another process has marked may be visible and not yet durable.
        let ids: Vec<ChangeId> = committed.iter().map(|record| record.id).collect();
        store.harden(&ids)?;
        members.set_hardened(generation);
        hit(hardened);
    }
    Ok(mapped)
}

/// The disks that a change maps onto.
pub(crate) fn mapped_by(record: &ChangeRecord) -> Vec<DiskId> {
    let edits = record.change.difference.edits.iter();
    edits
        .filter_map(|edit| match edit {
            Edit::Map { segments, .. } => Some(segments),
            _ => None,
        })
        .flatten()
        .map(|segment| segment.home.disk)
        .collect()
}

fn flush(
    store: &mut dyn Store,
    disks: &Disks,
    members: &Arc<MemberTable>,
    mapped: &BTreeSet<DiskId>,
) -> Result<()> {
    for record in store.disks()?.iter().filter(|record| mapped.contains(&record.id)) {
        let failed = |why: String| Error::failed(format!("disk {}", record.name), why);
        let disk = disks
            .get(record.id)
            .ok_or_else(|| failed("is not open, so it cannot be flushed".into()))?;
        let marks = members.marks(record.id);
        // What the copier wrote is marked by nobody else: the flush has to take place.
        marks.written();
        marks
            .flush(|| disk.flush())
            .map_err(|why| failed(format!("flush: {why}")))?;
    }
    Ok(())
}
