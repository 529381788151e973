//! Moves and evacuations: from the words that people use, and what they come to before anything is sent.

use super::{job, select, volume};
use crate::change::jobs::{self, Request};
use crate::error::Result;
use crate::pool::alloc::Policy;
use crate::pool::model::Difference;
use crate::store::{Step, Store};
use crate::units::ByteCount;

/// What of a volume is to go where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The volume.
    pub volume: String,
    /// To these (`DISK`, `@TAG`), in order of preference.
    pub to: Vec<String>,
    /// Only what lies on this disk.
    pub from: Option<String>,
    /// Only this range, to the end where no end is given.
    pub range: Option<(ByteCount, Option<ByteCount>)>,
    /// Which disk is taken first; as the pool has it, if not said.
    pub policy: Option<Policy>,
}

/// A move as the planner takes it.
///
/// # Errors
/// `NotFound` for what there is not; when the range is not in the volume.
pub fn of_volume(store: &mut dyn Store, wish: &Wish) -> Result<Request> {
    let disks = store.disks()?;
    let volumes = store.volumes()?;
    let record = select::volume(&volumes, &wish.volume)?;
    let from = wish.from.as_deref().map(|name| select::disk(&disks, name));
    let span = wish.range.map(|range| volume::span_of(record, Some(range)));
    Ok(Request::Move {
        volume: record.id,
        range: span.transpose()?,
        from: from.transpose()?.map(|disk| disk.id),
        to: select::disks(&disks, &wish.to)?,
        policy: wish.policy,
    })
}

/// An evacuation as the planner takes it; `to` as in [`Wish::to`], wherever there is room if empty. `use_reserve`: what the
/// destinations keep free may be taken too.
///
/// # Errors
/// `NotFound` for what there is not.
pub fn of_disk(store: &mut dyn Store, disk: &str, to: &[String], use_reserve: bool) -> Result<Request> {
    let disks = store.disks()?;
    Ok(Request::Evacuate {
        disk: select::disk(&disks, disk)?.id,
        to: select::disks(&disks, to)?,
        use_reserve,
    })
}

/// What a job would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its copy progress table.
    pub steps: Vec<Step>,
    /// How much it moves.
    pub bytes: ByteCount,
    /// All of it as one difference.
    pub difference: Difference,
}

/// Plans a job and changes nothing.
///
/// # Errors
/// Those of [`jobs::plan`].
pub fn outline(store: &mut dyn Store, request: &Request) -> Result<Outline> {
    let header = store.header()?;
    let steps = jobs::plan(store, request)?;
    let (_, bytes) = job::progress(&steps, header.extent_size);
    let difference = job::difference(header.generation, &steps);
    Ok(Outline {
        steps,
        bytes,
        difference,
    })
}
