//! When copies of the metadata that are left behind are tried again: seldom, where that does not help.

use std::time::{Duration, Instant};

/// Interval at which copies of the metadata that are left behind are tried again, and the longest one where that does not help.
const COPIES: Duration = Duration::from_secs(3);
const LONGEST_COPIES: Duration = Duration::from_secs(60);

/// When copies of the metadata that are left behind are tried again.
#[derive(Default)]
pub(super) struct CopyRetries {
    next: Option<Instant>,
    /// Time until the next but one.
    interval: Duration,
}

impl CopyRetries {
    /// Returns whether it is time for the next attempt.
    pub(super) fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    /// Plans the next attempt; `current` says that no copy is left behind.
    pub(super) fn tried(&mut self, current: bool) {
        self.interval = match current {
            true => COPIES,
            false => (self.interval * 2).clamp(COPIES, LONGEST_COPIES),
        };
        self.next = Some(Instant::now() + self.interval);
    }
}
