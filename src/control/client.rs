//! The links of a controller or client: one connection to each apparatus, all waited for in one place.

use super::listen;
use super::pipe::{Broken, Pipe};
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::units::{Generation, Incarnation, Slot, Term};
use crate::wire::frame;
use crate::wire::message::{Answer, AnswerFrame, MOST, Refusal, Request, RequestFrame, VERSION};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Bytes kept for an apparatus that does not read: more than the largest frame.
const MOST_OUT: usize = frame::CAP + (1 << 20);

/// How soon a connection is tried again when too many wait at the other side.
const AGAIN: Duration = Duration::from_millis(5);

/// What comes of waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// An apparatus has said who it is: requests may go to it.
    Welcomed(Slot, Incarnation, Generation),
    /// It would not have us; the link is gone.
    Refused(Slot, Refusal),
    /// It answered.
    Answered(Slot, Answer),
    /// The link is gone, or there was none.
    Lost(Slot, Loss),
}

/// Why there is no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nobody listens: the apparatus does not run.
    Absent,
    /// The connection broke.
    Broken(String),
}

#[derive(Debug)]
struct Link {
    path: PathBuf,
    /// `None` while too many wait to be accepted at the other side.
    pipe: Option<Pipe>,
    welcomed: bool,
    queued: Vec<Request>,
}

/// Links to apparatuses, by slot.
#[derive(Debug)]
pub struct Links {
    pool: Uuid,
    term: Term,
    links: BTreeMap<Slot, Link>,
    happened: VecDeque<Happening>,
    scratch: Vec<u8>,
}

impl Links {
    /// None yet. `term` goes with every request; 0 to only read.
    #[must_use]
    pub fn new(pool: Uuid, term: Term) -> Self {
        let (links, happened) = (BTreeMap::new(), VecDeque::new());
        Self {
            pool,
            term,
            links,
            happened,
            scratch: vec![0; frame::READ],
        }
    }

    /// Begins a link and says hello, unless there is one to that name already. `Welcomed`, `Refused` or `Lost` tells how it went.
    pub fn connect(&mut self, slot: Slot, pool: &PoolDir, name: &Name) {
        let path = pool.socket(name);
        if self.links.get(&slot).is_none_or(|link| link.path != path) {
            let mut link = Link {
                path,
                pipe: None,
                welcomed: false,
                queued: Vec::new(),
            };
            let outcome = link.open(self.pool, self.term);
            self.links.insert(slot, link);
            self.settle(slot, outcome);
        }
    }

    /// Whether this link is open and greeted.
    #[must_use]
    pub fn is_welcomed(&self, slot: Slot) -> bool {
        self.links.get(&slot).is_some_and(|link| link.welcomed)
    }

    /// Ends a link: it is `Lost` for whoever still waits for an answer.
    pub fn forget(&mut self, slot: Slot) {
        if self.links.remove(&slot).is_some() {
            self.happened.push_back(Happening::Lost(slot, Loss::Absent));
        }
    }

    /// Queues a request; all that are queued for one apparatus until [`Links::flush`] travel in one frame. Without a link it is `Lost`.
    pub fn send(&mut self, slot: Slot, request: Request) {
        match self.links.get_mut(&slot) {
            Some(link) => link.queued.push(request),
            None => self.happened.push_back(Happening::Lost(slot, Loss::Absent)),
        }
    }

    /// Sends what is queued, as far as the sockets take it; [`Links::wait`] goes on with it.
    pub fn flush(&mut self) {
        let slots: Vec<Slot> = self.links.keys().copied().collect();
        for slot in slots {
            let term = self.term;
            let outcome = self.links.get_mut(&slot).map_or(Ok(()), |link| link.push(term));
            self.settle(slot, outcome);
        }
    }

    /// The next thing that happens, or `None` at the deadline.
    pub fn wait(&mut self, deadline: Instant) -> Option<Happening> {
        loop {
            if let Some(happening) = self.happened.pop_front() {
                return Some(happening);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let any = self.turn(left);
            if left.is_zero() && !any {
                return self.happened.pop_front();
            }
        }
    }

    /// What has happened already, beyond what [`Links::wait`] gave.
    pub fn take(&mut self) -> Option<Happening> {
        self.happened.pop_front()
    }

    /// Waits once for sockets, and serves those that are ready. Answers whether any was.
    fn turn(&mut self, left: Duration) -> bool {
        let waiting = self.links.values().any(|link| link.pipe.is_none());
        let left = if waiting { left.min(AGAIN) } else { left };
        let ready = self.ready(left);
        for slot in &ready {
            self.receive(*slot);
        }
        if waiting {
            self.try_again();
        }
        !ready.is_empty()
    }

    fn ready(&self, left: Duration) -> Vec<Slot> {
        let open: Vec<(Slot, &Pipe)> = self
            .links
            .iter()
            .filter_map(|(slot, link)| Some((*slot, link.pipe.as_ref()?)))
            .collect();
        let mut fds: Vec<PollFd<'_>> = open
            .iter()
            .map(|(_, pipe)| PollFd::new(*pipe, pipe.interest()))
            .collect();
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(_) => Vec::new(),
            Ok(_) => {
                let ready = open
                    .iter()
                    .zip(&fds)
                    .filter(|(_, fd)| fd.revents() != PollFlags::empty());
                ready.map(|((slot, _), _)| *slot).collect()
            }
        }
    }

    fn try_again(&mut self) {
        let waiting = self.links.iter().filter(|(_, link)| link.pipe.is_none());
        for slot in waiting.map(|(slot, _)| *slot).collect::<Vec<_>>() {
            let (pool, term) = (self.pool, self.term);
            let outcome = self
                .links
                .get_mut(&slot)
                .map_or(Ok(()), |link| link.open(pool, term));
            self.settle(slot, outcome);
        }
    }

