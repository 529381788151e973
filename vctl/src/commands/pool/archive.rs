//! `vctl pool backup list`.

use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, TableOptions, table};
use apparatus::controller::archive;
use apparatus::model::error::Result;
use apparatus::model::units::Timestamp;
use clap::{Args, Subcommand};
use serde::Serialize;

/// `vctl pool backup …`
#[derive(Subcommand, Debug)]
pub enum BackupVerb {
    /// List the copies of the database that the pool has made by itself, after each change of its volumes or disks
    List(List),
}

/// `vctl pool backup list`
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    table: TableOptions,
}

/// A copy as scripts read it.
#[derive(Serialize)]
struct Row {
    at: String,
    layout: u64,
    generation: u64,
    bytes: u64,
    file: String,
    #[serde(skip)]
    taken: Timestamp,
}

const COLUMNS: &[Column<Row>] = &[
    Column::shown("AT", |row| Cell::Time(row.taken)),
    Column::shown("LAYOUT", |row| Cell::Number(row.layout)),
    Column::shown("GENERATION", |row| Cell::Number(row.generation)),
    Column::shown("SIZE", |row| Cell::Size(row.bytes)),
    Column::shown("FILE", |row| Cell::text(&row.file)),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

impl List {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Backups {
            backups: Vec<Row>,
        }
        // An archive is read without the database, which may be damaged or gone; but a directory without either is no pool.
        let copies = archive::list(&context.pool)?;
        if copies.is_empty() {
            context.store()?;
        }
        let mut backups: Vec<Row> = copies
            .into_iter()
            .map(|copy| Row {
                at: copy.taken.to_string(),
                layout: copy.layout,
                generation: copy.generation.0,
                bytes: copy.bytes,
                file: context.pool.name_of(&copy.file).to_string_lossy().into_owned(),
                taken: copy.taken,
            })
            .collect();
        self.table.sort(COLUMNS, &mut backups)?;
        let body = Backups { backups };
        context
            .out
            .say(&body, |out| table(out, &self.table, COLUMNS, &body.backups))?;
        Ok(Done::Plainly)
    }
}
