//! Starts an apparatus in the background, and waits until it serves.

use crate::cluster;
use crate::controller::pool::refuse_users_pool;
use crate::frontend::fuse::Transport;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::sys::memory::Cgroup;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Notification of a process that cannot start, to the process that waits for its readiness: the reason. [`FAILED_HINT`] is the way out.
pub(crate) const FAILED_BECAUSE: &str = "X_APPARATUS_FAILED";
/// See [`FAILED_BECAUSE`].
pub(crate) const FAILED_HINT: &str = "X_APPARATUS_HINT";
/// Notification of a process that serves: a warning for its operator.
pub(crate) const WARNING: &str = "X_APPARATUS_WARNING";
/// Notification of a process that is about to serve: the name of a disk that it cannot open, a space, and the reason.
pub(crate) const UNOPENED: &str = "X_APPARATUS_UNOPENED_DISK";
/// Size in bytes above which a log is renamed before an apparatus starts.
const LONG_LOG: u64 = 1 << 20;
/// Longest tail of a log that is searched for its last line, in bytes.
const TAIL: u64 = 64 << 10;

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its name.
    pub name: Name,
    /// Where to mount: an absolute path.
    pub mount: PathBuf,
    /// FUSE reader threads.
    pub threads: Option<u16>,
    /// Whether other users may use the mount.
    pub allow_other: bool,
    /// Whether a second process holds the mount and starts the server again when it crashes.
    pub supervisor: bool,
    /// The way of requests between the kernel and the apparatus.
    pub transport: Option<Transport>,
    /// A configuration file: an absolute path.
    pub config: Option<PathBuf>,
    /// Whether it moves into a memory cgroup of its own, where the cgroup of this process has a limit and that is permitted.
    pub own_cgroup: bool,
    /// The program and the arguments that precede those of the apparatus.
    pub program: Vec<OsString>,
}

impl Start {
    /// Returns the whole command.
    #[must_use]
    pub fn command(&self, pool: &PoolDir) -> Vec<OsString> {
        let mut words = self.program.clone();
        let mut option = |name: &str, value: OsString| words.extend([OsString::from(name), value]);
        option("--pool", pool.path().into());
        option("--name", self.name.as_str().into());
        option("--mount", self.mount.clone().into());
        if let Some(threads) = self.threads {
            option("--threads", threads.to_string().into());
        }
        if let Some(transport) = self.transport {
            option("--transport", transport.name().into());
        }
        if let Some(config) = &self.config {
            option("--config", config.clone().into());
        }
        if self.allow_other {
            words.push("--allow-other".into());
        }
        if self.supervisor {
            words.push("--supervisor".into());
        }
        if self.own_cgroup {
            words.push("--own-cgroup".into());
        }
        words
    }
}

/// An apparatus that was started and serves.
#[derive(Debug)]
pub struct Started {
    /// The process, for a caller that goes on running and has to wait for its end.
    pub process: Child,
    /// A warning for its operator.
    pub warning: Option<String>,
    /// The disks that it could not open: volumes on them answer EIO.
    pub unopened: Vec<UnopenedDisk>,
}

/// A disk that a starting apparatus could not open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnopenedDisk {
    /// Its name.
    pub disk: String,
    /// The reason, and what it means for hosts.
    pub why: String,
}

/// Returns whether the memory cgroup of this process, and so that of its children, has a limit.
#[must_use]
pub fn is_memory_limited() -> bool {
    Cgroup::mine().is_some_and(|cgroup| cgroup.limit().is_some())
}

/// Runs the apparatus in the background, with its output in `run/NAME.log`. It serves when this returns.
///
/// # Errors
/// Fails when the process ended instead, with the reason that it reported, or the last line of its log; fails with `TimedOut` when it
/// does not serve in time: it is killed then.
pub fn start(pool: &PoolDir, start: &Start, within: Duration) -> Result<Started> {
    let what = format!("apparatus {}", start.name);
    refuse_users_pool(pool)?;
    if cluster::open(pool)?.is_claimed(start.name.as_str())? {
        return Err(Error::failed(what, "runs already").hint(format!(
            "choose another name, or stop it: vctl apparatus stop {}",
            start.name
        )));
    }
    let failed = |error: io::Error| Error::because(what.clone(), error);
    let ready = Ready::new().map_err(failed)?;
    let (log, from) = open_log(&pool.log(&start.name)).map_err(failed)?;
    let mut child = spawn(&start.command(pool), &log, &ready.path).map_err(failed)?;
    let log_named = || format!("its log: {}", pool.log(&start.name).display());
    let outcome = await_readiness(&ready, &mut child, within).map_err(failed)?;
    match outcome {
        Readiness::Serves(report) => Ok(Started {
            process: child,
            warning: report.warning,
            unopened: report.unopened,
        }),
        Readiness::Ended(report) => {
            let why = report.why.or_else(|| last_line(&pool.log(&start.name), from));
            let why = why.unwrap_or_else(|| "ended without a message".into());
            let why = why.strip_prefix(&format!("{what}: ")).unwrap_or(&why);
            Err(Error::failed(&what, format!("did not start: {why}"))
                .hint(report.hint.unwrap_or_else(log_named)))
        }
        Readiness::Late => {
            let _ = child.kill();
            let _ = child.wait();
            let why = format!("does not serve after {} s", within.as_secs());
            Err(Error::new(ErrorKind::TimedOut, what, why).hint(log_named()))
        }
    }
}

