//! `vctl apparatus start`, `stop`, `fence`, `rejoin`.

use super::list::Row;
use crate::arguments;
use crate::context::{Changing, Context, Overriding};
use crate::exit::Done;
use ::apparatus::error::Result;
use ::apparatus::ops::{apparatus, place};
use ::apparatus::pool::names::Name;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// `vctl apparatus start`
#[derive(Args, Debug)]
pub struct Start {
    /// What to call it
    #[arg(value_parser = arguments::name("apparatus"))]
    name: Name,
    /// The directory to mount on; made if missing
    mountpoint: PathBuf,
    /// FUSE reader threads at most; as many of them work as serve most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    /// Let other users use the mount, by its files' permissions
    #[arg(long)]
    allow_other: bool,
    /// A configuration file
    #[arg(long, value_name = "FILE.ron")]
    config: Option<PathBuf>,
    /// How long it may take until it serves
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = arguments::duration)]
    timeout: Duration,
    /// Print the command that would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
}

impl Start {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let start = apparatus::Start {
            name: self.name.clone(),
            mount: place::absolute(&self.mountpoint)?,
            threads: self.threads,
            allow_other: self.allow_other,
            config: self.config.as_deref().map(place::absolute).transpose()?,
            program: crate::commands::hidden::apparatus_program()?,
        };
        context.store()?.header()?;
        if self.dry_run {
            return would_run(context, &start.command(&context.pool));
        }
        apparatus::start(&context.pool, &start, self.timeout)?;
        tell(context, self.name.as_str(), "serves")
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

/// Says what an apparatus has become.
fn tell(context: &mut Context, name: &str, done: &str) -> Result<Done> {
    #[derive(Serialize)]
    struct Told {
        apparatus: Row,
    }
    let view = apparatus::show(&context.pool, &mut *context.store()?, name)?;
    let mount = view.member.mount.display().to_string();
    context.out.say(
        &Told {
            apparatus: Row::new(view),
        },
        |out| {
            out.line(&format!("apparatus {name}: {done} at {mount}"));
            Ok(())
        },
    )?;
    Ok(Done::Plainly)
}

#[derive(Serialize)]
struct Gone<'a> {
    apparatus: &'a str,
    changed: bool,
}

fn tell_gone(context: &mut Context, name: &str, changed: bool, done: &str) -> Result<Done> {
    context.out.say(
        &Gone {
            apparatus: name,
            changed,
        },
        |out| {
            out.line(&format!(
                "apparatus {name}: {}",
                if changed { done } else { "had ended already" }
            ));
            Ok(())
        },
    )?;
    Ok(Done::Plainly)
}

/// `vctl apparatus stop`
#[derive(Args, Debug)]
pub struct Stop {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = arguments::duration)]
    timeout: Duration,
    /// Say whether it would be asked to stop, and ask nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    overriding: Overriding,
}

impl Stop {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let overridden = self.overriding.cut_off_users;
        let mut store = match context.store() {
            Ok(store) => store,
            // Without its database, by the control socket.
            Err(error) => {
                let name = Name::new("apparatus", &self.name)?;
                if self.dry_run || !apparatus::runs(&context.pool, &name)? {
                    return Err(error);
                }
                apparatus::stop_unlisted(&context.pool, &name, overridden, self.timeout)?;
                return tell_gone(context, &self.name, true, "stopped");
            }
        };
        if self.dry_run {
            if !overridden {
                apparatus::check_stop(&context.pool, &mut *store, &self.name)?;
            }
            return would(context, &self.name, "stop");
        }
        let changed = apparatus::stop(&context.pool, &mut *store, &self.name, overridden, self.timeout)?;
        tell_gone(context, &self.name, changed, "stopped")
    }
}

/// Names the process that something would happen to.
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

/// `vctl apparatus fence`
#[derive(Args, Debug)]
pub struct Fence {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// How long its end may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = arguments::duration)]
    timeout: Duration,
    #[command(flatten)]
    changing: Changing,
}

impl Fence {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.changing.dry_run {
            return would(context, &self.name, "fence and kill");
        }
        // Before the arbitration: taking it forgets those whose process has ended.
        let member = apparatus::show(&context.pool, &mut *context.store()?, &self.name)?.member;
        let mut controller = context.controller(&format!("apparatus fence {}", self.name), &self.changing)?;
        let changed = apparatus::fence(&context.pool, &mut controller, &member, self.timeout)?;
        tell_gone(context, &self.name, changed, "fenced, its process has ended")
    }
}

/// `vctl apparatus rejoin`
#[derive(Args, Debug)]
pub struct Rejoin {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = arguments::duration)]
    timeout: Duration,
    /// Say where it stands, and wait for nothing
    #[arg(long)]
    dry_run: bool,
}

impl Rejoin {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.dry_run {
            return would(context, &self.name, "wait for");
        }
        apparatus::rejoin(&context.pool, &mut *context.store()?, &self.name, self.timeout)?;
        tell(context, &self.name, "serves")
    }
}
