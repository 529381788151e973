//! Starting an apparatus in the background, and waiting until it serves.

use crate::daemon::{FAILED_BECAUSE, FAILED_HINT};
use crate::error::{Error, Kind, Result};
use crate::member::LifeLock;
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
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

/// Past this, a log is put aside before an apparatus starts.
const LONG_LOG: u64 = 1 << 20;
/// Longest tail of a log that is searched for its last line, in bytes.
const TAIL: u64 = 64 << 10;

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What to call it.
    pub name: Name,
    /// Where to mount, from the root.
    pub mount: PathBuf,
    /// FUSE reader threads.
    pub threads: Option<u16>,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// A configuration file, from the root.
    pub config: Option<PathBuf>,
    /// The program and the arguments that come before the apparatus's own.
    pub program: Vec<OsString>,
}

impl Start {
    /// The whole command.
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
        if let Some(config) = &self.config {
            option("--config", config.clone().into());
        }
        if self.allow_other {
            words.push("--allow-other".into());
        }
        words
    }
}

/// Runs it in the background, its words in `run/NAME.log`. It serves when this returns. The handle is for a caller that lives
/// on and has to collect its end.
///
/// # Errors
/// When it ended instead, with what it said of it, or the last line of its log; when it does not serve in time, `TimedOut`: it is killed then.
pub fn start(pool: &PoolDir, start: &Start, within: Duration) -> Result<Child> {
    let what = format!("apparatus {}", start.name);
    if LifeLock::alive(pool, start.name.as_str())? {
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
        Readiness::Serves => Ok(child),
        Readiness::Ended(told) => {
            let why = told.why.or_else(|| last_line(&pool.log(&start.name), from));
            let why = why.unwrap_or_else(|| "ended without a word".into());
            let why = why.strip_prefix(&format!("{what}: ")).unwrap_or(&why);
            Err(Error::failed(&what, format!("did not start: {why}"))
                .hint(told.hint.unwrap_or_else(log_named)))
        }
        Readiness::Late => {
            let _ = child.kill();
            let _ = child.wait();
            let why = format!("does not serve after {} s", within.as_secs());
            Err(Error::new(Kind::TimedOut, what, why).hint(log_named()))
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

/// The log, open for appending, and where what will be written begins.
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

/// The last line written to a log since `from`.
fn last_line(path: &Path, from: u64) -> Option<String> {
    let mut log = File::open(path).ok()?;
    let end = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL))))
        .ok()?;
    let mut tail = Vec::new();
    log.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let tells = |line: &&str| !line.trim().is_empty() && !line.starts_with("hint: ");
    let last = text.lines().rev().find(tells)?;
    Some(last.strip_prefix("apparatus: ").unwrap_or(last).trim().to_owned())
}

/// Where a program that speaks `sd_notify` says that it is ready; a directory of its own, because a socket's path must be short.
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

    /// Whether readiness is among what has been said since the last look; what is said of a failure is kept.
    fn said(&self, told: &mut Told) -> io::Result<bool> {
        let mut message = [0; 4096];
        loop {
            match self.socket.recv(&mut message) {
                Ok(len) => {
                    let text = String::from_utf8_lossy(&message[..len]);
                    if text.lines().any(|line| line == "READY=1") {
                        return Ok(true);
                    }
                    text.lines().for_each(|line| told.take(line));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Why it could not begin, in its own words.
#[derive(Default)]
struct Told {
    why: Option<String>,
    hint: Option<String>,
}

impl Told {
    fn take(&mut self, line: &str) {
        match line.split_once('=') {
            Some((FAILED_BECAUSE, why)) => self.why = Some(why.to_owned()),
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
    Serves,
    Ended(Told),
    Late,
}

fn await_readiness(ready: &Ready, child: &mut Child, within: Duration) -> io::Result<Readiness> {
    let end = open_process(child.id())?;
    let deadline = Instant::now() + within;
    let mut told = Told::default();
    loop {
        if ready.said(&mut told)? {
            return Ok(Readiness::Serves);
        }
        if child.try_wait()?.is_some() {
            // What it said last may have come since.
            ready.said(&mut told)?;
            return Ok(Readiness::Ended(told));
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

/// A descriptor that is readable once the process has ended.
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