    fn receive(&mut self, slot: Slot) {
        let Some(link) = self.links.get_mut(&slot) else {
            return;
        };
        let Some(pipe) = link.pipe.as_mut() else { return };
        let mut answers = Vec::new();
        let received = pipe.each(&mut self.scratch, |_, message: AnswerFrame| {
            answers.extend(message.answers)
        });
        let outcome = received.and_then(|()| pipe.flush());
        for answer in answers {
            self.answered(slot, answer);
        }
        self.settle(slot, outcome);
    }

    fn answered(&mut self, slot: Slot, answer: Answer) {
        let Some(link) = self.links.get_mut(&slot) else {
            return;
        };
        match (link.welcomed, answer) {
            (true, answer) => self.happened.push_back(Happening::Answered(slot, answer)),
            (
                false,
                Answer::Welcome {
                    version: VERSION,
                    incarnation,
                    generation,
                    ..
                },
            ) => {
                link.welcomed = true;
                self.happened
                    .push_back(Happening::Welcomed(slot, incarnation, generation));
            }
            (false, Answer::Refused { refusal, .. }) => {
                self.links.remove(&slot);
                self.happened.push_back(Happening::Refused(slot, refusal));
            }
            (false, other) => {
                self.links.remove(&slot);
                self.happened.push_back(Happening::Lost(
                    slot,
                    Loss::Broken(format!("it greets with {other:?}")),
                ));
            }
        }
    }

    fn settle(&mut self, slot: Slot, outcome: Result<(), Broken>) {
        if let Err(why) = outcome
            && self.links.remove(&slot).is_some()
        {
            let loss = if why == Broken::Absent {
                Loss::Absent
            } else {
                Loss::Broken(why.to_string())
            };
            self.happened.push_back(Happening::Lost(slot, loss));
        }
    }
}

impl Link {
    fn open(&mut self, pool: Uuid, term: Term) -> Result<(), Broken> {
        let socket = match listen::connect(&self.path) {
            Ok(socket) => socket,
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(Broken::Absent),
            Err(errno) => return Err(Broken::Failed(errno)),
        };
        let mut pipe = Pipe::new(socket, frame::CAP, MOST_OUT);
        pipe.queue(&RequestFrame {
            term,
            requests: vec![Request::Hello {
                version: VERSION,
                pool,
            }],
        })?;
        self.pipe = Some(pipe);
        self.push(term)
    }

    fn push(&mut self, term: Term) -> Result<(), Broken> {
        let Some(pipe) = self.pipe.as_mut() else {
            return Ok(());
        };
        while !self.queued.is_empty() {
            let rest = self.queued.split_off(self.queued.len().min(MOST));
            let requests = std::mem::replace(&mut self.queued, rest);
            pipe.queue(&RequestFrame { term, requests })?;
        }
        pipe.flush()
    }
}

/// The pool that an apparatus serves, by its own word: for when the database cannot be asked.
///
/// # Errors
/// `Kind::NotFound` when it does not run, `Kind::TimedOut` when it does not answer in time.
pub fn pool_of(pool: &PoolDir, name: &Name, patience: Duration) -> Result<Uuid> {
    let mut links = Links::new(Uuid::nil(), Term(0));
    links.connect(Slot(0), pool, name);
    match links.wait(Instant::now() + patience) {
        Some(Happening::Refused(_, Refusal::Pool(uuid))) => Ok(uuid),
        Some(Happening::Lost(_, Loss::Absent)) => Err(Error::new(
            Kind::NotFound,
            format!("apparatus {name}"),
            "does not run",
        )),
        other => Err(Error::new(
            Kind::TimedOut,
            format!("apparatus {name}"),
            format!("does not say which pool it serves: {other:?}"),
        )),
    }
}

/// Asks one apparatus one thing, under no arbitration (`Status`, `Quiesce`, `RunJob`, `Stop`).
///
/// # Errors
/// `Kind::NotFound` when it does not run, `Kind::TimedOut` when it does not answer in time, `Kind::Failed` with what it refused.
pub fn ask(pool: &PoolDir, uuid: Uuid, name: &Name, request: Request, patience: Duration) -> Result<Answer> {
    let slot = Slot(0);
    let what = || format!("apparatus {name}");
    let mut links = Links::new(uuid, Term(0));
    links.connect(slot, pool, name);
    let deadline = Instant::now() + patience;
    let mut request = Some(request);
    while let Some(happening) = links.wait(deadline) {
        match happening {
            Happening::Welcomed(..) => {
                if let Some(request) = request.take() {
                    links.send(slot, request);
                    links.flush();
                }
            }
            Happening::Answered(_, Answer::Refused { refusal, .. }) | Happening::Refused(_, refusal) => {
                let kind = match refusal {
                    Refusal::InUse(_) => Kind::Busy,
                    _ => Kind::Failed,
                };
                return Err(Error::new(kind, what(), format!("refused: {refusal}")));
            }
            Happening::Answered(_, answer) => return Ok(answer),
            Happening::Lost(_, Loss::Absent) => {
                return Err(Error::new(Kind::NotFound, what(), "does not run")
                    .hint(format!("start it: vctl apparatus start {name} MOUNTPOINT")));
            }
            Happening::Lost(_, Loss::Broken(why)) => return Err(Error::failed(what(), why)),
        }
    }
    let waited = format!("no answer in {} ms", patience.as_millis());
    Err(Error::new(Kind::TimedOut, what(), waited))
}
