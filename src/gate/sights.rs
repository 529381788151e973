//! When the gate first saw each request that is inside. Requests write no time of their own: reading a clock would cost
//! more than entering does.

use super::lanes::Inside;

/// By lane: the request seen last, and when it was seen first.
pub(super) struct Sights {
    seen: Vec<(u64, u64)>,
}

impl Sights {
    pub(super) fn new(lanes: usize) -> Self {
        Self {
            seen: vec![(0, 0); lanes],
        }
    }

    /// These are inside at `now_us`.
    pub(super) fn note(&mut self, inside: &[Inside], now_us: u64) {
        for request in inside {
            let seen = &mut self.seen[request.lane];
            if seen.0 != request.sequence {
                *seen = (request.sequence, now_us);
            }
        }
    }

    /// When this one was seen first, which has been noted before.
    pub(super) fn since(&self, request: &Inside) -> u64 {
        self.seen[request.lane].1
    }

    /// The one of these that was seen first, and when. All have been noted before.
    pub(super) fn oldest(&self, requests: &[Inside]) -> Option<(Inside, u64)> {
        requests
            .iter()
            .min_by_key(|request| self.since(request))
            .map(|request| (*request, self.since(request)))
    }
}
