//! `Quiesce` requests: each waits until no request of a host uses a table older than the present one.

use crate::cluster::OwnEntry;
use crate::datapath::Runtime;
use crate::model::units::Generation;
use crate::protocol::participant::Link;
use crate::rpc::message::Answer;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Interval at which they are checked.
const INTERVAL: Duration = Duration::from_millis(1);

/// Maximum number of them that wait.
const WAITING: usize = 256;

/// `Quiesce` requests that wait.
pub(super) struct Quiesces {
    runtime: Arc<dyn Runtime>,
    entry: Arc<dyn OwnEntry>,
    waiting: Vec<Quiesce>,
}

/// Request that waits until no request of a host uses a table older than `target`.
#[derive(Debug)]
struct Quiesce {
    link: Link,
    target: Generation,
    until: Instant,
}

impl Quiesces {
    /// Makes it without a request.
    pub(super) fn new(runtime: Arc<dyn Runtime>, entry: Arc<dyn OwnEntry>) -> Self {
        Self {
            runtime,
            entry,
            waiting: Vec::new(),
        }
    }

    /// Adds a request that waits for `wait` at most. Returns false when too many wait already.
    pub(super) fn add(&mut self, link: Link, wait: Duration) -> bool {
        if self.waiting.len() >= WAITING {
            return false;
        }
        self.waiting.push(Quiesce {
            link,
            target: self.runtime.generation(),
            until: Instant::now() + wait,
        });
        true
    }

    /// Removes the requests whose wait is over, and returns their answers.
    pub(super) fn answers(&mut self) -> Vec<(Link, Answer)> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let (oldest, now) = (self.runtime.oldest(), Instant::now());
        let over = |quiesce: &mut Quiesce| oldest >= quiesce.target || quiesce.until <= now;
        let answered = self.waiting.extract_if(.., over);
        let answers: Vec<_> = answered
            .map(|quiesce| (quiesce.link, Answer::Quiesced { oldest }))
            .collect();
        if !answers.is_empty() {
            self.entry.set_oldest(oldest);
        }
        answers
    }

    /// Returns the time after which they are to be checked again, if any waits.
    pub(super) fn next_check(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then_some(INTERVAL)
    }

    /// Drops the requests of a connection that was lost.
    pub(super) fn lost(&mut self, link: Link) {
        self.waiting.retain(|quiesce| quiesce.link != link);
    }
}
