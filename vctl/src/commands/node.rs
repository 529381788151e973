//! `vctl node`.

pub mod list;
pub mod options;
mod remove;

use crate::context::Context;
use crate::exit::Done;
use apparatus::model::error::Result;
use clap::Subcommand;

/// `vctl node …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// List all nodes
    List(list::List),
    /// Show one node
    Show(list::Show),
    /// Remove the record of a node: its certificate is not accepted any more
    Remove(remove::Remove),
}

impl Verb {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::List(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Remove(verb) => verb.run(context),
        }
    }
}
