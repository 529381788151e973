//! The connections of a control thread: accepts, reads, writes and closes them.
//!
//! Whoever connects from another node has to prove first where it is. Until then it holds one of a few places of its own, so that strangers take
//! none from the controllers.

use crate::datapath::Waker;
use crate::protocol::participant::Link;
use crate::rpc::Listener;
use crate::rpc::channel::{Acceptor, Channel};
use crate::rpc::frame;
use crate::rpc::listen;
use crate::rpc::message::{Answer, AnswerFrame, MOST, Refusal, Request, RequestFrame};
use crate::rpc::pipe::{Broken, Pipe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Maximum number of queued bytes for a controller that does not read: thousands of answers, or the metrics of tens of thousands of active volumes.
const MOST_OUT: usize = 16 << 20;

/// Number of connections that are accepted in a row, so that many of them do not delay the others.
const ACCEPTS: usize = 16;

/// Maximum number of connections whose other side has not proved where it is.
const UNPROVED: usize = 16;

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
    /// The other side has proved who it is, and waits until [`Connections::admit`] has decided whether it is on a node of the pool.
    Stranger(Link),
}

struct Connection {
    pipe: Pipe,
    since: Instant,
    greeted: bool,
}

impl Connection {
    fn new(pipe: Pipe) -> Self {
        Self {
            pipe,
            since: Instant::now(),
            greeted: false,
        }
    }
}

/// All connections, by number, and the sockets that accept new ones.
pub(super) struct Connections {
    list: BTreeMap<Link, Connection>,
    next: u64,
    most: usize,
    paused_until: Option<Instant>,
    scratch: Vec<u8>,
    listener: Listener,
    acceptor: Option<Box<dyn Acceptor>>,
    waker: Arc<Waker>,
}

enum PollSource {
    Waker,
    Listener,
    Acceptor,
    Connection(Link),
}

impl Connections {
    /// Makes it without a connection; it accepts `most` at a time. Connections of other nodes come through the `acceptor`.
    pub(super) fn new(
        (listener, acceptor): (Listener, Option<Box<dyn Acceptor>>),
        waker: Arc<Waker>,
        most: usize,
    ) -> Self {
        Self {
            list: BTreeMap::new(),
            next: 1,
            most,
            paused_until: None,
            scratch: vec![0; frame::READ],
            listener,
            acceptor,
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
                PollSource::Acceptor => self.accept_from_nodes(),
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
            if let Some(acceptor) = &self.acceptor {
                sources.push(PollSource::Acceptor);
                fds.push(PollFd::from_borrowed_fd(acceptor.as_fd(), PollFlags::IN));
            }
        }
        // Nothing is read from a stranger.
        for (link, connection) in self.list.iter().filter(|(_, one)| !one.pipe.awaits_admission()) {
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
                Err(why) => return self.pause_accepting("control socket", why),
            }
        }
    }

    fn pause_accepting(&mut self, what: &str, why: Errno) {
        log::warn!("{what}: {why}");
        self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
    }

    fn accept_from_nodes(&mut self) {
        for _ in 0..ACCEPTS {
            let accepted = self
                .acceptor
                .as_ref()
                .map_or(Ok(None), |acceptor| acceptor.accept());
            match accepted {
                Ok(Some(channel)) => self.accept_channel(channel),
                Ok(None) => return,
                Err(why) => return self.pause_accepting("links of other nodes", why),
            }
        }
    }

    /// Takes a connection of another node. One that finds no place is closed without a word: nothing is known of the other side.
    fn accept_channel(&mut self, channel: Box<dyn Channel>) {
        if self.unproved() < UNPROVED && self.proved() < self.most {
            self.add(Pipe::over(channel, frame::GREETING_CAP, MOST_OUT));
        }
    }

    fn unproved(&self) -> usize {
        self.list.values().filter(|one| one.pipe.is_unproved()).count()
    }

    fn proved(&self) -> usize {
        self.list.len() - self.unproved()
    }

    fn add(&mut self, pipe: Pipe) {
        self.list.insert(Link(self.next), Connection::new(pipe));
        self.next += 1;
    }

    fn accept_one(&mut self, socket: OwnedFd, user: u32) {
        let mut pipe = Pipe::new(socket, frame::GREETING_CAP, MOST_OUT);
        let refusal = if !listen::may_control(user) {
            Refusal::User(user)
        } else if self.proved() >= self.most {
            Refusal::TooMany
        } else {
            return self.add(pipe);
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
            Ok(()) if connection.pipe.awaits_admission() => inbound.push(Inbound::Stranger(link)),
            Ok(()) => {}
            Err(Broken::Fault(fault)) => inbound.push(Inbound::Garbled(link, fault.to_string())),
            Err(why) => {
                if let Broken::Untrusted(why) = why {
                    log::info!("a link from another machine was refused: {why}");
                }
                self.list.remove(&link);
                inbound.push(Inbound::Lost(link));
            }
        }
    }

    /// Admits a stranger if the name in its certificate is one of these. Returns what it has sent already; one that is not admitted is refused.
    pub(super) fn admit(&mut self, link: Link, names: &BTreeSet<String>) -> Vec<Inbound> {
        let mut inbound = Vec::new();
        match self.list.get_mut(&link).map(|one| one.pipe.admit(names)) {
            None => {}
            Some(true) => self.receive(link, &mut inbound),
            Some(false) => {
                let why = "the name in its certificate is that of no node of this pool";
                log::warn!("a link from another machine was refused: {why}");
                let refusal = Refusal::Failed(why.into());
                let change = None;
                let _ = self.send(link, vec![Answer::Refused { change, refusal }], true);
                inbound.push(Inbound::Lost(link));
            }
        }
        inbound
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
