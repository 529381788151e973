//! `vctl job list`, `show`.

use crate::commands::report;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, Style, TableOptions, Tone, count, details, table};
use apparatus::admin;
use apparatus::admin::job::{JobView, Workers};
use apparatus::admin::view::PoolView;
use apparatus::model::error::Result;
use apparatus::model::job::{JobState, Step};
use apparatus::model::units::{ByteCount, JobId, Timestamp};
use clap::Args;
use serde::Serialize;

/// A job as scripts read it.
#[derive(Serialize)]
pub struct Row {
    id: JobId,
    title: String,
    subject: String,
    state: &'static str,
    why: String,
    back: bool,
    done: ByteCount,
    total: ByteCount,
    copied: ByteCount,
    held_requests: u64,
    longest_hold_us: u64,
    median_hold_us: Option<u64>,
    p99_hold_us: Option<u64>,
    abandoned: bool,
    rate: Option<ByteCount>,
    hold_target_us: Option<u64>,
    hold_all: bool,
    skip_unreadable: bool,
    created: String,
    ended: Option<String>,
    #[serde(skip)]
    is: JobState,
    #[serde(skip)]
    times: (Timestamp, Option<Timestamp>),
}

/// Returns the word for the state of a job.
pub fn word(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Paused => "paused",
        JobState::Cancelled => "cancelled",
        JobState::RollingBack => "rolling-back",
        JobState::Done => "done",
        JobState::Failed => "failed",
    }
}

/// Describes the durations of holds: median, 99th percentile, longest.
pub fn holds_in_words((median, p99, longest): (Option<u64>, Option<u64>, u64), style: Style) -> String {
    let time = |us: u64| Cell::Micros(us).plain(style);
    match (median, p99) {
        (Some(median), Some(p99)) => format!(
            "holds: median {}, p99 {}, longest {}",
            time(median),
            time(p99),
            time(longest)
        ),
        _ => "no holds".to_owned(),
    }
}

/// Returns the tone of a job's state.
pub fn tone(state: JobState) -> Tone {
    match state {
        JobState::Running | JobState::Done => Tone::Good,
        JobState::Paused | JobState::Cancelled | JobState::RollingBack => Tone::Warning,
        JobState::Failed => Tone::Bad,
    }
}

impl Row {
    /// Creates the row from the view of a job.
    pub fn new(view: JobView) -> Self {
        let record = view.record;
        // A quantile is reported as the upper end of its bucket.
        let hold = |per_mille| {
            record
                .holds
                .quantile(per_mille)
                .map(|us| us.min(record.longest_hold_us))
        };
        let (median_hold_us, p99_hold_us) = (hold(500), hold(990));
        let rolled_back = admin::job::is_rolled_back(&record);
        Self {
            id: record.id,
            title: record.title,
            subject: view.subject,
            state: word(record.state),
            why: if view.abandoned {
                admin::job::abandoned(record.id)
            } else if rolled_back && record.why.is_empty() {
                "what it had moved was moved back".to_owned()
            } else {
                record.why
            },
            back: record.back,
            done: view.done,
            total: view.total,
            copied: record.copied,
            held_requests: record.held,
            longest_hold_us: record.longest_hold_us,
            median_hold_us,
            p99_hold_us,
            abandoned: view.abandoned,
            rate: record.limits.rate,
            hold_target_us: record.limits.hold_target_us,
            hold_all: record.limits.hold_all,
            skip_unreadable: record.limits.skip_unreadable,
            created: record.created.to_string(),
            ended: record.ended.map(|time| time.to_string()),
            is: record.state,
            times: (record.created, record.ended),
        }
    }

    /// Describes the state of the job in one line.
    pub fn in_words(&self, style: Style) -> String {
        let bytes = |bytes: ByteCount| Cell::Size(bytes.0).plain(style);
        format!(
            "job {}: {}, {} of {} {}, {} copied, {} held, {}",
            self.id,
            self.state,
            bytes(self.done),
            bytes(self.total),
            if self.back { "moved back" } else { "moved" },
            bytes(self.copied),
            count(self.held_requests, "host request"),
            holds_in_words(
                (self.median_hold_us, self.p99_hold_us, self.longest_hold_us),
                style
            ),
        )
    }

    fn state(&self) -> Cell {
        match self.abandoned {
            true => Cell::Word("abandoned", Tone::Bad),
            false => Cell::Word(self.state, tone(self.is)),
        }
    }

    fn percent(&self) -> Cell {
        match (u128::from(self.done.0) * 100).checked_div(u128::from(self.total.0)) {
            Some(percent) => Cell::Text(format!("{percent}%")),
            None => Cell::None,
        }
    }
}

