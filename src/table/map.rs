//! The segments of one volume: 24 bytes each, found by binary search.
//!
//! Invariants, verified by [`SegmentMap::check`]:
//!
//! 1. Segments are in order and do not overlap; none is empty.
//! 2. A segment does not continue the one before it, unless the two would be too long for one entry.
//! 3. `extents` and `homes` are the sums over all segments.

use super::tree::Tree;
use crate::pool::model::{Area, Segment};
use crate::units::{DiskExtent, DiskId, VolumeExtent};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Extents of the volume, to their homes. Cloning it costs little, and shares what is not changed later.
#[derive(Clone, Debug, Default)]
pub(super) struct SegmentMap {
    tree: Tree<u64, Home>,
    homes: BTreeMap<DiskId, u64>,
    extents: u64,
}

/// Where a segment lies, and its length.
#[derive(Clone, Copy, Debug)]
struct Home {
    start: u64,
    len: u32,
    disk: DiskId,
}

impl Home {
    fn at(&self, start: u64) -> Segment {
        let home = Area {
            disk: self.disk,
            start: DiskExtent(self.start),
            len: self.len.into(),
        };
        Segment {
            start: VolumeExtent(start),
            home,
        }
    }
}

impl SegmentMap {
    /// From segments in order that do not overlap.
    pub(super) fn from_sorted(segments: impl IntoIterator<Item = Segment>) -> Self {
        let mut map = Self::default();
        let merged = merged(segments.into_iter());
        merged.iter().for_each(|segment| map.count(*segment));
        map.tree = Tree::from_sorted(entries(&merged));
        map
    }

    /// Shows the segments that overlap `[start, end)`, in order and whole, until `visit` breaks.
    pub(super) fn overlapping(
        &self,
        start: VolumeExtent,
        end: VolumeExtent,
        mut visit: impl FnMut(Segment) -> ControlFlow<()>,
    ) {
        self.tree.scan(&start.0, |at, home| {
            let segment = home.at(*at);
            if segment.start >= end {
                return ControlFlow::Break(());
            }
            if segment.end() > start {
                visit(segment)
            } else {
                ControlFlow::Continue(())
            }
        });
    }

    /// Puts these segments, in order and inside `[start, end)`, in the place of all that lies there.
    pub(super) fn replace(&mut self, start: VolumeExtent, end: VolumeExtent, segments: &[Segment]) {
        if start >= end {
            return;
        }
        let old = self.touching(start, end);
        let clipped = |from, to| old.iter().filter_map(move |segment| segment.clip(from, to));
        let left = clipped(VolumeExtent(0), start);
        let right = clipped(end, VolumeExtent(u64::MAX));
        let new = merged(left.chain(segments.iter().copied()).chain(right));
        for gone in clipped(start, end) {
            self.uncount(gone);
        }
        segments.iter().for_each(|segment| self.count(*segment));
        let (first, last) = (start.0, end.0 - 1);
        let low = old.first().map_or(first, |segment| segment.start.0.min(first));
        let high = old.last().map_or(last, |segment| segment.start.0.max(last));
        self.tree.splice(&low, &high, entries(&new));
    }

    /// One past the last mapped extent.
    pub(super) fn end(&self) -> VolumeExtent {
        let last = self.tree.at_or_before(&u64::MAX);
        last.map_or(VolumeExtent(0), |(start, home)| home.at(*start).end())
    }

    /// Extents mapped.
    pub(super) fn extents(&self) -> u64 {
        self.extents
    }

    /// The disks that segments lie on, with the number of extents there.
    pub(super) fn homes(&self) -> &BTreeMap<DiskId, u64> {
        &self.homes
    }

    /// One past the last extent of this disk that a segment lies on. Looks at every segment.
    pub(super) fn end_on(&self, disk: DiskId) -> DiskExtent {
        let mut end = DiskExtent(0);
        self.tree.each(|start, home| {
            let home = home.at(*start).home;
            if home.disk == disk {
                end = end.max(home.end());
            }
        });
        end
    }

    /// All segments, in order.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let mut all = Vec::new();
        self.tree.each(|start, home| push(&mut all, home.at(*start)));
        all
    }

    /// The segments that overlap `[start, end)` or touch it.
    fn touching(&self, start: VolumeExtent, end: VolumeExtent) -> Vec<Segment> {
        let mut found = Vec::new();
        // One extent further on each side, so that a neighbour can be merged with what comes.
        let (from, to) = (start.0.saturating_sub(1), end.0.saturating_add(1));
        self.overlapping(VolumeExtent(from), VolumeExtent(to), |segment| {
            found.push(segment);
            ControlFlow::Continue(())
        });
        found
    }

    fn count(&mut self, segment: Segment) {
        self.extents += segment.home.len;
        *self.homes.entry(segment.home.disk).or_default() += segment.home.len;
    }

    fn uncount(&mut self, segment: Segment) {
        self.extents -= segment.home.len;
        if let Some(extents) = self.homes.get_mut(&segment.home.disk) {
            *extents -= segment.home.len;
            if *extents == 0 {
                self.homes.remove(&segment.home.disk);
            }
        }
    }

    /// The address and the size in bytes of each node.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> std::collections::HashMap<usize, usize> {
        self.tree.nodes()
    }

    /// The first invariant that does not hold, in words.
    #[cfg(test)]
    pub(super) fn check(&self) -> Result<(), String> {
        let mut entries = Vec::new();
        self.tree.each(|start, home| entries.push(home.at(*start)));
        for pair in entries.windows(2) {
            if pair[0].end() > pair[1].start {
                return Err(format!("{:?} overlaps {:?}", pair[0], pair[1]));
            }
            let fit = pair[0].home.len + pair[1].home.len <= u64::from(u32::MAX);
            if fit && pair[0].continues_as(pair[1]) {
                return Err(format!("{:?} and {:?} are not merged", pair[0], pair[1]));
            }
        }
        let counted = Self::from_sorted(entries);
        match (counted.extents, &counted.homes) == (self.extents, &self.homes) {
            true => Ok(()),
            false => Err("the sums are wrong".into()),
        }
    }
}

