//! `vctl pool set`.

use super::create::Row;
use crate::arguments::{self, Policy};
use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::error::Result;
use apparatus::ops::pool::{self, OptionsChange};
use apparatus::pool::options::Options;
use clap::Args;
use serde::Serialize;

/// `vctl pool set`
#[derive(Args, Debug)]
#[group(required = true, multiple = true, id = "wish", args = ["policy", "nearfull", "full"])]
pub struct Set {
    /// Which disk is taken first, where no other policy is said
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Warn from so many per cent in use on
    #[arg(long, value_name = "PERCENT", value_parser = arguments::percent)]
    nearfull: Option<u8>,
    /// Raise an error from so many per cent in use on
    #[arg(long, value_name = "PERCENT", value_parser = arguments::percent)]
    full: Option<u8>,
    #[command(flatten)]
    changing: Changing,
}

#[derive(Serialize)]
struct Told {
    pool: Row,
    changed: bool,
}

impl Set {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let wish = OptionsChange {
            policy: self.policy.map(Policy::into),
            nearfull: self.nearfull,
            full: self.full,
        };
        if self.changing.dry_run {
            return would_set(context, wish);
        }
        let mut controller = context.controller("pool set", &self.changing)?;
        let changed = pool::set_options(&mut controller, wish)?;
        drop(controller);
        let body = Told {
            pool: Row::load(context)?,
            changed,
        };
        context.out.say(&body, |out| {
            out.line(if changed {
                "pool: set"
            } else {
                "pool: is so already"
            });
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

/// The table is not concerned: the difference is that of the options.
fn would_set(context: &mut Context, wish: OptionsChange) -> Result<Done> {
    #[derive(Serialize)]
    struct Told {
        dry_run: bool,
        from: Options,
        to: Options,
    }
    let from = context.store()?.options()?;
    let body = Told {
        dry_run: true,
        from,
        to: wish.from(from)?,
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