fn spawn(command: &[OsString], log: &File, ready: &Path) -> io::Result<Child> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Command::new(program)
        .args(arguments)
        .env("NOTIFY_SOCKET", ready)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
}

/// Opens the log for appending. Returns the file and its length, where new output begins.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    if let Some(run) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(run)?;
    }
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LONG_LOG) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let from = log.metadata()?.len();
    Ok((log, from))
}

/// Returns the last line written to a log since `from`, hints excepted.
fn last_line(path: &Path, from: u64) -> Option<String> {
    let mut log = File::open(path).ok()?;
    let end = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL))))
        .ok()?;
    let mut tail = Vec::new();
    log.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let is_message = |line: &&str| !line.trim().is_empty() && !line.starts_with("hint: ");
    let last = text.lines().rev().find(is_message)?;
    Some(last.strip_prefix("apparatus: ").unwrap_or(last).trim().to_owned())
}

/// Socket for the `sd_notify` messages of a starting program, in a directory of its own, because a socket's path must be short.
struct Ready {
    dir: PathBuf,
    path: PathBuf,
    socket: UnixDatagram,
}

impl Ready {
    fn new() -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("vctl-{}", Uuid::new_v4().simple()));
        DirBuilder::new().mode(0o700).create(&dir)?;
        let path = dir.join("ready");
        match UnixDatagram::bind(&path).and_then(|socket| socket.set_nonblocking(true).map(|()| socket)) {
            Ok(socket) => Ok(Self { dir, path, socket }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    /// Reads the messages received so far into `report`. Returns whether the program has reported readiness.
    fn receive(&self, report: &mut StartReport) -> io::Result<bool> {
        let mut message = [0; 4096];
        loop {
            match self.socket.recv(&mut message) {
                Ok(len) => {
                    let text = String::from_utf8_lossy(&message[..len]);
                    if text.lines().any(|line| line == "READY=1") {
                        return Ok(true);
                    }
                    text.lines().for_each(|line| report.take(line));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a starting process has reported: the reason of a failure and the way out, or a warning.
#[derive(Default)]
struct StartReport {
    why: Option<String>,
    hint: Option<String>,
    warning: Option<String>,
    unopened: Vec<UnopenedDisk>,
}

impl StartReport {
    fn take(&mut self, line: &str) {
        match line.split_once('=') {
            Some((FAILED_BECAUSE, why)) => self.why = Some(why.to_owned()),
            Some((WARNING, text)) => self.warning = Some(text.to_owned()),
            Some((UNOPENED, found)) => {
                self.unopened
                    .extend(found.split_once(' ').map(|(disk, why)| UnopenedDisk {
                        disk: disk.to_owned(),
                        why: why.to_owned(),
                    }))
            }
            Some((FAILED_HINT, hint)) if !hint.is_empty() => self.hint = Some(hint.to_owned()),
            _ => {}
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

enum Readiness {
    Serves(StartReport),
    Ended(StartReport),
    Late,
}

fn await_readiness(ready: &Ready, child: &mut Child, within: Duration) -> io::Result<Readiness> {
    let end = open_process(child.id())?;
    let deadline = Instant::now() + within;
    let mut report = StartReport::default();
    loop {
        if ready.receive(&mut report)? {
            return Ok(Readiness::Serves(report));
        }
        if child.try_wait()?.is_some() {
            // Its last messages may have arrived since.
            ready.receive(&mut report)?;
            return Ok(Readiness::Ended(report));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Readiness::Late);
        }
        wait_readable(
            &[
                PollFd::new(&ready.socket, PollFlags::IN),
                PollFd::new(&end, PollFlags::IN),
            ],
            left,
        )?;
    }
}

/// Returns a descriptor that is readable once the process has ended.
pub(super) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn wait_readable(descriptors: &[PollFd<'_>], within: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(within).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match poll(&mut descriptors.to_vec(), Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
