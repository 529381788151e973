//! Code that moves, evacuations and resumed jobs share: limits, progress, foreground and background.

use super::list::Row;
use crate::arguments;
use crate::context::{Changing, Context, stop_flag};
use crate::exit::Done;
use crate::failure;
use crate::output::{Display, Progress, note, printable};
use apparatus::admin;
use apparatus::admin::moving::{self, MoveOutline};
use apparatus::admin::open_images;
use apparatus::cluster::{self, JobClaim};
use apparatus::controller::Controller;
use apparatus::jobs::{self, Request};
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::job::{JobLimits, JobRecord, JobState, Step};
use apparatus::model::names::Name;
use apparatus::model::records::Delta;
use apparatus::model::units::{ByteCount, JobId};
use apparatus::store::Store;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::time::Duration;

/// The requests of hosts that wait while a chunk is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Hold {
    /// Requests that write; reads go on
    #[default]
    Writes,
    /// All requests for the chunk
    All,
}

/// Options for running a job.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Job options")]
pub struct JobOptions {
    /// Let an apparatus work on it, this one if named, and return at once
    #[arg(long, value_name = "APPARATUS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    background: Option<String>,
    /// At most this many bytes per second; holes do not count
    #[arg(long, value_name = "SIZE", value_parser = arguments::rate)]
    rate: Option<ByteCount>,
    /// Size chunks so that holds take about this; 1ms by default
    #[arg(long, value_name = "TIME", value_parser = arguments::latency)]
    latency: Option<Duration>,
    /// The requests of hosts that wait while a chunk is copied
    #[arg(long, value_enum, default_value_t)]
    hold: Hold,
    /// Skip ranges that cannot be read: they stay where they are and are listed, and all else is moved
    #[arg(long)]
    skip_unreadable: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    pub progress: Progress,
}

impl JobOptions {
    fn limits(&self) -> JobLimits {
        JobLimits {
            rate: self.rate,
            hold_target_us: self.latency.map(arguments::micros),
            hold_all: self.hold == Hold::All,
            skip_unreadable: self.skip_unreadable,
        }
    }
}

/// Plans a job and, unless it is a dry run, records it and runs it or hands it over.
pub fn begin(
    context: &mut Context,
    changing: &Changing,
    options: &JobOptions,
    request: &Request,
    title: &str,
) -> Result<Done> {
    begin_job(context, changing, options, request, title)
        .map_err(|error| open_images::explain(&context.pool, error))
}

fn begin_job(
    context: &mut Context,
    changing: &Changing,
    options: &JobOptions,
    request: &Request,
    title: &str,
) -> Result<Done> {
    let named = options.background.as_deref().map(named);
    if let Some(named) = named {
        admin::job::check_hand_over(&context.pool, &mut *context.store()?, named)?;
    }
    if changing.dry_run {
        return would_do(context, request);
    }
    let mut controller = context.controller_for_job(title, changing)?;
    let begun = moving::begin(&mut controller, request, title, options.limits())?;
    begun.ended.iter().for_each(|job| note_ended(*job));
    let Some(job) = begun.job else {
        return nothing_to_do(context, controller.fenced().to_vec());
    };
    controller.set_purpose(&admin::job::purpose(job))?;
    let claim = jobs::take_on(&*cluster::open(&context.pool)?, job, jobs::RELEASE_TIMEOUT)?;
    match named {
        Some(named) => {
            drop(controller);
            let taken = hand_over_new(context, job, named);
            // Until the apparatus works on it, this lock keeps others from taking it for an abandoned job.
            drop(claim);
            taken
        }
        None => work(context, controller, claim, options.progress),
    }
}

/// Returns the apparatus that `--background` names.
pub fn named(background: &str) -> Option<&str> {
    (!background.is_empty()).then_some(background)
}

fn note_ended(job: JobId) {
    note(&format!(
        "vctl: abandoned job {job} is cancelled: what it moved stays moved"
    ));
}

/// Prints that there is no job, because everything is at its destination already.
fn nothing_to_do(context: &mut Context, fenced: Vec<Name>) -> Result<Done> {
    #[derive(Serialize)]
    struct NothingToDo {
        job: Option<Row>,
        fenced: Vec<Name>,
    }
    let body = NothingToDo { job: None, fenced };
    context.out.say(&body, |out| {
        out.line("nothing to move: everything is at its destination");
        Ok(())
    })?;
    Ok(Done::WithFenced(body.fenced))
}

/// Hands over a job that has just been recorded. If no apparatus accepts it, it is cancelled, because nothing would work on it.
fn hand_over_new(context: &mut Context, job: JobId, to: Option<&str>) -> Result<Done> {
    let taken = hand_over(context, job, to, |_| Ok(()));
    if taken.is_err() {
        jobs::cancel(&mut *context.store()?, job, false)?;
    }
    taken
}

