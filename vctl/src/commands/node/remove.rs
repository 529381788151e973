//! `vctl node remove`.

use crate::context::Context;
use crate::exit::Done;
use apparatus::admin::node;
use apparatus::model::error::Result;
use clap::Args;
use serde::Serialize;

/// `vctl node remove`
#[derive(Args, Debug)]
pub struct Remove {
    /// The node
    #[arg(value_name = "NODE")]
    name: String,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

impl Remove {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Removed<'a> {
            removed: &'a str,
            dry_run: bool,
        }
        let mut store = context.store()?;
        if self.dry_run {
            node::check_removable(&context.pool, &mut *store, &self.name)?;
        } else {
            node::remove(&context.pool, &mut *store, &self.name)?;
        }
        let body = Removed {
            removed: &self.name,
            dry_run: self.dry_run,
        };
        let verb = if self.dry_run {
            "would be removed"
        } else {
            "removed"
        };
        context.out.say(&body, |out| {
            out.line(&format!("node {}: {verb}", body.removed));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
