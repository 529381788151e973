//! The pool's space as the store has it: for the allocator, and for the operator when it runs out.

use crate::error::Result;
use crate::pool::alloc::{Space, free_runs};
use crate::pool::model::DiskRecord;
use crate::pool::options::{Capacity, Fullness, Thresholds};
use crate::store::{Owner, Severity, Store};

/// Whether what disks keep free may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// It stays free.
    Kept,
    /// It may be given like all else.
    Used,
}

/// Disks as the allocator sees them.
///
/// # Errors
/// The store's.
pub fn spaces(
    store: &mut dyn Store,
    disks: impl IntoIterator<Item = DiskRecord>,
    reserve: Reserve,
) -> Result<Vec<Space>> {
    disks
        .into_iter()
        .map(|disk| space(store, disk, reserve))
        .collect()
}

fn space(store: &mut dyn Store, disk: DiskRecord, reserve: Reserve) -> Result<Space> {
    let uses = store.uses(disk.id)?;
    let owned = |mine: fn(&Owner) -> bool| {
        let owned = uses.iter().filter(|taken| mine(&taken.owner));
        owned.map(|taken| taken.area.len).sum()
    };
    Ok(Space {
        disk: disk.id,
        allocate: disk.allocate,
        free: free_runs(disk.id, disk.extents, uses.iter().map(|taken| taken.area)),
        reserve: match reserve {
            Reserve::Kept => disk.reserve,
            Reserve::Used => 0,
        },
        quarantined: owned(|owner| matches!(owner, Owner::Quarantine(_))),
        reserved: owned(|owner| matches!(owner, Owner::Job(_))),
        name: disk.name,
    })
}

/// What new volumes may be placed on, and how much of it is in use.
fn capacity(store: &mut dyn Store) -> Result<Capacity> {
    let mut all = Capacity::default();
    for disk in store.disks()?.into_iter().filter(|disk| disk.allocate) {
        let taken: u64 = store.uses(disk.id)?.iter().map(|taken| taken.area.len).sum();
        let free = disk.extents.saturating_sub(taken.saturating_add(1));
        all = all.and(Capacity::of(disk.extents, free, disk.reserve));
    }
    Ok(all)
}

/// An event when the pool has become nearly full, full, or has room again since somebody last looked. Reads all of the table: for
/// the end of what takes or gives space, not for each step of it.
pub(crate) fn watch(store: &mut dyn Store) {
    if let Err(error) = look(store) {
        log::warn!("how full the pool is could not be noted: {error}");
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
    let (severity, text) = in_words(now, percent, thresholds);
    store.log(severity, "pool", &text)
}

fn in_words(now: Fullness, percent: u8, thresholds: Thresholds) -> (Severity, String) {
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
