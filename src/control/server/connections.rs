//! The connections of a control thread: accepted, read, written, closed.

use super::Setup;
use crate::change::participant::Link;
use crate::control::listen;
use crate::control::pipe::{Broken, Pipe};
use crate::wire::frame;
use crate::wire::message::{Answer, AnswerFrame, MOST, Refusal, Request, RequestFrame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Bytes kept for a controller that does not read: thousands of answers, or the figures of tens of thousands of volumes in use.
const MOST_OUT: usize = 16 << 20;

/// Connections taken in one turn, so that a crowd of them cannot keep the rest waiting.
const ACCEPTS: usize = 16;

/// How long nobody is accepted after that has failed: for want of file descriptors it would fail again at once.
const DEAF: Duration = Duration::from_millis(100);

/// What a turn brings.
#[derive(Debug)]
pub(super) enum Heard {
    /// The bell rings.
    Bell,
    /// A frame has arrived.
    Asked(Link, RequestFrame),
    /// What has arrived is no frame, and why.
    Garbled(Link, String),
    /// The connection is gone.
    Lost(Link),
}

struct Connection {
    pipe: Pipe,
    since: Instant,
    greeted: bool,
}

/// All of them, by number.
pub(super) struct Connections {
    list: BTreeMap<Link, Connection>,
    next: u64,
    most: usize,
    deaf_until: Option<Instant>,
    scratch: Vec<u8>,
}

enum Source {
    Bell,
    Listener,
    Connection(Link),
}

impl Connections {
    pub(super) fn new(most: usize) -> Self {
        Self {
            list: BTreeMap::new(),
            next: 1,
            most,
            deaf_until: None,
            scratch: vec![0; frame::READ],
        }
    }

    /// Waits until something happens, or for so long.
    pub(super) fn wait(&mut self, setup: &Setup, left: Option<Duration>) -> Vec<Heard> {
        let mut heard = Vec::new();
        for source in self.ready(setup, left) {
            match source {
                Source::Bell => heard.push(Heard::Bell),
                Source::Listener => self.accept(setup),
                Source::Connection(link) => self.receive(link, &mut heard),
            }
        }
        heard
    }

    fn ready(&self, setup: &Setup, left: Option<Duration>) -> Vec<Source> {
        let mut sources = vec![Source::Bell];
        let mut fds = vec![PollFd::new(&*setup.bell, PollFlags::IN)];
        if self.deaf_until.is_none_or(|until| until <= Instant::now()) {
            sources.push(Source::Listener);
            fds.push(PollFd::new(&setup.listener, PollFlags::IN));
        }
        for (link, connection) in &self.list {
            sources.push(Source::Connection(*link));
            fds.push(PollFd::new(&connection.pipe, connection.pipe.interest()));
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(_) => Vec::new(),
            Ok(_) => {
                let ready = sources
                    .into_iter()
                    .zip(&fds)
                    .filter(|(_, fd)| fd.revents() != PollFlags::empty());
                ready.map(|(source, _)| source).collect()
            }
        }
    }

    fn accept(&mut self, setup: &Setup) {
        for _ in 0..ACCEPTS {
            match setup.listener.accept() {
                Ok(Some((socket, user))) => self.take_in(socket, user),
                Ok(None) => return,
                Err(why) => {
                    log::warn!("control socket: {why}");
                    self.deaf_until = Some(Instant::now() + DEAF);
                    return;
                }
            }
        }
    }

    fn take_in(&mut self, socket: OwnedFd, user: u32) {
        let mut pipe = Pipe::new(socket, frame::GREETING_CAP, MOST_OUT);
        let refusal = if !listen::may_control(user) {
            Refusal::User(user)
        } else if self.list.len() >= self.most {
            Refusal::TooMany
        } else {
            self.list.insert(
                Link(self.next),
                Connection {
                    pipe,
                    since: Instant::now(),
                    greeted: false,
                },
            );
            self.next += 1;
            return;
        };
        // It is told if it listens; the connection ends here either way.
        let answers = vec![Answer::Refused {
            change: None,
            refusal,
        }];
        let _ = pipe.queue(&AnswerFrame { answers }).and_then(|()| pipe.flush());
    }

    fn receive(&mut self, link: Link, heard: &mut Vec<Heard>) {
        let Some(connection) = self.list.get_mut(&link) else {
            return;
        };
        let greeted = &mut connection.greeted;
        let received = connection
            .pipe
            .each(&mut self.scratch, |pipe, frame: RequestFrame| {
                if !*greeted && matches!(frame.requests.first(), Some(Request::Hello { .. })) {
                    // The core refuses it if it does not fit, and then the connection ends.
                    *greeted = true;
                    pipe.set_cap(frame::CAP);
                }
                heard.push(Heard::Asked(link, frame));
            });
        match received.and_then(|()| connection.pipe.flush()) {
            Ok(()) => {}
            Err(Broken::Fault(fault)) => heard.push(Heard::Garbled(link, fault.to_string())),
            Err(_) => {
                self.list.remove(&link);
                heard.push(Heard::Lost(link));
            }
        }
    }

    /// Those that have not greeted, or not finished a frame, for so long.
    pub(super) fn overdue(&self, patience: Duration) -> Vec<Link> {
        let late = |connection: &Connection| {
            let waiting = if connection.greeted {
                connection.pipe.partial_since()
            } else {
                Some(connection.since)
            };
            waiting.is_some_and(|since| since.elapsed() >= patience)
        };
        self.list
            .iter()
            .filter(|(_, connection)| late(connection))
            .map(|(link, _)| *link)
            .collect()
    }

    /// Sends answers, and closes the connection if `close`. False when the connection is gone.
    pub(super) fn say(&mut self, link: Link, mut answers: Vec<Answer>, close: bool) -> bool {
        let Some(connection) = self.list.get_mut(&link) else {
            return false;
        };
        let mut sent = Ok(());
        while sent.is_ok() && !answers.is_empty() {
            let rest = answers.split_off(answers.len().min(MOST));
            let frame = AnswerFrame {
                answers: std::mem::replace(&mut answers, rest),
            };
            sent = connection.pipe.queue(&frame);
        }
        sent = sent.and_then(|()| connection.pipe.flush());
        if close || sent.is_err() {
            self.list.remove(&link);
            return false;
        }
        true
    }
}
