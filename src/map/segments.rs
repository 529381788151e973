//! The segments of one volume, with the number of its extents on each disk.
//!
//! Invariant, verified by [`SegmentMap::check`]: `extents` and `placements` are the sums over all segments.

use super::radix::{Placement, Radix, Run, Start, push};
use crate::model::records::{Area, Segment};
use crate::model::units::{DiskExtent, DiskId, VolumeExtent};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Map from extents of the volume to their placements. Cloning is cheap: a clone shares what does not change later.
#[derive(Clone, Debug, Default)]
pub(super) struct SegmentMap {
    tree: Radix,
    placements: BTreeMap<DiskId, u64>,
    extents: u64,
}

impl SegmentMap {
    /// Builds the map from sorted segments that do not overlap.
    pub(super) fn from_sorted(segments: impl IntoIterator<Item = Segment>) -> Self {
        let (mut map, mut end) = (Self::default(), VolumeExtent(0));
        let counted = segments.into_iter().inspect(|segment| {
            map.count(*segment);
            end = segment.end();
        });
        let runs = runs(VolumeExtent(0), VolumeExtent(0), counted);
        map.tree = Radix::from_runs(runs, end.0);
        map
    }

    /// Returns a segment that contains this extent, as far as one node holds it.
    pub(super) fn at(&self, extent: VolumeExtent) -> Option<Segment> {
        segment(self.tree.at(extent.0))
    }

    /// Passes the segments in `[start, end)` to `visit`, in order, until it breaks. They are cut at both ends, and one may come
    /// in parts.
    pub(super) fn overlapping(
        &self,
        start: VolumeExtent,
        end: VolumeExtent,
        mut visit: impl FnMut(Segment) -> ControlFlow<()>,
    ) {
        if start >= end {
            return;
        }
        self.tree.scan(start.0, end.0 - 1, |run| match segment(run) {
            Some(segment) => visit(segment),
            None => ControlFlow::Continue(()),
        });
    }

    /// Replaces the content of `[start, end)` by these segments, which are sorted and inside it.
    pub(super) fn replace(&mut self, start: VolumeExtent, end: VolumeExtent, segments: &[Segment]) {
        if start >= end {
            return;
        }
        self.uncount(start, end);
        segments.iter().for_each(|segment| self.count(*segment));
        self.tree
            .replace(start.0, end.0 - 1, &runs(start, end, segments.iter().copied()));
    }

    /// Returns the extent behind the last mapped one.
    pub(super) fn end(&self) -> VolumeExtent {
        VolumeExtent(self.tree.end())
    }

    /// Returns the number of mapped extents.
    pub(super) fn extents(&self) -> u64 {
        self.extents
    }

    /// Returns the number of mapped extents on each disk that holds any.
    pub(super) fn placements(&self) -> &BTreeMap<DiskId, u64> {
        &self.placements
    }

    /// Returns the extent of this disk behind the last one that a segment uses. It visits every segment.
    pub(super) fn end_on(&self, disk: DiskId) -> DiskExtent {
        let mut end = DiskExtent(0);
        self.each(|Segment { placement, .. }| {
            if placement.disk == disk {
                end = end.max(placement.end());
            }
        });
        end
    }

    /// Returns all segments, in order; parts are merged.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let mut all: Vec<Segment> = Vec::new();
        self.each(|segment| match all.last_mut() {
            Some(last) if last.continues_as(segment) => last.placement.len += segment.placement.len,
            _ => all.push(segment),
        });
        all
    }

    fn each(&self, mut visit: impl FnMut(Segment)) {
        self.overlapping(VolumeExtent(0), VolumeExtent(u64::MAX), |segment| {
            visit(segment);
            ControlFlow::Continue(())
        });
    }

    fn count(&mut self, segment: Segment) {
        self.extents += segment.placement.len;
        *self.placements.entry(segment.placement.disk).or_default() += segment.placement.len;
    }

    /// Subtracts the content of the range from the sums.
    fn uncount(&mut self, start: VolumeExtent, end: VolumeExtent) {
        let Self {
            tree,
            placements,
            extents,
        } = self;
        tree.scan(start.0, end.0 - 1, |run| {
            if let Some(Segment { placement, .. }) = segment(run)
                && let Some(on_disk) = placements.get_mut(&placement.disk)
            {
                *extents -= placement.len;
                *on_disk -= placement.len;
                if *on_disk == 0 {
                    placements.remove(&placement.disk);
                }
            }
            ControlFlow::Continue(())
        });
    }

    /// Returns the address and the size in bytes of each node.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> std::collections::HashMap<usize, usize> {
        self.tree.nodes()
    }

    /// Checks the invariants; fails with a description of the first one that is violated.
    #[cfg(test)]
    pub(super) fn check(&self) -> Result<(), String> {
        self.tree.check()?;
        let counted = Self::from_sorted(self.segments());
        match (counted.extents, &counted.placements) == (self.extents, &self.placements) {
            true => Ok(()),
            false => Err("the sums are wrong".into()),
        }
    }
}

