//! The links of a controller or client: one connection to each apparatus, all polled in one place.

use super::channel::Address;
use super::transport::{Broken, Sockets, Transport};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::units::{Generation, Incarnation, Slot, Term};
use crate::rpc::message::{Answer, MOST, Refusal, Request, RequestFrame, VERSION};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Interval between attempts to connect while the backlog of the other side is full.
const RETRY: Duration = Duration::from_millis(5);

/// Event on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// The apparatus has answered `Hello`, so requests may be sent to it.
    Welcomed(Slot, Incarnation, Generation),
    /// The apparatus has refused the link, which is closed.
    Refused(Slot, Refusal),
    /// The apparatus has answered a request.
    Answered(Slot, Answer),
    /// The link has been lost, or there was none.
    Lost(Slot, Loss),
}

/// Reason why there is no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing listens at the socket: the apparatus does not run.
    Absent,
    /// The connection failed.
    Broken(String),
}

/// Link to one apparatus. It has no connection while the backlog of the other side is full.
#[derive(Debug)]
struct Link {
    address: Address,
    welcomed: bool,
    queued: Vec<Request>,
}

/// Links to apparatuses, by slot.
pub struct Links {
    pool: Uuid,
    term: Term,
    transport: Box<dyn Transport>,
    links: BTreeMap<Slot, Link>,
    events: VecDeque<WaitOutcome>,
}

impl Links {
    /// Makes an empty set of links over control sockets. Every request carries `term`; a client that only reads uses 0.
    #[must_use]
    pub fn new(pool: Uuid, term: Term) -> Self {
        Self::over(Box::new(Sockets::new()), pool, term)
    }

    /// Makes an empty set of links as [`Links::new`] does, over this transport.
    #[must_use]
    pub fn over(transport: Box<dyn Transport>, pool: Uuid, term: Term) -> Self {
        let (links, events) = (BTreeMap::new(), VecDeque::new());
        Self {
            pool,
            term,
            transport,
            links,
            events,
        }
    }

    /// Sets the term of later requests.
    pub fn set_term(&mut self, term: Term) {
        self.term = term;
    }

    /// Opens a link to an apparatus of this machine, as [`Links::connect_to`] does.
    pub fn connect(&mut self, slot: Slot, pool: &PoolDir, name: &Name) {
        self.connect_to(slot, Address::Local(pool.socket(name)));
    }

    /// Opens a link and sends `Hello`, unless there is one to that address already. `Welcomed`, `Refused` or `Lost` reports the result.
    pub fn connect_to(&mut self, slot: Slot, address: Address) {
        if self.links.get(&slot).is_none_or(|link| link.address != address) {
            let link = Link {
                address,
                welcomed: false,
                queued: Vec::new(),
            };
            self.remove(slot);
            self.links.insert(slot, link);
            let outcome = self.open(slot);
            self.handle_failure(slot, outcome);
        }
    }

    /// Connects a link and sends `Hello`, unless the backlog of the other side is full.
    fn open(&mut self, slot: Slot) -> Result<(), Broken> {
        let Some(link) = self.links.get(&slot) else {
            return Ok(());
        };
        if !self.transport.connect(slot, &link.address)? {
            return Ok(());
        }
        let hello = Request::Hello {
            version: VERSION,
            pool: self.pool,
        };
        let frame = RequestFrame {
            term: self.term,
            requests: vec![hello],
        };
        self.transport.queue(slot, &frame)?;
        self.push(slot)
    }

    /// Sends the queued requests of a link.
    fn push(&mut self, slot: Slot) -> Result<(), Broken> {
        let connected = self.transport.is_connected(slot);
        let Some(link) = self.links.get_mut(&slot).filter(|_| connected) else {
            return Ok(());
        };
        while !link.queued.is_empty() {
            let rest = link.queued.split_off(link.queued.len().min(MOST));
            let frame = RequestFrame {
                term: self.term,
                requests: std::mem::replace(&mut link.queued, rest),
            };
            self.transport.queue(slot, &frame)?;
        }
        self.transport.flush(slot)
    }

    /// Removes a link and closes its connection. Returns whether there was one.
    fn remove(&mut self, slot: Slot) -> bool {
        self.transport.close(slot);
        self.links.remove(&slot).is_some()
    }

    /// Returns whether this link is open and its `Hello` was answered.
    #[must_use]
    pub fn is_welcomed(&self, slot: Slot) -> bool {
        self.links.get(&slot).is_some_and(|link| link.welcomed)
    }

    /// Returns whether there is a link to this apparatus, welcomed or not.
    #[must_use]
    pub fn has(&self, slot: Slot) -> bool {
        self.links.contains_key(&slot)
    }

    /// Closes a link, and reports it as `Lost`.
    pub fn forget(&mut self, slot: Slot) {
        if self.remove(slot) {
            self.events.push_back(WaitOutcome::Lost(slot, Loss::Absent));
        }
    }

    /// Queues a request; [`Links::flush`] sends all queued requests for one apparatus in one frame. Reports `Lost` if there is no link.
    pub fn send(&mut self, slot: Slot, request: Request) {
        match self.links.get_mut(&slot) {
            Some(link) => link.queued.push(request),
            None => self.events.push_back(WaitOutcome::Lost(slot, Loss::Absent)),
        }
    }

    /// Sends queued requests as far as the connections accept them; [`Links::wait`] sends the rest.
    pub fn flush(&mut self) {
        let slots: Vec<Slot> = self.links.keys().copied().collect();
        for slot in slots {
            let outcome = self.push(slot);
            self.handle_failure(slot, outcome);
        }
    }

