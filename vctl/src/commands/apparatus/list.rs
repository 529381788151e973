//! `vctl apparatus list`, `show`.

use crate::commands::report;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, TableOptions, Tone};
use ::apparatus::admin::apparatus::{self, ApparatusView, State};
use ::apparatus::model::error::Result;
use ::apparatus::rpc::message::ApparatusMetrics;
use clap::Args;
use serde::Serialize;

/// An apparatus as scripts read it.
#[derive(Serialize)]
pub struct Row {
    name: String,
    state: State,
    pid: u32,
    mount: String,
    slot: u32,
    incarnation: u64,
    since: String,
    /// The node that it runs on, in a pool that knows its nodes.
    node: Option<String>,
    /// The port at which it listens for other nodes.
    port: Option<u16>,
    /// The process of its supervisor.
    supervisor: Option<u32>,
    fault: Option<String>,
    figures: Option<ApparatusMetrics>,
    #[serde(skip)]
    joined: ::apparatus::model::units::Timestamp,
}

/// Returns the word for the state of an apparatus, and its tone.
pub fn word(state: State) -> (&'static str, Tone) {
    match state {
        State::Serving => ("serving", Tone::Good),
        State::Ending => ("ending", Tone::Warning),
        State::Silent => ("silent", Tone::Warning),
        State::Fenced => ("fenced", Tone::Bad),
        State::Restarting => ("restarting", Tone::Bad),
        State::Dead => ("dead", Tone::Bad),
    }
}

impl Row {
    /// Creates the row from the view of an apparatus.
    pub fn new(view: ApparatusView) -> Self {
        Self {
            name: view.member.name.to_string(),
            state: view.state,
            pid: view.member.pid,
            mount: view.member.mount.to_string_lossy().into_owned(),
            slot: view.member.slot.0,
            incarnation: view.member.incarnation.0,
            since: view.member.since.to_string(),
            node: view.member.node.as_ref().map(ToString::to_string),
            port: view.member.port,
            supervisor: view.supervisor,
            fault: view.fault,
            figures: view.figures,
            joined: view.member.since,
        }
    }

    fn state(&self) -> Cell {
        let (word, tone) = word(self.state);
        Cell::Word(word, tone)
    }

    fn figure(&self, figure: impl Fn(&ApparatusMetrics) -> Cell) -> Cell {
        self.figures.as_ref().map_or(Cell::None, figure)
    }
}

const COLUMNS: &[Column<Row>] = &[
    Column::shown("NAME", |row| Cell::text(&row.name)),
    Column::shown("STATE", Row::state),
    Column::shown("PID", |row| Cell::Number(row.pid.into())),
    Column::shown("GENERATION", |row| {
        row.figure(|figures| Cell::Number(figures.generation.0))
    }),
    Column::shown("IN-FLIGHT", |row| {
        row.figure(|figures| Cell::Number(figures.in_flight))
    }),
    Column::shown("HELD", |row| row.figure(|figures| Cell::Number(figures.parked))),
    Column::shown("MOUNT", |row| Cell::text(&row.mount)),
    Column::hidden("SINCE", |row| Cell::Time(row.joined)),
    Column::hidden("INCARNATION", |row| Cell::Number(row.incarnation)),
    Column::hidden("SLOT", |row| Cell::Number(row.slot.into())),
    Column::hidden("UPTIME", |row| {
        row.figure(|figures| Cell::Micros(figures.uptime_us))
    }),
    Column::hidden("TERM", |row| row.figure(|figures| Cell::Number(figures.term.0))),
    Column::hidden("OLDEST", |row| {
        row.figure(|figures| Cell::Number(figures.oldest.0))
    }),
    Column::hidden("HOLDS", |row| row.figure(|figures| Cell::Number(figures.holds))),
    Column::hidden("HELD-BYTES", |row| {
        row.figure(|figures| Cell::Size(figures.parked_bytes))
    }),
    Column::hidden("EVER-HELD", |row| {
        row.figure(|figures| Cell::Number(figures.ever_parked))
    }),
    Column::hidden("LONGEST-HELD", |row| {
        row.figure(|figures| Cell::Micros(figures.longest_parked_us))
    }),
    Column::hidden("THREADS", |row| {
        row.figure(|figures| Cell::Number(figures.threads))
    }),
    Column::hidden("JOBS", |row| {
        row.figure(|figures| Cell::List(figures.jobs.iter().map(ToString::to_string).collect()))
    }),
    Column::if_any("NODE", |row| row.node.as_ref().map_or(Cell::None, Cell::text)),
    Column::hidden("PORT", |row| {
        row.port.map_or(Cell::None, |port| Cell::Number(port.into()))
    }),
    Column::hidden("SUPERVISOR", |row| {
        row.supervisor.map_or(Cell::None, |pid| Cell::Number(pid.into()))
    }),
    Column::hidden("FAULT", |row| row.fault.as_ref().map_or(Cell::None, Cell::text)),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

/// `vctl apparatus list`
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    table: TableOptions,
}

impl List {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let views = apparatus::list(&context.pool, &mut *context.store()?)?;
        let rows = views.into_iter().map(Row::new).collect();
        report::list(context, &self.table, COLUMNS, "apparatuses", rows)
    }
}

/// `vctl apparatus show`
#[derive(Args, Debug)]
pub struct Show {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
}

impl Show {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let view = apparatus::show(&context.pool, &mut *context.store()?, &self.name)?;
        report::show(context, COLUMNS, "apparatus", &Row::new(view))
    }
}
