//! The `apparatus` program as a function: arguments, configuration, logging, then serving. It is a library function, because
//! `vctl` runs itself as an apparatus where there is no `apparatus` program beside it (`cargo run -p vctl` builds only `vctl`).

use super::lines::Lines;
use super::mount_helper;
use crate::admin;
use crate::admin::apparatus::{FAILED_BECAUSE, FAILED_HINT};
use crate::blockdev;
use crate::frontend::fuse::{self, Transport};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::serve::config::{Config, LogLevel};
use crate::serve::{self, Settings};
use crate::supervisor::{self, Guard, Requests};
use crate::sys;
use clap::{CommandFactory, Parser};
use sd_notify::NotifyState;
use simplelog::{ConfigBuilder, LevelFilter, ThreadLogMode, WriteLogger};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit statuses, the same as those of `vctl`.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;

/// Serves the virtual volumes of a pool as files. Stays in the foreground; stops in the ordinary way on SIGTERM and SIGINT.
#[derive(Debug, Parser)]
#[command(name = "apparatus", version)]
struct Arguments {
    /// The pool's directory
    // Not read from the environment here: usage lines would then call the option required whenever the variable is set.
    #[arg(long, value_name = "DIR", help = "The pool's directory [env: VCTL_POOL]")]
    pool: Option<PathBuf>,
    /// The name of this apparatus in the pool
    #[arg(long)]
    name: String,
    /// Where to mount; created if missing
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// Threads that read host requests
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Let other users access the mount
    #[arg(long)]
    allow_other: bool,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// Serve metrics for Prometheus at http://ADDR/metrics; only local addresses, like 127.0.0.1:9464
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Configuration file; arguments override it
    #[arg(long, value_name = "FILE.ron")]
    config: Option<PathBuf>,
    /// How much to log to standard error
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Hold the mount in a second process, which starts the server again when it ends unexpectedly: hosts see a pause
    #[arg(long)]
    supervisor: bool,
    /// Way of requests from the kernel: dev, uring (over io_uring), or auto
    #[arg(long, value_name = "WAY", hide_possible_values = true)]
    transport: Option<Transport>,
    /// Be the server of a supervisor, which is connected to the standard input
    #[arg(long, hide = true)]
    kept: bool,
    /// Behave as on a kernel that cannot send requests again
    #[arg(long, hide = true)]
    hide_resend: bool,
    /// Start a session of its own first
    #[arg(long, hide = true)]
    own_session: bool,
    /// Move into a memory cgroup of its own where the present one has a limit
    #[arg(long, hide = true)]
    own_cgroup: bool,
}

/// Returns the arguments of the programs, for manual pages and completions: of the apparatus, and of the helper of mount(8).
#[must_use]
pub fn commands() -> [clap::Command; 2] {
    [Arguments::command(), mount_helper::Arguments::command()]
}

impl Arguments {
    fn settings(self) -> Result<Settings> {
        let mut config = match &self.config {
            Some(file) => Config::read(file)?,
            None => Config::default(),
        };
        config.threads = self.threads.or(config.threads);
        config.log_level = self.log_level.unwrap_or(config.log_level);
        config.metrics = self.metrics.or(config.metrics);
        config.allow_other |= self.allow_other;
        config.read_only |= self.read_only;
        config.supervisor |= self.supervisor;
        config.transport = self.transport.unwrap_or(config.transport);
        config.check("arguments")?;
        Ok(Settings {
            pool: self.pool,
            name: Name::new("apparatus", &self.name)?,
            mount: self.mount,
            config,
            own_cgroup: self.own_cgroup,
            is_kept: self.kept,
            hides_resend: self.hide_resend,
        })
    }
}

/// Runs the program in the foreground with these arguments (the program's name first), and returns the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    blockdev::probe_if_asked(&arguments);
    if mount_helper::is_called(&arguments) {
        return mount_helper::main(arguments);
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(message) => {
            // Help and version are no failures; an error in printing them is ignored.
            let _ = message.print();
            return if message.use_stderr() { USAGE } else { 0 };
        }
    };
    if arguments.own_session {
        // It fails only for a process that leads a group, which has left the terminal's session already.
        let _ = rustix::process::setsid();
    }
    let pool = admin::place::pool_dir(arguments.pool.as_deref());
    let served = arguments.settings().and_then(|settings| {
        let supervises = settings.config.supervisor && !settings.is_kept;
        if !supervises {
            // Before the log has a thread.
            sys::register_barriers();
        }
        start_logging(settings.config.log_level.into())?;
        match supervises {
            true => supervise(&settings),
            false => serve::run(&settings).map(|()| 0),
        }
    });
    log::logger().flush();
    let explained = served.map_err(|error| match &pool {
        Ok(pool) => admin::denied::explain(pool, error),
        Err(_) => error,
    });
    explained.unwrap_or_else(|error| complain(&error))
}

/// Starts the server and keeps its mount. Returns the exit status: the server's, where it ended in order or has not mounted.
fn supervise(settings: &Settings) -> Result<u8> {
    let what = || format!("apparatus {}", settings.name);
    let pool = admin::place::pool_dir(settings.pool.as_deref())?;
    // Where there is no pool, the server says so.
    let guard = pool
        .path()
        .is_dir()
        .then(|| Guard::acquire(&pool, &settings.name))
        .transpose()
        .map_err(|error| Error::because(what(), error))?;
    if let Some(None) = guard {
        return Err(Error::failed(what(), "runs already").hint("stop that one first, or choose another name"));
    }
    let requests = guard
        .is_some()
        .then(|| Requests::bind(&pool, &settings.name))
        .transpose()
        .map_err(|error| Error::because(what(), error))?;
    let program = std::env::current_exe().map_err(|error| Error::because(what(), error))?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let server = |program: &Path| {
        let mut command = Command::new(program);
        // Its heartbeat is the supervisor's, and signals of a terminal come through the supervisor.
        command
            .args(&arguments)
            .arg("--kept")
            .env_remove("WATCHDOG_PID")
            .process_group(0);
        command
    };
    let give_up = || {
        if let Err(error) = fuse::detach(&settings.mount) {
            // A server that stops may have detached it before its end.
            log::warn!("{error}");
        }
    };
    supervisor::supervise(program, &server, requests, give_up).map_err(|error| Error::because(what(), error))
}

fn complain(error: &Error) -> u8 {
    // The process that started this one in the background is notified, even if the log has no space.
    let line = |key: &str, text: &str| format!("{key}={}", text.replace('\n', " "));
    let (failed, hint) = (
        line(FAILED_BECAUSE, &error.to_string()),
        line(FAILED_HINT, error.way_out().unwrap_or_default()),
    );
    let _ = sd_notify::notify(&[NotifyState::Custom(&failed), NotifyState::Custom(&hint)]);
    eprintln!("apparatus: {error}");
    if let Some(hint) = error.way_out() {
        eprintln!("hint: {hint}");
    }
    match error.kind() {
        ErrorKind::Usage => USAGE,
        ErrorKind::NotFound => NOT_FOUND,
        _ => FAILED,
    }
}

fn start_logging(level: LevelFilter) -> Result<()> {
    let config = ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_target_level(LevelFilter::Debug)
        .set_thread_level(LevelFilter::Debug)
        .set_thread_mode(ThreadLogMode::Names)
        .build();
    let lines = Lines::start(std::io::stderr()).map_err(|error| Error::because("logging", error))?;
    let logger = WriteLogger::new(level, config, lines);
    log::set_boxed_logger(logger).map_err(|error| Error::because("logging", error))?;
    log::set_max_level(level);
    Ok(())
}
