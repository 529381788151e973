//! Decides when a server that has ended is started again; pure.

use std::time::Duration;

/// A server that ended earlier than this after it began to serve has not recovered.
const SHORT: Duration = Duration::from_millis(100);
/// Number of short lives in a row after which the next start waits.
const FREE: u32 = 3;
/// Wait after that; it doubles with each further short life.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Short lives of servers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Restarts {
    /// Number of servers that have ended.
    pub(super) ended: u64,
    /// Number of the last lives that were short.
    pub(super) short: u32,
    /// When the last server ended that had recovered, in microseconds: since then hosts wait, or had an answer only from servers that ended at once.
    pub(super) since_us: u64,
}

impl Restarts {
    /// Records the end of a server that another one has replaced, and that took no requests since then.
    pub(super) fn replaced(&mut self, since_us: u64) {
        self.ended += 1;
        self.short = 0;
        self.since_us = since_us;
    }

    /// Records the end, at this time, of a server that had served for this long, or not at all. Returns how long the next start waits.
    pub(super) fn after(&mut self, served: Option<Duration>, ended_us: u64) -> Duration {
        self.ended += 1;
        let has_recovered = served.is_some_and(|served| served >= SHORT);
        if has_recovered || self.since_us == 0 {
            self.since_us = ended_us;
        }
        if has_recovered {
            self.short = 0;
            return Duration::ZERO;
        }
        self.short += 1;
        match self.short.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doubled) => FIRST_WAIT.saturating_mul(1 << doubled.min(16)).min(LONGEST_WAIT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_starts_wait_for_nothing_and_a_loop_of_crashes_ever_longer() {
        let mut restarts = Restarts::default();
        let waits: Vec<u128> = (0..12).map(|_| restarts.after(None, 7).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(restarts.after(Some(SHORT), 8), Duration::ZERO, "it has recovered");
        assert_eq!(restarts.after(Some(Duration::ZERO), 9), Duration::ZERO);
        assert_eq!((restarts.ended, restarts.short), (14, 1));
        restarts.replaced(10);
        assert_eq!((restarts.ended, restarts.short), (15, 0));
        for _ in 0..100 {
            assert!(restarts.after(None, 11) <= LONGEST_WAIT);
        }
    }

    #[test]
    fn hosts_wait_since_the_end_of_the_last_server_that_had_recovered() {
        let mut restarts = Restarts::default();
        restarts.after(Some(SHORT), 1_000);
        assert_eq!(restarts.since_us, 1_000);
        restarts.after(None, 2_000);
        restarts.after(Some(Duration::ZERO), 3_000);
        assert_eq!(restarts.since_us, 1_000, "a loop of crashes is one wait");
        restarts.after(Some(SHORT), 9_000);
        assert_eq!(restarts.since_us, 9_000);
        restarts.replaced(20_000);
        restarts.after(None, 21_000);
        assert_eq!(restarts.since_us, 20_000);
        let mut first = Restarts::default();
        first.after(None, 500);
        first.after(None, 600);
        assert_eq!(first.since_us, 500);
    }
}
