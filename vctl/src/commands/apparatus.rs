//! `vctl apparatus`.

pub mod list;
mod run;
mod upgrade;

pub use list::word;
pub use run::warn;

use crate::context::Context;
use crate::exit::Done;
use ::apparatus::model::error::Result;
use clap::Subcommand;

/// `vctl apparatus …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Start an apparatus in the background; returns when it serves
    Start(run::Start),
    /// Ask an apparatus to unmount and end; returns when it has ended
    Stop(run::Stop),
    /// Replace the server of an apparatus that has a supervisor; its hosts wait for a moment
    Upgrade(upgrade::Upgrade),
    /// List all apparatuses
    List(list::List),
    /// Show one apparatus
    Show(list::Show),
    /// Fence an apparatus by force: kill it and wait for its end
    Fence(run::Fence),
    /// Wait for a fenced apparatus to rejoin, or say what delays it
    Rejoin(run::Rejoin),
}

impl Verb {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::Start(verb) => verb.run(context),
            Self::Stop(verb) => verb.run(context),
            Self::Upgrade(verb) => verb.run(context),
            Self::List(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Fence(verb) => verb.run(context),
            Self::Rejoin(verb) => verb.run(context),
        }
    }
}
