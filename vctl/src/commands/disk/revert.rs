//! `vctl disk revert`.

use crate::commands::{Effect, report};
use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::Cell;
use apparatus::admin::revert::{self, RevertOutline};
use apparatus::admin::view::PoolView;
use apparatus::model::error::Result;
use apparatus::model::records::Segment;
use apparatus::model::units::{ByteCount, VolumeId, VolumeOffset};
use clap::Args;
use serde::Serialize;

/// `vctl disk revert`
#[derive(Args, Debug)]
pub struct Revert {
    /// Its name
    #[arg(value_name = "DISK")]
    disk: String,
    /// Go on without asking: what hosts have written there since the move, and not made durable, is undone too
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    changing: Changing,
}

/// A part of a volume that is mapped back, in bytes of the volume.
#[derive(Serialize)]
struct Part {
    volume: String,
    start: VolumeOffset,
    end: VolumeOffset,
    to: String,
}

/// The result as scripts read it.
#[derive(Serialize)]
struct Row {
    bytes: ByteCount,
    parts: Vec<Part>,
}

impl Revert {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let pool = context.pool.clone();
        let title = format!("disk revert {}", self.disk);
        let outline = revert::plan(&pool, &mut *context.store()?, &self.disk)?;
        let row = row(context, &outline)?;
        if self.changing.dry_run {
            let exact = context.out.style().json;
            context.would_send(if exact {
                &outline.planned.delta
            } else {
                &outline.in_runs
            })?;
            return Ok(Done::Plainly);
        }
        let size = Cell::Size(outline.bytes.0).plain(context.out.style());
        let consequence = format!(
            "{size} of volumes return to their old placements, and what hosts have written since the move without making it durable is lost"
        );
        context.confirm(self.yes, &format!("disk {}", self.disk), &consequence)?;
        let mut controller = context.controller(&title, &self.changing)?;
        let (_, sent) = revert::revert(&pool, &mut controller, &title, &self.disk)?;
        let effect = Effect::of(sent, &controller);
        let words = format!("{size} are back at their old placements");
        report::became(context, effect, ("disk", &self.disk), &row, ("reverted", &words))
    }
}

fn row(context: &mut Context, outline: &RevertOutline) -> Result<Row> {
    let view = PoolView::load(&mut *context.store()?)?;
    let size = view.header.extent_size;
    let byte = |extent| size.volume_offset(extent).unwrap_or(VolumeOffset(u64::MAX));
    let part = |(volume, segment): &(VolumeId, Segment)| Part {
        volume: view.volume_name(*volume),
        start: byte(segment.start),
        end: byte(segment.end()),
        to: view.disk_name(segment.placement.disk),
    };
    Ok(Row {
        bytes: outline.bytes,
        parts: outline.parts.iter().map(part).collect(),
    })
}