fn push(list: &mut Vec<Segment>, segment: Segment) {
    match list.last_mut() {
        Some(last) if last.continues_as(segment) => last.home.len += segment.home.len,
        _ => list.push(segment),
    }
}

fn merged(segments: impl Iterator<Item = Segment>) -> Vec<Segment> {
    let mut list = Vec::with_capacity(segments.size_hint().0);
    segments.for_each(|segment| push(&mut list, segment));
    list
}

fn entries(segments: &[Segment]) -> Vec<(u64, Home)> {
    let mut entries = Vec::with_capacity(segments.len());
    for segment in segments {
        let mut rest = Some(*segment);
        while let Some(segment) = rest {
            let len = u32::try_from(segment.home.len).unwrap_or(u32::MAX);
            let home = Home {
                start: segment.home.start.0,
                len,
                disk: segment.home.disk,
            };
            entries.push((segment.start.0, home));
            rest = segment.clip(VolumeExtent(segment.start.0 + u64::from(len)), segment.end());
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(start: u64, disk: u32, home: u64, len: u64) -> Segment {
        let home = Area {
            disk: DiskId(disk),
            start: DiskExtent(home),
            len,
        };
        Segment {
            start: VolumeExtent(start),
            home,
        }
    }

    /// Each extent by itself.
    type Oracle = BTreeMap<u64, (u32, u64)>;

    fn lay(oracle: &mut Oracle, segment: Segment) {
        for i in 0..segment.home.len {
            oracle.insert(
                segment.start.0 + i,
                (segment.home.disk.0, segment.home.start.0 + i),
            );
        }
    }

    fn spread(segments: &[Segment]) -> Oracle {
        let mut oracle = Oracle::new();
        segments.iter().for_each(|segment| lay(&mut oracle, *segment));
        oracle
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<(u64, Home)>(), 24);
    }

    #[test]
    fn a_moved_volume_is_one_segment_again() {
        let mut map = SegmentMap::from_sorted([segment(0, 1, 10, 8)]);
        for i in [3, 4, 2, 0, 1, 7, 6, 5] {
            map.replace(VolumeExtent(i), VolumeExtent(i + 1), &[segment(i, 2, 100 + i, 1)]);
            assert_eq!(map.check(), Ok(()));
        }
        assert_eq!(map.segments(), [segment(0, 2, 100, 8)]);
        assert_eq!(map.homes(), &BTreeMap::from([(DiskId(2), 8)]));
    }

    #[test]
    fn a_segment_longer_than_an_entry_is_one_to_see() {
        let long = segment(5, 1, 10, u64::from(u32::MAX) * 2 + 7);
        let mut map = SegmentMap::from_sorted([long]);
        assert_eq!((map.segments(), map.end()), (vec![long], long.end()));
        map.replace(VolumeExtent(6), VolumeExtent(7), &[]);
        assert_eq!(map.extents(), long.home.len - 1);
        map.replace(VolumeExtent(6), VolumeExtent(7), &[segment(6, 1, 11, 1)]);
        assert_eq!((map.segments(), map.check()), (vec![long], Ok(())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn is_every_extent_by_itself(
            steps in prop::collection::vec((0u64..80, 1u64..20, 0u64..3, 0u64..3, 1u32..3, 0u64..2), 1..60),
        ) {
            let (mut map, mut oracle) = (SegmentMap::default(), Oracle::new());
            for (start, len, skip, gap, disk, shift) in steps {
                let end = start + len;
                // Most homes continue each other, so that much is merged.
                let new = |at: u64, len: u64| segment(at, disk, 1000 * shift + at + 1, len);
                let (first, second) = (start + skip.min(len - 1), start + (skip + gap + 2).min(len));
                let mut segments = vec![new(first, (second - first).max(1).min(end - first))];
                let next = segments[0].end().0 + gap;
                if next < end {
                    segments.push(new(next, end - next));
                }
                map.replace(VolumeExtent(start), VolumeExtent(end), &segments);
                oracle.retain(|extent, _| !(start..end).contains(extent));
                oracle.extend(spread(&segments));
                prop_assert_eq!(map.check(), Ok(()));
                prop_assert_eq!(spread(&map.segments()), oracle.clone());
                prop_assert_eq!(map.extents(), oracle.len() as u64);
                prop_assert_eq!(map.end().0, oracle.keys().next_back().map_or(0, |last| last + 1));
                let mut seen = Oracle::new();
                map.overlapping(VolumeExtent(start / 2), VolumeExtent(end), |segment| {
                    lay(&mut seen, segment.clip(VolumeExtent(start / 2), VolumeExtent(end)).unwrap());
                    ControlFlow::Continue(())
                });
                let expected: Oracle = oracle.range(start / 2..end).map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(seen, expected);
            }
        }
    }
}
