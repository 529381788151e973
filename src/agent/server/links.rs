//! The connections as the core sees them: which have sent a valid `Hello`, and the answers that are queued for each.

use crate::failpoint::Point;
use crate::protocol::participant::Link;
use crate::rpc::message::{Answer, Refusal, VERSION};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Queued answers of one connection.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pub(super) answers: Vec<Answer>,
    /// Whether the connection is closed after them.
    pub(super) close: bool,
    /// Failpoints that are hit when they have been sent.
    pub(super) points: Vec<Point>,
}

/// Greetings and queued answers of all connections.
pub(super) struct Links {
    pool: Uuid,
    welcomed: BTreeSet<Link>,
    outbound: BTreeMap<Link, Outbound>,
}

impl Links {
    /// Makes the links of an apparatus that serves this pool.
    pub(super) fn new(pool: Uuid) -> Self {
        Self {
            pool,
            welcomed: BTreeSet::new(),
            outbound: BTreeMap::new(),
        }
    }

    /// Checks a `Hello`. Returns whether the connection is welcome; if it is not, it is closed after the reason.
    pub(super) fn hello(&mut self, link: Link, version: u32, pool: Uuid) -> bool {
        let refusal = if version != VERSION {
            Refusal::Version(VERSION)
        } else if pool != self.pool {
            Refusal::Pool(self.pool)
        } else {
            self.welcomed.insert(link);
            return true;
        };
        self.dismiss(link, refused(refusal));
        false
    }

    /// Returns whether the connection has sent a valid `Hello`.
    pub(super) fn is_welcome(&self, link: Link) -> bool {
        self.welcomed.contains(&link)
    }

    /// Queues an answer.
    pub(super) fn answer(&mut self, link: Link, answer: Answer) {
        let point = match answer {
            Answer::Noting { .. } => Some(Point::ApparatusNotingSent),
            Answer::Held { .. } => Some(Point::ApparatusHeldSent),
            Answer::Applied { .. } => Some(Point::ApparatusAppliedSent),
            _ => None,
        };
        let outbound = self.outbound.entry(link).or_default();
        outbound.answers.push(answer);
        outbound.points.extend(point);
    }

    /// Queues an answer, and closes the connection after it.
    pub(super) fn dismiss(&mut self, link: Link, answer: Answer) {
        self.answer(link, answer);
        self.outbound.entry(link).or_default().close = true;
    }

    /// Returns whether the connection is to be closed.
    pub(super) fn is_dismissed(&self, link: Link) -> bool {
        self.outbound.get(&link).is_some_and(|outbound| outbound.close)
    }

    /// Takes all queued answers.
    pub(super) fn take_outbound(&mut self) -> BTreeMap<Link, Outbound> {
        std::mem::take(&mut self.outbound)
    }

    /// Forgets a connection that was lost.
    pub(super) fn lost(&mut self, link: Link) {
        self.welcomed.remove(&link);
    }
}

/// Returns the answer that refuses a request which belongs to no change.
pub(super) fn refused(refusal: Refusal) -> Answer {
    Answer::Refused {
        change: None,
        refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_welcome_after_a_valid_hello_until_it_is_lost() {
        let (pool, link) = (Uuid::from_u128(7), Link(1));
        let mut links = Links::new(pool);
        assert!(!links.is_welcome(link));
        assert!(links.hello(link, VERSION, pool) && links.is_welcome(link));
        links.lost(link);
        assert!(!links.is_welcome(link));
        for (version, pool) in [(VERSION + 1, pool), (VERSION, Uuid::nil())] {
            assert!(!links.hello(link, version, pool) && !links.is_welcome(link));
            assert!(links.is_dismissed(link));
            assert!(links.take_outbound()[&link].close && !links.is_dismissed(link));
        }
    }
}
