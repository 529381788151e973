//! An apparatus's configuration: one RON file. Every field may be left out, and unknown fields are refused.
//!
//! ```ron
//! (
//!     threads: 2,
//!     fenced_limit_s: 60,
//! )
//! ```

use crate::datapath::{Limits, SMALL_READ};
use crate::frontend::fuse::{self, Transport};
use crate::model::error::{Error, Result};
use crate::model::records::DiskAccess;
use crate::sys::text::read_text;
use ron::extensions::Extensions;
use serde::Deserialize;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

/// Threads that use the data path now and then, beside those that read requests.
const OTHER_THREADS: usize = 5;

/// Writes may be parked in one part in this many of the memory; as much again may wait for a thread.
const PARKED_PART: u64 = 16;
/// Upper bound of the default: more has no benefit.
const MOST_PARKED_MIB: u64 = 256;
/// Memory of an idle apparatus, of a move, and of the table of a pool of usual size, in bytes.
const BASE: u64 = 20 << 20;
/// Memory of a thread that reads requests: the largest request, its answer, and the stack.
const READER: u64 = 5 << 19;
/// Memory of a thread that serves a ring: its first entries with requests of the largest size, and the stack.
const RING: u64 = fuse::RING_BYTES + (1 << 20);
/// Memory of a thread that waits for disks: its stack and the kernel's. Reads in several pieces need more for a short time.
const WORKER: u64 = 64 << 10;
/// Upper limit of the threads that read host requests if none is given, where disks are used through the page cache, and in a direct pool.
const THREADS: usize = 4;
const DIRECT_THREADS: usize = 16;
/// Memory of the largest read of such a thread in a direct pool.
const DIRECT_READ: u64 = 1 << 20;

/// The configuration; [`Config::default`] applies without a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Upper limit of the threads that read host requests, 1 to 64. In a pool that uses disks through the page cache: 4 if absent, and no more than one above
    /// the number of processors; while hosts are busy, the number of active threads that serves most is found by trying. In a direct pool: 16 if absent;
    /// each waits for the disk of its request, and twice as many are active as requests are in flight.
    pub threads: Option<usize>,
    /// Whether users other than the one that mounts may access the mount.
    pub allow_other: bool,
    /// Whether writes through this mount are refused.
    pub read_only: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: LogLevel,
    /// Upper limit of the threads that wait for disks, 1 to 512. One disk gets at most half of those that others leave.
    pub workers: usize,
    /// Write data that holds may park at once, and as much again that may wait for a thread, in MiB,
    /// 2 to 65536. If absent, a sixteenth of the memory that the apparatus may have, at most 256.
    pub parked_mib: Option<u64>,
    /// Requests that may be parked at once, and as many again that may wait for a thread, 16 to 1000000.
    pub parked_requests: usize,
    /// Holds at once, 1 to 1000.
    pub holds: usize,
    /// How long hosts wait while this apparatus is fenced before they get EIO, in seconds, 1 to 86400.
    pub fenced_limit_s: u64,
    /// Background requests of the kernel (asynchronous, loop-device, read-ahead) at once, 16 to 65535.
    pub max_background: u16,
    /// How long the kernel caches a file's attributes, in seconds, 0 to 86400. It is notified when they change.
    pub attributes_ttl_s: u64,
    /// How long files that are still open are served after a request to stop, in seconds, 0 to 3600.
    pub stop_grace_s: u64,
    /// Address at which metrics are served over HTTP, as `127.0.0.1:PORT` or `[::1]:PORT`; none if absent.
    pub metrics: Option<SocketAddr>,
    /// Whether a second process, the supervisor, holds the mount and starts the server again when it ends unexpectedly.
    pub supervisor: bool,
    /// Way of requests and answers between the kernel and this apparatus: `dev`, `uring` (over io_uring), or `auto`: over io_uring where that is possible.
    pub transport: Transport,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: None,
            allow_other: false,
            read_only: false,
            log_level: LogLevel::Info,
            workers: 64,
            parked_mib: None,
            parked_requests: 16384,
            holds: 64,
            fenced_limit_s: 300,
            max_background: 4096,
            attributes_ttl_s: 1,
            stop_grace_s: 5,
            metrics: None,
            supervisor: false,
            transport: Transport::Dev,
        }
    }
}

