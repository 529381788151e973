//! `vctl pool rescue`.

use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::note;
use apparatus::admin::rescue::{self, Rescue as Found};
use apparatus::model::error::Result;
use clap::Args;
use serde::Serialize;

/// `vctl pool rescue`
#[derive(Args, Debug)]
pub struct Rescue {
    /// Go on although the disks have a newer layout: volumes changed or moved since will hold wrong data
    #[arg(long)]
    accept_older_layout: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Rescue {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct RescueReport {
            rescued: Found,
            dry_run: bool,
        }
        let dry_run = self.changing.dry_run;
        let rescued = if dry_run {
            rescue::inspect(&context.pool, self.accept_older_layout)?
        } else {
            rescue::rescue(&context.pool, self.accept_older_layout, self.changing.within())?
        };
        if let Some(why) = &rescued.copy_used_because {
            note(&format!(
                "vctl: the copy of the metadata on this machine is used as it is: {why}"
            ));
        }
        let body = RescueReport { rescued, dry_run };
        let verb = if dry_run { "would leave" } else { "has left" };
        context.out.say(&body, |out| {
            let etcd = body.rescued.endpoints.join(", ");
            out.line(&format!(
                "pool: {verb} etcd ({etcd}), and its metadata is in its directory alone"
            ));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
