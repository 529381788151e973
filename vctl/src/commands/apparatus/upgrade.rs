//! `vctl apparatus upgrade`.

use crate::arguments;
use crate::context::Context;
use crate::exit::Done;
use ::apparatus::admin::{apparatus, place};
use ::apparatus::model::error::Result;
use ::apparatus::model::names::Name;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// `vctl apparatus upgrade`
#[derive(Args, Debug)]
pub struct Upgrade {
    /// Its name
    #[arg(value_parser = arguments::name("apparatus"))]
    name: Name,
    /// The program of the new server; by default that at the present one's path
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// The longest time until the new server is prepared; the present one goes on when it is not
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = arguments::duration)]
    timeout: Duration,
    /// Go on although the new server cannot open this disk: what only the present server has of it is lost
    #[arg(long, value_name = "DISK")]
    lose_disk: Vec<String>,
    /// Check what can be checked, and replace nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct UpgradeReport<'a> {
    dry_run: bool,
    apparatus: &'a str,
    program: Option<String>,
    waited_us: Option<u64>,
}

impl Upgrade {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let program = self.binary.as_deref().map(place::absolute).transpose()?;
        let name = &self.name;
        let mut store = context.store()?;
        let mut report = UpgradeReport {
            dry_run: self.dry_run,
            apparatus: name.as_str(),
            program: program.as_ref().map(|program| program.display().to_string()),
            waited_us: None,
        };
        let by = report
            .program
            .as_ref()
            .map_or(String::new(), |program| format!(" by {program}"));
        let done = if self.dry_run {
            apparatus::check_upgrade(
                &context.pool,
                &mut *store,
                name,
                program.as_deref(),
                &self.lose_disk,
            )?;
            format!("would replace the server of apparatus {name}{by}")
        } else {
            let waited = apparatus::upgrade(
                &context.pool,
                &mut *store,
                name,
                program.as_deref(),
                &self.lose_disk,
                self.timeout,
            )?;
            report.waited_us = u64::try_from(waited.as_micros()).ok();
            let waited = waited.as_secs_f64() * 1e3;
            format!("apparatus {name}: its server was replaced{by}; hosts waited {waited:.1} ms")
        };
        context.out.say(&report, |out| {
            out.line(&done);
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
