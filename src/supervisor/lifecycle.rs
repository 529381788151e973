//! The supervisor's own loop: starts the server, waits for its end, and starts it again.

use super::channel::{self, Item, Kind, Message};
use super::restarts::Restarts;
use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Maximum number of descriptors that are kept: locks of hosts above all.
const MOST: usize = 8192;
/// Exit status of a supervisor that had to give its mount up.
const FAILED: u8 = 1;

/// Descriptors that are kept, by what they are.
type Kept = BTreeMap<(Kind, [u64; 2]), OwnedFd>;

/// One life of a server.
struct Life {
    status: ExitStatus,
    /// How long it served; `None` if it never did.
    served: Option<Duration>,
    ended_us: u64,
}

/// Supervisor of one apparatus.
struct Supervisor {
    kept: Kept,
    /// Whether a server has said that `kept` is all that a successor needs.
    is_complete: bool,
    stop: UnixStream,
    is_stopping: bool,
}

/// Starts servers until one ends in order, the mount has ended, or this process is asked to stop. `server` returns the command of a server. Returns
/// the exit status.
///
/// # Errors
/// Fails when no server can be started, before there is a mount.
pub fn supervise(server: impl Fn() -> Command, give_up: impl FnOnce()) -> io::Result<u8> {
    if let Err(why) = sys::allow_many_files() {
        log::debug!("open files: {why}");
    }
    let mut supervisor = Supervisor {
        kept: Kept::new(),
        is_complete: false,
        stop: on_signals()?,
        is_stopping: false,
    };
    let mut restarts = Restarts::default();
    let (mut ended_us, mut how) = (0, String::new());
    loop {
        let begin = Message::Begin {
            before: restarts.ended,
            ended_us,
            how,
        };
        let wait = match supervisor.live(server(), &begin) {
            Ok(life) if supervisor.is_stopping || life.status.success() || !supervisor.has_mount() => {
                return Ok(exit_status(life.status));
            }
            Ok(life) => {
                (ended_us, how) = (life.ended_us, describe(life.status));
                restarts.after(life.served)
            }
            Err(error) if supervisor.has_mount() => {
                (ended_us, how) = (sys::monotonic_us(), format!("could not be started: {error}"));
                restarts.after(None)
            }
            Err(error) => return Err(error),
        };
        report(&how, restarts, wait);
        if supervisor.wait(wait)? {
            give_up();
            return Ok(FAILED);
        }
    }
}

fn report(how: &str, restarts: Restarts, wait: Duration) {
    let hosts = "its hosts wait";
    if wait.is_zero() {
        log::error!("the server {how}; it is started again, and {hosts}");
    } else {
        log::error!(
            "the server {how}, {} times in a row without having recovered; it is started again in {} ms. The mount is held and {hosts}: repair or replace the program, or stop this process (SIGTERM), which cuts them off",
            restarts.short,
            wait.as_millis()
        );
    }
}

/// Returns a stream that has a byte for each SIGTERM and SIGINT.
fn on_signals() -> io::Result<UnixStream> {
    let (stop, on_signal) = UnixStream::pair()?;
    stop.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, on_signal.try_clone()?)?;
    }
    Ok(stop)
}

fn exit_status(status: ExitStatus) -> u8 {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.unwrap_or(FAILED)
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, code) => format!("ended with status {}", code.unwrap_or(-1)),
    }
}

impl Supervisor {
    /// Starts a server, passes on what is kept, and waits for its end.
    fn live(&mut self, mut command: Command, begin: &Message) -> io::Result<Life> {
        let (ours, theirs) = channel::pair()?;
        let mut child = command.stdin(Stdio::from(theirs)).spawn()?;
        // The command has the other end until it is dropped.
        drop(command);
        let process = open(child.id())?;
        let passed = self
            .kept
            .iter()
            .try_for_each(|((kind, key), each)| {
                channel::send_kept(&ours, *kind, *key, each.as_fd(), SendFlags::empty())
            })
            .and_then(|()| channel::send_plain(&ours, begin, SendFlags::empty()));
        if let Err(error) = passed {
            log::error!("what is kept cannot be passed to the server: {error}");
        }
        let serves_since = self.watch(&ours, &process)?;
        let ended_us = sys::monotonic_us();
        let status = child.wait()?;
        Ok(Life {
            status,
            served: serves_since.map(|since| since.elapsed()),
            ended_us,
        })
    }

    /// Serves the messages of a server until it has ended, and passes signals on to it. Returns since when it served.
    fn watch(&mut self, channel: &OwnedFd, process: &OwnedFd) -> io::Result<Option<Instant>> {
        let (mut serves_since, mut is_open) = (None, true);
        loop {
            let mut ready = [
                PollFd::new(process, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
                PollFd::new(channel, PollFlags::IN),
            ];
            let polled = if is_open { &mut ready[..] } else { &mut ready[..2] };
            match poll(polled, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let [has_ended, is_asked, has_message] = ready.map(|each| !each.revents().is_empty());
            if is_asked && self.was_asked() {
                // It has ended if this fails.
                let _ = pidfd_send_signal(process, Signal::TERM);
            }
            if is_open && has_message {
                is_open = self.receive(channel, &mut serves_since)?;
            }
            if has_ended {
                while is_open && self.receive(channel, &mut serves_since)? {}
                return Ok(serves_since);
            }
        }
    }

    /// Receives a message. Returns false when there is none, or none any more.
    fn receive(&mut self, channel: &OwnedFd, serves_since: &mut Option<Instant>) -> io::Result<bool> {
        match channel::receive(channel, RecvFlags::DONTWAIT)? {
            Some(Message::Keep(Item {
                kind,
                key,
                descriptor,
            })) if self.kept.len() < MOST => {
                self.kept.insert((kind, key), descriptor);
            }
            Some(Message::Release(kind, key)) => drop(self.kept.remove(&(kind, key))),
            Some(Message::Serves) => {
                self.is_complete = true;
                *serves_since = Some(Instant::now());
            }
            Some(_) => log::error!("a message of the server makes no sense, or there are too many locks"),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Records that this process was asked to stop. Returns false when it was not.
    fn was_asked(&mut self) -> bool {
        let mut bytes = [0; 16];
        let asked = self.stop.read(&mut bytes).is_ok_and(|len| len > 0);
        self.is_stopping |= asked;
        asked
    }

    /// Waits before the next start. Returns whether this process was asked to stop meanwhile.
    fn wait(&mut self, wait: Duration) -> io::Result<bool> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.stop, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) if self.was_asked() => return Ok(true),
                Ok(_) | Err(Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns whether there is a mount that a successor can serve.
    fn has_mount(&self) -> bool {
        let device = self.kept.iter().find(|((kind, _), _)| *kind == Kind::Device);
        let Some((_, device)) = device.filter(|_| self.is_complete) else {
            return false;
        };
        // The device reports an error once the mount has ended.
        let mut ready = [PollFd::new(device, PollFlags::IN)];
        let polled = poll(&mut ready, Some(&Timespec::default()));
        polled.is_ok() && !ready[0].revents().contains(PollFlags::ERR)
    }
}

/// Returns a descriptor that is readable once the process, with all its threads, has ended.
fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
