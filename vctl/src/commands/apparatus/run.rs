//! `vctl apparatus start`, `stop`, `fence`, `rejoin`.

use super::list::Row;
use crate::arguments;
use crate::context::{Context, Losing, Override};
use crate::exit::Done;
use crate::output::note;
use ::apparatus::admin::apparatus::Fenced;
use ::apparatus::admin::{apparatus, job, open_images, place};
use ::apparatus::cluster::Owner;
use ::apparatus::controller::Wait;
use ::apparatus::frontend::fuse::Transport;
use ::apparatus::model::error::{Error, ErrorKind, Result};
use ::apparatus::model::job::JobState;
use ::apparatus::model::member::Member;
use ::apparatus::model::names::Name;
use ::apparatus::model::units::JobId;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// `vctl apparatus start`
#[derive(Args, Debug)]
pub struct Start {
    /// Its name
    #[arg(value_parser = arguments::name("apparatus"))]
    name: Name,
    /// The directory to mount on; created if missing, and kept when the apparatus stops
    mountpoint: PathBuf,
    /// Maximum number of FUSE reader threads; the best number up to it is found while it serves
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    /// Let other users use the mount, by its files' permissions
    #[arg(long)]
    allow_other: bool,
    /// Hold the mount in a second process, which starts the server again when it crashes: hosts see a pause
    #[arg(long)]
    supervisor: bool,
    /// Way of requests from the kernel: dev, uring (over io_uring), or auto
    #[arg(long, value_name = "WAY", hide_possible_values = true)]
    transport: Option<Transport>,
    /// A configuration file
    #[arg(long, value_name = "FILE.ron")]
    config: Option<PathBuf>,
    /// The longest time until it serves
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = arguments::duration)]
    timeout: Duration,
    /// Print the command that would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
}

impl Start {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let start = apparatus::Start {
            name: self.name.clone(),
            mount: place::absolute(&self.mountpoint)?,
            threads: self.threads,
            allow_other: self.allow_other,
            supervisor: self.supervisor,
            transport: self.transport,
            config: self.config.as_deref().map(place::absolute).transpose()?,
            own_cgroup: apparatus::is_memory_limited(),
            program: crate::commands::hidden::apparatus_program()?,
        };
        context.store()?.header()?;
        if self.dry_run {
            return would_run(context, &start.command(&context.pool));
        }
        let started = apparatus::start(&context.pool, &start, self.timeout)?;
        warn(&started);
        print_state(context, self.name.as_str(), "serves", Some(started.unopened))
    }
}

/// Prints the warnings of a started apparatus: one line for each disk that it could not open.
pub fn warn(started: &apparatus::Started) {
    if let Some(warning) = &started.warning {
        note(&format!("vctl: warning: {warning}"));
    }
    for apparatus::UnopenedDisk { disk, why } in &started.unopened {
        note(&format!("vctl: warning: disk {disk}: {why}"));
    }
    if !started.unopened.is_empty() {
        note("hint: vctl status");
    }
}

