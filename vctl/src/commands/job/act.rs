//! `vctl job wait`, `pause`, `resume`, `cancel`, `set`.

use super::list::{Row, word};
use super::start::{ended, hand_over, named, outcome, work};
use crate::arguments;
use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::Progress;
use apparatus::change::jobs;
use apparatus::error::{Error, Kind, Result};
use apparatus::ops;
use apparatus::ops::watch::Watch;
use apparatus::store::{JobLimits, JobState, Store};
use apparatus::units::{ByteCount, JobId};
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Told {
    job: Row,
}

/// Says how a job stands.
fn tell(context: &mut Context, job: JobId) -> Result<Done> {
    let body = Told {
        job: Row::new(ops::job::show(&context.pool, &mut *context.store()?, job)?),
    };
    context.out.say(&body, |out| {
        out.line(&body.job.in_words(out.style()));
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Says what would be done to a job, after doing it to a copy of the database: what would be refused is refused.
fn would(
    context: &mut Context,
    job: JobId,
    what: &str,
    wish: impl FnOnce(&mut dyn Store) -> Result<()>,
) -> Result<Done> {
    #[derive(Serialize)]
    struct Would<'a> {
        dry_run: bool,
        would: &'a str,
        job: Row,
    }
    let view = ops::job::show(&context.pool, &mut *context.rehearsal()?, job)?;
    ops::job::rehearse(&context.pool, wish)?;
    let state = word(view.record.state);
    context.out.say(
        &Would {
            dry_run: true,
            would: what,
            job: Row::new(view),
        },
        |out| {
            out.line(&format!("would {what} job {job}, which is {state}"));
            Ok(())
        },
    )?;
    Ok(Done::Plainly)
}

/// `vctl job wait`
#[derive(Args, Debug)]
pub struct Wait {
    /// Its number
    #[arg(value_name = "JOB", value_parser = arguments::job)]
    job: JobId,
    /// Wait at most so long
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    timeout: Option<Duration>,
}

impl Wait {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        const EVER: Duration = Duration::from_secs(u32::MAX as u64);
        let deadline = Instant::now() + self.timeout.unwrap_or(EVER).min(EVER);
        let mut store = context.store()?;
        let mut watch = Watch::new(&context.pool)?;
        loop {
            let record = ops::job::find(&mut *store, self.job)?;
            // Whoever worked on it has the arbitration for a moment longer, and the next command would find it busy.
            if !ops::job::wants_work(record.state) && ops::job::worker(&context.pool, self.job)?.is_none() {
                if record.state == JobState::Done || context.out.style().json {
                    tell(context, self.job)?;
                }
                return ended(
                    context,
                    outcome(self.job, record.state, &record.why),
                    Done::Plainly,
                );
            }
            // Twice: it may have ended, or have been taken on, between two looks.
            let mut look = || ops::job::show(&context.pool, &mut *store, self.job);
            if look()?.abandoned && look()?.abandoned {
                let error = Error::failed(format!("job {}", self.job), "nobody works on it");
                return Err(error.hint(format!(
                    "vctl job resume {0}, or give it up: vctl job cancel {0}",
                    self.job
                )));
            }
            if !watch.changed(deadline)? {
                return Err(Error::new(
                    Kind::TimedOut,
                    format!("job {}", self.job),
                    "has not ended yet",
                ));
            }
        }
    }
}

/// `vctl job pause`
#[derive(Args, Debug)]
pub struct Pause {
    /// Its number
    #[arg(value_name = "JOB", value_parser = arguments::job)]
    job: JobId,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Pause {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.dry_run {
            return would(context, self.job, "pause", |store| jobs::pause(store, self.job));
        }
        let mut store = context.rehearsal()?;
        ops::job::find(&mut *store, self.job)?;
        jobs::pause(&mut *store, self.job)?;
        tell(context, self.job)
    }
}

/// How a job that is to go on is run.
#[derive(Args, Clone, Debug)]
struct Running {
    /// Have an apparatus work on it, this one if named, and return at once
    #[arg(long, value_name = "APPARATUS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    background: Option<String>,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Progress,
    #[command(flatten)]
    changing: Changing,
}

impl Running {
    /// Does what is wished of a job and works on it, or has an apparatus do so. Where that cannot be, the job stays as it is.
    fn go_on(
        &self,
        context: &mut Context,
        job: JobId,
        wish: impl FnOnce(&mut dyn Store) -> Result<()>,
    ) -> Result<Done> {
        if let Some(background) = &self.background {
            return hand_over(context, job, named(background), wish);
        }
        let mut controller = context.controller(&ops::job::purpose(job), &self.changing)?;
        wish(controller.store())?;
        work(context, controller, job, self.progress)
    }
}

/// `vctl job resume`
#[derive(Args, Debug)]
pub struct Resume {
    /// Its number
    #[arg(value_name = "JOB", value_parser = arguments::job)]
    job: JobId,
    #[command(flatten)]
    running: Running,
}

impl Resume {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.running.changing.dry_run {
            return would(context, self.job, "resume", |store| jobs::resume(store, self.job));
        }
        let mut store = context.store()?;
        let state = ops::job::find(&mut *store, self.job)?.state;
        jobs::check_resume(&mut *store, self.job)?;
        if ops::job::wants_work(state) && ops::job::worker(&context.pool, self.job)?.is_some() {
            return tell(context, self.job);
        }
        drop(store);
        self.running
            .go_on(context, self.job, |store| jobs::resume(store, self.job))
    }
}