fn would_do(context: &mut Context, request: &Request) -> Result<Done> {
    #[derive(Serialize)]
    struct WouldDo<'a> {
        dry_run: bool,
        steps: &'a [Step],
        bytes: ByteCount,
        #[serde(rename = "difference")]
        delta: Delta,
        ends_jobs: Vec<JobId>,
    }
    let mut store = context.store()?;
    let (outline, ends_jobs) = moving::preview(&context.pool, &mut *store, request)?;
    let MoveOutline { steps, bytes, delta } = outline;
    let view = admin::view::PoolView::load(&mut *store)?;
    let body = WouldDo {
        dry_run: true,
        steps: &steps,
        bytes,
        delta,
        ends_jobs,
    };
    context.out.say(&body, |out| {
        for job in &body.ends_jobs {
            out.line(&format!("would cancel abandoned job {job}"));
        }
        for step in &steps {
            let row = super::list::ProgressLine::new(&view, step);
            out.line(&format!("would move {}", row.in_words(out.style())));
        }
        if steps.is_empty() {
            out.line("nothing would be moved: everything is at its destination");
        }
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Lets an apparatus work on a job with this state. If no apparatus accepts it, the job keeps its state.
pub fn hand_over(
    context: &mut Context,
    job: JobId,
    to: Option<&str>,
    request: impl FnOnce(&mut dyn Store) -> Result<()>,
) -> Result<Done> {
    #[derive(Serialize)]
    struct HandedOver {
        job: Row,
        apparatus: Name,
    }
    let mut store = context.store()?;
    let apparatus = admin::job::command_and_hand_over(&context.pool, &mut *store, job, to, request)?;
    let body = HandedOver {
        job: Row::new(admin::job::show(&context.pool, &mut *store, job)?),
        apparatus,
    };
    context.out.say(&body, |out| {
        out.line(&format!(
            "job {job}: apparatus {} works on it; vctl job wait {job}",
            body.apparatus
        ));
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Works on a job in this process, until it ends or Ctrl-C.
pub fn work(
    context: &mut Context,
    mut controller: Controller,
    claim: JobClaim,
    progress: Progress,
) -> Result<Done> {
    let job = claim.job();
    let extent_size = controller.store().header()?.extent_size.bytes();
    let mut display = Display::new(progress, context.out.style().json, extent_size, stop_flag()?);
    let ended = jobs::run_taken(&mut controller, claim, &mut display);
    display.finish();
    let state = ended?;
    let fenced = controller.fenced().to_vec();
    drop(controller);
    report(context, job, fenced, state)
}

/// Prints how a job ended.
fn report(context: &mut Context, job: JobId, fenced: Vec<Name>, state: JobState) -> Result<Done> {
    #[derive(Serialize)]
    struct JobEnd {
        job: Row,
        fenced: Vec<Name>,
    }
    let view = admin::job::show(&context.pool, &mut *context.store()?, job)?;
    let record = JobRecord {
        state,
        ..view.record.clone()
    };
    let body = JobEnd {
        job: Row::new(view),
        fenced,
    };
    if state == JobState::Done || context.out.style().json {
        context.out.say(&body, |out| {
            out.line(&body.job.in_words(out.style()));
            if !record.why.is_empty() {
                out.line(&printable(&record.why));
            }
            Ok(())
        })?;
    }
    ended(context, outcome(&record), Done::WithFenced(body.fenced))
}

/// Returns the end of a command that has printed how a job ended: with `--json` that is the one object.
pub fn ended(context: &Context, outcome: Result<()>, done: Done) -> Result<Done> {
    match outcome {
        Ok(()) => Ok(done),
        Err(error) if context.out.style().json => {
            failure::write_text(&error);
            Ok(Done::Badly(error.kind()))
        }
        Err(error) => Err(error),
    }
}

/// Returns the failure that corresponds to a job's state; `Ok` if it is done.
pub fn outcome(record: &JobRecord) -> Result<()> {
    let (job, why) = (record.id, &record.why);
    let what = format!("job {job}");
    let because = |word: &str| {
        if why.is_empty() {
            word.to_owned()
        } else {
            format!("{word}: {why}")
        }
    };
    match record.state {
        JobState::Done => Ok(()),
        JobState::Failed => Err(Error::failed(what, because("failed")).hint(format!(
            "what was moved stays moved; move it back with vctl job cancel {job} --roll-back"
        ))),
        JobState::Cancelled => Err(Error::new(
            ErrorKind::Cancelled,
            what,
            because(if admin::job::is_rolled_back(record) {
                "cancelled, what it had moved was moved back"
            } else {
                "cancelled, what was moved stays moved"
            }),
        )),
        JobState::Paused => Err(Error::new(
            ErrorKind::Cancelled,
            what,
            because("paused, what was moved stays moved"),
        )
        .hint(format!("continue it: vctl job resume {job}"))),
        JobState::Running | JobState::RollingBack => {
            Err(Error::failed(what, because("has not ended"))
                .hint(format!("continue it: vctl job resume {job}")))
        }
    }
}
