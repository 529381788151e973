//! The server that stands by: it is started while another one serves, prepares what does not concern that one, and takes over at once when that one crashes.

use super::channel::Message;
use super::server::Server;
use rustix::process::Signal;
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a server serves before another one is started to stand by: a program that crashes at once gets none.
const AFTER: Duration = Duration::from_millis(100);
/// How long after the end of a server that stood by another one is started.
const AGAIN: Duration = Duration::from_secs(60);

/// Identity of a program's file: device, inode, and time of modification.
type Identity = (u64, u64, i64, i64);

/// The place of a server that stands by.
#[derive(Default)]
pub(super) struct Standby {
    server: Option<(Server, Identity)>,
    /// When the next one is to be started.
    due: Option<Instant>,
    /// Servers that were killed, or have ended, and were not waited for yet: one that waits for a disk may end late.
    ending: Vec<Server>,
}

impl Standby {
    /// Records that a server serves now.
    pub(super) fn wanted(&mut self) {
        if self.server.is_none() {
            self.due = Some(Instant::now() + AFTER);
        }
    }

    /// Returns how long it is until [`Standby::start`] has something to do; `None` if it has nothing to do.
    pub(super) fn left(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Starts a server of this program when it is time for that.
    pub(super) fn start(&mut self, program: &Path, command: &dyn Fn(&Path) -> Command) {
        if self.left().is_none_or(|left| !left.is_zero()) {
            return;
        }
        self.due = None;
        self.reap();
        let started = identity(program)
            .map(|identity| (Server::start(command(program)), identity))
            .ok_or("its program cannot be found".to_owned())
            .and_then(|(server, identity)| Ok((server.map_err(|why| why.to_string())?, identity)));
        match started {
            Ok((server, identity)) => {
                // One that has ended already is found by its end.
                let _ = server.send(&Message::StandBy);
                self.server = Some((server, identity));
            }
            Err(why) => {
                log::warn!("no server stands by: {why}");
                self.due = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Returns a descriptor that is readable once the process has ended.
    pub(super) fn process(&self) -> Option<BorrowedFd<'_>> {
        self.server.as_ref().map(|(server, _)| server.process())
    }

    /// Records that the process has ended before its turn.
    pub(super) fn ended(&mut self) {
        self.stop();
        self.due = Some(Instant::now() + AGAIN);
    }

    /// Returns the server that stands by, unless it has ended or another program has been put in the place of its own.
    pub(super) fn take(&mut self, program: &Path) -> Option<Server> {
        self.due = None;
        let (server, of) = self.server.take()?;
        if identity(program) == Some(of) && !server.has_ended() {
            return Some(server);
        }
        self.end(server);
        None
    }

    /// Ends the server that stands by.
    pub(super) fn stop(&mut self) {
        self.due = None;
        if let Some((server, _)) = self.server.take() {
            self.end(server);
        }
    }

    fn end(&mut self, server: Server) {
        server.signal(Signal::KILL);
        self.ending.push(server);
        self.reap();
    }

    fn reap(&mut self) {
        self.ending.retain_mut(|server| !server.is_reaped());
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.stop();
    }
}

fn identity(program: &Path) -> Option<Identity> {
    let found = fs::metadata(program).ok()?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec()))
}
