//! `vctl disk`.

mod change;
mod clear;
mod evacuate;
mod label;
mod list;
mod revert;

use crate::context::Context;
use crate::exit::Done;
use apparatus::error::Result;
use clap::Subcommand;

/// `vctl disk …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Take a block device or an image file into the pool
    Add(change::Add),
    /// All disks
    List(list::List),
    /// One disk
    Show(list::Show),
    /// Change a disk's name, tags, path, reserve, or whether anything new is placed on it
    Set(change::Set),
    /// Use the size that the device or file has now
    Resize(change::Resize),
    /// Move everything on a disk elsewhere, under running hosts
    Evacuate(evacuate::Evacuate),
    /// Go back from a bad disk to the places that moves there have left and that are still kept
    Revert(revert::Revert),
    /// Write a disk's label again: one that is lost, or that of an older copy
    Label(label::Label),
    /// Forget what has failed on a disk: error counts, and that an image was shorter for a while
    Clear(clear::Clear),
    /// Take an empty disk out of the pool
    Remove(change::Remove),
}

impl Verb {
    /// Does it.
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
