//! `vctl node list`, `show`.

use crate::commands::report;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, TableOptions};
use apparatus::admin::node::{self, NodeView};
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use clap::Args;
use serde::Serialize;

/// A node as scripts read it.
#[derive(Serialize)]
pub struct Row {
    name: Name,
    /// Whether it is this machine.
    here: bool,
    address: Option<String>,
    certificate: String,
    apparatuses: Vec<Name>,
    version: String,
    machine: String,
    boot: String,
    since: String,
    #[serde(skip)]
    recorded: apparatus::model::units::Timestamp,
}

impl Row {
    fn new(view: NodeView) -> Self {
        let node = view.node;
        Self {
            name: node.name,
            here: view.here,
            address: node.address.map(|address| address.to_string()),
            certificate: node.certificate,
            apparatuses: view.apparatuses,
            version: node.program,
            machine: node.machine,
            boot: node.epoch.0.to_string(),
            since: node.since.to_string(),
            recorded: node.since,
        }
    }
}

const COLUMNS: &[Column<Row>] = &[
    Column::shown("NODE", |row| Cell::text(row.name.as_str())),
    Column::shown("HERE", |row| Cell::text(if row.here { "yes" } else { "no" })),
    Column::shown("ADDRESS", |row| {
        row.address.as_ref().map_or(Cell::None, Cell::text)
    }),
    Column::shown("APPARATUSES", |row| {
        Cell::List(row.apparatuses.iter().map(ToString::to_string).collect())
    }),
    Column::shown("VERSION", |row| Cell::text(&row.version)),
    Column::hidden("CERTIFICATE", |row| Cell::text(&row.certificate)),
    Column::hidden("MACHINE", |row| Cell::text(&row.machine)),
    Column::hidden("BOOT", |row| Cell::text(&row.boot)),
    Column::hidden("SINCE", |row| Cell::Time(row.recorded)),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

/// `vctl node list`
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    table: TableOptions,
}

impl List {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let views = node::list(&context.pool, &mut *context.store()?)?;
        let rows = views.into_iter().map(Row::new).collect();
        report::list(context, &self.table, COLUMNS, "nodes", rows)
    }
}

/// `vctl node show`
#[derive(Args, Debug)]
pub struct Show {
    /// The node
    #[arg(value_name = "NODE")]
    name: String,
}

impl Show {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let view = node::show(&context.pool, &mut *context.store()?, &self.name)?;
        report::show(context, COLUMNS, "node", &Row::new(view))
    }
}
