//! `vctl volume`.

mod attach;
mod change;
mod hold;
pub mod list;
pub mod map;
mod moving;
mod undelete;

use crate::context::Context;
use crate::exit::Done;
use apparatus::model::error::Result;
use clap::Subcommand;

/// `vctl volume …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Create a volume; it reads as zeroes
    Create(change::Create),
    /// List all volumes
    List(list::List),
    /// Show one volume
    Show(list::Show),
    /// Show the placement of each segment
    Map(map::Map),
    /// Change the size: `+S` grows by S; data beyond a smaller size is lost
    Resize(change::Resize),
    /// Change the name
    Rename(change::Rename),
    /// Change permissions, owner, or whether writes are refused
    Set(change::Set),
    /// Remove a volume and its data
    Remove(change::Remove),
    /// Bring a removed volume back, with its data
    Undelete(undelete::Undelete),
    /// Move to other disks while hosts use it
    Move(moving::Move),
    /// Create a loop device on a volume; prints its path
    Attach(attach::Attach),
    /// Remove a volume's loop device
    Detach(attach::Detach),
    /// Hold all requests for a while, or while a command runs
    Hold(hold::Hold),
}

impl Verb {
    /// Runs the command.
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
            Self::Undelete(verb) => verb.run(context),
            Self::Move(verb) => verb.run(context),
            Self::Attach(verb) => verb.run(context),
            Self::Detach(verb) => verb.run(context),
            Self::Hold(verb) => verb.run(context),
        }
    }
}
