//! `vctl console`: a pool on a full screen, and operations on it.
//!
//! ```text
//! keys, signals ---+
//! poll (2 threads) +--> events --> model (pure) --> effects --> work (threads) --+
//!                  ^                 |                                           |
//!                  |                 +--> view (pure) --> terminal               |
//!                  +---------------------------------- results ----------------+
//! ```

mod driver;
mod lists;
mod model;
mod poll;
mod rates;
mod screen;
mod verb;
mod view;
mod work;

use crate::arguments;
use crate::context::Context;
use crate::exit::Done;
use apparatus::model::error::{Error, Result};
use clap::Args;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// `vctl console`
#[derive(Args, Debug)]
#[command(
    after_help = "Keys: 1 to 6 choose a page, the arrows select a line, ? explains the rest, q leaves."
)]
pub struct Console {
    /// Interval at which the apparatuses are asked
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = arguments::duration)]
    every: Duration,
}

/// The shortest interval: an operator cannot read faster, and apparatuses should not be asked more often.
const FASTEST: Duration = Duration::from_millis(100);

impl Console {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        check_terminal(context)?;
        context.store()?.header()?;
        driver::run(&context.pool, self.every.max(FASTEST))
    }
}

fn check_terminal(context: &Context) -> Result<()> {
    let refused = |why: &str| {
        Error::usage("console", why)
            .hint("for scripts: vctl status, vctl events --follow, vctl metrics, with --json")
    };
    if context.out.style().json {
        return Err(refused("is interactive, and has no JSON output"));
    }
    for (name, is) in [
        ("standard input", io::stdin().is_terminal()),
        ("standard output", io::stdout().is_terminal()),
    ] {
        if !is {
            return Err(refused(&format!("{name} is no terminal")));
        }
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return Err(refused("this terminal cannot place its cursor (TERM is dumb)"));
    }
    Ok(())
}
