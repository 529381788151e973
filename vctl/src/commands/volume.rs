//! `vctl volume`.

mod attach;
mod change;
mod hold;
mod list;
pub mod map;
mod moving;

use crate::context::Context;
use crate::exit::Done;
use apparatus::error::Result;
use clap::Subcommand;

/// `vctl volume …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a volume; it reads as zeroes
    Create(change::Create),
    /// All volumes
    List(list::List),
    /// One volume
    Show(list::Show),
    /// Where each segment lies
    Map(map::Map),
    /// Change the size: `+S` for so much more; what a smaller size cuts off is gone
    Resize(change::Resize),
    /// Give another name
    Rename(change::Rename),
    /// Change permissions, owner, or whether writes are refused
    Set(change::Set),
    /// Remove a volume and all that it holds
    Remove(change::Remove),
    /// Move to other disks, under running hosts
    Move(moving::Move),
    /// Make a loop device of a volume; prints its path
    Attach(attach::Attach),
    /// Take a volume's loop device away
    Detach(attach::Detach),
    /// Hold all requests for a while, or while a command runs
    Hold(hold::Hold),
}

impl Verb {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::Create(verb) => verb.run(context),
            Self::List(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Map(verb) => verb.run(context),
            Self::Resize(verb) => verb.run(context),
            Self::Rename(verb) => verb.run(context),
            Self::Set(verb) => verb.run(context),
            Self::Remove(verb) => verb.run(context),
            Self::Move(verb) => verb.run(context),
            Self::Attach(verb) => verb.run(context),
            Self::Detach(verb) => verb.run(context),
            Self::Hold(verb) => verb.run(context),
        }
    }
}
