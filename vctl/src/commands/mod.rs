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
pub mod node;
pub mod pool;
pub mod report;
pub mod status;
pub mod volume;

use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::{count, duration};
use ::apparatus::admin::plan::Planned;
use ::apparatus::admin::send::{self, Sent};
use ::apparatus::admin::usage;
use ::apparatus::controller::Controller;
use ::apparatus::model::error::Result;
use ::apparatus::model::names::Name;
use ::apparatus::model::records::Delta;
use ::apparatus::model::units::Generation;
use ::apparatus::store::Store;
use serde::Serialize;

/// Returns the names of the columns of a verb's table; none for a verb without table.
pub fn columns(verb: &[&str]) -> Vec<&'static str> {
    match verb {
        ["volume", "list"] => volume::list::columns(),
        ["volume", "map"] => volume::map::columns(),
        ["disk", "list"] => disk::list::columns(),
        ["apparatus", "list"] => apparatus::list::columns(),
        ["node", "list"] => node::list::columns(),
        ["job", "list"] => job::list::columns(),
        ["job", "show"] => job::list::step_columns(),
        ["pool", "backup", "list"] => pool::archive::columns(),
        ["pool", "list"] => pool::list::columns(),
        ["events"] => events::columns(),
        ["history"] => history::columns(),
        _ => Vec::new(),
    }
}

/// The effect of a change, as every changing verb reports it in JSON.
#[derive(Serialize)]
pub struct Effect {
    changed: bool,
    generation: Generation,
    held_requests: u64,
    longest_hold_us: u64,
    fenced: Vec<Name>,
}

impl Effect {
    /// Returns the effect of a change that was not necessary.
    pub fn none(generation: Generation) -> Self {
        Self {
            changed: false,
            generation,
            held_requests: 0,
            longest_hold_us: 0,
            fenced: Vec::new(),
        }
    }

    /// Returns the effect of a change that was sent.
    pub fn of(sent: Sent, controller: &Controller) -> Self {
        Self {
            changed: true,
            generation: sent.generation,
            held_requests: sent.parked,
            longest_hold_us: sent.longest_us,
            fenced: controller.fenced().to_vec(),
        }
    }

    /// Returns whether anything was sent.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// Describes the effect on hosts.
    pub fn in_words(&self, done: &str, lasted_us: u64) -> String {
        let waited = waited_in_words(self.held_requests, self.longest_hold_us);
        format!("{done} for {}, {waited}", duration(lasted_us))
    }

    /// Returns how the command ends.
    pub fn done(&self) -> Done {
        Done::WithFenced(self.fenced.clone())
    }
}

/// Describes how many requests of hosts waited, and the longest wait if there was one.
pub fn waited_in_words(requests: u64, longest_us: u64) -> String {
    let requests = count(requests, "host request");
    match longest_us {
        0 => format!("{requests} waited"),
        longest => format!("{requests} waited, the longest {}", duration(longest)),
    }
}

/// Plans, and then sends the change or, with `--dry-run`, prints it and returns `None`. The plan is made under the controller lock, so that
/// its assumptions stay true; a dry run takes no lock. A plan of `None` means that nothing has to change.
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
        let nothing = Delta {
            from,
            edits: Vec::new(),
        };
        context.would_send(planned.as_ref().map_or(&nothing, |planned| &planned.delta))?;
        return Ok(None);
    }
    let mut controller = context.controller(title, changing)?;
    let Some(planned) = plan(controller.store())? else {
        return Ok(Some(Effect::none(controller.store().header()?.generation)));
    };
    let sent = send::send(&mut controller, title, &planned)?;
    Ok(Some(Effect::of(sent, &controller)))
}
