//! What every command has at hand: the pool, the output, and how to ask.

use crate::output::{Output, Style, note};
use apparatus::change::driver::{Controller, Wait};
use apparatus::error::{Error, Kind, Result};
use apparatus::ops;
use apparatus::pool::dir::PoolDir;
use apparatus::pool::model::Difference;
use apparatus::store::Store;
use clap::Args;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The pool's directory
    #[arg(long, global = true, env = ops::place::VARIABLE, hide_env_values = true, value_name = "DIR")]
    pub pool: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
    /// Print sizes in bytes
    #[arg(long, global = true)]
    pub bytes: bool,
    /// Say on standard error what goes on; twice for more
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Options of every command that changes something.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Change options")]
pub struct Changing {
    /// Print the exact difference that would be sent, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait while another controller acts, at most so long if a time is given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "ever", value_parser = crate::arguments::waiting)]
    pub wait: Option<Wait>,
}

/// The option of every command that would take something away from those who use it.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Change options")]
pub struct Overriding {
    /// Go on although somebody uses it: whoever does is cut off, and gets errors
    #[arg(long)]
    pub cut_off_users: bool,
}

impl Changing {
    /// What to do when another controller acts.
    #[must_use]
    pub fn waiting(&self) -> Wait {
        self.wait.unwrap_or(Wait::No)
    }
}

/// What every command has at hand.
pub struct Context {
    /// The pool.
    pub pool: PoolDir,
    /// Standard output.
    pub out: Output,
}

impl Context {
    /// From the options given.
    ///
    /// # Errors
    /// When the pool's directory cannot be told.
    pub fn new(global: &Global) -> Result<Self> {
        let pool = ops::place::pool_dir(global.pool.as_deref())?;
        Ok(Self {
            pool,
            out: Output::new(Style::new(global.json, global.bytes)),
        })
    }

    /// Opens the pool's store.
    ///
    /// # Errors
    /// When there is no pool, or it cannot be read.
    pub fn store(&self) -> Result<Box<dyn Store>> {
        ops::open(&self.pool)
    }

    /// Opens the pool's store for a dry run.
    ///
    /// # Errors
    /// When there is no pool, it cannot be read, or it is a copy.
    pub fn rehearsal(&self) -> Result<Box<dyn Store>> {
        ops::open_to_rehearse(&self.pool)
    }

    /// Takes the arbitration, and says what the last holder had left.
    ///
    /// # Errors
    /// When another controller acts.
    pub fn controller(&self, purpose: &str, changing: &Changing) -> Result<Controller> {
        // Taking the arbitration makes the run directory: not where there is no pool.
        self.store()?;
        let controller = Controller::acquire(&self.pool, purpose, changing.waiting())?;
        for line in controller.recovered() {
            note(&format!("vctl: recovered: {line}"));
        }
        Ok(controller)
    }

    /// Says what would be sent.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn would_send(&mut self, difference: &Difference) -> Result<()> {
        #[derive(Serialize)]
        struct DryRun<'a> {
            dry_run: bool,
            difference: &'a Difference,
        }
        self.out.say(
            &DryRun {
                dry_run: true,
                difference,
            },
            |out| {
                out.line(&ops::plan::as_ron(difference)?);
                Ok(())
            },
        )
    }

    /// Goes on only if the operator wants what destroys data: said by an option, or by an answer.
    ///
    /// # Errors
    /// When nobody can be asked, or the answer is no.
    pub fn confirm(&self, yes: bool, what: &str, consequence: &str) -> Result<()> {
        if yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            let why = format!("{consequence}, and nobody is there to confirm it");
            return Err(Error::usage(what, why).hint("say --yes if that is what you want"));
        }
        let mut answer = String::new();
        let _ = write!(io::stderr(), "{what}: {consequence}. Go on? [y/N] ");
        let read = io::stdin().lock().read_line(&mut answer);
        match (read, answer.trim()) {
            (Ok(_), "y" | "Y" | "yes") => Ok(()),
            _ => Err(Error::new(
                Kind::Cancelled,
                what,
                "not confirmed, nothing changed",
            )),
        }
    }
}

/// Is set once somebody wants this process to end; a second wish ends it at once: holds go with it, and whoever comes next goes on
/// with what it was doing.
///
/// # Errors
/// The kernel's.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Error::because("signals", error))?;
    }
    Ok(stop)
}

/// A descriptor that is readable once somebody wants this process to end.
///
/// # Errors
/// The kernel's.
pub fn stop_signal() -> Result<OwnedFd> {
    let failed = |error| Error::because("signals", error);
    let (told, tell) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGINT, SIGTERM] {
        let tell = tell.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, tell).map_err(failed)?;
    }
    Ok(told.into())
}
