//! `vctl pool tls`.

use crate::arguments;
use crate::context::Context;
use crate::exit::Done;
use crate::output::note;
use apparatus::admin;
use apparatus::admin::certificates::{self, Certificates, DAYS};
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;

/// `vctl pool tls …`
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make certificates for nodes, and an authority that signs them
    Init(Init),
}

impl Verb {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match self {
            Self::Init(verb) => verb.run(context),
        }
    }
}

/// `vctl pool tls init`
#[derive(Args, Debug)]
pub struct Init {
    /// The directory of the authority; each node gets a directory in it
    dir: PathBuf,
    /// A node that gets a certificate
    #[arg(long = "name", value_name = "NODE", value_parser = arguments::node)]
    names: Vec<Name>,
    /// Days for which the certificates of nodes are valid; the authority is valid for 7300
    #[arg(long, value_name = "N", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=7300))]
    days: u32,
    /// Say what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
}

impl Init {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Report {
            certificates: Certificates,
            dry_run: bool,
        }
        let dir = admin::place::absolute(&self.dir)?;
        let certificates = if self.dry_run {
            certificates::plan(&dir, &self.names, self.days)?
        } else {
            certificates::make(&dir, &self.names, self.days)?
        };
        let body = Report {
            certificates,
            dry_run: self.dry_run,
        };
        let verb = if self.dry_run { "would make" } else { "made" };
        context.out.say(&body, |out| {
            let Certificates { authority, nodes } = &body.certificates;
            for (what, made) in
                std::iter::once(("authority", authority)).chain(nodes.iter().map(|node| ("node", node)))
            {
                if let Some(until) = &made.valid_until {
                    let (name, directory) = (&made.name, made.directory.display());
                    out.line(&format!("{verb} {what} {name}: {directory}, valid until {until}"));
                }
            }
            Ok(())
        })?;
        if !self.dry_run {
            note(
                "vctl: copy the directory of each node to it, and keep ca-key.pem where no node can read it",
            );
        }
        Ok(Done::Plainly)
    }
}
