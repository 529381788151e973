//! `vctl volume map`: the placement of a volume, as a table, as a picture in the terminal, as a drawing.

pub mod picture;
mod svg;

use crate::arguments::Policy;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, Output, TableOptions, size, table};
use apparatus::admin::job::{self, Workers, wants_work};
use apparatus::admin::moving::{self, MoveRequest};
use apparatus::admin::view::{PoolView, VolumeView};
use apparatus::model::alloc::Faults;
use apparatus::model::error::{Error, Result};
use apparatus::model::job::JobState;
use apparatus::model::records::Segment;
use apparatus::model::units::ByteCount;
use apparatus::store::Store;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;
use svg::Strip;

/// A segment as scripts read it, in bytes.
#[derive(Serialize)]
struct Piece {
    start: u64,
    end: u64,
    length: u64,
    disk: String,
    disk_offset: u64,
}

const PIECES: &[Column<Piece>] = &[
    Column::shown("START", |piece| Cell::Exact(piece.start)),
    Column::shown("END", |piece| Cell::Exact(piece.end)),
    Column::shown("LENGTH", |piece| Cell::Exact(piece.length)),
    Column::shown("DISK", |piece| Cell::text(&piece.disk)),
    Column::shown("OFFSET", |piece| Cell::Exact(piece.disk_offset)),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(PIECES)
}

/// Whether a picture is printed above the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Picture {
    /// If standard output is a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// `vctl volume map`
#[derive(Args, Debug)]
pub struct Map {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Show the placement after a move to this disk, or to those with this tag; nothing is moved
    #[arg(long, value_name = "DISK|@TAG")]
    to: Vec<String>,
    /// Only what is on this disk would be moved
    #[arg(long, value_name = "DISK", requires = "to")]
    from: Option<String>,
    /// Which disk the move would fill first; by default the pool's policy
    #[arg(long, value_enum, requires = "to")]
    policy: Option<Policy>,
    /// Draw the layout to this file, also that after the move that --to names or that is running; `-` is standard output
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Whether to show the picture
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    picture: Picture,
    #[command(flatten)]
    table: TableOptions,
}

/// The placement of a volume after a move, and which move that is.
struct MapPreview {
    caption: String,
    segments: Vec<Segment>,
}

impl Map {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Layout {
            volume: String,
            size: ByteCount,
            extent_size: u64,
            segments: Vec<Piece>,
            #[serde(skip_serializing_if = "Option::is_none")]
            after: Option<Vec<Piece>>,
        }
        let to_output = self.svg.as_ref().is_some_and(|file| file.as_os_str() == "-");
        if to_output && context.out.style().json {
            return Err(Error::usage(
                "--svg -",
                "standard output takes one thing, and --json asks for another",
            )
            .hint("name a file for the drawing, or leave out --json"));
        }
        let mut store = context.store()?;
        let view = PoolView::load(&mut *store)?;
        let volume = view.volume(&self.volume)?;
        let outlook = self.outlook(&mut *store, &view, volume)?;
        if let Some(file) = &self.svg {
            let drawing = drawing(&view, volume, outlook.as_ref());
            if to_output {
                context.out.text(&drawing);
                return Ok(Done::Plainly);
            }
            std::fs::write(file, drawing)
                .map_err(|error| Error::because(format!("drawing {}", file.display()), error))?;
        }
        let mut segments = pieces(&view, volume, &volume.segments);
        self.table.sort(PIECES, &mut segments)?;
        let planned = outlook.as_ref().filter(|_| !self.to.is_empty());
        let body = Layout {
            volume: volume.record.name.to_string(),
            size: volume.record.size,
            extent_size: view.header.extent_size.bytes(),
            segments,
            after: planned.map(|outlook| pieces(&view, volume, &outlook.segments)),
        };
        let pictured = match self.picture {
            Picture::Auto => std::io::IsTerminal::is_terminal(&std::io::stdout()),
            Picture::Always => true,
            Picture::Never => false,
        };
        context.out.say(&body, |out| {
            if pictured {
                show(out, &view, volume, outlook.as_ref());
            }
            table(out, &self.table, PIECES, &body.segments)
        })?;
        Ok(Done::Plainly)
    }

    /// Returns the placement after the move that `--to` names, otherwise after the job that moves the volume now.
    fn outlook(
        &self,
        store: &mut dyn Store,
        view: &PoolView,
        volume: &VolumeView,
    ) -> Result<Option<MapPreview>> {
        if self.to.is_empty() {
            return under_way(store, view, volume);
        }
        let request = MoveRequest {
            volume: self.volume.clone(),
            to: self.to.clone(),
            from: self.from.clone(),
            range: None,
            policy: self.policy.map(Policy::into),
        };
        let request = moving::of_volume(store, &request)?;
        let steps = moving::outline(store, &request, &Faults::new())?.steps;
        Ok(Some(MapPreview {
            caption: format!("after a move to {}", self.to.join(", ")),
            segments: picture::after(volume.record.id, &volume.segments, &steps),
        }))
    }
}

