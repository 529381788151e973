//! `vctl job wait`, `pause`, `resume`, `cancel`, `set`.

use super::list::{Row, word};
use super::start::{ended, hand_over, named, outcome, work};
use crate::arguments;
use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::Progress;
use apparatus::admin;
use apparatus::admin::watch::Watch;
use apparatus::cluster;
use apparatus::jobs;
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::job::{JobLimits, JobState};
use apparatus::model::units::{ByteCount, JobId};
use apparatus::store::Store;
use clap::{ArgGroup, Args};
use serde::Serialize;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct JobReport {
    job: Row,
}

/// Prints the state of a job.
fn print_state(context: &mut Context, job: JobId) -> Result<Done> {
    let body = JobReport {
        job: Row::new(admin::job::show(&context.pool, &mut *context.store()?, job)?),
    };
    context.out.say(&body, |out| {
        out.line(&body.job.in_words(out.style()));
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Prints what would be done to a job, after doing it to a copy of the database, so that the same requests are refused.
fn would(
    context: &mut Context,
    job: JobId,
    what: &str,
    request: impl FnOnce(&mut dyn Store) -> Result<()>,
) -> Result<Done> {
    #[derive(Serialize)]
    struct Would<'a> {
        dry_run: bool,
        would: &'a str,
        job: Row,
    }
    let view = admin::job::show(&context.pool, &mut *context.rehearsal()?, job)?;
    admin::job::rehearse(&context.pool, request)?;
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
    /// Wait at most this long
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    timeout: Option<Duration>,
}

impl Wait {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        const EVER: Duration = Duration::from_secs(u32::MAX as u64);
        let deadline = Instant::now() + self.timeout.unwrap_or(EVER).min(EVER);
        let mut store = context.store()?;
        let mut watch = Watch::new(&context.pool)?;
        loop {
            let record = admin::job::find(&mut *store, self.job)?;
            // Its worker has the controller lock for a moment longer, and the next command would find it taken.
            if !admin::job::wants_work(record.state) && admin::job::worker(&context.pool, self.job)?.is_none()
            {
                if record.state == JobState::Done || context.out.style().json {
                    print_state(context, self.job)?;
                }
                return ended(context, outcome(&record), Done::Plainly);
            }
            // Two looks are needed: the job may end, or get a worker, between them.
            let mut look = || admin::job::show(&context.pool, &mut *store, self.job);
            if look()?.abandoned && look()?.abandoned {
                let error = Error::failed(format!("job {}", self.job), "no process works on it");
                return Err(error.hint(format!(
                    "vctl job resume {0}, or end it: vctl job cancel {0}",
                    self.job
                )));
            }
            if !watch.changed(deadline)? {
                return Err(Error::new(
                    ErrorKind::TimedOut,
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
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.dry_run {
            return would(context, self.job, "pause", |store| jobs::pause(store, self.job));
        }
        let mut store = context.rehearsal()?;
        admin::job::find(&mut *store, self.job)?;
        jobs::pause(&mut *store, self.job)?;
        print_state(context, self.job)
    }
}

/// How a job is continued.
#[derive(Args, Clone, Debug)]
struct Running {
    /// Let an apparatus work on it, this one if named, and return at once
    #[arg(long, value_name = "APPARATUS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    background: Option<String>,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Progress,
    #[command(flatten)]
    changing: Changing,
}

impl Running {
    /// Sets the state of a job to running and works on it, or lets an apparatus do so. If another process has the job or the controller lock, the job
    /// keeps its state.
    fn go_on(
        &self,
        context: &mut Context,
        job: JobId,
        request: impl FnOnce(&mut dyn Store) -> Result<()>,
    ) -> Result<Done> {
        if let Some(background) = &self.background {
            return hand_over(context, job, named(background), request);
        }
        let cluster = cluster::open(&context.pool)?;
        let claim = jobs::take_on(
            &*cluster,
            job,
            self.changing.waiting().or_at_least(jobs::RELEASE_TIMEOUT),
        )?;
        let mut controller = context.controller_for_job(&admin::job::purpose(job), &self.changing)?;
        request(controller.store())?;
        work(context, controller, claim, self.progress)
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
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.running.changing.dry_run {
            return would(context, self.job, "resume", |store| jobs::resume(store, self.job));
        }
        let mut store = context.store()?;
        let state = admin::job::find(&mut *store, self.job)?.state;
        jobs::check_resume(&mut *store, self.job)?;
        if admin::job::wants_work(state) && admin::job::worker(&context.pool, self.job)?.is_some() {
            return print_state(context, self.job);
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
    /// Runs the command. The worker of the job notices the request within a moment; without a worker it is carried out here.
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
        admin::job::find(&mut *store, self.job)?;
        jobs::check_cancel(&mut *store, self.job, self.roll_back)?;
        let worked_on = admin::job::worker(&context.pool, self.job)?.is_some();
        if self.roll_back && !worked_on {
            drop(store);
            return self.roll_back(context);
        }
        jobs::cancel(&mut *store, self.job, self.roll_back)?;
        if !worked_on {
            self.tidy(context);
        }
        print_state(context, self.job)
    }

    /// Moves everything back. The job then ends cancelled, as requested.
    fn roll_back(&self, context: &mut Context) -> Result<Done> {
        let request = |store: &mut dyn Store| jobs::cancel(store, self.job, true);
        let ended = self.running.go_on(context, self.job, request);
        let state = admin::job::find(&mut *context.store()?, self.job)?.state;
        match ended {
            Ok(Done::Badly(ErrorKind::Cancelled)) if state == JobState::Cancelled => Ok(Done::Plainly),
            Err(error) if error.kind() == ErrorKind::Cancelled && state == JobState::Cancelled => {
                print_state(context, self.job)
            }
            other => other,
        }
    }

    /// Persists what the job moved and frees the old placements, unless another controller has the lock: that one does so, or the next.
    fn tidy(&self, context: &Context) {
        let tidied = context
            .controller(&admin::job::purpose(self.job), &Changing::default())
            .and_then(|mut controller| controller.persist().and_then(|()| controller.free()));
        if let Err(why) = tidied {
            log::info!("the changes of job {} are persisted later: {why}", self.job);
        }
    }
}

/// `vctl job set`
#[derive(Args, Debug)]
// A group of the struct itself would have its number and --dry-run as members too.
#[group(skip)]
#[command(group(ArgGroup::new("requested").required(true).multiple(true)
    .args(["rate", "latency", "hold_all", "skip_unreadable"])))]
pub struct Set {
    /// Its number
    #[arg(value_name = "JOB", value_parser = arguments::job)]
    job: JobId,
    /// At most this many bytes per second, holes not counted; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = arguments::or_none(arguments::rate))]
    rate: Option<arguments::OrNone<ByteCount>>,
    /// Size chunks so that holds take about this; `none` for the default
    #[arg(long, value_name = "TIME", value_parser = arguments::or_none(arguments::latency))]
    latency: Option<arguments::OrNone<Duration>>,
    /// Whether reads are held too
    #[arg(long, value_name = "YES|NO", value_parser = arguments::yes_or_no)]
    hold_all: Option<bool>,
    /// Whether ranges that cannot be read are skipped: they stay where they are
    #[arg(long, value_name = "YES|NO", value_parser = arguments::yes_or_no)]
    skip_unreadable: Option<bool>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Set {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.dry_run {
            let request = |store: &mut dyn Store| {
                let limits = admin::job::find(store, self.job)?.limits;
                jobs::set_limits(store, self.job, limits)
            };
            return would(context, self.job, "change the limits of", request);
        }
        let mut store = context.store()?;
        let old = admin::job::find(&mut *store, self.job)?.limits;
        let limits = JobLimits {
            rate: self.rate.map_or(old.rate, |rate| rate.0),
            hold_target_us: self
                .latency
                .map_or(old.hold_target_us, |time| time.0.map(arguments::micros)),
            hold_all: self.hold_all.unwrap_or(old.hold_all),
            skip_unreadable: self.skip_unreadable.unwrap_or(old.skip_unreadable),
        };
        jobs::set_limits(&mut *store, self.job, limits)?;
        print_state(context, self.job)
    }
}
