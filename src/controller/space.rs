//! The pool's space according to the store: for the allocator, and for the operator when it runs out.

use super::Controller;
use crate::model::alloc::{Fault, Faults, Space, free_runs};
use crate::model::change::Owner;
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::model::options::{Capacity, Fullness, Thresholds};
use crate::model::records::{Area, DiskRecord};
use crate::model::removed::RemovedVolume;
use crate::store::{Store, TableStore};

/// Whether the reserves of disks may be allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// The reserves stay free.
    Kept,
    /// The reserves may be allocated like all other space.
    Used,
}

/// Returns the space of each disk, for the allocator, which leaves disks with `faults` out.
///
/// # Errors
/// Returns the errors of the store.
pub fn spaces(
    store: &mut dyn Store,
    disks: impl IntoIterator<Item = DiskRecord>,
    reserve: Reserve,
    faults: &Faults,
) -> Result<Vec<Space>> {
    let kept = kept(store)?;
    disks
        .into_iter()
        .map(|disk| {
            let own = |areas: &Vec<Area>| {
                areas
                    .iter()
                    .filter(|area| area.disk == disk.id)
                    .copied()
                    .collect()
            };
            let kept = kept.iter().map(own).collect();
            Ok(Space {
                kept,
                ..space(store, disk.clone(), reserve, faults)?
            })
        })
        .collect()
}

/// Returns what is left of each removed volume, in the order in which it is given to others: first those that cannot be had back whole,
/// then the oldest.
///
/// # Errors
/// Returns the errors of the store.
pub(super) fn kept(store: &mut dyn Store) -> Result<Vec<Vec<Area>>> {
    let unit = store.header()?.extent_size;
    let mut removed = store.removed()?;
    removed.sort_by_key(|removed| removed.lost(unit) == 0);
    let areas = |removed: RemovedVolume| removed.left.iter().map(|segment| segment.placement).collect();
    Ok(removed.into_iter().map(areas).collect())
}

impl Controller {
    /// Returns the disks that this controller has open for reading only. One that is not open yet may be slow, and is waited for when it is needed.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn faults(&mut self) -> Result<Faults> {
        let disks = self.store.disks()?.into_iter();
        let read_only = disks.filter(|disk| self.disks.get(disk.id).is_some_and(|open| open.is_read_only()));
        let fault = || Fault::Unusable {
            why: "has turned read-only".into(),
            way_out: None,
        };
        Ok(read_only.map(|disk| (disk.id, fault())).collect())
    }
}

fn space(store: &mut dyn TableStore, disk: DiskRecord, reserve: Reserve, faults: &Faults) -> Result<Space> {
    let uses = store.uses(disk.id)?;
    let owned = |mine: fn(&Owner) -> bool| {
        let owned = uses.iter().filter(|taken| mine(&taken.owner));
        owned.map(|taken| taken.area.len).sum()
    };
    Ok(Space {
        disk: disk.id,
        allocate: disk.allocate,
        fault: faults.get(&disk.id).cloned(),
        free: free_runs(disk.id, disk.extents, uses.iter().map(|taken| taken.area)),
        reserve: match reserve {
            Reserve::Kept => disk.reserve,
            Reserve::Used => 0,
        },
        quarantined: owned(|owner| matches!(owner, Owner::Quarantine(_))),
        reserved: owned(|owner| matches!(owner, Owner::Job(_))),
        kept: Vec::new(),
        name: disk.name,
    })
}

/// Returns the capacity for new volumes, and how much of it is in use.
fn capacity(store: &mut dyn TableStore) -> Result<Capacity> {
    let mut all = Capacity::default();
    for disk in store.disks()?.into_iter().filter(|disk| disk.allocate) {
        let taken: u64 = store.uses(disk.id)?.iter().map(|taken| taken.area.len).sum();
        let free = disk.extents.saturating_sub(taken.saturating_add(1));
        all = all.and(Capacity::of(disk.extents, free, disk.reserve));
    }
    Ok(all)
}

/// Logs an event when the pool has become nearly full or full, or has room again, since the last call. This reads
/// all of the table, so it is for the end of an operation that takes or frees space, not for each step of it.
pub(crate) fn watch(store: &mut dyn Store) {
    if let Err(error) = look(store) {
        log::warn!("the fullness of the pool could not be recorded: {error}");
    }
}

fn look(store: &mut dyn Store) -> Result<()> {
    let Some(percent) = capacity(store)?.percent() else {
        return Ok(());
    };
    let thresholds = store.options()?.thresholds;
    let was = store.fullness()?;
    let now = was.after(percent, thresholds);
    if now == was {
        return Ok(());
    }
    store.set_fullness(now)?;
    let (severity, text) = describe(now, percent, thresholds);
    store.log(severity, "pool", &text)
}

fn describe(now: Fullness, percent: u8, thresholds: Thresholds) -> (Severity, String) {
    let used = format!("{percent} % of the space for new volumes is in use");
    match now {
        Fullness::Room => (Severity::Info, format!("has room again: {used}")),
        Fullness::Nearfull => (
            Severity::Warning,
            format!(
                "is nearly full: {used}, and the threshold is {} %",
                thresholds.nearfull()
            ),
        ),
        Fullness::Full => (
            Severity::Error,
            format!("is full: {used}, and the threshold is {} %", thresholds.full()),
        ),
    }
}
