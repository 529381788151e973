//! `vctl pool backup`, `restore`.

use super::archive::BackupVerb;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{count, note};
use apparatus::admin;
use apparatus::admin::backup::Restored;
use apparatus::controller::Wait;
use apparatus::model::error::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `vctl pool backup`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Backup {
    #[command(subcommand)]
    verb: Option<BackupVerb>,
    /// The file to write; it must not exist
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Backup {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        match (self.verb, self.file) {
            (Some(BackupVerb::List(list)), _) => list.run(context),
            (None, Some(file)) => write(context, &file, self.dry_run),
            (None, None) => Err(Error::usage("FILE", "is not given").hint("vctl pool backup FILE")),
        }
    }
}

/// Writes a backup, or says what would be written.
fn write(context: &mut Context, file: &Path, dry_run: bool) -> Result<Done> {
    #[derive(Serialize)]
    struct Written {
        backup: String,
        layout: u64,
        generation: u64,
        dry_run: bool,
    }
    let file = admin::place::absolute(file)?;
    let header = if dry_run {
        admin::backup::check_target(&file)?;
        context.store()?.header()?
    } else {
        admin::backup::backup(&context.pool, &file)?
    };
    let body = Written {
        backup: file.to_string_lossy().into_owned(),
        layout: header.layout,
        generation: header.generation.0,
        dry_run,
    };
    let verb = if dry_run { "would be written" } else { "written" };
    context.out.say(&body, |out| {
        out.line(&format!("backup {}: {verb}, layout {}", body.backup, body.layout));
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// `vctl pool restore`
#[derive(Args, Debug)]
pub struct Restore {
    /// A file that `pool backup` wrote, or one that `pool backup list` shows
    file: PathBuf,
    /// Restore although the disks have a newer layout: volumes changed or moved since the backup will hold wrong data
    #[arg(long)]
    accept_older_layout: bool,
    /// Go on without asking when there is a database already
    #[arg(long)]
    yes: bool,
    /// Say what would be restored, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait while another command holds the controller lock, at most this long if a time is given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "ever", value_parser = crate::arguments::waiting)]
    wait: Option<Wait>,
}

/// Returns the path of a backup: a word without a slash may also name a copy in the archive.
fn named(context: &Context, file: &Path) -> Result<PathBuf> {
    let given = admin::place::absolute(file)?;
    let archived = context.pool.archive().join(file);
    let is_archived = file.components().count() == 1 && !given.exists() && archived.exists();
    Ok(if is_archived { archived } else { given })
}

impl Restore {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct CopyReport<'a> {
            restored: &'a Restored,
            dry_run: bool,
        }
        let file = named(context, &self.file)?;
        let found = admin::backup::inspect(&context.pool, &file, self.accept_older_layout)?;
        if !self.dry_run {
            if found.replaces {
                let what = format!("pool {}", context.pool.path().display());
                context.confirm(self.yes, &what, "its present database will be lost")?;
            }
            let within = match self.wait.unwrap_or(Wait::No) {
                Wait::No | Wait::IfFree => Some(Duration::ZERO),
                Wait::For(within) => within,
            };
            if let Some(why) = admin::backup::restore(&context.pool, &file, &found, within)? {
                note(&format!(
                    "vctl: the copies of the metadata on the disks are of the former table until the next change: {why}"
                ));
            }
        }
        let body = CopyReport {
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