/// Returns the run as a segment if it is mapped.
fn segment(run: Run) -> Option<Segment> {
    let Placement { start, disk } = run.placement;
    let len = run.end - run.start;
    (run.placement != Placement::NONE).then_some(Segment {
        start: VolumeExtent(run.start),
        placement: Area { disk, start, len },
    })
}

/// Returns the segments and the gaps between them as runs without gaps, from `start` to the end of the last segment, or to
/// `end` if that is later.
fn runs(start: VolumeExtent, end: VolumeExtent, segments: impl Iterator<Item = Segment>) -> Vec<Start> {
    let mut runs = Vec::with_capacity(segments.size_hint().0 + 2);
    let mut next = start;
    for segment in segments {
        let Area { disk, start, .. } = segment.placement;
        if next < segment.start {
            push(&mut runs, (next.0, Placement::NONE));
        }
        push(&mut runs, (segment.start.0, Placement { start, disk }));
        next = segment.end();
    }
    if next < end {
        push(&mut runs, (next.0, Placement::NONE));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::segment;
    use proptest::prelude::*;

    /// Placement of each single extent.
    type Oracle = BTreeMap<u64, (u32, u64)>;

    fn add(oracle: &mut Oracle, segment: Segment) {
        for i in 0..segment.placement.len {
            oracle.insert(
                segment.start.0 + i,
                (segment.placement.disk.0, segment.placement.start.0 + i),
            );
        }
    }

    fn spread(segments: &[Segment]) -> Oracle {
        let mut oracle = Oracle::new();
        segments.iter().for_each(|segment| add(&mut oracle, *segment));
        oracle
    }

    #[test]
    fn a_moved_volume_is_one_segment_again() {
        let mut map = SegmentMap::from_sorted([segment(0, 1, 10, 8)]);
        for i in [3, 4, 2, 0, 1, 7, 6, 5] {
            map.replace(VolumeExtent(i), VolumeExtent(i + 1), &[segment(i, 2, 100 + i, 1)]);
            assert_eq!(map.check(), Ok(()));
        }
        assert_eq!(map.segments(), [segment(0, 2, 100, 8)]);
        assert_eq!(map.placements(), &BTreeMap::from([(DiskId(2), 8)]));
    }

    #[test]
    fn a_long_segment_cut_and_mended_is_one() {
        let long = segment(5, 1, 10, u64::from(u32::MAX) * 2 + 7);
        let mut map = SegmentMap::from_sorted([long]);
        assert_eq!((map.segments(), map.end()), (vec![long], long.end()));
        map.replace(VolumeExtent(6), VolumeExtent(7), &[]);
        assert_eq!(map.extents(), long.placement.len - 1);
        map.replace(VolumeExtent(6), VolumeExtent(7), &[segment(6, 1, 11, 1)]);
        assert_eq!((map.segments(), map.check()), (vec![long], Ok(())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn matches_a_map_of_single_extents(
            steps in prop::collection::vec((0u64..80, 1u64..20, 0u64..3, 0u64..3, 1u32..3, 0u64..2), 1..60),
        ) {
            let (mut map, mut oracle) = (SegmentMap::default(), Oracle::new());
            for (start, len, skip, gap, disk, shift) in steps {
                let end = start + len;
                // Most placements continue each other, so that many segments merge.
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
                    add(&mut seen, segment.clip(VolumeExtent(start / 2), VolumeExtent(end)).unwrap());
                    ControlFlow::Continue(())
                });
                let expected: Oracle = oracle.range(start / 2..end).map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(seen, expected);
            }
        }
    }
}