fn would_run(context: &mut Context, command: &[std::ffi::OsString]) -> Result<Done> {
    #[derive(Serialize)]
    struct WouldRun {
        dry_run: bool,
        command: Vec<String>,
    }
    let command = command
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let body = WouldRun {
        dry_run: true,
        command,
    };
    context.out.say(&body, |out| {
        out.line(&body.command.join(" "));
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Prints the new state of an apparatus, and of one that was started the disks that it could not open.
fn print_state(
    context: &mut Context,
    name: &str,
    done: &str,
    unopened: Option<Vec<apparatus::UnopenedDisk>>,
) -> Result<Done> {
    #[derive(Serialize)]
    struct RunReport {
        apparatus: Row,
        #[serde(skip_serializing_if = "Option::is_none")]
        unopened_disks: Option<Vec<apparatus::UnopenedDisk>>,
    }
    let view = apparatus::show(&context.pool, &mut *context.store()?, name)?;
    let mount = view.member.mount.display().to_string();
    context.out.say(
        &RunReport {
            apparatus: Row::new(view),
            unopened_disks: unopened,
        },
        |out| {
            out.line(&format!("apparatus {name}: {done} at {mount}"));
            Ok(())
        },
    )?;
    Ok(Done::Plainly)
}

#[derive(Serialize)]
struct EndReport<'a> {
    apparatus: &'a str,
    changed: bool,
    /// Jobs that it worked on, and that are paused now.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    paused_jobs: &'a [JobId],
}

fn print_end(context: &mut Context, name: &str, changed: bool, done: &str) -> Result<Done> {
    print_end_with(context, name, changed, done, &[])
}

fn print_end_with(
    context: &mut Context,
    name: &str,
    changed: bool,
    done: &str,
    paused_jobs: &[JobId],
) -> Result<Done> {
    let body = EndReport {
        apparatus: name,
        changed,
        paused_jobs,
    };
    context.out.say(&body, |out| {
        let end = if changed { done } else { "had ended already" };
        out.line(&format!("apparatus {name}: {end}"));
        for job in paused_jobs {
            out.line(&format!(
                "job {job}: paused, because this apparatus worked on it; it goes on by vctl job resume {job}"
            ));
        }
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// `vctl apparatus stop`
#[derive(Args, Debug)]
pub struct Stop {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// The longest time until it has ended
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = arguments::duration)]
    timeout: Duration,
    /// Say whether it would be asked to stop, and send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    overriding: Override,
    #[command(flatten)]
    losing: Losing,
}

impl Stop {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let overridden = self.overriding.cut_off_users;
        let mut store = match context.store() {
            Ok(store) => store,
            // Without a database the control socket is enough.
            Err(error) => {
                let name = Name::new("apparatus", &self.name)?;
                if !self.dry_run && apparatus::runs(&context.pool, &name)? {
                    if let Some(owner) = apparatus::process_of(&context.pool, &self.name) {
                        open_images::check_process_end(&context.pool, &owner, &self.losing.lose_disk)?;
                    }
                    apparatus::stop_unlisted(&context.pool, &name, overridden, self.timeout)?;
                    return print_end(context, &self.name, true, "stopped");
                }
                return self.without_directory(context, error);
            }
        };
        // What is no member has no disk open.
        if let Ok(member) = apparatus::member(&mut *store, &self.name) {
            open_images::check_end(&context.pool, &mut *store, &member, &self.losing.lose_disk)?;
        }
        if self.dry_run {
            if !overridden {
                apparatus::check_stop(&context.pool, &mut *store, &self.name)?;
            }
            return would(context, &self.name, "stop");
        }
        let view = apparatus::show(&context.pool, &mut *store, &self.name).ok();
        let jobs = view.and_then(|view| view.figures).map(|figures| figures.jobs);
        let changed = apparatus::stop(&context.pool, &mut *store, &self.name, overridden, self.timeout)?;
        let mut paused = jobs.unwrap_or_default();
        let is_paused =
            |id: &JobId| job::find(&mut *store, *id).is_ok_and(|job| job.state == JobState::Paused);
        paused.retain(is_paused);
        print_end_with(context, &self.name, changed, "stopped", &paused)
    }
}

impl Stop {
    /// Stops it by a signal if the pool's directory, and its control socket with it, was deleted; `error` is why the pool cannot be read.
    fn without_directory(&self, context: &mut Context, error: Error) -> Result<Done> {
        let found = apparatus::process_of(&context.pool, &self.name);
        let Some(owner) = found.filter(|owner| owner.is_deleted) else {
            return Err(error);
        };
        if !self.overriding.cut_off_users {
            apparatus::check_process(&owner)?;
        }
        open_images::check_process_end(&context.pool, &owner, &self.losing.lose_disk)?;
        if self.dry_run {
            return would_end(context, &owner, &self.name, "stop");
        }
        apparatus::stop_process(&context.pool, &owner, self.timeout)?;
        print_end(context, &self.name, true, "stopped")
    }
}

/// Prints which process the verb would act on, where the pool cannot be read.
fn would_end(context: &mut Context, owner: &Owner, name: &str, verb: &str) -> Result<Done> {
    #[derive(Serialize)]
    struct WouldEnd<'a> {
        dry_run: bool,
        verb: &'a str,
        apparatus: &'a str,
        pid: u32,
    }
    let pid = owner.pid;
    let body = WouldEnd {
        dry_run: true,
        verb,
        apparatus: name,
        pid,
    };
    context.out.say(&body, |out| {
        out.line(&format!("would {verb} apparatus {name}, process {pid}"));
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Prints which process the verb would act on.
fn would(context: &mut Context, name: &str, verb: &str) -> Result<Done> {
    #[derive(Serialize)]
    struct Would {
        dry_run: bool,
        verb: String,
        apparatus: Row,
    }
    let view = apparatus::show(&context.pool, &mut *context.store()?, name)?;
    let pid = view.member.pid;
    let body = Would {
        dry_run: true,
        verb: verb.to_owned(),
        apparatus: Row::new(view),
    };
    context.out.say(&body, |out| {
        out.line(&format!("would {verb} apparatus {name}, process {pid}"));
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Returns the state of a process that was killed and has not ended.
fn ending(member: &Member) -> String {
    format!(
        "fenced and killed; its process, {}, has not ended yet, and extents that it may still reach are not allocated until then",
        member.pid
    )
}

/// `vctl apparatus fence`
#[derive(Args, Debug)]
pub struct Fence {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// How long to wait for its end; it is fenced and killed in any case
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = arguments::duration)]
    timeout: Duration,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Accepted and ignored: fencing waits for no controller
    #[arg(long, hide = true, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "ever", value_parser = arguments::waiting)]
    wait: Option<Wait>,
    #[command(flatten)]
    overriding: Override,
    #[command(flatten)]
    losing: Losing,
}

impl Fence {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let mut store = match context.store() {
            Ok(store) => store,
            Err(error) => return self.without_store(context, error),
        };
        let member = match apparatus::member(&mut *store, &self.name) {
            Err(error) if error.kind() == ErrorKind::NotFound && !self.dry_run => {
                // Its server has ended and its record is removed; only the supervisor is left.
                return match apparatus::kill_supervisor_of(&context.pool, &self.name, self.timeout)? {
                    true => print_end(context, &self.name, true, "its supervisor has been killed"),
                    false => Err(error),
                };
            }
            other => other?,
        };
        if !self.overriding.cut_off_users {
            apparatus::check_fence(&context.pool, &mut *store, &member)?;
        }
        open_images::check_end(&context.pool, &mut *store, &member, &self.losing.lose_disk)?;
        if self.dry_run {
            return would(context, &self.name, "fence and kill");
        }
        let fenced = apparatus::fence(&context.pool, &mut *store, &member, self.timeout)?;
        let done = match fenced {
            Fenced::HadEnded | Fenced::Ended => "fenced, its process has ended".into(),
            Fenced::IsEnding => ending(&member),
        };
        print_end(context, &self.name, fenced != Fenced::HadEnded, &done)
    }
}

impl Fence {
    /// Kills it, known by its lock, where the pool cannot be read; `error` is why.
    fn without_store(&self, context: &mut Context, error: Error) -> Result<Done> {
        let Some(owner) = apparatus::process_of(&context.pool, &self.name) else {
            return Err(error);
        };
        if !self.overriding.cut_off_users {
            apparatus::check_process(&owner)?;
        }
        open_images::check_process_end(&context.pool, &owner, &self.losing.lose_disk)?;
        if self.dry_run {
            return would_end(context, &owner, &self.name, "kill");
        }
        let end = match apparatus::kill_process(&context.pool, &owner, self.timeout)? {
            Fenced::HadEnded | Fenced::Ended => "its process has ended".to_owned(),
            Fenced::IsEnding => format!("killed; its process, {}, ends when the kernel lets it", owner.pid),
        };
        let left = match owner.is_deleted {
            true => String::new(),
            false => "; its record stays in the database".to_owned(),
        };
        print_end(context, &self.name, true, &format!("{end}{left}"))?;
        if !owner.is_deleted {
            note(&format!("vctl: {}: {}", error.what(), error.why()));
            let again = "once that is repaired: vctl apparatus fence";
            note(&format!(
                "hint: {again} {name}, or start it again: vctl apparatus start {name} MOUNTPOINT",
                name = self.name
            ));
        }
        Ok(Done::Plainly)
    }
}

/// `vctl apparatus rejoin`
#[derive(Args, Debug)]
pub struct Rejoin {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// The longest time until it has rejoined
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = arguments::duration)]
    timeout: Duration,
    /// Report its state, and do not wait
    #[arg(long)]
    dry_run: bool,
}

impl Rejoin {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.dry_run {
            return would(context, &self.name, "wait for");
        }
        apparatus::rejoin(&context.pool, &mut *context.store()?, &self.name, self.timeout)?;
        print_state(context, &self.name, "serves", None)
    }
}
