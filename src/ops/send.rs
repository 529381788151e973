//! Sending what was planned.

use super::disk::not_open;
use super::plan::{Planned, Run};
use super::usage::Guard;
use crate::change::controller::Outcome;
use crate::change::driver::Controller;
use crate::change::space;
use crate::disk::Pending;
use crate::error::{Error, Kind, Result};
use crate::member::LeftWrite;
use crate::pool::model::DiskRecord;
use crate::store::NewChange;
use crate::units::{DiskOffset, Generation};
use std::time::{Duration, Instant};

/// Zeroed at once.
const PART: u64 = 256 << 20;
/// How long that may take; at worst zeroes are written.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The table's number now.
    pub generation: Generation,
    /// Host requests that were held.
    pub parked: u64,
    /// The longest that one of them waited, in microseconds.
    pub longest_us: u64,
}

/// Zeroes what has to be, then changes the table through every apparatus. Hardened when it returns.
///
/// # Errors
/// When a disk cannot be zeroed, or the change was given up; nothing has changed then.
pub fn send(controller: &mut Controller, title: &str, planned: &Planned) -> Result<Sent> {
    send_with(controller, title, planned, &mut || Ok(()))
}

/// As [`send`], with work to do under the hold.
///
/// # Errors
/// Those of [`send`], and what the work says.
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
    controller.open_disks(planned.zero.iter().map(|run| run.disk))?;
    planned.zero.iter().try_for_each(|run| zero(controller, *run))?;
    let change = NewChange {
        title: title.to_owned(),
        job: None,
        difference: planned.difference.clone(),
        spans: planned.spans.clone(),
        mode: planned.mode,
    };
    let outcome = controller.run_whole(change, &mut || match &mut guard {
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
            Kind::TimedOut,
            title,
            format!("not carried out: {other:?}"),
        )),
    }
}

/// The space has no owner yet: a disk that hangs is marked before this stops waiting for it, and one with a mark is refused.
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

/// Writes to a disk on a helper thread, and waits for it no longer than `patience`. A disk that hangs is marked before this stops waiting, and one with a
/// mark is refused: a write that comes late meets nothing that was written after it.
///
/// # Errors
/// The operation's; `TimedOut` when the disk does not answer, or has not ended a write that was given up.
pub(super) fn write_within<T: Send + 'static>(
    controller: &Controller,
    patience: Duration,
    what: &str,
    record: &DiskRecord,
    operation: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    LeftWrite::refuse(controller.pool(), record)?;
    let mut writing = Pending::begin_asking(what.to_owned(), &record.path, operation);
    let ended = writing.wait(Instant::now() + patience, patience);
    if matches!(&ended, Err(why) if why.kind() == Kind::TimedOut) {
        writing.keep(LeftWrite::mark(controller.pool(), record.id)?);
    }
    ended
}
