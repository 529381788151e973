//! `vctl pool destroy`.

use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::{count, printable};
use apparatus::admin::destroy::{self, FreedDisk};
use apparatus::model::error::Result;
use apparatus::model::records::Snapshot;
use clap::Args;
use serde::Serialize;

/// `vctl pool destroy`
#[derive(Args, Debug)]
pub struct Destroy {
    /// Go on without asking, although all volumes and their data are lost
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    changing: Changing,
}

#[derive(Serialize)]
struct DestroyReport {
    dry_run: bool,
    pool: String,
    volumes: usize,
    disks: Vec<FreedDisk>,
}

impl Destroy {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let path = context.pool.path().to_string_lossy().into_owned();
        let snapshot = destroy::check(&context.pool, &mut *context.store()?)?;
        let volumes = snapshot.volumes.len();
        if self.changing.dry_run {
            let disks = would_free(&snapshot);
            return print_outcome(
                context,
                &DestroyReport {
                    dry_run: true,
                    pool: path,
                    volumes,
                    disks,
                },
            );
        }
        let consequence = format!(
            "its {} and all data in {} will be lost",
            count(volumes, "volume"),
            if volumes == 1 { "it" } else { "them" }
        );
        if volumes > 0 {
            context.confirm(self.yes, &format!("pool {path}"), &consequence)?;
        }
        let controller = context.controller("pool destroy", &self.changing)?;
        let disks = destroy::destroy(controller, &context.pool)?;
        print_outcome(
            context,
            &DestroyReport {
                dry_run: false,
                pool: path,
                volumes,
                disks,
            },
        )
    }
}

fn would_free(snapshot: &Snapshot) -> Vec<FreedDisk> {
    let free = |disk: &apparatus::model::records::DiskRecord| FreedDisk {
        disk: disk.name.to_string(),
        path: disk.path.clone(),
        label_left: None,
    };
    snapshot.disks.iter().map(free).collect()
}

fn print_outcome(context: &mut Context, body: &DestroyReport) -> Result<Done> {
    context.out.say(body, |out| {
        for disk in &body.disks {
            let path = disk.path.display();
            let line = match (&disk.label_left, body.dry_run) {
                (_, true) => format!("would erase the label of disk {} at {path}", disk.disk),
                (None, false) => format!("disk {}: its label is erased, {path} is free", disk.disk),
                (Some(why), false) => format!("disk {} ({path}): {why}", disk.disk),
            };
            out.line(&printable(&line));
        }
        let volumes = count(body.volumes, "volume");
        out.line(&printable(&match body.dry_run {
            true => format!("would destroy pool {} and its {volumes}", body.pool),
            false => format!("pool {}: destroyed, and its {volumes}", body.pool),
        }));
        Ok(())
    })?;
    Ok(Done::Plainly)
}
