//! How long holds took: counts in buckets, eight to a doubling, so that a quantile is right to an eighth. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Buckets of a doubling, as a power of two.
const FINE: u32 = 3;

/// Counts of times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Holds {
    counts: BTreeMap<u16, u64>,
}

impl Holds {
    /// Counts one more.
    pub fn add(&mut self, us: u64) {
        *self.counts.entry(bucket(us)).or_default() += 1;
    }

    /// Counts those of another as well.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.counts {
            *self.counts.entry(*bucket).or_default() += count;
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// So many of a thousand took at most this long, in microseconds; `None` of none.
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

/// The bucket of a time: its leading one and the bits behind it.
fn bucket(us: u64) -> u16 {
    let octave = (u64::BITS - us.leading_zeros()).saturating_sub(FINE + 1);
    let within = us >> octave;
    u16::try_from(u64::from(octave << FINE) + within).unwrap_or(u16::MAX)
}

/// The longest time of a bucket.
fn highest(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    let octave = (bucket >> FINE).saturating_sub(1);
    let within = bucket - (octave << FINE);
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
    fn of_none_there_is_no_quantile() {
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
    fn the_longest_time_there_is_has_a_bucket() {
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
            let told = one.quantile(per_mille).unwrap();
            prop_assert!(told >= exact && told <= exact + exact / 8 + 1, "{exact} told as {told}");
        }
    }
}
