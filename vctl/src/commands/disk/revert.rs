//! `vctl disk revert`.

use crate::commands::{Effect, told};
use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::Cell;
use apparatus::error::Result;
use apparatus::ops::revert::{self, Outline};
use apparatus::ops::view::PoolView;
use apparatus::pool::model::Segment;
use apparatus::units::{ByteCount, VolumeId, VolumeOffset};
use clap::Args;
use serde::Serialize;

/// `vctl disk revert`
#[derive(Args, Debug)]
pub struct Revert {
    /// Its name
    #[arg(value_name = "DISK")]
    disk: String,
    /// Go on without asking: what hosts have written there since the move, and not made durable, goes back too
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    changing: Changing,
}

/// A part of a volume that goes back, in bytes of the volume.
#[derive(Serialize)]
struct Part {
    volume: String,
    start: VolumeOffset,
    end: VolumeOffset,
    to: String,
}

/// What scripts are told.
#[derive(Serialize)]
struct Row {
    bytes: ByteCount,
    parts: Vec<Part>,
}

impl Revert {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let pool = context.pool.clone();
        let title = format!("disk revert {}", self.disk);
        let outline = revert::plan(&pool, &mut *context.store()?, &self.disk)?;
        let row = row(context, &outline)?;
        if self.changing.dry_run {
            for line in row.parts.iter().map(in_words) {
                crate::output::note(&line);
            }
            context.would_send(&outline.planned.difference)?;
            return Ok(Done::Plainly);
        }
        let size = Cell::Size(outline.bytes.0).plain(context.out.style());
        let consequence = format!(
            "{size} of volumes go back to their old places, and with them what hosts have written since the move and not made durable"
        );
        context.confirm(self.yes, &format!("disk {}", self.disk), &consequence)?;
        let mut controller = context.controller(&title, &self.changing)?;
        let (_, sent) = revert::revert(&pool, &mut controller, &title, &self.disk)?;
        let effect = Effect::of(sent, &controller);
        let words = format!("{size} are back where they were");
        told::became(context, effect, ("disk", &self.disk), &row, ("reverted", &words))
    }
}

fn row(context: &mut Context, outline: &Outline) -> Result<Row> {
    let view = PoolView::load(&mut *context.store()?)?;
    let size = view.header.extent_size;
    let byte = |extent| size.volume_offset(extent).unwrap_or(VolumeOffset(u64::MAX));
    let part = |(volume, segment): &(VolumeId, Segment)| Part {
        volume: view.volume_name(*volume),
        start: byte(segment.start),
        end: byte(segment.end()),
        to: view.disk_name(segment.home.disk),
    };
    Ok(Row {
        bytes: outline.bytes,
        parts: outline.parts.iter().map(part).collect(),
    })
}

fn in_words(part: &Part) -> String {
    format!(
        "volume {}, bytes {} to {}: back to disk {}",
        part.volume, part.start, part.end, part.to
    )
}
