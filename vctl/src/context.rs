//! The context of every command: the pool, the output, and questions to the operator.

use crate::output::{Output, PoolPreview, Style, note, printable};
use apparatus::admin;
use apparatus::controller::{Controller, Wait};
use apparatus::model::dir::PoolDir;
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::records::Delta;
use apparatus::store::Store;
use clap::Args;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Global options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The pool's directory
    // clap does not read the environment here: usage lines would then call the option required whenever the variable is set.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help = "The pool's directory [env: VCTL_POOL]"
    )]
    pub pool: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
    /// Print sizes in bytes
    #[arg(long, global = true)]
    pub bytes: bool,
    /// Log to standard error; twice for more
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Options of every command that changes something.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Change options")]
pub struct Changing {
    /// Print the exact delta that would be sent, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait while another command holds the controller lock, at most this long if a time is given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "ever", value_parser = crate::arguments::waiting)]
    pub wait: Option<Wait>,
}

/// The option of every command that takes something away from its users.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Change options")]
pub struct Override {
    /// Go on although it is in use: its users are cut off, and get errors
    #[arg(long)]
    pub cut_off_users: bool,
}

/// The option of commands that end an apparatus.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Change options")]
pub struct Losing {
    /// Go on although the disk's file was deleted and this apparatus alone has it open: what is on the disk is lost
    #[arg(long, value_name = "DISK")]
    pub lose_disk: Vec<String>,
}

impl Changing {
    /// Returns how long to wait when another controller holds the lock.
    #[must_use]
    pub fn waiting(&self) -> Wait {
        self.wait.unwrap_or(Wait::No)
    }

    /// Returns how long to wait at most, without an end where none is given; a command that does not wait tries once.
    #[must_use]
    pub fn within(&self) -> Option<Duration> {
        match self.waiting() {
            Wait::No | Wait::IfFree => Some(Duration::ZERO),
            Wait::For(within) => within,
        }
    }
}

/// The context of a command.
pub struct Context {
    /// The pool.
    pub pool: PoolDir,
    /// Standard output.
    pub out: Output,
}

impl Context {
    /// Creates the context from the global options.
    ///
    /// # Errors
    /// Fails when the pool's directory cannot be determined.
    pub fn new(global: &Global) -> Result<Self> {
        let pool = admin::place::pool_dir(global.pool.as_deref())?;
        Ok(Self {
            pool,
            out: Output::new(Style::new(global.json, global.bytes)),
        })
    }

    /// Opens the pool's store.
    ///
    /// # Errors
    /// Fails when there is no pool, or when it cannot be read.
    pub fn store(&self) -> Result<Box<dyn Store>> {
        admin::open(&self.pool)
    }

    /// Opens the pool's store for a dry run, read-only.
    ///
    /// # Errors
    /// Fails when there is no pool, when it cannot be read, or when it is a copy.
    pub fn rehearsal(&self) -> Result<Box<dyn Store>> {
        admin::open_to_rehearse(&self.pool)
    }

    /// Takes the controller lock, and reports what the recovery has set right.
    ///
    /// # Errors
    /// Fails when another controller holds the lock.
    pub fn controller(&self, purpose: &str, changing: &Changing) -> Result<Controller> {
        self.acquire(Controller::acquire, purpose, changing)
    }

    /// Takes the controller lock to work on a job, which yields it in its gaps.
    ///
    /// # Errors
    /// Fails when a command holds the lock.
    pub fn controller_for_job(&self, purpose: &str, changing: &Changing) -> Result<Controller> {
        self.acquire(Controller::acquire_for_job, purpose, changing)
    }

    fn acquire(
        &self,
        acquire: impl FnOnce(&PoolDir, &str, Wait) -> Result<Controller>,
        purpose: &str,
        changing: &Changing,
    ) -> Result<Controller> {
        // Taking the controller lock creates the run directory, which must not happen where there is no pool.
        self.store()?;
        let controller = acquire(&self.pool, purpose, changing.waiting())?;
        for line in controller.recovered() {
            note(&format!("vctl: recovered: {line}"));
        }
        Ok(controller)
    }

    /// Prints what would be sent: as sentences in text output, as the delta itself in JSON.
    ///
    /// # Errors
    /// Fails when the delta cannot be encoded.
    pub fn would_send(&mut self, delta: &Delta) -> Result<()> {
        #[derive(Serialize)]
        struct DryRun<'a> {
            dry_run: bool,
            #[serde(rename = "difference")]
            delta: &'a Delta,
        }
        let snapshot = self.rehearsal()?.snapshot()?;
        let mut outlook = PoolPreview::of(snapshot, self.out.style());
        self.out.say(&DryRun { dry_run: true, delta }, |out| {
            let lines = outlook.describe(delta);
            lines.iter().for_each(|line| out.line(&printable(line)));
            if lines.is_empty() {
                out.line("nothing would change");
            }
            Ok(())
        })
    }

    /// Asks for confirmation of a step that destroys data, unless `yes` is set.
    ///
    /// # Errors
    /// Fails when there is no terminal to ask at, or when the answer is no.
    pub fn confirm(&self, yes: bool, what: &str, consequence: &str) -> Result<()> {
        if yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            let why = format!("{consequence}, and there is no terminal to confirm it at");
            return Err(Error::usage(what, why).hint("add --yes to confirm it"));
        }
        let mut answer = String::new();
        let _ = write!(io::stderr(), "{what}: {consequence}. Go on? [y/N] ");
        let read = io::stdin().lock().read_line(&mut answer);
        match (read, answer.trim()) {
            (Ok(_), "y" | "Y" | "yes") => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Cancelled,
                what,
                "not confirmed, nothing changed",
            )),
        }
    }
}

/// Returns a flag that the signals set which ask this process to end. A second SIGINT or SIGTERM ends the process at once: its holds end with it, and
/// the next controller continues its work. A terminal that is closed may send SIGHUP several times.
///
/// # Errors
/// Fails when the signal handlers cannot be installed.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let failed = |error| Error::because("signals", error);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).map_err(failed)?;
    }
    for signal in ending_signals() {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(failed)?;
    }
    Ok(stop)
}

/// Returns the signals that ask this process to end: SIGINT, SIGTERM, and SIGHUP unless the process was started with it ignored (`nohup`).
fn ending_signals() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let hangup = 1 << (SIGHUP - 1);
    match ignored.is_some_and(|mask| mask & hangup != 0) {
        true => vec![SIGINT, SIGTERM],
        false => vec![SIGINT, SIGTERM, SIGHUP],
    }
}

/// Returns a descriptor that becomes readable when such a signal arrives.
///
/// # Errors
/// Fails when the kernel refuses it.
pub fn stop_signal() -> Result<OwnedFd> {
    let failed = |error| Error::because("signals", error);
    let (receiver, sender) = UnixStream::pair().map_err(failed)?;
    for signal in ending_signals() {
        let sender = sender.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, sender).map_err(failed)?;
    }
    Ok(receiver.into())
}