/// `vctl job cancel`
#[derive(Args, Debug)]
pub struct Cancel {
    /// Its number
    #[arg(value_name = "JOB", value_parser = arguments::job)]
    job: JobId,
    /// Move back what was moved
    #[arg(long)]
    roll_back: bool,
    #[command(flatten)]
    running: Running,
}

impl Cancel {
    /// Does it. Whoever works on the job sees the wish within a moment; if nobody does, it is carried out here.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.running.changing.dry_run {
            return would(
                context,
                self.job,
                if self.roll_back { "roll back" } else { "cancel" },
                |store| jobs::cancel(store, self.job, self.roll_back),
            );
        }
        let mut store = context.store()?;
        ops::job::find(&mut *store, self.job)?;
        jobs::check_cancel(&mut *store, self.job, self.roll_back)?;
        let worked_on = ops::job::worker(&context.pool, self.job)?.is_some();
        if self.roll_back && !worked_on {
            drop(store);
            return self.roll_back(context);
        }
        jobs::cancel(&mut *store, self.job, self.roll_back)?;
        if !worked_on {
            self.tidy(context);
        }
        tell(context, self.job)
    }

    /// Cancelled is what was asked for.
    fn roll_back(&self, context: &mut Context) -> Result<Done> {
        let wish = |store: &mut dyn Store| jobs::cancel(store, self.job, true);
        let ended = self.running.go_on(context, self.job, wish);
        let state = ops::job::find(&mut *context.store()?, self.job)?.state;
        match ended {
            Ok(Done::Badly(Kind::Cancelled)) if state == JobState::Cancelled => Ok(Done::Plainly),
            Err(error) if error.kind() == Kind::Cancelled && state == JobState::Cancelled => {
                tell(context, self.job)
            }
            other => other,
        }
    }

    /// What the job moved is made durable and its old places are freed, if no other controller acts: that one does so, or the next.
    fn tidy(&self, context: &Context) {
        let tidied = context
            .controller(&ops::job::purpose(self.job), &Changing::default())
            .and_then(|mut controller| controller.harden().and_then(|()| controller.free()));
        if let Err(why) = tidied {
            log::info!("what job {} moved is made durable another time: {why}", self.job);
        }
    }
}

/// `vctl job set`
#[derive(Args, Debug)]
#[group(required = true, multiple = true, id = "wish", args = ["rate", "latency", "hold_all", "skip_unreadable"])]
pub struct Set {
    /// Its number
    #[arg(value_name = "JOB", value_parser = arguments::job)]
    job: JobId,
    /// At most so many bytes a second; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = arguments::or_none(arguments::rate))]
    rate: Option<arguments::OrNone<ByteCount>>,
    /// Size chunks so that holds take about this; `none` for the usual
    #[arg(long, value_name = "TIME", value_parser = arguments::or_none(arguments::duration))]
    latency: Option<arguments::OrNone<Duration>>,
    /// Whether reads are held too
    #[arg(long, value_name = "YES|NO", value_parser = arguments::yes_or_no)]
    hold_all: Option<bool>,
    /// Whether places that cannot be read are gone past: they stay where they are
    #[arg(long, value_name = "YES|NO", value_parser = arguments::yes_or_no)]
    skip_unreadable: Option<bool>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Set {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.dry_run {
            let wish = |store: &mut dyn Store| {
                let limits = ops::job::find(store, self.job)?.limits;
                jobs::set_limits(store, self.job, limits)
            };
            return would(context, self.job, "change the limits of", wish);
        }
        let mut store = context.store()?;
        let old = ops::job::find(&mut *store, self.job)?.limits;
        let limits = JobLimits {
            rate: self.rate.map_or(old.rate, |rate| rate.0),
            hold_target_us: self
                .latency
                .map_or(old.hold_target_us, |time| time.0.map(arguments::micros)),
            hold_all: self.hold_all.unwrap_or(old.hold_all),
            skip_unreadable: self.skip_unreadable.unwrap_or(old.skip_unreadable),
        };
        jobs::set_limits(&mut *store, self.job, limits)?;
        tell(context, self.job)
    }
}
