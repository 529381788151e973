//! `vctl pool import`.

use crate::commands::node::options::StoreOptions;
use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::Cell;
use apparatus::admin;
use apparatus::admin::import::{Accepted, Report};
use apparatus::admin::in_etcd::{self, Target};
use apparatus::model::error::{Error, Result};
use apparatus::model::words::count;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// `vctl pool import`
#[derive(Args, Debug)]
pub struct Import {
    /// The pool's disks: block devices and image files; with --store, the directory of a pool of this machine alone
    #[arg(required = true, value_name = "DISK")]
    disks: Vec<PathBuf>,
    /// Go on without disks that are not there: what lies on them cannot be read until they are
    #[arg(long, conflicts_with = "store")]
    accept_missing_disks: bool,
    /// Go on though disks have seen later changes than any of them covers: what was changed or moved since then will hold wrong data
    #[arg(long, conflicts_with = "store")]
    accept_older_layout: bool,
    #[command(flatten)]
    store: StoreOptions,
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
        if let Some((etcd, node)) = self.store.place()? {
            return self.put_in_etcd(context, Target { etcd, node });
        }
        let accepted = Accepted {
            missing: self.accept_missing_disks,
            older: self.accept_older_layout,
        };
        let dry_run = self.changing.dry_run;
        let imported = if dry_run {
            admin::import::inspect(&context.pool, &self.disks, accepted)?.report
        } else {
            admin::import::import(&context.pool, &self.disks, accepted, self.changing.within())?
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

    /// Puts the metadata of the pool in the one directory that is named into etcd.
    fn put_in_etcd(&self, context: &mut Context, target: Target) -> Result<Done> {
        #[derive(Serialize)]
        struct StoreReport {
            imported: in_etcd::Report,
            dry_run: bool,
        }
        let [dir] = &self.disks[..] else {
            let what = count(self.disks.len(), "operand");
            return Err(Error::usage(what, "are too many with --store")
                .hint("name the directory of the pool: vctl pool import DIR --store URL"));
        };
        context.pool = admin::place::pool_dir(Some(dir))?;
        let dry_run = self.changing.dry_run;
        let imported = match dry_run {
            true => in_etcd::inspect_import(&context.pool, target)?.0,
            false => in_etcd::import(&context.pool, target, self.changing.within())?,
        };
        let body = StoreReport { imported, dry_run };
        let verb = if dry_run { "would be" } else { "is" };
        context.out.say(&body, |out| {
            let etcd = body.imported.endpoints.join(", ");
            out.line(&format!("pool {}: {verb} in etcd ({etcd})", body.imported.uuid));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
