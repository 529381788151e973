//! `vctl console`: a pool on a full screen, and what can be done with it.
//!
//! ```text
//! keys, signals ---+
//! poll (2 threads) +--> events --> model (pure) --> effects --> work (threads) --+
//!                  ^                 |                                           |
//!                  |                 +--> view (pure) --> terminal               |
//!                  +---------------------------------- what came of it ----------+
//! ```

mod driver;
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
use apparatus::error::{Error, Result};
use clap::Args;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// `vctl console`
#[derive(Args, Debug)]
#[command(
    after_help = "Keys: 1 to 6 choose what is looked at, the arrows what is chosen there, ? explains the rest, q leaves."
)]
pub struct Console {
    /// How often the apparatuses are asked
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = arguments::duration)]
    every: Duration,
}

/// Nobody can read faster, and no apparatus should be asked more often.
const FASTEST: Duration = Duration::from_millis(100);

impl Console {
    /// Does it.
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
        return Err(refused("is for people, and says nothing as JSON"));
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
