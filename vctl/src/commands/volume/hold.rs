//! `vctl volume hold`.

use crate::arguments::{self, ByteRange};
use crate::commands::Effect;
use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::error::Result;
use apparatus::ops;
use apparatus::ops::hold::{Command, Wish, Work};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::ffi::OsString;
use std::time::Duration;

/// Which host requests are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Requests {
    /// All
    #[default]
    All,
    /// Those that write
    Writes,
}

/// `vctl volume hold`
#[derive(Args, Debug)]
pub struct Hold {
    /// The volumes, all held at once
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
    /// Only this range of each, like 1G..2G
    #[arg(long, value_name = "A..B", value_parser = arguments::byte_range)]
    range: Option<ByteRange>,
    /// How long; with a command, how long it may run at most
    #[arg(long = "for", value_name = "TIME", default_value = "2s", value_parser = arguments::duration)]
    time: Duration,
    /// Flush the volumes' disks once they are held
    #[arg(long)]
    flush: bool,
    /// Which host requests are held
    #[arg(long, value_enum, default_value_t)]
    requests: Requests,
    #[command(flatten)]
    changing: Changing,
    /// Run this under the hold; its exit status is vctl's
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Serialize)]
struct Told {
    volumes: Vec<String>,
    held_us: u64,
    flushed: bool,
    command_status: Option<u8>,
    change: Effect,
}

impl Hold {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let wish = Wish {
            volumes: self.volumes.clone(),
            range: self.range.map(|range| (range.start, range.end)),
            writes_only: self.requests == Requests::Writes,
        };
        if self.changing.dry_run {
            let planned = ops::hold::plan(&mut *context.rehearsal()?, &wish)?;
            context.would_send(&planned.difference)?;
            return Ok(Done::Plainly);
        }
        let work = Work {
            time: self.time,
            flush: self.flush,
            command: Command::new(&self.command, context.out.style().json),
            stop: crate::context::stop_signal()?,
        };
        let mut controller = context.controller("volume hold", &self.changing)?;
        let held = ops::hold::hold(&mut controller, "volume hold", &wish, &work)?;
        let body = Told {
            volumes: self.volumes,
            held_us: arguments::micros(held.time),
            flushed: self.flush,
            command_status: held.status,
            change: Effect::of(held.sent, &controller),
        };
        tell(context, &body)?;
        Ok(body.command_status.map_or_else(|| body.change.done(), Done::Of))
    }
}

fn tell(context: &mut Context, body: &Told) -> Result<()> {
    context.out.say(body, |out| {
        if body.command_status.is_none() {
            out.line(&body.change.in_words("held", body.held_us));
        }
        Ok(())
    })
}
