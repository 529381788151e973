//! `vctl pool import`.

use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::Cell;
use apparatus::admin;
use apparatus::admin::import::{Accepted, Report};
use apparatus::controller::Wait;
use apparatus::model::error::Result;
use apparatus::model::words::count;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// `vctl pool import`
#[derive(Args, Debug)]
pub struct Import {
    /// The pool's disks: block devices and image files
    #[arg(required = true, value_name = "DISK")]
    disks: Vec<PathBuf>,
    /// Go on without disks that are not there: what lies on them cannot be read until they are
    #[arg(long)]
    accept_missing_disks: bool,
    /// Go on though disks have seen later changes than any of them covers: what was changed or moved since then will hold wrong data
    #[arg(long)]
    accept_older_layout: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Import {
    /// Runs the verb.
    ///
    /// # Errors
    /// Fails as [`admin::import::import`] does.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct ImportReport {
            imported: Report,
            dry_run: bool,
        }
        let accepted = Accepted {
            missing: self.accept_missing_disks,
            older: self.accept_older_layout,
        };
        let dry_run = self.changing.dry_run;
        let imported = if dry_run {
            admin::import::inspect(&context.pool, &self.disks, accepted)?.report
        } else {
            let within = match self.changing.waiting() {
                Wait::No | Wait::IfFree => Some(Duration::ZERO),
                Wait::For(within) => within,
            };
            admin::import::import(&context.pool, &self.disks, accepted, within)?
        };
        let body = ImportReport { imported, dry_run };
        let verb = if dry_run {
            "would be made again"
        } else {
            "made again"
        };
        context.out.say(&body, |out| {
            let report = &body.imported;
            let (disks, volumes) = (count(report.disks.len(), "disk"), count(report.volumes, "volume"));
            out.line(&format!(
                "pool {}: {verb} from {disks}, {volumes}, layout {} as disk {} has it",
                report.uuid, report.layout, report.from
            ));
            for disk in &report.missing {
                out.line(&format!("missing: disk {} ({})", disk.disk, disk.path.display()));
            }
            for lacking in &report.lacking {
                let size = Cell::Size(lacking.bytes).plain(out.style());
                out.line(&format!(
                    "volume {}: {size} lie on disk {}, which is missing",
                    lacking.volume, lacking.disk
                ));
            }
            for line in &report.passed_over {
                out.line(&format!("passed over: {line}"));
            }
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
