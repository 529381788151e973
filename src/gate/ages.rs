//! Ages of the requests in flight, counted from when the gate first saw each one. Requests record no time themselves: reading a
//! clock would cost more than entering.

use super::lanes::InFlight;

/// For each lane, the sequence number of the request seen last and the time when it was first seen.
pub(super) struct InFlightAges {
    seen: Vec<(u64, u64)>,
}

impl InFlightAges {
    pub(super) fn new(lanes: usize) -> Self {
        Self {
            seen: vec![(0, 0); lanes],
        }
    }

    /// Records that these requests were inside at `now_us`.
    pub(super) fn note(&mut self, inside: &[InFlight], now_us: u64) {
        for request in inside {
            let seen = &mut self.seen[request.lane];
            if seen.0 != request.sequence {
                *seen = (request.sequence, now_us);
            }
        }
    }

    /// Returns when this request was first seen; it must have been noted before.
    pub(super) fn since(&self, request: &InFlight) -> u64 {
        self.seen[request.lane].1
    }

    /// Returns the request among these that was seen first, and when. All must have been noted before.
    pub(super) fn oldest(&self, requests: &[InFlight]) -> Option<(InFlight, u64)> {
        requests
            .iter()
            .min_by_key(|request| self.since(request))
            .map(|request| (*request, self.since(request)))
    }
}
