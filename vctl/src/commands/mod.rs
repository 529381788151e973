//! The commands, one file per noun.

pub mod apparatus;
pub mod completions;
pub mod console;
pub mod demo;
pub mod disk;
pub mod events;
pub mod hidden;
pub mod history;
pub mod job;
pub mod man;
pub mod metrics;
pub mod pool;
pub mod status;
pub mod told;
pub mod volume;

use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::{count, duration};
use ::apparatus::change::driver::Controller;
use ::apparatus::error::Result;
use ::apparatus::ops::plan::Planned;
use ::apparatus::ops::send::{self, Sent};
use ::apparatus::ops::usage;
use ::apparatus::pool::model::Difference;
use ::apparatus::pool::names::Name;
use ::apparatus::store::Store;
use ::apparatus::units::Generation;
use serde::Serialize;

/// What every changing verb says to scripts about its change.
#[derive(Serialize)]
pub struct Effect {
    changed: bool,
    generation: Generation,
    held_requests: u64,
    longest_hold_us: u64,
    fenced: Vec<Name>,
}

impl Effect {
    /// Nothing was to be done.
    pub fn none(generation: Generation) -> Self {
        Self {
            changed: false,
            generation,
            held_requests: 0,
            longest_hold_us: 0,
            fenced: Vec::new(),
        }
    }

    /// From what was sent.
    pub fn of(sent: Sent, controller: &Controller) -> Self {
        Self {
            changed: true,
            generation: sent.generation,
            held_requests: sent.parked,
            longest_hold_us: sent.longest_us,
            fenced: controller.fenced().to_vec(),
        }
    }

    /// Whether anything was sent.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// What it did to the hosts, for people.
    pub fn in_words(&self, done: &str, lasted_us: u64) -> String {
        let waited = waited_in_words(self.held_requests, self.longest_hold_us);
        format!("{done} for {}, {waited}", duration(lasted_us))
    }

    /// How the command ends.
    pub fn done(&self) -> Done {
        Done::WithFenced(self.fenced.clone())
    }
}

/// How many host requests waited, and how long the longest did where any waited.
pub fn waited_in_words(requests: u64, longest_us: u64) -> String {
    let requests = count(requests, "host request");
    match longest_us {
        0 => format!("{requests} waited"),
        longest => format!("{requests} waited, the longest {}", duration(longest)),
    }
}

/// Plans, and then sends or, with `--dry-run`, says what would be sent; `None` then. The plan is made under the arbitration, so that
/// nobody changes what it rests on; a dry run needs none. A plan of `None` means that all is so already.
pub fn change(
    context: &mut Context,
    changing: &Changing,
    title: &str,
    plan: impl FnOnce(&mut dyn Store) -> Result<Option<Planned>>,
) -> Result<Option<Effect>> {
    if changing.dry_run {
        let mut store = context.rehearsal()?;
        let from = store.header()?.generation;
        let planned = plan(&mut *store)?;
        if let Some(planned) = &planned {
            usage::check(&context.pool, &mut *store, planned)?;
        }
        let nothing = Difference {
            from,
            edits: Vec::new(),
        };
        context.would_send(planned.as_ref().map_or(&nothing, |planned| &planned.difference))?;
        return Ok(None);
    }
    let mut controller = context.controller(title, changing)?;
    let Some(planned) = plan(controller.store())? else {
        return Ok(Some(Effect::none(controller.store().header()?.generation)));
    };
    let sent = send::send(&mut controller, title, &planned)?;
    Ok(Some(Effect::of(sent, &controller)))
}
