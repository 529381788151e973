//! What moves, evacuations and resumed jobs have in common: limits, progress, foreground and background.

use super::list::Row;
use crate::arguments;
use crate::context::{Changing, Context, stop_flag};
use crate::exit::Done;
use crate::failure;
use crate::output::{Display, Progress, note, printable};
use apparatus::change::driver::Controller;
use apparatus::change::jobs::{self, Request};
use apparatus::error::{Error, Kind, Result};
use apparatus::ops;
use apparatus::ops::moving::{self, Outline};
use apparatus::pool::model::Difference;
use apparatus::pool::names::Name;
use apparatus::store::{JobLimits, JobState, Step, Store};
use apparatus::units::{ByteCount, JobId};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::time::Duration;

/// Which host requests wait while a chunk is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Hold {
    /// Those that write; reads go on
    #[default]
    Writes,
    /// All that touch the chunk
    All,
}

/// How a job is run.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Job options")]
pub struct JobOptions {
    /// Have an apparatus work on it, this one if named, and return at once
    #[arg(long, value_name = "APPARATUS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    background: Option<String>,
    /// At most so many bytes a second
    #[arg(long, value_name = "SIZE", value_parser = arguments::rate)]
    rate: Option<ByteCount>,
    /// Size chunks so that holds take about this; 1ms if not said
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    latency: Option<Duration>,
    /// Which host requests wait while a chunk is copied
    #[arg(long, value_enum, default_value_t)]
    hold: Hold,
    /// Go past places that cannot be read: they stay where they are and are listed, and all else is moved
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
    let named = options.background.as_deref().map(named);
    if let Some(named) = named {
        ops::job::check_hand_over(&context.pool, &mut *context.store()?, named)?;
    }
    if changing.dry_run {
        return would_do(context, request);
    }
    let mut controller = context.controller(title, changing)?;
    let begun = moving::begin(&mut controller, request, title, options.limits())?;
    begun.ended.iter().for_each(|job| tell_ended(*job));
    let Some(job) = begun.job else {
        return nothing_to_do(context, controller.fenced().to_vec());
    };
    controller.set_purpose(&ops::job::purpose(job))?;
    match named {
        Some(named) => {
            drop(controller);
            hand_over_new(context, job, named)
        }
        None => work(context, controller, job, options.progress),
    }
}

/// The apparatus that `--background` names.
pub fn named(background: &str) -> Option<&str> {
    (!background.is_empty()).then_some(background)
}

fn tell_ended(job: JobId) {
    note(&format!(
        "vctl: job {job}, on which nobody worked any more, is cancelled: what it moved stays moved"
    ));
}

/// All lies where it was to go: there is no job.
fn nothing_to_do(context: &mut Context, fenced: Vec<Name>) -> Result<Done> {
    #[derive(Serialize)]
    struct Nothing {
        job: Option<Row>,
        fenced: Vec<Name>,
    }
    let body = Nothing { job: None, fenced };
    context.out.say(&body, |out| {
        out.line("nothing to move: all lies where it is to go");
        Ok(())
    })?;
    Ok(Done::WithFenced(body.fenced))
}

/// Hands a job over that has just been recorded. Where nobody takes it, it is cancelled: nobody would work on it.
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
        difference: Difference,
        ends_jobs: Vec<JobId>,
    }
    let mut store = context.store()?;
    let (outline, ends_jobs) = moving::preview(&context.pool, &mut *store, request)?;
    let Outline {
        steps,
        bytes,
        difference,
    } = outline;
    let view = ops::view::PoolView::load(&mut *store)?;
    let body = WouldDo {
        dry_run: true,
        steps: &steps,
        bytes,
        difference: difference.clone(),
        ends_jobs,
    };
    context.out.say(&body, |out| {
        for job in &body.ends_jobs {
            out.line(&format!("// cancels job {job}, on which nobody works any more"));
        }
        for step in &steps {
            let row = super::list::Line::new(&view, step);
            out.line(&format!("// {}", row.in_words(out.style())));
        }
        out.line(&ops::plan::as_ron(&difference)?);
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Has an apparatus work on a job, of which this is wished. Where nobody takes it, it stays as it is.
pub fn hand_over(
    context: &mut Context,
    job: JobId,
    to: Option<&str>,
    wish: impl FnOnce(&mut dyn Store) -> Result<()>,
) -> Result<Done> {
    #[derive(Serialize)]
    struct HandedOver {
        job: Row,
        apparatus: Name,
    }
    let mut store = context.store()?;
    let apparatus = ops::job::wish_and_hand_over(&context.pool, &mut *store, job, to, wish)?;
    let body = HandedOver {
        job: Row::new(ops::job::show(&context.pool, &mut *store, job)?),
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

/// Works on a job here, until it ends or Ctrl-C.
pub fn work(
    context: &mut Context,
    mut controller: Controller,
    job: JobId,
    progress: Progress,
) -> Result<Done> {
    let extent_size = controller.store().header()?.extent_size.bytes();
    let mut display = Display::new(progress, context.out.style().json, extent_size, stop_flag()?);
    let ended = jobs::run(&mut controller, job, &mut display);
    display.finish();
    let state = ended?;
    let fenced = controller.fenced().to_vec();
    drop(controller);
    report(context, job, fenced, state)
}

/// Says how a job ended.
fn report(context: &mut Context, job: JobId, fenced: Vec<Name>, state: JobState) -> Result<Done> {
    #[derive(Serialize)]
    struct Ended {
        job: Row,
        fenced: Vec<Name>,
    }
    let view = ops::job::show(&context.pool, &mut *context.store()?, job)?;
    let why = view.record.why.clone();
    let body = Ended {
        job: Row::new(view),
        fenced,
    };
    if state == JobState::Done || context.out.style().json {
        context.out.say(&body, |out| {
            out.line(&body.job.in_words(out.style()));
            if !why.is_empty() {
                out.line(&printable(&why));
            }
            Ok(())
        })?;
    }
    ended(context, outcome(job, state, &why), Done::WithFenced(body.fenced))
}

/// How a command ends that has reported a job's end: with `--json` the report is the one object.
pub fn ended(context: &Context, outcome: Result<()>, done: Done) -> Result<Done> {
    match outcome {
        Ok(()) => Ok(done),
        Err(error) if context.out.style().json => {
            failure::tell_people(&error);
            Ok(Done::Badly(error.kind()))
        }
        Err(error) => Err(error),
    }
}

/// The failure that a job's state is, unless it is done.
pub fn outcome(job: JobId, state: JobState, why: &str) -> Result<()> {
    let what = format!("job {job}");
    let because = |word: &str| {
        if why.is_empty() {
            word.to_owned()
        } else {
            format!("{word}: {why}")
        }
    };
    match state {
        JobState::Done => Ok(()),
        JobState::Failed => Err(Error::failed(what, because("failed")).hint(format!(
            "what was moved stays moved; move it back with vctl job cancel {job} --roll-back"
        ))),
        JobState::Cancelled => Err(Error::new(
            Kind::Cancelled,
            what,
            because("cancelled, what was moved stays moved"),
        )),
        JobState::Paused => Err(Error::new(
            Kind::Cancelled,
            what,
            because("paused, what was moved stays moved"),
        )
        .hint(format!("go on with it: vctl job resume {job}"))),
        JobState::Running | JobState::RollingBack => Err(Error::failed(what, because("is not at its end"))
            .hint(format!("go on with it: vctl job resume {job}"))),
    }
}
