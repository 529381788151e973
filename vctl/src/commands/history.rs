//! `vctl history`.

use super::report;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, Style, TableOptions, Tone, printable};
use apparatus::admin::watch::Watch;
use apparatus::cluster;
use apparatus::controller::history::{self, OperationState};
use apparatus::controller::node;
use apparatus::model::audit::{Entry, Recorded};
use apparatus::model::error::Result;
use apparatus::model::units::Timestamp;
use apparatus::store::EventStore;
use clap::Args;
use serde::Serialize;

/// Number of records that are read at a time.
const BATCH: usize = 1000;

/// `vctl history`
#[derive(Args, Debug)]
pub struct History {
    /// Follow: print one line when a command begins and one when it ends, until Ctrl-C
    #[arg(long, short = 'f')]
    follow: bool,
    /// At most this many of the latest; the newest 10000 are kept
    #[arg(long, short = 'n', alias = "limit", value_name = "N", default_value_t = 50)]
    lines: usize,
    /// Only what began at or after this time: a time (2026-03-01T09:00:00Z), or 12h for that long before now
    #[arg(long, value_name = "TIME", value_parser = crate::arguments::moment)]
    since: Option<Timestamp>,
    #[command(flatten)]
    table: TableOptions,
}

/// A recorded command, as scripts read it.
#[derive(Serialize)]
struct Row {
    seq: u64,
    began: String,
    ended: Option<String>,
    state: &'static str,
    status: Option<u8>,
    why: Option<String>,
    by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    uid: u32,
    user: String,
    pid: u32,
    command: Vec<String>,
    #[serde(skip)]
    times: (Timestamp, Option<Timestamp>),
    #[serde(skip)]
    tone: Tone,
}

#[derive(Serialize)]
struct HistoryRow<'a> {
    entry: &'a Row,
}

/// Returns the word for a state.
fn word(state: OperationState) -> (&'static str, Tone) {
    match state {
        OperationState::Done => ("done", Tone::Good),
        OperationState::Failed => ("failed", Tone::Bad),
        OperationState::Running => ("running", Tone::Good),
        OperationState::Unfinished => ("unfinished", Tone::Warning),
        OperationState::Unknown => ("unknown", Tone::Warning),
    }
}

impl Row {
    fn new(recorded: Recorded, state_of: &dyn Fn(&Entry) -> OperationState) -> Self {
        let Recorded { seq, entry, .. } = recorded;
        let (state, tone) = word(state_of(&entry));
        let end = entry.end;
        Self {
            seq,
            began: entry.began.to_string(),
            ended: end.as_ref().map(|end| end.at.to_string()),
            state,
            status: end.as_ref().map(|end| end.status),
            times: (entry.began, end.as_ref().map(|end| end.at)),
            why: end.map(|end| end.why).filter(|why| !why.is_empty()),
            by: entry.by,
            node: entry.node.map(|node| node.to_string()),
            uid: entry.uid,
            user: entry.user,
            pid: entry.pid,
            command: entry.command,
            tone,
        }
    }

    fn who(&self) -> String {
        match self.user.as_str() {
            "" => self.uid.to_string(),
            name => name.to_owned(),
        }
    }

    /// Returns the command line as an operator would type it, preceded by the program if that is not vctl.
    fn line(&self) -> String {
        let words: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        let words = words.join(" ");
        match self.by.as_str() {
            "vctl" => format!("vctl {words}"),
            by => format!("{by}: {words}"),
        }
    }

    fn in_words(&self, style: Style) -> String {
        let (before, after) = Cell::Word(self.state, self.tone).paint(style);
        let (who, line) = (printable(&self.who()), printable(&self.line()));
        let why = self.why.as_deref().map(|why| format!(" ({})", printable(why)));
        let why = why.unwrap_or_default();
        format!(
            "{}  {before}{:<10}{after}  {who}[{}]  {line}{why}",
            self.began, self.state, self.pid
        )
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,@+%^…".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

const COLUMNS: &[Column<Row>] = &[
    Column::hidden("SEQ", |row| Cell::Number(row.seq)),
    Column::shown("BEGAN", |row| Cell::Time(row.times.0)),
    Column::hidden("ENDED", |row| row.times.1.map_or(Cell::None, Cell::Time)),
    Column::shown("STATE", |row| Cell::Word(row.state, row.tone)),
    Column::hidden("STATUS", |row| {
        row.status
            .map_or(Cell::None, |status| Cell::Number(status.into()))
    }),
    Column::shown("USER", |row| Cell::text(row.who())),
    Column::hidden("UID", |row| Cell::Number(row.uid.into())),
    Column::hidden("PID", |row| Cell::Number(row.pid.into())),
    Column::hidden("BY", |row| Cell::text(&row.by)),
    Column::if_any("NODE", |row| row.node.as_ref().map_or(Cell::None, Cell::text)),
    Column::shown("COMMAND", |row| Cell::text(row.line())),
    Column::shown("WHY", |row| row.why.as_ref().map_or(Cell::None, Cell::text)),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

impl History {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        // The watch begins before the first look, so that no record is missed between the two.
        let watch = self.follow.then(|| Watch::new(&context.pool)).transpose()?;
        let mut store = context.store()?;
        let (found, last) = history::latest(&mut *store, self.since, self.lines)?;
        let cluster = cluster::open(&context.pool)?;
        let own = node::own(&context.pool)?.map(|own| own.name);
        let state_of = |entry: &Entry| history::state_of(entry, &*cluster, own.as_ref());
        let row = |recorded| Row::new(recorded, &state_of);
        let rows: Vec<Row> = found.into_iter().map(row).collect();
        match watch {
            Some(watch) => follow(context, &mut *store, &state_of, watch, (&rows, last)),
            None => report::list(context, &self.table, COLUMNS, "history", rows),
        }
    }
}

fn follow(
    context: &mut Context,
    store: &mut dyn EventStore,
    state_of: &dyn Fn(&Entry) -> OperationState,
    watch: Watch,
    (first, mut last): (&[Row], u64),
) -> Result<Done> {
    first.iter().try_for_each(|row| say(context, row))?;
    report::follow(context, watch, |context| {
        store.recorded(last, BATCH)?.into_iter().try_for_each(|recorded| {
            last = recorded.mark;
            say(context, &Row::new(recorded, state_of))
        })
    })
}

fn say(context: &mut Context, row: &Row) -> Result<()> {
    context.out.say(&HistoryRow { entry: row }, |out| {
        out.line(&row.in_words(out.style()));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_as_a_shell_takes_them() {
        let cases = [
            ("d1", "d1"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$x", "'$x'"),
        ];
        for (word, expected) in cases {
            assert_eq!(quoted(word), expected);
        }
    }
}
