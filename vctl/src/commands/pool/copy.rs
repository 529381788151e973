//! `vctl pool backup`, `restore`.

use crate::context::Context;
use crate::exit::Done;
use crate::output::count;
use apparatus::change::driver::Wait;
use apparatus::error::Result;
use apparatus::ops;
use apparatus::ops::backup::Restored;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// `vctl pool backup`
#[derive(Args, Debug)]
pub struct Backup {
    /// The file to write; it must not exist
    file: PathBuf,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Backup {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Written {
            backup: String,
            layout: u64,
            generation: u64,
            dry_run: bool,
        }
        let file = ops::place::absolute(&self.file)?;
        let header = if self.dry_run {
            ops::backup::check_target(&file)?;
            context.store()?.header()?
        } else {
            ops::backup::backup(&context.pool, &file)?
        };
        let body = Written {
            backup: file.to_string_lossy().into_owned(),
            layout: header.layout,
            generation: header.generation.0,
            dry_run: self.dry_run,
        };
        let verb = if self.dry_run {
            "would be written"
        } else {
            "written"
        };
        context.out.say(&body, |out| {
            out.line(&format!("backup {}: {verb}, layout {}", body.backup, body.layout));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

/// `vctl pool restore`
#[derive(Args, Debug)]
pub struct Restore {
    /// A file that `pool backup` wrote
    file: PathBuf,
    /// Restore although the disks have a newer layout: volumes changed or moved since the backup will hold wrong data
    #[arg(long)]
    accept_older_layout: bool,
    /// Go on without asking when there is a database in the way
    #[arg(long)]
    yes: bool,
    /// Say what would be restored, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait while another controller acts, at most so long if a time is given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "ever", value_parser = crate::arguments::waiting)]
    wait: Option<Wait>,
}

impl Restore {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Told<'a> {
            restored: &'a Restored,
            dry_run: bool,
        }
        let file = ops::place::absolute(&self.file)?;
        let found = ops::backup::inspect(&context.pool, &file, self.accept_older_layout)?;
        if !self.dry_run {
            if found.replaces {
                let what = format!("pool {}", context.pool.path().display());
                context.confirm(self.yes, &what, "its present database will be gone")?;
            }
            let within = match self.wait.unwrap_or(Wait::No) {
                Wait::No => Some(Duration::ZERO),
                Wait::For(within) => within,
            };
            ops::backup::restore(&context.pool, &file, &found, within)?;
        }
        let body = Told {
            restored: &found,
            dry_run: self.dry_run,
        };
        let verb = if self.dry_run {
            "would be restored"
        } else {
            "restored"
        };
        context.out.say(&body, |out| {
            let Restored {
                layout,
                generation,
                disks,
                volumes,
                ..
            } = body.restored;
            out.line(&format!(
                "pool: {verb}, layout {layout}, generation {generation}, {}, {}",
                count(*disks, "disk"),
                count(*volumes, "volume"),
            ));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
