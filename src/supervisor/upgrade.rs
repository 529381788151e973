//! The replacement of a server by another one that is prepared while the first serves on.

use super::channel::{self, Message, VERSION};
use super::server::{Server, describe};
use rustix::net::SendFlags;
use rustix::process::Signal;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest time for which a new server may prepare: it loads the table and opens the disks.
const PREPARING: Duration = Duration::from_secs(3600);
/// How long the old server may take to retire: its jobs end at a chunk first, while it serves.
const RETIRING: Duration = Duration::from_secs(30);
/// How long the new server may take to serve once the old one has ended.
const TAKING_OVER: Duration = Duration::from_secs(30);

/// Stage of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The new server prepares, and the old one serves.
    Preparing,
    /// The old server was asked to retire.
    Retiring,
    /// The old server has ended.
    TakingOver,
}

/// An upgrade that has begun.
pub(super) struct Upgrade {
    command: OwnedFd,
    /// The program of the new server.
    pub(super) program: PathBuf,
    /// The new server; `None` once it is the server.
    successor: Option<Server>,
    stage: Stage,
    until: Instant,
    /// What the new server has said about its failure.
    why: Option<String>,
    /// Since when hosts wait, in microseconds of the monotonic clock.
    pub(super) since_us: Option<u64>,
}

impl Upgrade {
    /// Starts the new server, which has to be prepared within this time.
    ///
    /// # Errors
    /// Fails when it cannot be started; the command was told.
    pub(super) fn begin(
        command: OwnedFd,
        program: PathBuf,
        server: Command,
        within: Duration,
    ) -> io::Result<Self> {
        let started = Server::start(server).inspect(|successor| {
            // A program that has ended already is reported as that.
            let _ = successor.send(&Message::Prepare { version: VERSION });
        });
        match started {
            Ok(successor) => Ok(Self {
                command,
                program,
                successor: Some(successor),
                stage: Stage::Preparing,
                until: Instant::now() + within.min(PREPARING),
                why: None,
                since_us: None,
            }),
            Err(error) => {
                let why = format!("{} cannot be started: {error}", program.display());
                answer(&command, &Message::Refused(why));
                Err(error)
            }
        }
    }

    /// Returns the stage.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns the new server, as long as it is not the server.
    pub(super) fn successor(&self) -> Option<&Server> {
        self.successor.as_ref()
    }

    /// Returns how long the present stage may last.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Receives a message of the new server. Returns whether it is prepared now.
    pub(super) fn receive(&mut self) -> bool {
        match self.successor.as_mut().and_then(Server::receive) {
            Some(Message::Prepared) if self.stage == Stage::Preparing => true,
            Some(Message::Failed(why)) => {
                self.why = Some(why);
                false
            }
            _ => false,
        }
    }

    /// Records what the new server has said about its failure after it had become the server.
    pub(super) fn failed(&mut self, why: String) {
        self.why = Some(why);
    }

    /// Records that the old server was asked to retire.
    pub(super) fn retires(&mut self) {
        (self.stage, self.until) = (Stage::Retiring, Instant::now() + RETIRING);
    }

    /// Returns the new server, because the old one has ended. Hosts wait since this time, in microseconds of the monotonic clock: since before the upgrade
    /// began, in a loop of crashes.
    pub(super) fn take_over(&mut self, since_us: u64) -> Option<Server> {
        self.since_us = Some(since_us);
        (self.stage, self.until) = (Stage::TakingOver, Instant::now() + TAKING_OVER);
        self.successor.take()
    }

    /// Tells the command that the new server serves.
    pub(super) fn done(self, now_us: u64) {
        let waited_us = self.since_us.map_or(0, |since| now_us.saturating_sub(since));
        log::info!("the server was replaced by {}", self.program.display());
        answer(&self.command, &Message::Upgraded { waited_us });
    }

    /// Ends the new server, and tells the command why.
    pub(super) fn refuse(mut self, because: &str) {
        // What it has said may not have been received yet.
        while let Some(message) = self.successor.as_mut().and_then(Server::receive) {
            if let Message::Failed(why) = message {
                self.why = Some(why);
            }
        }
        if let Some(successor) = self.successor.take() {
            successor.signal(Signal::KILL);
            successor.kill();
        }
        let why = self.why.unwrap_or_else(|| because.to_owned());
        log::error!("the server is not replaced by {}: {why}", self.program.display());
        answer(&self.command, &Message::Refused(why));
    }

    /// Ends the upgrade because the new server has ended before it was prepared.
    pub(super) fn ended(mut self) {
        let mut why = "the new program has ended".to_owned();
        while let Some(message) = self.successor.as_mut().and_then(Server::receive) {
            if let Message::Failed(text) = message {
                self.why = Some(text);
            }
        }
        if let Some(status) = self.successor.take().and_then(|successor| successor.wait().ok()) {
            why = format!(
                "the new program {} before it was prepared: is it an apparatus?",
                describe(status)
            );
        }
        self.refuse(&why);
    }
}

/// Answers a command, which may have ended.
pub(super) fn answer(command: &OwnedFd, message: &Message) {
    let _ = channel::send_plain(command, message, SendFlags::DONTWAIT);
}
