//! `vctl volume list`, `show`.

use super::undelete;
use crate::commands::report;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, Style, TableOptions};
use apparatus::admin::usage::{Census, Usage};
use apparatus::admin::view::{PoolView, VolumeView};
use apparatus::model::error::Result;
use apparatus::model::units::{ByteCount, VolumeId};
use clap::Args;
use serde::Serialize;

/// A volume as scripts read it.
#[derive(Serialize)]
pub struct Row {
    id: VolumeId,
    name: String,
    size: ByteCount,
    mode: String,
    uid: u32,
    gid: u32,
    read_only: bool,
    segments: u64,
    disks: Vec<Share>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// The number of bytes of a volume on one disk.
#[derive(Serialize)]
struct Share {
    disk: String,
    bytes: ByteCount,
}

impl Row {
    /// Creates the row from the view of a volume.
    pub fn new(volume: &VolumeView) -> Self {
        let record = &volume.record;
        let share = |(disk, bytes): &(_, _)| Share {
            disk: ToString::to_string(disk),
            bytes: *bytes,
        };
        Self {
            id: record.id,
            name: record.name.to_string(),
            size: record.size,
            mode: format!("{:04o}", record.mode),
            uid: record.uid,
            gid: record.gid,
            read_only: record.read_only,
            segments: u64::try_from(volume.segments.len()).unwrap_or(u64::MAX),
            disks: volume.on.iter().map(share).collect(),
            usage: None,
        }
    }

    /// Creates the row with the users of the volume.
    fn used(volume: &VolumeView, census: &Census) -> Self {
        let usage = census.usage(volume.record.id, &volume.record.name);
        Self {
            usage: Some(usage),
            ..Self::new(volume)
        }
    }

    /// Returns how often it is open; a question mark if an apparatus does not answer.
    fn open(&self) -> Cell {
        match &self.usage {
            None => Cell::None,
            Some(usage) if usage.unknown.is_empty() => Cell::Number(usage.open),
            Some(_) => Cell::text("?"),
        }
    }

    fn users(&self) -> Vec<String> {
        let Some(usage) = &self.usage else {
            return Vec::new();
        };
        let unknown = usage.unknown.iter();
        let unknown = unknown.map(|name| format!("unknown: apparatus {name} does not answer"));
        usage
            .users
            .iter()
            .map(ToString::to_string)
            .chain(unknown)
            .collect()
    }

    /// Describes its size and its disks.
    pub fn in_words(&self, style: Style) -> String {
        let size = Cell::Size(self.size.0).plain(style);
        let disks: Vec<&str> = self.disks.iter().map(|share| share.disk.as_str()).collect();
        format!("{size} on {}", disks.join(", "))
    }
}

const COLUMNS: &[Column<Row>] = &[
    Column::shown("NAME", |row| Cell::text(&row.name)),
    Column::shown("SIZE", |row| Cell::Size(row.size.0)),
    Column::shown("DISKS", |row| {
        Cell::List(row.disks.iter().map(|share| share.disk.clone()).collect())
    }),
    Column::shown("SEGMENTS", |row| Cell::Number(row.segments)),
    Column::shown("OPEN", Row::open),
    Column::shown("MODE", |row| Cell::text(&row.mode)),
    Column::shown("UID", |row| Cell::Number(row.uid.into())),
    Column::shown("GID", |row| Cell::Number(row.gid.into())),
    Column::shown("READ-ONLY", |row| Cell::Flag(row.read_only)),
    Column::hidden("ID", |row| Cell::Number(row.id.0)),
    Column::hidden("USERS", |row| Cell::List(row.users())),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

/// `vctl volume list`
#[derive(Args, Debug)]
pub struct List {
    /// List the removed volumes that are remembered: those with nothing LOST can be had back by `vctl volume undelete`
    #[arg(long)]
    removed: bool,
    #[command(flatten)]
    table: TableOptions,
}

impl List {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.removed {
            return undelete::list(context, &self.table);
        }
        let mut store = context.store()?;
        let view = PoolView::load(&mut *store)?;
        let census = Census::take(&context.pool, &mut *store)?;
        let row = |volume| Row::used(volume, &census);
        let volumes = view.volumes.iter().map(row).collect();
        report::list(context, &self.table, COLUMNS, "volumes", volumes)
    }
}

/// `vctl volume show`
#[derive(Args, Debug)]
pub struct Show {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
}

impl Show {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let mut store = context.store()?;
        let view = PoolView::load(&mut *store)?;
        let census = Census::take(&context.pool, &mut *store)?;
        let row = Row::used(view.volume(&self.volume)?, &census);
        report::show(context, COLUMNS, "volume", &row)
    }
}
