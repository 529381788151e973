//! Brings removed volumes back, while nothing else has been given their extents, or forgets them.

use super::plan::{self, Planned};
use crate::controller::Controller;
use crate::model::change::{Owner, UsedArea};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::records::{Area, VolumeRecord};
use crate::model::removed::RemovedVolume;
use crate::model::size::HumanSize;
use crate::model::units::{ByteCount, ChangeId, ExtentSize, VolumeId};
use crate::store::Store;
use serde::Serialize;

/// A removed volume, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemovedView {
    /// What the store remembers.
    #[serde(flatten)]
    pub removed: RemovedVolume,
    /// Bytes of it that have been given to others; it can be had back if there are none.
    pub lost: ByteCount,
    /// The names of the disks on which the rest lies.
    pub disks: Vec<String>,
}

/// Returns the removed volumes that are remembered, the oldest first.
///
/// # Errors
/// Returns the errors of the store.
pub fn list(store: &mut dyn Store) -> Result<Vec<RemovedView>> {
    let (unit, disks) = (store.header()?.extent_size, store.disks()?);
    let view = |removed: RemovedVolume| {
        let on = |disk| removed.left.iter().any(|segment| segment.placement.disk == disk);
        let named = disks.iter().filter(|disk| on(disk.id));
        RemovedView {
            disks: named.map(|disk| disk.name.to_string()).collect(),
            lost: lost(&removed, unit),
            removed,
        }
    };
    Ok(store.removed()?.into_iter().map(view).collect())
}

fn lost(removed: &RemovedVolume, unit: ExtentSize) -> ByteCount {
    let bytes = removed.lost(unit).saturating_mul(unit.bytes());
    ByteCount(bytes.min(removed.volume.size.0))
}

/// Returns the removed volume of this name or number.
///
/// # Errors
/// Fails with `NotFound`; fails when several had this name.
pub fn find(all: Vec<RemovedVolume>, which: &str) -> Result<RemovedVolume> {
    let has_name = |removed: &RemovedVolume| removed.volume.name.as_str() == which;
    let number = which.parse().ok().map(VolumeId);
    let is_it = |removed: &RemovedVolume| Some(removed.volume.id) == number;
    let by_name = all.iter().any(has_name);
    let mut found: Vec<RemovedVolume> = all
        .into_iter()
        .filter(|removed| {
            if by_name {
                has_name(removed)
            } else {
                is_it(removed)
            }
        })
        .collect();
    match (found.pop(), &found[..]) {
        (Some(only), []) => Ok(only),
        (Some(last), others) => {
            let numbers = others
                .iter()
                .chain([&last])
                .map(|each| each.volume.id.to_string());
            let numbers: Vec<String> = numbers.collect();
            let why = format!(
                "several removed volumes had this name: number {}",
                numbers.join(" and ")
            );
            let hint = "name one by its number: vctl volume list --removed";
            Err(Error::failed(format!("volume {which}"), why).hint(hint))
        }
        (None, _) => Err(Error::new(
            ErrorKind::NotFound,
            format!("volume {which}"),
            "is no removed volume that is remembered",
        )
        .hint("see them: vctl volume list --removed")),
    }
}

/// Plans to bring a removed volume back, under another name if one is given.
///
/// # Errors
/// Returns the errors of [`find`]; fails when others have been given a part of it, an apparatus may still use it, or the name is taken.
pub fn plan(store: &mut dyn Store, which: &str, new_name: Option<&Name>) -> Result<Planned> {
    let removed = find(store.removed()?, which)?;
    let snapshot = store.snapshot()?;
    let unit = snapshot.header.extent_size;
    let (id, name) = (removed.volume.id, &removed.volume.name);
    let what = format!("volume {name} (number {id})");
    let lost = lost(&removed, unit);
    if lost.0 > 0 {
        let (lost, size) = (HumanSize(lost), HumanSize(removed.volume.size));
        let why = format!(
            "cannot be had back: {lost} of its {size} have been given to others since it was removed"
        );
        return Err(
            Error::failed(what, why).hint(format!("give up the rest: vctl volume undelete {id} --forget"))
        );
    }
    if let Some(area) = in_use(store, &removed)? {
        let why = format!(
            "an apparatus may still use its extents on disk number {}",
            area.disk
        );
        return Err(Error::new(ErrorKind::Busy, what, why)
            .hint("try again when no apparatus is fenced or stopped: vctl apparatus list"));
    }
    let record = VolumeRecord {
        name: new_name.unwrap_or(name).clone(),
        ..removed.volume.clone()
    };
    plan::bring_back(&snapshot, record, removed.left).map_err(|error| match new_name {
        None => error.hint(format!("choose another name: vctl volume undelete {id} --as NEW")),
        Some(_) => error,
    })
}

/// Returns an area of it that is not free yet.
fn in_use(store: &mut dyn Store, removed: &RemovedVolume) -> Result<Option<Area>> {
    for segment in &removed.left {
        let area = segment.placement;
        let is_its = |used: &UsedArea| {
            used.area.overlaps(area) && matches!(used.owner, Owner::Quarantine(by) if by == removed.change)
        };
        if store.uses(area.disk)?.iter().any(is_its) {
            return Ok(Some(area));
        }
    }
    Ok(None)
}

/// Forgets a removed volume: its space is discarded and used like any other.
///
/// # Errors
/// Returns the errors of [`find`] and of the store.
pub fn forget(controller: &mut Controller, which: &str) -> Result<RemovedVolume> {
    let removed = find(controller.store().removed()?, which)?;
    forget_change(controller, removed.change)?;
    Ok(removed)
}

fn forget_change(controller: &mut Controller, change: ChangeId) -> Result<()> {
    controller.store().forget_removed(&[change])?;
    controller.free()
}

/// Forgets the volume with this number if it is a removed one: it was removed for good.
///
/// # Errors
/// Returns the errors of the store.
pub fn forget_number(controller: &mut Controller, id: VolumeId) -> Result<()> {
    let removed = controller.store().removed()?;
    match removed.iter().find(|removed| removed.volume.id == id) {
        Some(removed) => forget_change(controller, removed.change),
        None => Ok(()),
    }
}
