//! What moves, evacuations and resumed jobs have in common: limits, progress, foreground and background.

use super::list::Row;
use crate::arguments;
use crate::context::{Changing, Context, stop_flag};
use crate::exit::Done;
use crate::failure;
use crate::output::{Display, Progress};
use apparatus::change::driver::Controller;
use apparatus::change::jobs::{self, Request};
use apparatus::error::{Error, Kind, Result};
use apparatus::ops;
use apparatus::ops::moving::{Outline, outline};
use apparatus::pool::model::Difference;
use apparatus::pool::names::Name;
use apparatus::pool::size;
use apparatus::store::{JobLimits, JobState, Step};
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
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    rate: Option<ByteCount>,
    /// Size chunks so that holds stay below this
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    latency: Option<Duration>,
    /// Which host requests wait while a chunk is copied
    #[arg(long, value_enum, default_value_t)]
    hold: Hold,
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
    if changing.dry_run {
        return would_do(context, request);
    }
    let mut controller = context.controller(title, changing)?;
    let job = jobs::create(&mut controller, request, title, options.limits())?;
    controller.set_purpose(&ops::job::purpose(job))?;
    match &options.background {
        Some(apparatus) => {
            drop(controller);
            let named = (!apparatus.is_empty()).then_some(apparatus.as_str());
            hand_over(context, job, named)
        }
        None => work(context, controller, job, options.progress),
    }
}

fn would_do(context: &mut Context, request: &Request) -> Result<Done> {
    #[derive(Serialize)]
    struct WouldDo<'a> {
        dry_run: bool,
        steps: &'a [Step],
        bytes: ByteCount,
        difference: Difference,
    }
    let mut store = context.store()?;
    let Outline {
        steps,
        bytes,
        difference,
    } = outline(&mut *store, request)?;
    let view = ops::view::PoolView::load(&mut *store)?;
    context.out.say(
        &WouldDo {
            dry_run: true,
            steps: &steps,
            bytes,
            difference: difference.clone(),
        },
        |out| {
            for step in &steps {
                let row = super::list::Line::new(&view, step);
                out.line(&format!("// {}", row.in_words(out.style())));
            }
            out.line(&ops::plan::as_ron(&difference)?);
            Ok(())
        },
    )?;
    Ok(Done::Plainly)
}

/// Has an apparatus work on a job.
pub fn hand_over(context: &mut Context, job: JobId, to: Option<&str>) -> Result<Done> {
    #[derive(Serialize)]
    struct HandedOver {
        job: Row,
        apparatus: Name,
    }
    let mut store = context.store()?;
    let apparatus = ops::job::hand_over(&context.pool, &mut *store, job, to)?;
    let body = HandedOver {
        job: Row::new(ops::job::show(&mut *store, job)?),
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
    let view = ops::job::show(&mut *context.store()?, job)?;
    let why = view.record.why.clone();
    let body = Ended {
        job: Row::new(view),
        fenced,
    };
    if state == JobState::Done || context.out.style().json {
        context.out.say(&body, |out| {
            out.line(&body.job.in_words(out.style()));
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
