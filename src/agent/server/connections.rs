//! The connections of a control thread: accepts, reads, writes and closes them.

use crate::datapath::Waker;
use crate::protocol::participant::Link;
use crate::rpc::Listener;
use crate::rpc::frame;
use crate::rpc::listen;
use crate::rpc::message::{Answer, AnswerFrame, MOST, Refusal, Request, RequestFrame};
use crate::rpc::pipe::{Broken, Pipe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Maximum number of queued bytes for a controller that does not read: thousands of answers, or the metrics of tens of thousands of active volumes.
const MOST_OUT: usize = 16 << 20;

/// Number of connections that are accepted in a row, so that many of them do not delay the others.
const ACCEPTS: usize = 16;

/// Time without accepting connections after a failure: for lack of file descriptors the next attempt would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Event that the control thread waits for.
#[derive(Debug)]
pub(super) enum Inbound {
    /// A frame has arrived.
    Asked(Link, RequestFrame),
    /// The bytes that have arrived are not a valid frame, for this reason.
    Garbled(Link, String),
    /// The connection has been lost.
    Lost(Link),
}

struct Connection {
    pipe: Pipe,
    since: Instant,
    greeted: bool,
}

/// All connections, by number, and the socket that accepts new ones.
pub(super) struct Connections {
    list: BTreeMap<Link, Connection>,
    next: u64,
    most: usize,
    paused_until: Option<Instant>,
    scratch: Vec<u8>,
    listener: Listener,
    waker: Arc<Waker>,
}

enum PollSource {
    Waker,
    Listener,
    Connection(Link),
}

impl Connections {
    /// Makes it without a connection; it accepts `most` at a time.
    pub(super) fn new(listener: Listener, waker: Arc<Waker>, most: usize) -> Self {
        Self {
            list: BTreeMap::new(),
            next: 1,
            most,
            paused_until: None,
            scratch: vec![0; frame::READ],
            listener,
            waker,
        }
    }

    /// Accepts new connections from this socket from now on.
    pub(super) fn listen_on(&mut self, listener: Listener) {
        self.listener = listener;
    }

    /// Waits for events, or until the waker is called, for `left` at most.
    pub(super) fn wait(&mut self, left: Option<Duration>) -> Vec<Inbound> {
        let mut inbound = Vec::new();
        for source in self.ready(left) {
            match source {
                PollSource::Waker => self.waker.clear(),
                PollSource::Listener => self.accept(),
                PollSource::Connection(link) => self.receive(link, &mut inbound),
            }
        }
        inbound
    }

    fn ready(&self, left: Option<Duration>) -> Vec<PollSource> {
        let mut sources = vec![PollSource::Waker];
        let mut fds = vec![PollFd::new(&*self.waker, PollFlags::IN)];
        if self.paused_until.is_none_or(|until| until <= Instant::now()) {
            sources.push(PollSource::Listener);
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for (link, connection) in &self.list {
            sources.push(PollSource::Connection(*link));
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

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok(Some((socket, user))) => self.accept_one(socket, user),
                Ok(None) => return,
                Err(why) => {
                    log::warn!("control socket: {why}");
                    self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn accept_one(&mut self, socket: OwnedFd, user: u32) {
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
        // The peer gets the refusal if it reads; the connection is closed here in any case.
        let answers = vec![Answer::Refused {
            change: None,
            refusal,
        }];
        let _ = pipe.queue(&AnswerFrame { answers }).and_then(|()| pipe.flush());
    }

    fn receive(&mut self, link: Link, inbound: &mut Vec<Inbound>) {
        let Some(connection) = self.list.get_mut(&link) else {
            return;
        };
        let greeted = &mut connection.greeted;
        let received = connection
            .pipe
            .each(&mut self.scratch, |pipe, frame: RequestFrame| {
                if !*greeted && matches!(frame.requests.first(), Some(Request::Hello { .. })) {
                    // If the `Hello` does not fit, the core refuses it and closes the connection.
                    *greeted = true;
                    pipe.set_cap(frame::CAP);
                }
                inbound.push(Inbound::Asked(link, frame));
            });
        match received.and_then(|()| connection.pipe.flush()) {
            Ok(()) => {}
            Err(Broken::Fault(fault)) => inbound.push(Inbound::Garbled(link, fault.to_string())),
            Err(_) => {
                self.list.remove(&link);
                inbound.push(Inbound::Lost(link));
            }
        }
    }

    /// Returns the connections that have not sent `Hello`, or not finished a frame, for at least `patience`.
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

    /// Sends answers, and closes the connection if `close` is set. Returns false when the connection has been closed or lost.
    pub(super) fn send(&mut self, link: Link, mut answers: Vec<Answer>, close: bool) -> bool {
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
