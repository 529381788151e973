//! `vctl volume hold`.

use crate::arguments::{self, ByteRange};
use crate::commands::Effect;
use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::duration;
use apparatus::admin;
use apparatus::admin::hold::{Command, HoldRequest, Work};
use apparatus::model::error::Result;
use apparatus::model::records::Delta;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::ffi::OsString;
use std::time::Duration;

/// The requests of hosts that a hold parks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Requests {
    /// All requests
    #[default]
    All,
    /// Requests that write
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
    /// How long; with a command, the longest that it may run
    #[arg(long = "for", value_name = "TIME", default_value = "2s", value_parser = arguments::hold_time)]
    time: Duration,
    /// Flush the volumes' disks once they are held
    #[arg(long)]
    flush: bool,
    /// The requests of hosts to hold
    #[arg(long, value_enum, default_value_t)]
    requests: Requests,
    #[command(flatten)]
    changing: Changing,
    /// Run this command under the hold; its exit status is that of vctl
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Serialize)]
struct HoldReport {
    volumes: Vec<String>,
    held_us: u64,
    flushed: bool,
    command_status: Option<u8>,
    change: Effect,
}

impl Hold {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let request = HoldRequest {
            volumes: self.volumes.clone(),
            range: self.range.map(|range| (range.start, range.end)),
            writes_only: self.requests == Requests::Writes,
        };
        if self.changing.dry_run {
            let planned = admin::hold::plan(&mut *context.rehearsal()?, &request)?;
            return self.would_hold(context, &planned.delta);
        }
        let work = Work {
            time: self.time,
            flush: self.flush,
            command: Command::new(&self.command, context.out.style().json),
            stop: crate::context::stop_signal()?,
        };
        let mut controller = context.controller("volume hold", &self.changing)?;
        let held = admin::hold::hold(&mut controller, "volume hold", &request, &work)?;
        let body = HoldReport {
            volumes: self.volumes,
            held_us: arguments::micros(held.time),
            flushed: self.flush,
            command_status: held.status,
            change: Effect::of(held.sent, &controller),
        };
        print_outcome(context, &body)?;
        Ok(body.command_status.map_or_else(|| body.change.done(), Done::Of))
    }
}

impl Hold {
    /// Prints the delta, which has no edits: a hold changes nothing.
    fn would_hold(&self, context: &mut Context, delta: &Delta) -> Result<Done> {
        #[derive(Serialize)]
        struct Would<'a> {
            dry_run: bool,
            #[serde(rename = "difference")]
            delta: &'a Delta,
        }
        let body = Would { dry_run: true, delta };
        let which = match self.requests {
            Requests::All => "all requests",
            Requests::Writes => "writes",
        };
        let noun = if self.volumes.len() == 1 {
            "volume"
        } else {
            "volumes"
        };
        let time = duration(arguments::micros(self.time));
        context.out.say(&body, |out| {
            out.line(&format!(
                "would hold {which} of {noun} {} for {time}",
                self.volumes.join(", ")
            ));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

fn print_outcome(context: &mut Context, body: &HoldReport) -> Result<()> {
    context.out.say(body, |out| {
        if body.command_status.is_none() {
            out.line(&body.change.in_words("held", body.held_us));
        }
        Ok(())
    })
}