const COLUMNS: &[Column<Row>] = &[
    Column::shown("ID", |row| Cell::Number(row.id.0)),
    Column::shown("STATE", Row::state),
    Column::shown("SUBJECT", |row| Cell::text(&row.subject)),
    Column::shown("DONE", Row::percent),
    Column::shown("MOVED", |row| Cell::Size(row.done.0)),
    Column::shown("TOTAL", |row| Cell::Size(row.total.0)),
    Column::shown("HELD", |row| Cell::Number(row.held_requests)),
    Column::shown("LONGEST-HOLD", |row| Cell::Micros(row.longest_hold_us)),
    Column::shown("WHY", |row| Cell::text(&row.why)),
    Column::hidden("MEDIAN-HOLD", |row| {
        row.median_hold_us.map_or(Cell::None, Cell::Micros)
    }),
    Column::hidden("P99-HOLD", |row| row.p99_hold_us.map_or(Cell::None, Cell::Micros)),
    Column::hidden("TITLE", |row| Cell::text(&row.title)),
    Column::hidden("COPIED", |row| Cell::Size(row.copied.0)),
    Column::hidden("RATE", |row| {
        row.rate.map_or(Cell::None, |rate| Cell::Size(rate.0))
    }),
    Column::hidden("LATENCY", |row| {
        row.hold_target_us.map_or(Cell::None, Cell::Micros)
    }),
    Column::hidden("HOLD-ALL", |row| Cell::Flag(row.hold_all)),
    Column::hidden("SKIP-UNREADABLE", |row| Cell::Flag(row.skip_unreadable)),
    Column::hidden("BACK", |row| Cell::Flag(row.back)),
    Column::hidden("CREATED", |row| Cell::Time(row.times.0)),
    Column::hidden("ENDED", |row| row.times.1.map_or(Cell::None, Cell::Time)),
];

/// Returns the names of the columns.
pub fn columns() -> Vec<&'static str> {
    Column::names(COLUMNS)
}

/// `vctl job list`
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    table: TableOptions,
}

impl List {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let jobs = admin::job::list(&context.pool, &mut *context.store()?)?;
        let rows = jobs.into_iter().map(Row::new).collect();
        report::list(context, &self.table, COLUMNS, "jobs", rows)
    }
}

/// A line of a copy progress table as scripts read it, in bytes.
#[derive(Serialize)]
pub struct ProgressLine {
    volume: String,
    start: u64,
    length: u64,
    from: String,
    from_offset: u64,
    to: String,
    to_offset: u64,
    done: u64,
}

impl ProgressLine {
    /// Creates the row of a step, with names.
    pub fn new(view: &PoolView, step: &Step) -> Self {
        let bytes = |extents: u64| extents.saturating_mul(view.header.extent_size.bytes());
        Self {
            volume: view.volume_name(step.volume),
            start: bytes(step.from.start.0),
            length: bytes(step.from.placement.len),
            from: view.disk_name(step.from.placement.disk),
            from_offset: bytes(step.from.placement.start.0),
            to: view.disk_name(step.to.disk),
            to_offset: bytes(step.to.start.0),
            done: bytes(step.done),
        }
    }

    /// Describes which range moves where.
    pub fn in_words(&self, style: Style) -> String {
        let bytes = |bytes: u64| Cell::Exact(bytes).plain(style);
        format!(
            "{} of volume {} at {} from {} at {} to {} at {}",
            bytes(self.length),
            self.volume,
            bytes(self.start),
            self.from,
            bytes(self.from_offset),
            self.to,
            bytes(self.to_offset),
        )
    }
}

const LINES: &[Column<ProgressLine>] = &[
    Column::shown("VOLUME", |line| Cell::text(&line.volume)),
    Column::shown("START", |line| Cell::Exact(line.start)),
    Column::shown("LENGTH", |line| Cell::Exact(line.length)),
    Column::shown("FROM", |line| Cell::text(&line.from)),
    Column::shown("FROM-OFFSET", |line| Cell::Exact(line.from_offset)),
    Column::shown("TO", |line| Cell::text(&line.to)),
    Column::shown("TO-OFFSET", |line| Cell::Exact(line.to_offset)),
    Column::shown("DONE", |line| Cell::Exact(line.done)),
];

/// Returns the names of the columns.
pub fn step_columns() -> Vec<&'static str> {
    Column::names(LINES)
}

/// `vctl job show`
#[derive(Args, Debug)]
pub struct Show {
    /// Its number
    #[arg(value_name = "JOB", value_parser = crate::arguments::job)]
    job: JobId,
    #[command(flatten)]
    table: TableOptions,
}

impl Show {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct JobRow {
            job: Row,
            phase: String,
            steps: Vec<ProgressLine>,
        }
        let mut store = context.store()?;
        let view = admin::job::show(&context.pool, &mut *store, self.job)?;
        let pool = PoolView::load(&mut *store)?;
        let workers = Workers::look(&context.pool, &mut *store, std::slice::from_ref(&view.record))?;
        let phase = admin::job::phase(&workers, &view.record);
        let mut steps: Vec<ProgressLine> = view
            .steps
            .iter()
            .map(|step| ProgressLine::new(&pool, step))
            .collect();
        self.table.sort(LINES, &mut steps)?;
        let body = JobRow {
            job: Row::new(view),
            phase,
            steps,
        };
        context.out.say(&body, |out| {
            details(out, COLUMNS, &body.job);
            out.line(&format!(
                "{:<12}  {}",
                "phase",
                crate::output::printable(&body.phase)
            ));
            out.line("");
            table(out, &self.table, LINES, &body.steps)
        })?;
        Ok(Done::Plainly)
    }
}
