//! `vctl job`, and what moves and evacuations have in common with it.

mod act;
mod list;
mod start;

pub use list::{tone, word};
pub use start::{JobOptions, begin};

use crate::context::Context;
use crate::exit::Done;
use apparatus::error::Result;
use clap::Subcommand;

/// `vctl job …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// All jobs
    List(list::List),
    /// One job: how far it is, what it waits for, its copy progress table
    Show(list::Show),
    /// Wait for a job's end; the exit status says how it ended
    Wait(act::Wait),
    /// Stop a job until it is resumed
    Pause(act::Pause),
    /// Let a paused or abandoned job go on
    Resume(act::Resume),
    /// End a job where it stands, or have it move back what it moved
    Cancel(act::Cancel),
    /// Change what limits a job, while it runs
    Set(act::Set),
}

impl Verb {
    /// Does it.
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
