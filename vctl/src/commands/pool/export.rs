//! `vctl pool export`.

use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::admin;
use apparatus::admin::in_etcd::{self, Report};
use apparatus::model::error::Result;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// `vctl pool export`
#[derive(Args, Debug)]
pub struct Export {
    /// The pool's directory [default: the one that --pool names]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    changing: Changing,
}

impl Export {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct ExportReport {
            exported: Report,
            dry_run: bool,
        }
        if let Some(dir) = &self.dir {
            context.pool = admin::place::pool_dir(Some(dir))?;
        }
        let dry_run = self.changing.dry_run;
        let exported = match dry_run {
            true => in_etcd::inspect_export(&context.pool)?,
            false => in_etcd::export(&context.pool, self.changing.within())?,
        };
        let body = ExportReport { exported, dry_run };
        let verb = if dry_run { "would leave" } else { "has left" };
        context.out.say(&body, |out| {
            let etcd = body.exported.endpoints.join(", ");
            out.line(&format!(
                "pool {}: {verb} etcd ({etcd}), and is one of this machine alone",
                body.exported.uuid
            ));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
