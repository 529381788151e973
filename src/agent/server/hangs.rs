//! Disks that hosts wait for: when that began and ended, for the events of the pool. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long nobody may have waited for a disk until it counts as answering again, so that a slow disk does not fill the events.
const QUIET: Duration = Duration::from_secs(5);

/// The disks that hosts wait for, by name, with the first and the last time that this was seen.
#[derive(Debug, Default)]
pub(super) struct Hangs {
    since: BTreeMap<String, (Instant, Instant)>,
}

/// What has changed for a disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HangChange {
    /// Hosts have begun to wait for it.
    Began(String),
    /// It answers again; it did not for this long.
    Ended(String, Duration),
}

impl Hangs {
    /// Takes in that hosts wait for these disks now, of the `open` ones, and returns what has changed.
    pub(super) fn look(
        &mut self,
        now: Instant,
        waited_for: BTreeSet<String>,
        open: &BTreeSet<String>,
    ) -> Vec<HangChange> {
        let mut changes = Vec::new();
        for disk in waited_for {
            match self.since.get_mut(&disk) {
                Some((_, last)) => *last = now,
                None => {
                    self.since.insert(disk.clone(), (now, now));
                    changes.push(HangChange::Began(disk));
                }
            }
        }
        self.since.retain(|disk, (first, last)| {
            let over = now.duration_since(*last) >= QUIET;
            // A disk that has left the pool ends no differently than others, and is not known to answer.
            if over && open.contains(disk) {
                changes.push(HangChange::Ended(disk.clone(), last.duration_since(*first)));
            }
            !over
        });
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_disk_hangs_once_until_nobody_has_waited_for_it_for_a_while() {
        let mut hangs = Hangs::default();
        let start = Instant::now();
        let mut look = |seconds, disks: &[&str], open: &[&str]| {
            let now = start + Duration::from_secs(seconds);
            hangs.look(now, names(disks), &names(open))
        };
        let all = ["d1", "d2"];
        assert_eq!(look(0, &[], &all), []);
        assert_eq!(look(1, &["d1"], &all), [HangChange::Began("d1".into())]);
        assert_eq!(look(2, &["d1"], &all), []);
        assert_eq!(look(4, &[], &all), []);
        assert_eq!(look(6, &["d1", "d2"], &all), [HangChange::Began("d2".into())]);
        assert_eq!(look(10, &[], &all), []);
        let ended = HangChange::Ended("d1".into(), Duration::from_secs(5));
        assert_eq!(look(11, &["d2"], &all), [ended]);
        assert_eq!(look(20, &[], &["d1"]), [], "d2 has left the pool");
        assert_eq!(look(21, &["d2"], &all), [HangChange::Began("d2".into())]);
    }
}
