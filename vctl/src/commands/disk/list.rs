//! `vctl disk list`, `show`.

use crate::commands::report;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, Style, TableOptions, Tone, count, printable};
use apparatus::admin::status;
use apparatus::admin::view::{DiskView, PoolView};
use apparatus::model::error::{Error, Result};
use apparatus::model::records::DiskRecord;
use apparatus::model::units::{ByteCount, DiskId};
use apparatus::store::Store;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A disk as scripts read it.
#[derive(Serialize)]
pub struct Row {
    id: DiskId,
    name: String,
    uuid: Uuid,
    path: String,
    size: ByteCount,
    used: ByteCount,
    reserved: ByteCount,
    quarantined: ByteCount,
    free: ByteCount,
    largest_free: ByteCount,
    volumes: u64,
    tags: Vec<String>,
    allocate: bool,
    reserve: ByteCount,
    state: &'static str,
    fault: Option<String>,
    errors: u64,
}

impl Row {
    /// Creates the row from the view of a disk, and probes the disk itself.
    pub fn new(store: &mut dyn Store, view: &PoolView, disk: &DiskView) -> Self {
        let fault = apparatus::admin::disk::fault(store, &disk.record, &view.header);
        Self::with_fault(view, disk, fault.as_ref())
    }

    /// Creates the rows of all disks, which are probed in parallel.
    pub fn all(store: &mut dyn Store, view: &PoolView) -> Vec<Self> {
        let records: Vec<DiskRecord> = view.disks.iter().map(|disk| disk.record.clone()).collect();
        let faults = apparatus::admin::disk::faults(store, &records, &view.header);
        let row = |(disk, fault): (&DiskView, &Option<Error>)| Self::with_fault(view, disk, fault.as_ref());
        view.disks.iter().zip(&faults).map(row).collect()
    }

    fn with_fault(view: &PoolView, disk: &DiskView, fault: Option<&Error>) -> Self {
        let record = &disk.record;
        let fault = fault.map(|error| error.why().to_owned());
        Self {
            id: record.id,
            name: record.name.to_string(),
            uuid: record.uuid,
            path: view.header.path_of(record).to_string_lossy().into_owned(),
            size: disk.usage.size,
            used: disk.usage.used,
            reserved: disk.usage.reserved,
            quarantined: disk.usage.quarantined,
            free: disk.usage.free,
            largest_free: disk.usage.largest_free,
            volumes: disk.volumes,
            tags: record.tags.iter().map(ToString::to_string).collect(),
            allocate: record.allocate,
            reserve: ByteCount(record.reserve.saturating_mul(view.header.extent_size.bytes())),
            state: if fault.is_some() { "faulty" } else { "ok" },
            fault,
            errors: 0,
        }
    }

    /// Adds the number of requests that have failed on it, as the apparatuses report it.
    fn with_errors(mut self, errors: &BTreeMap<&str, u64>) -> Self {
        self.errors = errors.get(self.name.as_str()).copied().unwrap_or(0);
        self
    }

    fn fault(&self) -> Cell {
        let have = if self.errors == 1 { "has" } else { "have" };
        let counted = format!("{} {have} failed", count(self.errors, "request"));
        match (&self.fault, self.errors) {
            (None, 0) => Cell::None,
            (None, _) => Cell::text(counted),
            (Some(fault), 0) => Cell::text(fault),
            (Some(fault), _) => Cell::text(format!("{fault}; {counted}")),
        }
    }

    /// Describes its size and its path.
    pub fn in_words(&self, style: Style) -> String {
        let size = Cell::Size(self.size.0).plain(style);
        format!("{size} at {}", printable(&self.path))
    }

    fn state(&self) -> Cell {
        match self.fault {
            None => Cell::Word(self.state, Tone::Good),
            Some(_) => Cell::Word(self.state, Tone::Bad),
        }
    }
}

const COLUMNS: &[Column<Row>] = &[
    Column::shown("NAME", |row| Cell::text(&row.name)),
    Column::shown("STATE", Row::state),
    Column::shown("SIZE", |row| Cell::Size(row.size.0)),
    Column::shown("USED", |row| Cell::Size(row.used.0)),
    Column::shown("FREE", |row| Cell::Size(row.free.0)),
    Column::shown("ALLOCATE", |row| Cell::Flag(row.allocate)),
    Column::shown("TAGS", |row| Cell::List(row.tags.clone())),
    Column::shown("PATH", |row| Cell::text(&row.path)),
    Column::hidden("VOLUMES", |row| Cell::Number(row.volumes)),
    Column::hidden("RESERVE", |row| Cell::Size(row.reserve.0)),
    Column::hidden("RESERVED", |row| Cell::Size(row.reserved.0)),
    Column::hidden("QUARANTINED", |row| Cell::Size(row.quarantined.0)),
    Column::hidden("LARGEST-FREE", |row| Cell::Size(row.largest_free.0)),
    Column::hidden("UUID", |row| Cell::text(row.uuid.to_string())),
    Column::hidden("ID", |row| Cell::Number(row.id.0.into())),
    Column::hidden("FAULT", Row::fault),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

/// `vctl disk list`
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    table: TableOptions,
}

impl List {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let mut store = context.store()?;
        let view = PoolView::load(&mut *store)?;
        let apparatuses = apparatus::admin::apparatus::list(&context.pool, &mut *store)?;
        let errors = status::errors_of_disks(&apparatuses);
        let disks = Row::all(&mut *store, &view).into_iter();
        let disks = disks.map(|row| row.with_errors(&errors)).collect();
        report::list(context, &self.table, COLUMNS, "disks", disks)
    }
}

/// `vctl disk show`
#[derive(Args, Debug)]
pub struct Show {
    /// Its name
    #[arg(value_name = "DISK")]
    disk: String,
}

impl Show {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let mut store = context.store()?;
        let view = PoolView::load(&mut *store)?;
        let apparatuses = apparatus::admin::apparatus::list(&context.pool, &mut *store)?;
        let row = Row::new(&mut *store, &view, view.disk(&self.disk)?);
        let row = row.with_errors(&status::errors_of_disks(&apparatuses));
        report::show(context, COLUMNS, "disk", &row)
    }
}
