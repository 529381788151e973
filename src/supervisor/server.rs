//! A server process, as its supervisor sees it.

use super::channel::{self, Kind, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Exit status of a supervisor that had to give its mount up.
pub(super) const FAILED: u8 = 1;

/// A server process with the channel to it.
pub(super) struct Server {
    child: Child,
    process: OwnedFd,
    /// `None` once the server has closed its end.
    channel: Option<OwnedFd>,
}

impl Server {
    /// Starts a process whose standard input is the channel.
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        let (ours, theirs) = channel::pair()?;
        let mut child = command.stdin(Stdio::from(theirs)).spawn()?;
        // The command has the other end until it is dropped.
        drop(command);
        let process = open(child.id()).inspect_err(|_| end(&mut child))?;
        Ok(Self {
            child,
            process,
            channel: Some(ours),
        })
    }

    /// Returns a descriptor that is readable once the process, with all its threads, has ended.
    pub(super) fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Returns the descriptor of the channel, as long as it is open.
    pub(super) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Sends a message.
    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        match &self.channel {
            Some(channel) => channel::send_plain(channel, message, SendFlags::empty()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Sends a descriptor that was kept.
    pub(super) fn send_kept(&self, kind: Kind, key: [u64; 2], kept: BorrowedFd<'_>) -> io::Result<()> {
        match &self.channel {
            Some(channel) => channel::send_kept(channel, kind, key, kept, SendFlags::empty()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Receives a message. Returns `None` when there is none, and none will come any more.
    pub(super) fn receive(&mut self) -> Option<Message> {
        let received = channel::receive(self.channel.as_ref()?, RecvFlags::DONTWAIT);
        let message = received.unwrap_or_else(|error| {
            log::error!("the server sends what makes no sense: {error}");
            None
        });
        if message.is_none() {
            self.channel = None;
        }
        message
    }

    /// Returns whether the process has ended.
    pub(super) fn has_ended(&self) -> bool {
        let ready = poll(
            &mut [PollFd::new(&self.process, PollFlags::IN)],
            Some(&Timespec::default()),
        );
        ready.is_ok_and(|ready| ready > 0)
    }

    /// Returns whether the process has ended and was waited for, without waiting.
    pub(super) fn is_reaped(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Sends a signal. The process has ended if that fails.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.process, signal);
    }

    /// Waits for the end of the process.
    pub(super) fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Kills the process, and returns how it has ended.
    pub(super) fn kill(mut self) -> Option<ExitStatus> {
        end(&mut self.child);
        self.child.try_wait().ok().flatten()
    }
}

/// Returns how a process has ended.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, code) => format!("ended with status {}", code.unwrap_or(-1)),
    }
}

/// Returns the exit status of a supervisor that ends with its server.
pub(super) fn exit_status(status: ExitStatus) -> u8 {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.unwrap_or(FAILED)
}

fn end(child: &mut Child) {
    let ended = child.kill().and_then(|()| child.wait());
    if let Err(error) = ended {
        log::error!("the server cannot be ended: {error}");
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
