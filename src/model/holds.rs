//! Histogram of hold times: eight buckets for each doubling, so that a quantile is exact to one eighth. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Base-two logarithm of the number of buckets for each doubling.
const BUCKET_BITS: u32 = 3;

/// Histogram of times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Holds {
    counts: BTreeMap<u16, u64>,
}

impl Holds {
    /// Counts one time.
    pub fn add(&mut self, us: u64) {
        *self.counts.entry(bucket(us)).or_default() += 1;
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.counts {
            *self.counts.entry(*bucket).or_default() += count;
        }
    }

    /// Returns how many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Returns the time, in microseconds, that `per_mille` thousandths of the counted times do not exceed; `None` if nothing
    /// was counted.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<u64> {
        let wanted = u128::from(self.count()) * u128::from(per_mille.min(1000));
        let mut seen = 0_u128;
        for (bucket, count) in &self.counts {
            seen += u128::from(*count) * 1000;
            if seen >= wanted {
                return Some(highest(*bucket));
            }
        }
        None
    }
}

/// Returns the bucket of a time: its leading one and the bits behind it.
fn bucket(us: u64) -> u16 {
    let octave = (u64::BITS - us.leading_zeros()).saturating_sub(BUCKET_BITS + 1);
    let within = us >> octave;
    u16::try_from(u64::from(octave << BUCKET_BITS) + within).unwrap_or(u16::MAX)
}

/// Returns the longest time of a bucket.
fn highest(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    let octave = (bucket >> BUCKET_BITS).saturating_sub(1);
    let within = bucket - (octave << BUCKET_BITS);
    let shift = u32::try_from(octave).unwrap_or(u32::MAX);
    (within + 1)
        .checked_shl(shift)
        .map_or(u64::MAX, |next| next.wrapping_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(
            (Holds::default().quantile(500), Holds::default().count()),
            (None, 0)
        );
    }

    #[test]
    fn short_times_are_exact() {
        for us in 0..16 {
            let mut holds = Holds::default();
            holds.add(us);
            assert_eq!(holds.quantile(1000), Some(us));
        }
    }

    #[test]
    fn the_longest_possible_time_has_a_bucket() {
        let mut holds = Holds::default();
        holds.add(u64::MAX);
        assert_eq!(holds.quantile(1000), Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn a_quantile_is_right_to_an_eighth(times in prop::collection::vec(0u64..1 << 40, 1..200), per_mille in 1u64..=1000) {
            let (mut one, mut other) = (Holds::default(), Holds::default());
            for (index, us) in times.iter().enumerate() {
                if index % 2 == 0 { one.add(*us) } else { other.add(*us) }
            }
            one.merge(&other);
            prop_assert_eq!(one.count(), times.len() as u64);
            let mut sorted = times;
            sorted.sort_unstable();
            let rank = (sorted.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = sorted[usize::try_from(rank - 1).unwrap()];
            let reported = one.quantile(per_mille).unwrap();
            prop_assert!(reported >= exact && reported <= exact + exact / 8 + 1, "{exact} reported as {reported}");
        }
    }
}
