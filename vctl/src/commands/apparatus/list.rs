//! `vctl apparatus list`, `show`.

use crate::commands::told;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, TableOptions, Tone};
use ::apparatus::error::Result;
use ::apparatus::ops::apparatus::{self, State, View};
use ::apparatus::wire::message::Figures;
use clap::Args;
use serde::Serialize;

/// An apparatus as scripts see it.
#[derive(Serialize)]
pub struct Row {
    name: String,
    state: State,
    pid: u32,
    mount: String,
    slot: u32,
    incarnation: u64,
    since: String,
    fault: Option<String>,
    figures: Option<Figures>,
    #[serde(skip)]
    joined: ::apparatus::units::Timestamp,
}

/// What an apparatus's state is called.
pub fn word(state: State) -> (&'static str, Tone) {
    match state {
        State::Serving => ("serving", Tone::Good),
        State::Silent => ("silent", Tone::Warning),
        State::Fenced => ("fenced", Tone::Bad),
        State::Dead => ("dead", Tone::Bad),
    }
}

impl Row {
    /// From what is known of it.
    pub fn new(view: View) -> Self {
        Self {
            name: view.member.name.to_string(),
            state: view.state,
            pid: view.member.pid,
            mount: view.member.mount.to_string_lossy().into_owned(),
            slot: view.member.slot.0,
            incarnation: view.member.incarnation.0,
            since: view.member.since.to_string(),
            fault: view.fault,
            figures: view.figures,
            joined: view.member.since,
        }
    }

    fn state(&self) -> Cell {
        let (word, tone) = word(self.state);
        Cell::Word(word, tone)
    }

    fn figure(&self, figure: impl Fn(&Figures) -> Cell) -> Cell {
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
    Column::hidden("FAULT", |row| row.fault.as_ref().map_or(Cell::None, Cell::text)),
];

/// `vctl apparatus list`
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    table: TableOptions,
}

impl List {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let views = apparatus::list(&context.pool, &mut *context.store()?)?;
        let rows = views.into_iter().map(Row::new).collect();
        told::list(context, &self.table, COLUMNS, "apparatuses", rows)
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
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let view = apparatus::show(&context.pool, &mut *context.store()?, &self.name)?;
        told::show(context, COLUMNS, "apparatus", &Row::new(view))
    }
}
