//! Carries out planned changes.

use super::disk::not_open;
use super::plan::{Planned, Run};
use super::usage::Guard;
use crate::blockdev::Pending;
use crate::controller::Controller;
use crate::controller::space;
use crate::model::change::NewChange;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::{Area, DiskRecord, Edit};
use crate::model::units::{DiskId, DiskOffset, ExtentSize, Generation};
use crate::protocol::controller::Outcome;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Bytes zeroed in one operation.
const PART: u64 = 256 << 20;
/// How long one such operation may take; in the worst case zeroes are written.
const PATIENCE: Duration = Duration::from_secs(30);

/// The result of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The generation of the table after the change.
    pub generation: Generation,
    /// Host requests that were held.
    pub parked: u64,
    /// The longest that one of them waited, in microseconds.
    pub longest_us: u64,
}

/// Prepares the change, zeroes the planned runs, which it then owns, and changes the table through every apparatus. The change is persisted when this
/// returns.
///
/// # Errors
/// Fails when a disk cannot be zeroed, or the change was given up; nothing has changed then.
pub fn send(controller: &mut Controller, title: &str, planned: &Planned) -> Result<Sent> {
    send_with(controller, title, planned, &mut || Ok(()))
}

/// Carries out a change as [`send`] does, with work under the hold.
///
/// # Errors
/// Returns the errors of [`send`] and of the work.
pub fn send_with(
    controller: &mut Controller,
    title: &str,
    planned: &Planned,
    work: &mut dyn FnMut() -> Result<(), String>,
) -> Result<Sent> {
    let mut guard = match &planned.vacate {
        Some(vacate) => Some(Guard::begin(controller, vacate)?),
        None => None,
    };
    if !planned.zero.is_empty() {
        let new: Vec<Area> = planned.delta.edits.iter().flat_map(mapped).collect();
        controller.store().give_away(&new)?;
    }
    let mut unzeroed = Unzeroed::of(planned, controller.store().header()?.extent_size);
    let change = NewChange {
        title: title.to_owned(),
        job: None,
        delta: planned.delta.clone(),
        spans: planned.spans.clone(),
        mode: planned.mode,
    };
    let mut claimed = |controller: &mut Controller, part: &NewChange| {
        unzeroed
            .take_claimed(&part.delta.edits)
            .into_iter()
            .try_for_each(|run| {
                let opened = controller.open_disks([run.disk]);
                let zeroed = opened.and_then(|()| zero(controller, run));
                zeroed.map_err(|error| with_room_elsewhere(controller, run.disk, error))
            })
    };
    let outcome = controller.run_whole_claimed(change, &mut claimed, &mut || match &mut guard {
        Some(guard) => guard.keep_closed().and_then(|()| work()),
        None => work(),
    });
    let outcome = match guard {
        Some(guard) => guard.explain(controller, outcome)?,
        None => outcome?,
    };
    match outcome {
        Outcome::Finished {
            generation,
            parked,
            longest_us,
            ..
        } => {
            space::watch(controller.store());
            Ok(Sent {
                generation,
                parked,
                longest_us,
            })
        }
        other => Err(Error::new(
            ErrorKind::TimedOut,
            title,
            format!("the change was not carried out: {other:?}"),
        )),
    }
}

/// Returns the areas that an edit maps.
fn mapped(edit: &Edit) -> impl Iterator<Item = Area> + '_ {
    let segments = match edit {
        Edit::Map { segments, .. } => &segments[..],
        _ => &[],
    };
    segments.iter().map(|segment| segment.placement)
}

/// The planned runs that are not zeroed yet. Nothing is written before the store has it as owned: a run of new space waits for the part of the change that
/// maps it, and the others, which lie in a volume's own extents, are written with the first part.
struct Unzeroed {
    runs: Vec<Run>,
    /// Where the areas begin that the whole change maps.
    new: BTreeSet<(DiskId, DiskOffset)>,
    size: ExtentSize,
}

impl Unzeroed {
    fn of(planned: &Planned, size: ExtentSize) -> Self {
        Self {
            runs: planned.zero.clone(),
            new: starts(&planned.delta.edits, size),
            size,
        }
    }

    /// Takes the runs that a part with these edits, which is prepared, allows to be zeroed.
    fn take_claimed(&mut self, edits: &[Edit]) -> Vec<Run> {
        let claimed = starts(edits, self.size);
        let is_owned = |run: &Run| {
            let start = (run.disk, run.at);
            claimed.contains(&start) || !self.new.contains(&start)
        };
        let (now, later) = std::mem::take(&mut self.runs).into_iter().partition(is_owned);
        self.runs = later;
        now
    }
}

