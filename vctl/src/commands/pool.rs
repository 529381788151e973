//! `vctl pool`.

mod adopt;
pub mod archive;
mod check;
mod copy;
mod create;
mod describe;
mod destroy;
mod export;
mod import;
mod join;
pub mod list;
mod rescue;
mod set;
mod tls;

use crate::context::Context;
use crate::exit::Done;
use apparatus::model::error::Result;
use clap::Subcommand;

/// `vctl pool …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Create a pool in the directory that --pool names
    Create(create::Create),
    /// List the pools that are in use on this machine, and the one that --pool names
    List(list::List),
    /// Show the pool's figures
    Show(create::Show),
    /// Set the placement policy and the thresholds for a full pool
    Set(set::Set),
    /// Check the database, the disks and the apparatuses for problems
    Check(check::Check),
    /// Write a copy of the database to a file while the pool is in use, or list the copies that it has made by itself
    Backup(copy::Backup),
    /// Replace the database by a copy
    Restore(copy::Restore),
    /// Make a pool whose database is gone again, from its disks alone; or put the metadata of a pool into etcd
    Import(import::Import),
    /// Take a pool's metadata out of etcd: it is one of this machine alone then
    Export(export::Export),
    /// Make this machine a node of a pool whose metadata is in etcd
    Join(join::Join),
    /// Make this copy of a pool the owner of its disks
    Adopt(adopt::Adopt),
    /// Make a pool whose metadata is in etcd one of this machine alone
    Rescue(rescue::Rescue),
    /// Certificates for links between machines
    #[command(subcommand)]
    Tls(tls::Verb),
    /// Bring the pool to the state that a description names
    Apply(describe::Apply),
    /// Write a description of the pool
    Dump(describe::Dump),
    /// Remove the pool: its disks become free, and its volumes are lost
    Destroy(destroy::Destroy),
}

impl Verb {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::Create(verb) => verb.run(context),
            Self::List(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Set(verb) => verb.run(context),
            Self::Check(verb) => verb.run(context),
            Self::Backup(verb) => verb.run(context),
            Self::Restore(verb) => verb.run(context),
            Self::Import(verb) => verb.run(context),
            Self::Export(verb) => verb.run(context),
            Self::Join(verb) => verb.run(context),
            Self::Adopt(verb) => verb.run(context),
            Self::Rescue(verb) => verb.run(context),
            Self::Tls(verb) => verb.run(context),
            Self::Apply(verb) => verb.run(context),
            Self::Dump(verb) => verb.run(context),
            Self::Destroy(verb) => verb.run(context),
        }
    }
}