fn under_way(store: &mut dyn Store, view: &PoolView, volume: &VolumeView) -> Result<Option<MapPreview>> {
    for record in store.jobs()? {
        if !wants_work(record.state) && record.state != JobState::Paused {
            continue;
        }
        let job = job::view(store, view, &Workers::default(), record)?;
        if job.steps.iter().any(|step| step.volume == volume.record.id) {
            return Ok(Some(MapPreview {
                caption: format!("after job {}", job.record.id),
                segments: picture::after(volume.record.id, &volume.segments, &job.steps),
            }));
        }
    }
    Ok(None)
}

fn drawing(view: &PoolView, volume: &VolumeView, outlook: Option<&MapPreview>) -> String {
    let mut strips = vec![Strip {
        caption: "now".into(),
        segments: &volume.segments,
    }];
    strips.extend(outlook.map(|outlook| Strip {
        caption: outlook.caption.clone(),
        segments: &outlook.segments,
    }));
    let title = format!("volume {}, {}", volume.record.name, size(volume.record.size.0));
    svg::draw(view, &title, &strips)
}

/// Prints a bar with one letter per disk, and the legend.
fn show(out: &mut Output, view: &PoolView, volume: &VolumeView, outlook: Option<&MapPreview>) {
    let width = crate::output::width(std::io::stdout()).saturating_sub(2);
    out.line(&painted(out.style().colour, view, &volume.segments, width));
    if let Some(outlook) = outlook {
        out.line(&format!("{}:", outlook.caption));
        out.line(&painted(out.style().colour, view, &outlook.segments, width));
    }
    let bytes = view.header.extent_size.bytes();
    let then = outlook.map_or(&[][..], |outlook| &outlook.segments);
    let now = picture::shares(&volume.segments);
    let new = picture::shares(then).into_iter();
    let new = new.filter(|(disk, _)| now.iter().all(|(known, _)| known != disk));
    let legend: Vec<String> = now
        .iter()
        .copied()
        .chain(new.map(|(disk, _)| (disk, 0)))
        .map(|(disk, extents)| {
            let letter = picture::mark(view, disk).letter;
            format!(
                "{letter} {} {}",
                view.disk_name(disk),
                size(extents.saturating_mul(bytes))
            )
        })
        .collect();
    out.line(&legend.join("   "));
    out.line("");
}

/// ANSI background colours of the marks; their letters are black.
const GROUNDS: [u8; picture::COLOURS] = [44, 43, 42, 45, 46, 47];

fn painted(colour: bool, view: &PoolView, segments: &[Segment], width: usize) -> String {
    let mut line = String::from("[");
    for disk in picture::bar(segments, picture::extents(segments), width) {
        let mark = disk.map(|disk| picture::mark(view, disk));
        match mark {
            Some(mark) if colour => {
                line.push_str(&format!("\x1b[30;{}m{}", GROUNDS[mark.colour], mark.letter));
            }
            Some(mark) => line.push(mark.letter),
            None if colour => line.push_str("\x1b[0m "),
            None => line.push(' '),
        }
    }
    line.push_str(if colour { "\x1b[0m]" } else { "]" });
    line
}

fn pieces(view: &PoolView, volume: &VolumeView, segments: &[Segment]) -> Vec<Piece> {
    let bytes = |extents: u64| extents.saturating_mul(view.header.extent_size.bytes());
    let piece = |segment: &Segment| {
        let start = bytes(segment.start.0);
        let end = bytes(segment.end().0).min(volume.record.size.0);
        Piece {
            start,
            end,
            length: end.saturating_sub(start),
            disk: view.disk_name(segment.placement.disk),
            disk_offset: bytes(segment.placement.start.0),
        }
    };
    segments.iter().map(piece).collect()
}
