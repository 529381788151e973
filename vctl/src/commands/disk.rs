//! `vctl disk`.

mod change;
mod clear;
mod evacuate;
mod label;
pub mod list;
mod revert;

use crate::context::Context;
use crate::exit::Done;
use apparatus::model::error::Result;
use clap::Subcommand;

/// `vctl disk …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Add a block device or an image file to the pool
    Add(change::Add),
    /// List all disks
    List(list::List),
    /// Show one disk
    Show(list::Show),
    /// Change a disk's name, tags, path, reserve, or whether it takes new data
    Set(change::Set),
    /// Use the size that the device or file has now
    Resize(change::Resize),
    /// Move all data from a disk to others, while hosts use it
    Evacuate(evacuate::Evacuate),
    /// Map volumes back from a bad disk to the old placements that are still kept
    Revert(revert::Revert),
    /// Write a disk's label again: one that is lost, or that of an older copy
    Label(label::Label),
    /// Forget what has failed on a disk: error counts, and that an image was shorter for a while
    Clear(clear::Clear),
    /// Remove an empty disk from the pool
    Remove(change::Remove),
}

impl Verb {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::Add(verb) => verb.run(context),
            Self::List(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Set(verb) => verb.run(context),
            Self::Resize(verb) => verb.run(context),
            Self::Evacuate(verb) => verb.run(context),
            Self::Revert(verb) => verb.run(context),
            Self::Label(verb) => verb.run(context),
            Self::Clear(verb) => verb.run(context),
            Self::Remove(verb) => verb.run(context),
        }
    }
}
