//! Timers of the control thread.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Timers by key. There are few, so the next one is found by a scan.
#[derive(Debug)]
pub(super) struct Timers<K> {
    due: HashMap<K, Instant>,
}

impl<K: Copy + Eq + Hash> Timers<K> {
    pub(super) fn new() -> Self {
        Self { due: HashMap::new() }
    }

    /// Arms the timer for `key`, replacing an earlier one.
    pub(super) fn arm(&mut self, key: K, after: Duration) {
        self.due.insert(key, Instant::now() + after);
    }

    /// Disarms the timers whose keys match `gone`.
    pub(super) fn disarm(&mut self, gone: impl Fn(&K) -> bool) {
        self.due.retain(|key, _| !gone(key));
    }

    /// Returns the time until the next timer is due, or `None` when there is none.
    pub(super) fn left(&self) -> Option<Duration> {
        let next = self.due.values().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Removes and returns the timers that are due, earliest first.
    pub(super) fn take_due(&mut self) -> Vec<K> {
        let now = Instant::now();
        let mut due: Vec<(Instant, K)> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, at)| (*at, *key))
            .collect();
        due.sort_by_key(|(at, _)| *at);
        for (_, key) in &due {
            self.due.remove(key);
        }
        due.into_iter().map(|(_, key)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_replaced_returned_in_order_and_disarmed() {
        let mut timers = Timers::new();
        assert_eq!(timers.left(), None);
        timers.arm('b', Duration::ZERO);
        timers.arm('a', Duration::from_secs(100));
        timers.arm('c', Duration::from_secs(100));
        timers.arm('a', Duration::ZERO);
        assert_eq!(timers.left(), Some(Duration::ZERO));
        assert_eq!(timers.take_due(), ['b', 'a']);
        assert!(timers.left().is_some_and(|left| left > Duration::from_secs(90)));
        timers.disarm(|key| *key == 'c');
        assert_eq!(timers.left(), None);
    }
}
