//! `vctl apparatus`.

mod list;
mod run;

pub use list::word;

use crate::context::Context;
use crate::exit::Done;
use ::apparatus::error::Result;
use clap::Subcommand;

/// `vctl apparatus …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Start an apparatus in the background; returns when it serves
    Start(run::Start),
    /// Have an apparatus unmount and end; returns when it has
    Stop(run::Stop),
    /// All apparatuses
    List(list::List),
    /// One apparatus
    Show(list::Show),
    /// Put an apparatus out of the control range by force: kill it and wait for its end
    Fence(run::Fence),
    /// Wait for a fenced apparatus to come back, or say what keeps it
    Rejoin(run::Rejoin),
}

impl Verb {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::Start(verb) => verb.run(context),
            Self::Stop(verb) => verb.run(context),
            Self::List(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Fence(verb) => verb.run(context),
            Self::Rejoin(verb) => verb.run(context),
        }
    }
}
