//! `vctl pool set`.

use super::create::Row;
use crate::arguments::{self, Policy};
use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::admin::pool::{self, OptionsChange};
use apparatus::model::error::Result;
use apparatus::model::options::Options;
use clap::Args;
use serde::Serialize;

/// `vctl pool set`
#[derive(Args, Debug)]
#[group(required = true, multiple = true, id = "requested", args = ["policy", "nearfull", "full"])]
pub struct Set {
    /// The placement policy where a command names none
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Warn when this percentage is in use
    #[arg(long, value_name = "PERCENT", value_parser = arguments::percent)]
    nearfull: Option<u8>,
    /// Report an error when this percentage is in use
    #[arg(long, value_name = "PERCENT", value_parser = arguments::percent)]
    full: Option<u8>,
    #[command(flatten)]
    changing: Changing,
}

#[derive(Serialize)]
struct SetReport {
    pool: Row,
    changed: bool,
}

impl Set {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let request = OptionsChange {
            policy: self.policy.map(Policy::into),
            nearfull: self.nearfull,
            full: self.full,
        };
        if self.changing.dry_run {
            return would_set(context, request);
        }
        let mut controller = context.controller("pool set", &self.changing)?;
        let changed = pool::set_options(&mut controller, request)?;
        drop(controller);
        let body = SetReport {
            pool: Row::load(context)?,
            changed,
        };
        context.out.say(&body, |out| {
            out.line(if changed { "pool: set" } else { "pool: unchanged" });
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

/// Prints the delta of the options; the table does not change.
fn would_set(context: &mut Context, request: OptionsChange) -> Result<Done> {
    #[derive(Serialize)]
    struct SetReport {
        dry_run: bool,
        from: Options,
        to: Options,
    }
    let from = context.store()?.options()?;
    let body = SetReport {
        dry_run: true,
        from,
        to: request.from(from)?,
    };
    context.out.say(&body, |out| {
        out.line(&format!("from {}", in_words(&body.from)));
        out.line(&format!("to   {}", in_words(&body.to)));
        Ok(())
    })?;
    Ok(Done::Plainly)
}

fn in_words(options: &Options) -> String {
    let thresholds = options.thresholds;
    format!(
        "policy {}, nearfull {}, full {}",
        options.policy.word(),
        thresholds.nearfull(),
        thresholds.full()
    )
}
