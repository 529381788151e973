//! `vctl pool adopt`.

use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::admin;
use apparatus::admin::adopt::Adoption;
use apparatus::controller::Wait;
use apparatus::model::error::Result;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// `vctl pool adopt`
#[derive(Args, Debug)]
pub struct Adopt {
    /// Adopt the other disks where some are not available now
    #[arg(long)]
    accept_missing_disks: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Adopt {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct AdoptReport {
            adopted: Adoption,
            dry_run: bool,
        }
        let (accepted, dry_run) = (self.accept_missing_disks, self.changing.dry_run);
        let adopted = if dry_run {
            admin::adopt::inspect(&context.pool, accepted)?
        } else {
            let within = match self.changing.waiting() {
                Wait::No | Wait::IfFree => Some(Duration::ZERO),
                Wait::For(within) => within,
            };
            admin::adopt::adopt(&context.pool, accepted, within)?
        };
        let body = AdoptReport { adopted, dry_run };
        let verb = if dry_run { "would own" } else { "owns" };
        context.out.say(&body, |out| {
            let Adoption { disks, missing, .. } = &body.adopted;
            let names = if disks.is_empty() {
                "no disk".to_owned()
            } else {
                disks.join(", ")
            };
            out.line(&format!("pool: this database {verb} {names}"));
            for disk in missing {
                out.line(&format!("not yet: {disk}"));
            }
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
