//! `vctl pool list`.

use crate::commands::report;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, TableOptions};
use apparatus::admin::pools::{self, KnownPool};
use apparatus::model::error::Result;
use clap::Args;

const COLUMNS: &[Column<KnownPool>] = &[
    Column::shown("PATH", |pool| Cell::text(pool.path.to_string_lossy())),
    Column::shown("APPARATUSES", |pool| Cell::List(pool.apparatuses.clone())),
    Column::shown("DISKS", |pool| number(pool, pool.disks)),
    Column::shown("VOLUMES", |pool| number(pool, pool.volumes)),
    Column::shown("ACCESS", access),
    Column::shown("FAULT", |pool| pool.fault.as_ref().map_or(Cell::None, Cell::text)),
];

fn number(pool: &KnownPool, number: usize) -> Cell {
    match pool.fault {
        Some(_) => Cell::None,
        None => Cell::Number(number as u64),
    }
}

fn access(pool: &KnownPool) -> Cell {
    match pool.fault {
        Some(_) => Cell::None,
        None => Cell::text(pool.access.word()),
    }
}

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

/// `vctl pool list`
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    table: TableOptions,
}

impl List {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        report::list(
            context,
            &self.table,
            COLUMNS,
            "pools",
            pools::known(&context.pool),
        )
    }
}