/// How much is logged to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// Conditions that need attention.
    Warn,
    /// Events.
    Info,
    /// Details of events.
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

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Fails with the file and the place in it that is invalid.
    pub fn read(file: &Path) -> Result<Self> {
        let what = format!("configuration {}", file.display());
        let text = read_text(file, &what)?;
        Self::parse(&text, &what)
    }

    /// Parses the text of a configuration file.
    pub(crate) fn parse(text: &str, what: &str) -> Result<Self> {
        let options = ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME);
        let config: Self = options
            .from_str(text)
            .map_err(|error| Error::usage(what, error.to_string()))?;
        config.check(what)?;
        Ok(config)
    }

    /// Checks that every number is in its range, and that the metrics address is local.
    ///
    /// # Errors
    /// Fails with the first value that is invalid.
    pub fn check(&self, what: &str) -> Result<()> {
        let numbers: [(&str, u64, RangeInclusive<u64>); 9] = [
            ("threads", self.threads.unwrap_or(1) as u64, 1..=64),
            ("workers", self.workers as u64, 1..=512),
            ("parked_mib", self.parked_mib.unwrap_or(2), 2..=65536),
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
            None => self.check_metrics(what).and_then(|()| self.check_transport(what)),
            Some((name, value, range)) => {
                let why = format!("{name} is {value}, not {} to {}", range.start(), range.end());
                Err(Error::usage(what, why))
            }
        }
    }

    /// Refuses addresses that other machines can reach: metrics name volumes and disks, and are served without authentication.
    fn check_metrics(&self, what: &str) -> Result<()> {
        match self.metrics {
            Some(address) if !address.ip().is_loopback() => {
                let why = format!("metrics is {address}, which other machines could reach");
                Err(Error::usage(what, why).hint(format!(
                    "use 127.0.0.1:{}, behind a proxy with authentication where other machines need the metrics",
                    address.port()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a supervisor of an apparatus whose requests the kernel would not send again.
    fn check_transport(&self, what: &str) -> Result<()> {
        match self.supervisor && self.transport == Transport::Uring {
            true => Err(Error::usage(
                what,
                "transport uring cannot have a supervisor: the kernel does not send requests again that came over io_uring",
            )
            .hint("omit the supervisor, or use the transport dev or auto")),
            false => Ok(()),
        }
    }

    /// Decides on the transport: see [`Transport::resolve`]. A supervisor needs the device.
    ///
    /// # Errors
    /// Fails where the transport cannot be used.
    pub fn resolve_transport(&mut self) -> Result<()> {
        self.transport = match self.supervisor {
            true => Transport::Dev,
            false => self.transport.resolve()?,
        };
        Ok(())
    }

    /// Returns the write data that may be parked at once, in bytes, where `memory` bytes are available.
    #[must_use]
    pub fn parked_bytes(&self, memory: u64) -> u64 {
        self.parked_mib
            .unwrap_or_else(|| ((memory / PARKED_PART) >> 20).clamp(2, MOST_PARKED_MIB))
            << 20
    }

    /// Returns the upper limit of the threads that read host requests, if one is configured.
    #[must_use]
    pub fn thread_limit(&self) -> Option<u16> {
        self.threads.and_then(|threads| threads.try_into().ok())
    }

    /// Returns the upper limit of the threads that read host requests, where disks are used in this way.
    #[must_use]
    pub fn threads_of(&self, access: DiskAccess) -> usize {
        self.threads.unwrap_or(match access {
            DiskAccess::Cached => THREADS,
            DiskAccess::Direct => DIRECT_THREADS,
        })
    }

    /// Returns the most memory that an apparatus with this configuration needs, in bytes, where `memory` bytes are available and disks are used through the
    /// page cache.
    #[must_use]
    pub fn memory_needed(&self, memory: u64) -> u64 {
        let threads = (self.threads_of(DiskAccess::Cached) + OTHER_THREADS) as u64;
        let rings = self.transport.ring_threads() as u64 * RING;
        rings + BASE + threads * READER + self.workers as u64 * WORKER + 2 * self.parked_bytes(memory)
    }

    /// Returns how many bytes more an apparatus needs where disks are used in this way: in a direct pool for its further readers, and for the bytes of a large
    /// read that each worker may keep.
    #[must_use]
    pub fn memory_of_access(&self, access: DiskAccess) -> u64 {
        match access {
            DiskAccess::Cached => 0,
            DiskAccess::Direct => {
                let further = self.threads_of(access) - self.threads_of(DiskAccess::Cached);
                further as u64 * READER + self.workers as u64 * DIRECT_READ
            }
        }
    }

    /// Returns the limits of the data path, where `memory` bytes are available and disks are used in this way.
    #[must_use]
    pub fn limits(&self, memory: u64, access: DiskAccess) -> Limits {
        Limits {
            readers: self.threads_of(access) + OTHER_THREADS + self.transport.ring_threads(),
            workers: self.workers,
            parked_bytes: self.parked_bytes(memory),
            parked: self.parked_requests,
            holds: self.holds,
            fenced: Duration::from_secs(self.fenced_limit_s),
            copied_reads: match self.transport {
                // The bytes of an answer have to be in the memory of its entry, and nothing reads a mapping but the kernel.
                Transport::Uring => usize::MAX,
                Transport::Dev | Transport::Auto if self.supervisor => SMALL_READ,
                Transport::Dev | Transport::Auto => 0,
            },
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
        assert_eq!((some.threads, some.log_level), (Some(3), LogLevel::Debug));
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
            ("(transport: uring, supervisor: true)", "cannot have a supervisor"),
            ("(transport: pigeon)", "pigeon"),
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
        assert!(device.ends_with("/dev/zero: is not a regular file"), "{device}");
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
            parse(include_str!("../../mounts/apparatus.ron")).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn what_is_parked_fits_the_memory() {
        let parked = |memory_mib: u64| Config::default().parked_bytes(memory_mib << 20) >> 20;
        assert_eq!([16, 64, 128, 1024].map(parked), [2, 4, 8, 64]);
        assert_eq!([4096, 65536].map(parked), [256, 256]);
        for mib in [64_u64, 128, 256, 512] {
            let needed = Config::default().memory_needed(mib << 20) >> 20;
            assert!(needed <= mib, "{needed} of {mib} MiB");
        }
        let config = parse("(parked_mib: 100)").unwrap();
        assert_eq!(config.parked_bytes(0), 100 << 20);
        assert!(config.memory_needed(0) >= 200 << 20);
    }

    #[test]
    fn a_supervisor_has_the_device_where_the_transport_is_left_to_the_program() {
        let mut config = parse("(transport: auto, supervisor: true)").unwrap();
        config.resolve_transport().unwrap();
        assert_eq!(config.transport, Transport::Dev);
        assert_eq!(
            config.limits(1 << 30, DiskAccess::Cached).copied_reads,
            SMALL_READ
        );
    }

    #[test]
    fn the_defaults_are_in_range() {
        Config::default().check("defaults").unwrap();
    }
}
