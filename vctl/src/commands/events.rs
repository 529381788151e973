//! `vctl events`.

use super::report;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, Style, TableOptions, Tone, printable};
use apparatus::admin;
use apparatus::admin::watch::Watch;
use apparatus::model::error::Result;
use apparatus::model::event::{Event, Severity};
use apparatus::model::units::Timestamp;
use apparatus::store::{EventStore, Store};
use clap::Args;
use serde::Serialize;

/// Number of events that are read at a time.
const BATCH: usize = 1000;

/// `vctl events`
#[derive(Args, Debug)]
pub struct Events {
    /// Follow: print each new event on a line, until Ctrl-C
    #[arg(long, short = 'f')]
    follow: bool,
    /// At most this many of the latest
    #[arg(long, short = 'n', alias = "limit", value_name = "N", default_value_t = 50)]
    lines: usize,
    /// Only those after this number
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Only those at or after this time: a time (2026-03-01T09:00:00Z), or 12h for that long before now
    #[arg(long, value_name = "TIME", value_parser = crate::arguments::moment)]
    since: Option<Timestamp>,
    #[command(flatten)]
    table: TableOptions,
}

/// An event as scripts read it.
#[derive(Serialize)]
struct Row {
    seq: u64,
    at: String,
    severity: &'static str,
    subject: String,
    text: String,
    #[serde(skip)]
    time: Timestamp,
    #[serde(skip)]
    grave: Severity,
}

#[derive(Serialize)]
struct EventRow<'a> {
    event: &'a Row,
}

impl Row {
    fn new(event: Event) -> Self {
        let severity = match event.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        Self {
            seq: event.seq,
            at: event.at.to_string(),
            severity,
            subject: event.subject,
            text: event.text,
            time: event.at,
            grave: event.severity,
        }
    }

    fn severity(&self) -> Cell {
        match self.grave {
            Severity::Info => Cell::Word(self.severity, Tone::Good),
            Severity::Warning => Cell::Word(self.severity, Tone::Warning),
            Severity::Error => Cell::Word(self.severity, Tone::Bad),
        }
    }

    fn in_words(&self, style: Style) -> String {
        let (before, after) = self.severity().paint(style);
        let (subject, text) = (printable(&self.subject), printable(&self.text));
        format!(
            "{}  {before}{:<7}{after}  {subject}: {text}",
            self.at, self.severity
        )
    }
}

const COLUMNS: &[Column<Row>] = &[
    Column::hidden("SEQ", |row| Cell::Number(row.seq)),
    Column::shown("AT", |row| Cell::Time(row.time)),
    Column::shown("SEVERITY", Row::severity),
    Column::shown("SUBJECT", |row| Cell::text(&row.subject)),
    Column::shown("TEXT", |row| Cell::text(&row.text)),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

impl Events {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        // The watch begins before the first look, so that no event is missed between the two.
        let watch = self.follow.then(|| Watch::new(&context.pool)).transpose()?;
        let mut store = context.store()?;
        let (events, last) = self.read(&mut *store)?;
        match watch {
            Some(watch) => follow(context, &mut *store, watch, &events, last),
            None => report::list(context, &self.table, COLUMNS, "events", events),
        }
    }

    /// Returns the latest events, and the number after which to continue.
    fn read(&self, store: &mut dyn Store) -> Result<(Vec<Row>, u64)> {
        let (events, last) = admin::events::latest(store, self.after.unwrap_or(0), self.since, self.lines)?;
        Ok((events.into_iter().map(Row::new).collect(), last))
    }
}

fn follow(
    context: &mut Context,
    store: &mut dyn EventStore,
    watch: Watch,
    first: &[Row],
    mut last: u64,
) -> Result<Done> {
    first.iter().try_for_each(|row| say(context, row))?;
    report::follow(context, watch, |context| {
        store.events(last, BATCH)?.into_iter().try_for_each(|event| {
            last = event.seq;
            say(context, &Row::new(event))
        })
    })
}

fn say(context: &mut Context, row: &Row) -> Result<()> {
    context.out.say(&EventRow { event: row }, |out| {
        out.line(&row.in_words(out.style()));
        Ok(())
    })
}
