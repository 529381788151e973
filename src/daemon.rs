//! The `apparatus` program as a function: arguments, configuration, logging, then serving. A library function, because
//! `vctl` runs itself as an apparatus where no `apparatus` program is beside it (`cargo run -p vctl` builds only `vctl`).

use crate::config::{Config, LogLevel};
use crate::error::{Error, Kind, Result};
use crate::pool::names::Name;
use crate::serve::{self, Settings};
use crate::{fuse, mount_helper, ops};
use clap::{CommandFactory, Parser};
use sd_notify::NotifyState;
use simplelog::{ConfigBuilder, LevelFilter, ThreadLogMode, WriteLogger};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What a process that cannot begin tells whoever waits for its readiness: why, and the way out.
pub(crate) const FAILED_BECAUSE: &str = "X_APPARATUS_FAILED";
/// See [`FAILED_BECAUSE`].
pub(crate) const FAILED_HINT: &str = "X_APPARATUS_HINT";

/// Exit statuses, as `vctl` has them.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;

/// Serves the virtual volumes of a pool as files. Stays in the foreground; ends in good order on SIGTERM and SIGINT.
#[derive(Debug, Parser)]
#[command(name = "apparatus", version)]
struct Arguments {
    /// The pool's directory
    #[arg(long, value_name = "DIR", env = ops::place::VARIABLE)]
    pool: Option<PathBuf>,
    /// What this apparatus is called in the pool
    #[arg(long)]
    name: String,
    /// Where to mount; made if missing
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// Threads that read host requests
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Let other users in
    #[arg(long)]
    allow_other: bool,
    /// Let nothing be written
    #[arg(long)]
    read_only: bool,
    /// Answer Prometheus at http://ADDR/metrics; only addresses of this machine alone, like 127.0.0.1:9464
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Configuration; arguments override it
    #[arg(long, value_name = "FILE.ron")]
    config: Option<PathBuf>,
    /// How much to say on stderr
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Leave the terminal's session first
    #[arg(long, hide = true)]
    own_session: bool,
}

/// The programs' arguments, for manual pages and completions: of the apparatus, and of the helper of mount(8).
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
        config.threads = self.threads.unwrap_or(config.threads);
        config.log_level = self.log_level.unwrap_or(config.log_level);
        config.metrics = self.metrics.or(config.metrics);
        config.allow_other |= self.allow_other;
        config.read_only |= self.read_only;
        config.check("arguments")?;
        Ok(Settings {
            pool: self.pool,
            name: Name::new("apparatus", &self.name)?,
            mount: self.mount,
            config,
        })
    }
}

/// Does what the arguments (the program's name first) say, in the foreground, and answers the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if mount_helper::is_called(&arguments) {
        return mount_helper::main(arguments);
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version are no failure; that they cannot be printed is nobody's loss.
            let _ = told.print();
            return if told.use_stderr() { USAGE } else { 0 };
        }
    };
    if arguments.own_session {
        // It fails only for a process that leads a group: then it is out of the terminal's already.
        let _ = rustix::process::setsid();
    }
    let served = arguments.settings().and_then(|settings| {
        start_logging(settings.config.log_level.into())?;
        serve::run(&settings)
    });
    served.map_or_else(|error| complain(&error), |()| 0)
}

fn complain(error: &Error) -> u8 {
    // Whoever started this process in the background, though its log may have no room.
    let told = |key: &str, text: &str| format!("{key}={}", text.replace('\n', " "));
    let (failed, hint) = (
        told(FAILED_BECAUSE, &error.to_string()),
        told(FAILED_HINT, error.way_out().unwrap_or_default()),
    );
    let _ = sd_notify::notify(&[NotifyState::Custom(&failed), NotifyState::Custom(&hint)]);
    eprintln!("apparatus: {error}");
    if let Some(hint) = error.way_out() {
        eprintln!("hint: {hint}");
    }
    match error.kind() {
        Kind::Usage => USAGE,
        Kind::NotFound => NOT_FOUND,
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
    let logger = WriteLogger::new(level, config, std::io::stderr());
    fuse::set_logger(logger, level).map_err(|error| Error::because("logging", error))
}
