//! `vctl pool`.

mod adopt;
mod check;
mod copy;
mod create;
mod describe;
mod set;

use crate::context::Context;
use crate::exit::Done;
use apparatus::error::Result;
use clap::Subcommand;

/// `vctl pool …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a pool in the directory that --pool names
    Create(create::Create),
    /// The pool's figures
    Show(create::Show),
    /// Choose where new space is taken first, and when the pool counts as full
    Set(set::Set),
    /// Look for what is wrong with the database, the disks and the apparatuses
    Check(check::Check),
    /// Write a copy of the database to a file, while all goes on
    Backup(copy::Backup),
    /// Put a copy of the database in the place of the present one
    Restore(copy::Restore),
    /// Make this copy of a pool the owner of its disks
    Adopt(adopt::Adopt),
    /// Make the pool what a description says
    Apply(describe::Apply),
    /// Write a description of the pool
    Dump(describe::Dump),
}

impl Verb {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::Create(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Set(verb) => verb.run(context),
            Self::Check(verb) => verb.run(context),
            Self::Backup(verb) => verb.run(context),
            Self::Restore(verb) => verb.run(context),
            Self::Adopt(verb) => verb.run(context),
            Self::Apply(verb) => verb.run(context),
            Self::Dump(verb) => verb.run(context),
        }
    }
}
