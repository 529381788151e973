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
}

impl Restarts {
    /// Records the end of a server that another one has replaced.
    pub(super) fn replaced(&mut self) {
        self.ended += 1;
        self.short = 0;
    }

    /// Records the end of a server that had served for this long, or not at all. Returns how long the next start waits.
    pub(super) fn after(&mut self, served: Option<Duration>) -> Duration {
        self.ended += 1;
        if served.is_some_and(|served| served >= SHORT) {
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
        let waits: Vec<u128> = (0..12).map(|_| restarts.after(None).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(restarts.after(Some(SHORT)), Duration::ZERO, "it has recovered");
        assert_eq!(restarts.after(Some(Duration::ZERO)), Duration::ZERO);
        assert_eq!((restarts.ended, restarts.short), (14, 1));
        restarts.replaced();
        assert_eq!((restarts.ended, restarts.short), (15, 0));
        for _ in 0..100 {
            assert!(restarts.after(None) <= LONGEST_WAIT);
        }
    }
}