/// Returns where the areas begin that these edits map.
fn starts(edits: &[Edit], size: ExtentSize) -> BTreeSet<(DiskId, DiskOffset)> {
    let start = |area: Area| Some((area.disk, size.disk_offset(area.start)?));
    edits.iter().flat_map(mapped).filter_map(start).collect()
}

/// Adds to the failure of preparing new space on a disk that another disk may be used.
fn with_room_elsewhere(controller: &mut Controller, id: DiskId, error: Error) -> Error {
    let disks = controller.store().disks().unwrap_or_default();
    let Some(disk) = disks.iter().find(|disk| disk.id == id) else {
        return error;
    };
    let way = format!(
        "name another disk (--on), or keep new space off this one: vctl disk set {} --no-allocate",
        disk.name
    );
    let hint = match error.way_out() {
        Some(hint) => format!("{way}; {hint}"),
        None => way,
    };
    error.hint(hint)
}

/// Zeroes space that no host uses yet. A disk that hangs is marked before this stops waiting for it, and one with a mark is refused.
fn zero(controller: &mut Controller, run: Run) -> Result<()> {
    let open = controller.disks().get(run.disk);
    let disk = open.ok_or_else(|| not_open(controller, run.disk))?;
    let disks = controller.store().disks()?;
    let record = disks.iter().find(|record| record.id == run.disk);
    let record = record.ok_or_else(|| not_open(controller, run.disk))?;
    let mut done = 0;
    while done < run.len {
        let part = (run.len - done).min(PART);
        let (at, zeroed) = (DiskOffset(run.at.0 + done), disk.clone());
        let what = format!("disk {}: zeroing new space", disk.name());
        let failed = what.clone();
        write_within(controller, PATIENCE, &what, record, move || {
            let ended = zeroed.zero(at, part, true);
            ended.map_err(|error| Error::because(failed, error))
        })?;
        done += part;
    }
    Ok(())
}

/// Writes to a disk on a helper thread, and waits for it no longer than `patience`. A disk that hangs is marked before this
/// stops waiting, and one with a mark is refused: so a late write cannot overwrite anything that was written after it.
///
/// # Errors
/// Returns the error of the operation; fails with `TimedOut` when the disk does not answer, or has not ended an earlier write that was
/// given up.
pub(super) fn write_within<T: Send + 'static>(
    controller: &Controller,
    patience: Duration,
    what: &str,
    record: &DiskRecord,
    operation: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    controller.cluster().refuse_left_write(record)?;
    let mut writing = Pending::begin_asking(what.to_owned(), &record.path, operation);
    let ended = writing.wait(Instant::now() + patience, patience);
    if matches!(&ended, Err(why) if why.kind() == ErrorKind::TimedOut) {
        writing.keep(controller.cluster().mark_left_write(record.id)?);
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::records::{Delta, Segment};
    use crate::model::units::{DiskExtent, VolumeExtent, VolumeId};

    fn run(disk: u32, at: u64) -> Run {
        Run {
            disk: DiskId(disk),
            at: DiskOffset(at),
            len: 7,
        }
    }

    fn map(placements: &[(u32, u64)]) -> Edit {
        let segment = |&(disk, start): &(u32, u64)| Segment {
            start: VolumeExtent(0),
            placement: Area {
                disk: DiskId(disk),
                start: DiskExtent(start),
                len: 1,
            },
        };
        Edit::Map {
            volume: VolumeId(1),
            segments: placements.iter().map(segment).collect(),
        }
    }

    #[test]
    fn new_space_is_zeroed_with_the_part_that_maps_it_and_a_volumes_own_with_the_first() {
        let size = ExtentSize::MIN;
        let unit = size.bytes();
        let (tail, first, second) = (run(3, 5), run(1, unit), run(1, 2 * unit));
        let planned = Planned {
            zero: vec![second, first, tail],
            ..Planned::only(Delta {
                from: Generation(0),
                edits: vec![map(&[(1, 1), (1, 2)])],
            })
        };
        let mut left = Unzeroed::of(&planned, size);
        assert_eq!(left.take_claimed(&[map(&[(1, 1)])]), [first, tail]);
        assert_eq!(left.take_claimed(&[map(&[(1, 1)])]), [], "once");
        assert_eq!(left.take_claimed(&[]), []);
        assert_eq!(left.take_claimed(&[map(&[(1, 2)])]), [second]);
    }
}