    /// Returns the next event, or `None` at the deadline.
    pub fn wait(&mut self, deadline: Instant) -> Option<WaitOutcome> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let left = deadline.saturating_duration_since(self.transport.now());
            let any = self.poll_once(left);
            if left.is_zero() && !any {
                return self.events.pop_front();
            }
        }
    }

    /// Returns the next event that is queued, without waiting.
    pub fn take(&mut self) -> Option<WaitOutcome> {
        self.events.pop_front()
    }

    /// Waits for the connections once, and serves those that are ready. Returns whether any was.
    fn poll_once(&mut self, left: Duration) -> bool {
        let slots = self.links.keys();
        let unconnected: Vec<Slot> = slots
            .filter(|slot| !self.transport.is_connected(**slot))
            .copied()
            .collect();
        let left = if unconnected.is_empty() {
            left
        } else {
            left.min(RETRY)
        };
        let ready = self.transport.wait(left);
        for slot in &ready {
            self.receive(*slot);
        }
        for slot in unconnected {
            let outcome = self.open(slot);
            self.handle_failure(slot, outcome);
        }
        !ready.is_empty()
    }

    fn receive(&mut self, slot: Slot) {
        let mut answers = Vec::new();
        let outcome = self.transport.receive(slot, &mut answers);
        for answer in answers {
            self.answered(slot, answer);
        }
        self.handle_failure(slot, outcome);
    }

    fn answered(&mut self, slot: Slot, answer: Answer) {
        let Some(link) = self.links.get_mut(&slot) else {
            return;
        };
        match (link.welcomed, answer) {
            (true, answer) => self.events.push_back(WaitOutcome::Answered(slot, answer)),
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
                self.events
                    .push_back(WaitOutcome::Welcomed(slot, incarnation, generation));
            }
            (false, Answer::Refused { refusal, .. }) => {
                self.remove(slot);
                self.events.push_back(WaitOutcome::Refused(slot, refusal));
            }
            (false, other) => {
                self.remove(slot);
                self.events.push_back(WaitOutcome::Lost(
                    slot,
                    Loss::Broken(format!("it answers hello with {other:?}")),
                ));
            }
        }
    }

    fn handle_failure(&mut self, slot: Slot, outcome: Result<(), Broken>) {
        if let Err(why) = outcome
            && self.remove(slot)
        {
            let loss = if why == Broken::Absent {
                Loss::Absent
            } else {
                Loss::Broken(why.to_string())
            };
            self.events.push_back(WaitOutcome::Lost(slot, loss));
        }
    }
}

/// Asks an apparatus which pool it serves, for when the database cannot be read.
///
/// # Errors
/// Fails with `ErrorKind::NotFound` when the apparatus does not run, and with `ErrorKind::TimedOut` when it does not answer in time.
pub fn pool_of(pool: &PoolDir, name: &Name, patience: Duration) -> Result<Uuid> {
    let mut links = Links::new(Uuid::nil(), Term(0));
    links.connect(Slot(0), pool, name);
    match links.wait(Instant::now() + patience) {
        Some(WaitOutcome::Refused(_, Refusal::Pool(uuid))) => Ok(uuid),
        Some(WaitOutcome::Lost(_, Loss::Absent)) => Err(Error::new(
            ErrorKind::NotFound,
            format!("apparatus {name}"),
            "does not run",
        )),
        other => Err(Error::new(
            ErrorKind::TimedOut,
            format!("apparatus {name}"),
            format!("does not answer which pool it serves: {other:?}"),
        )),
    }
}

/// Sends one request to one apparatus without a term (`Status`, `Quiesce`, `RunJob`, `Stop`), and returns the answer.
///
/// # Errors
/// Fails with `ErrorKind::NotFound` when the apparatus does not run, with `ErrorKind::TimedOut` when it does not answer in time, with
/// `ErrorKind::Busy` when hosts use it, and with `ErrorKind::Failed` for any other refusal.
pub fn ask(pool: &PoolDir, uuid: Uuid, name: &Name, request: Request, patience: Duration) -> Result<Answer> {
    let slot = Slot(0);
    let what = || format!("apparatus {name}");
    let mut links = Links::new(uuid, Term(0));
    links.connect(slot, pool, name);
    let deadline = Instant::now() + patience;
    let mut request = Some(request);
    while let Some(event) = links.wait(deadline) {
        match event {
            WaitOutcome::Welcomed(..) => {
                if let Some(request) = request.take() {
                    links.send(slot, request);
                    links.flush();
                }
            }
            WaitOutcome::Answered(_, Answer::Refused { refusal, .. }) | WaitOutcome::Refused(_, refusal) => {
                let kind = match refusal {
                    Refusal::InUse(_) => ErrorKind::Busy,
                    _ => ErrorKind::Failed,
                };
                return Err(Error::new(kind, what(), format!("refused: {refusal}")));
            }
            WaitOutcome::Answered(_, answer) => return Ok(answer),
            WaitOutcome::Lost(_, Loss::Absent) => {
                return Err(Error::new(ErrorKind::NotFound, what(), "does not run")
                    .hint(format!("start it: vctl apparatus start {name} MOUNTPOINT")));
            }
            WaitOutcome::Lost(_, Loss::Broken(why)) => return Err(Error::failed(what(), why)),
        }
    }
    let waited = format!("no answer in {} ms", patience.as_millis());
    Err(Error::new(ErrorKind::TimedOut, what(), waited))
}
