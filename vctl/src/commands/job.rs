//! `vctl job`, and what moves and evacuations share with it.

mod act;
pub mod list;
mod start;

pub use list::{tone, word};
pub use start::{JobOptions, begin};

use crate::context::Context;
use crate::exit::Done;
use apparatus::model::error::Result;
use clap::Subcommand;

/// `vctl job …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// List all jobs
    List(list::List),
    /// Show one job: its progress, what it waits for, its copy progress table
    Show(list::Show),
    /// Wait for the end of a job; the exit status says how it ended
    Wait(act::Wait),
    /// Stop a job until it is resumed
    Pause(act::Pause),
    /// Continue a paused or abandoned job
    Resume(act::Resume),
    /// End a job where it is, or move back what it moved
    Cancel(act::Cancel),
    /// Change the limits of a job, while it runs
    Set(act::Set),
}

impl Verb {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::List(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Wait(verb) => verb.run(context),
            Self::Pause(verb) => verb.run(context),
            Self::Resume(verb) => verb.run(context),
            Self::Cancel(verb) => verb.run(context),
            Self::Set(verb) => verb.run(context),
        }
    }
}
