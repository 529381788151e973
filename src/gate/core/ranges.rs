//! A set of numbers, stored as disjoint ranges.

use std::collections::BTreeMap;

/// Ranges `[start, end)` by start; they neither overlap nor touch each other.
#[derive(Debug, Default)]
pub(super) struct RangeSet {
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Returns whether a number of `[start, end)` is in the set.
    pub(super) fn touches(&self, start: u64, end: u64) -> bool {
        start < end
            && self
                .ranges
                .range(..end)
                .next_back()
                .is_some_and(|(_, &last)| last > start)
    }

    /// Adds `[start, end)` to the set and merges it with the ranges that it overlaps or touches.
    pub(super) fn add(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        while let Some((&first, &last)) = self.ranges.range(..=end).next_back() {
            if last < start {
                break;
            }
            self.ranges.remove(&first);
            start = start.min(first);
            end = end.max(last);
        }
        self.ranges.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn matches_a_set_of_single_numbers(ranges in prop::collection::vec((0u64..40, 0u64..40), 0..30)) {
            let mut set = RangeSet::default();
            let mut oracle = BTreeSet::new();
            for (start, end) in ranges {
                let expected = oracle.range(start..end.max(start)).next().is_some();
                prop_assert_eq!(set.touches(start, end), expected);
                set.add(start, end);
                oracle.extend(start..end);
            }
            let numbers: Vec<u64> = set.ranges.iter().flat_map(|(&start, &end)| start..end).collect();
            prop_assert_eq!(numbers, oracle.into_iter().collect::<Vec<_>>());
            let apart = set.ranges.iter().zip(set.ranges.iter().skip(1)).all(|((_, end), (start, _))| end < start);
            prop_assert!(apart);
        }
    }
}
