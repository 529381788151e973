//! Sets of bytes as runs that are sorted, not empty and not adjacent. Pure.

use std::ops::Range;

/// Returns what is in `a` and not in `b`.
pub(crate) fn minus(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let from = a.first().map_or(0, |run| run.start);
    let mut out = Vec::with_capacity(a.len());
    // In the usual case `a` is a small part of a large set `b`.
    let mut holes = b[b.partition_point(|hole| hole.end <= from)..].iter().peekable();
    for run in a {
        let mut at = run.start;
        while holes.next_if(|hole| hole.end <= at).is_some() {}
        let mut ahead = holes.clone();
        while let Some(hole) = ahead.next_if(|hole| hole.start < run.end) {
            push(&mut out, at..hole.start);
            at = at.max(hole.end);
        }
        push(&mut out, at..run.end);
    }
    out
}

/// Returns what is in `a`, in `b` or in both. The runs of `b` may be adjacent.
pub(crate) fn union(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    while let Some(run) = match (a.peek(), b.peek()) {
        (Some(left), Some(right)) if right.start < left.start => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    } {
        match out.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => out.push(run.clone()),
        }
    }
    out
}

/// Returns the part of `[0, len)` that is not in `a`.
pub(crate) fn rest(len: u64, a: &[Range<u64>]) -> Vec<Range<u64>> {
    minus(std::slice::from_ref(&(0..len)), a)
}

/// Returns what is in both.
pub(crate) fn both(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    minus(a, &minus(a, b))
}

/// Returns the part of `a` that lies in `within`.
pub(crate) fn clip(a: &[Range<u64>], within: &Range<u64>) -> Vec<Range<u64>> {
    both(a, std::slice::from_ref(within))
}

/// Returns the number of bytes.
pub(crate) fn total(a: &[Range<u64>]) -> u64 {
    a.iter().map(|run| run.end - run.start).sum()
}

fn push(out: &mut Vec<Range<u64>>, run: Range<u64>) {
    if run.start < run.end {
        out.push(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A set of numbers below 40, as runs.
    fn set() -> impl Strategy<Value = (Vec<bool>, Vec<Range<u64>>)> {
        prop::collection::vec(any::<bool>(), 40).prop_map(|bits| {
            let mut runs: Vec<Range<u64>> = Vec::new();
            for (i, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                let i = u64::try_from(i).unwrap();
                match runs.last_mut() {
                    Some(run) if run.end == i => run.end += 1,
                    _ => runs.push(i..i + 1),
                }
            }
            (bits, runs)
        })
    }

    fn bits(runs: &[Range<u64>]) -> Vec<bool> {
        (0..40).map(|i| runs.iter().any(|run| run.contains(&i))).collect()
    }

    proptest! {
        #[test]
        fn as_sets((a_bits, a) in set(), (b_bits, b) in set(), from in 0u64..40, len in 0u64..40) {
            let expect = |f: fn(bool, bool) -> bool| a_bits.iter().zip(&b_bits).map(|(a, b)| f(*a, *b)).collect::<Vec<_>>();
            prop_assert_eq!(bits(&minus(&a, &b)), expect(|a, b| a && !b));
            prop_assert_eq!(bits(&both(&a, &b)), expect(|a, b| a && b));
            prop_assert_eq!(bits(&union(&a, &b)), expect(|a, b| a || b));
            prop_assert!(union(&a, &b).windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(bits(&rest(40, &a)), a_bits.iter().map(|bit| !bit).collect::<Vec<_>>());
            prop_assert!(minus(&a, &b).iter().chain(&both(&a, &b)).all(|run| run.start < run.end));
            let within = from..(from + len).min(40);
            let inside = (0..40u64).zip(&a_bits).map(|(i, a)| *a && within.contains(&i)).collect::<Vec<_>>();
            prop_assert_eq!(bits(&clip(&a, &within)), inside);
            prop_assert_eq!(total(&a), u64::try_from(a_bits.iter().filter(|bit| **bit).count()).unwrap());
        }
    }
}
