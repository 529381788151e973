//! `vctl pool adopt`.

use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::change::driver::Wait;
use apparatus::error::Result;
use apparatus::ops;
use apparatus::ops::adopt::Adoption;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// `vctl pool adopt`
#[derive(Args, Debug)]
pub struct Adopt {
    /// Adopt the other disks where some cannot be had now
    #[arg(long)]
    accept_missing_disks: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Adopt {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Told {
            adopted: Adoption,
            dry_run: bool,
        }
        let (accepted, dry_run) = (self.accept_missing_disks, self.changing.dry_run);
        let adopted = if dry_run {
            ops::adopt::inspect(&context.pool, accepted)?
        } else {
            let within = match self.changing.waiting() {
                Wait::No => Some(Duration::ZERO),
                Wait::For(within) => within,
            };
            ops::adopt::adopt(&context.pool, accepted, within)?
        };
        let body = Told { adopted, dry_run };
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
