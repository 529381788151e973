//! An apparatus's configuration: one RON file, of which every field may be left out and none may be made up.
//!
//! ```ron
//! (
//!     threads: 2,
//!     fenced_limit_s: 60,
//! )
//! ```

use crate::data::Limits;
use crate::error::{Error, Result};
use ron::extensions::Extensions;
use serde::Deserialize;
use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Threads that look things up now and then, beside those that read requests.
const OTHER_THREADS: usize = 5;

/// See the fields; [`Config::default`] is what holds without a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Threads at most that read host requests, 1 to 64, and no more than one above the number of processors. While hosts are busy, as
    /// many of them work as serve most: which number that is, is tried.
    pub threads: usize,
    /// Users other than the one that mounts may look in.
    pub allow_other: bool,
    /// Nothing can be written through this mount.
    pub read_only: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: LogLevel,
    /// Threads at most that wait for disks, 1 to 512. One disk gets at most half of those that others leave.
    pub workers: usize,
    /// Write data that may be parked at once by holds, and as much again that may wait for a thread, in MiB, 2 to 65536.
    pub parked_mib: u64,
    /// Requests that may be parked at once, and as many again that may wait for a thread, 16 to 1000000.
    pub parked_requests: usize,
    /// Holds at once, 1 to 1000.
    pub holds: usize,
    /// How long hosts wait while this apparatus is fenced before they see EIO, in seconds, 1 to 86400.
    pub fenced_limit_s: u64,
    /// Requests that the kernel sends ahead of those who wait for them (asynchronous, loop-device, read-ahead), 16 to 65535.
    pub max_background: u16,
    /// How long the kernel believes a file's attributes unasked, in seconds, 0 to 86400. It is told when they change.
    pub attributes_ttl_s: u64,
    /// How long files that are still open are served when the apparatus is told to end, in seconds, 0 to 3600.
    pub stop_grace_s: u64,
    /// Where to answer Prometheus over HTTP, as `127.0.0.1:PORT` or `[::1]:PORT`; nowhere if not said.
    pub metrics: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: 4,
            allow_other: false,
            read_only: false,
            log_level: LogLevel::Info,
            workers: 64,
            parked_mib: 256,
            parked_requests: 16384,
            holds: 64,
            fenced_limit_s: 300,
            max_background: 4096,
            attributes_ttl_s: 1,
            stop_grace_s: 5,
            metrics: None,
        }
    }
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What somebody should look at.
    Warn,
    /// What happened.
    Info,
    /// Why it happened.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// The most that a text file written by an operator may have.
const LONGEST: u64 = 1 << 20;

/// The text of a file that an operator wrote. What never ends or blocks, as a device or a pipe, is refused, and so is what is far too long.
pub(crate) fn read_text(file: &Path, what: &str) -> Result<String> {
    let failed = |error| Error::because(what, error);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)
        .map_err(failed)?;
    check_regular(&opened.metadata().map_err(failed)?, what)?;
    let mut text = String::new();
    opened
        .take(LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::usage(what, "is longer than 1 MiB"));
    }
    Ok(text)
}

/// Refuses what is no regular file.
pub(crate) fn check_regular(found: &Metadata, what: &str) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    Err(Error::usage(what, "is no regular file"))
}

impl Config {
    /// From a file.
    ///
    /// # Errors
    /// Names the file and the place in it that cannot be used.
    pub fn read(file: &Path) -> Result<Self> {
        let what = format!("configuration {}", file.display());
        let text = read_text(file, &what)?;
        Self::parse(&text, &what)
    }

    fn parse(text: &str, what: &str) -> Result<Self> {
        let options = ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME);
        let config: Self = options
            .from_str(text)
            .map_err(|error| Error::usage(what, error.to_string()))?;
        config.check(what)?;
        Ok(config)
    }

    /// Whether every number is in its range, and the address this machine's own.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self, what: &str) -> Result<()> {
        let numbers: [(&str, u64, RangeInclusive<u64>); 9] = [
            ("threads", self.threads as u64, 1..=64),
            ("workers", self.workers as u64, 1..=512),
            ("parked_mib", self.parked_mib, 2..=65536),
            ("parked_requests", self.parked_requests as u64, 16..=1_000_000),
            ("holds", self.holds as u64, 1..=1000),
            ("fenced_limit_s", self.fenced_limit_s, 1..=86400),
            ("max_background", self.max_background.into(), 16..=65535),
            ("attributes_ttl_s", self.attributes_ttl_s, 0..=86400),
            ("stop_grace_s", self.stop_grace_s, 0..=3600),
        ];
        match numbers
            .into_iter()
            .find(|(_, value, range)| !range.contains(value))
        {
            None => self.check_metrics(what),
            Some((name, value, range)) => {
                let why = format!("{name} is {value}, not {} to {}", range.start(), range.end());
                Err(Error::usage(what, why))
            }
        }
    }

    /// Figures name volumes and disks, and nobody is asked who he is: they stay on this machine.
    fn check_metrics(&self, what: &str) -> Result<()> {
        match self.metrics {
            Some(address) if !address.ip().is_loopback() => {
                let why = format!("metrics is {address}, which other machines could reach");
                Err(Error::usage(what, why).hint(format!(
                    "127.0.0.1:{}, with a proxy that asks for a password before it where others shall see them",
                    address.port()
                )))
            }
            _ => Ok(()),
        }
    }

    /// The data path's part of it.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            readers: self.threads + OTHER_THREADS,
            workers: self.workers,
            parked_bytes: self.parked_mib << 20,
            parked: self.parked_requests,
            holds: self.holds,
            fenced: Duration::from_secs(self.fenced_limit_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, "configuration x.ron")
    }

    #[test]
    fn all_may_be_left_out_and_nothing_made_up() {
        assert_eq!(parse("()").unwrap(), Config::default());
        let some = parse("(threads: 3, log_level: debug, allow_other: true)").unwrap();
        assert_eq!((some.threads, some.log_level), (3, LogLevel::Debug));
        assert!(some.allow_other && !some.read_only);
        let exported = parse("(metrics: \"[::1]:9464\")").unwrap().metrics;
        assert_eq!(exported, Some("[::1]:9464".parse().unwrap()));
        for (text, part) in [
            ("(thread: 3)", "thread"),
            ("(threads: -1)", "1:"),
            ("(threads: 0)", "threads is 0, not 1 to 64"),
            ("(parked_mib: 1)", "parked_mib is 1"),
            ("(log_level: loud)", "loud"),
            ("(metrics: \"0.0.0.0:9464\")", "other machines"),
            ("(metrics: \"localhost\")", "socket address"),
            ("threads: 3", "1:"),
            ("", "1:"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("configuration x.ron: ") && error.contains(part),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let refused = |file: &Path| Config::read(file).unwrap_err().to_string();
        let device = refused(Path::new("/dev/zero"));
        assert!(device.ends_with("/dev/zero: is no regular file"), "{device}");
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("long.ron");
        std::fs::write(&long, "()").unwrap();
        assert_eq!(Config::read(&long).unwrap(), Config::default());
        std::fs::write(&long, vec![b' '; 1 << 21]).unwrap();
        assert!(refused(&long).ends_with("is longer than 1 MiB"));
    }

    #[test]
    fn the_example_is_the_defaults() {
        assert_eq!(
            parse(include_str!("../mounts/apparatus.ron")).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn the_defaults_are_in_range() {
        Config::default().check("defaults").unwrap();
    }
}
