//! Sending what was planned.

use super::disk::not_open;
use super::plan::{Planned, Run};
use super::usage::Guard;
use crate::change::controller::Outcome;
use crate::change::driver::Controller;
use crate::change::space;
use crate::error::{Error, Kind, Result};
use crate::store::NewChange;
use crate::units::Generation;

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

fn zero(controller: &mut Controller, run: Run) -> Result<()> {
    let open = controller.disks().get(run.disk);
    let disk = open.ok_or_else(|| not_open(controller, run.disk))?;
    disk.zero(run.at, run.len, true)
        .map_err(|error| Error::because(format!("disk {}: zeroing new space", disk.name()), error))
}
