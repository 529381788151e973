//! The segments of one volume, with what each disk has of them.
//!
//! Invariant, verified by [`SegmentMap::check`]: `extents` and `homes` are the sums over all segments.

use super::radix::{Home, Radix, Run, Start, push};
use crate::pool::model::{Area, Segment};
use crate::units::{DiskExtent, DiskId, VolumeExtent};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Extents of the volume, to their homes. Cloning it costs little, and shares what is not changed later.
#[derive(Clone, Debug, Default)]
pub(super) struct SegmentMap {
    tree: Radix,
    homes: BTreeMap<DiskId, u64>,
    extents: u64,
}

impl SegmentMap {
    /// From segments in order that do not overlap.
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

    /// A segment that has this extent, as much of it as is found in one place.
    pub(super) fn at(&self, extent: VolumeExtent) -> Option<Segment> {
        segment(self.tree.at(extent.0))
    }

    /// Shows the segments in `[start, end)`, in order, until `visit` breaks. They are cut at both ends, and one may come in parts.
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

    /// Puts these segments, in order and inside `[start, end)`, in the place of all that lies there.
    pub(super) fn replace(&mut self, start: VolumeExtent, end: VolumeExtent, segments: &[Segment]) {
        if start >= end {
            return;
        }
        self.uncount(start, end);
        segments.iter().for_each(|segment| self.count(*segment));
        self.tree
            .replace(start.0, end.0 - 1, &runs(start, end, segments.iter().copied()));
    }

    /// One past the last mapped extent.
    pub(super) fn end(&self) -> VolumeExtent {
        VolumeExtent(self.tree.end())
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
        self.each(|Segment { home, .. }| {
            if home.disk == disk {
                end = end.max(home.end());
            }
        });
        end
    }

    /// All segments, in order; what comes in parts is joined.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let mut all: Vec<Segment> = Vec::new();
        self.each(|segment| match all.last_mut() {
            Some(last) if last.continues_as(segment) => last.home.len += segment.home.len,
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
        self.extents += segment.home.len;
        *self.homes.entry(segment.home.disk).or_default() += segment.home.len;
    }

    /// Takes what is mapped there from the sums.
    fn uncount(&mut self, start: VolumeExtent, end: VolumeExtent) {
        let Self { tree, homes, extents } = self;
        tree.scan(start.0, end.0 - 1, |run| {
            if let Some(Segment { home, .. }) = segment(run)
                && let Some(on_disk) = homes.get_mut(&home.disk)
            {
                *extents -= home.len;
                *on_disk -= home.len;
                if *on_disk == 0 {
                    homes.remove(&home.disk);
                }
            }
            ControlFlow::Continue(())
        });
    }

    /// The address and the size in bytes of each node.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> std::collections::HashMap<usize, usize> {
        self.tree.nodes()
    }

    /// The first invariant that does not hold, in words.
    #[cfg(test)]
    pub(super) fn check(&self) -> Result<(), String> {
        self.tree.check()?;
        let counted = Self::from_sorted(self.segments());
        match (counted.extents, &counted.homes) == (self.extents, &self.homes) {
            true => Ok(()),
            false => Err("the sums are wrong".into()),
        }
    }
}

/// The run as a segment, if it is mapped.
fn segment(run: Run) -> Option<Segment> {
    let Home { start, disk } = run.home;
    let len = run.end - run.start;
    (run.home != Home::NONE).then_some(Segment {
        start: VolumeExtent(run.start),
        home: Area { disk, start, len },
    })
}

/// The segments and what is between them as runs without gaps, from `start` to the last one's end, or to `end` if that is later.
fn runs(start: VolumeExtent, end: VolumeExtent, segments: impl Iterator<Item = Segment>) -> Vec<Start> {
    let mut runs = Vec::with_capacity(segments.size_hint().0 + 2);
    let mut next = start;
    for segment in segments {
        let Area { disk, start, .. } = segment.home;
        if next < segment.start {
            push(&mut runs, (next.0, Home::NONE));
        }
        push(&mut runs, (segment.start.0, Home { start, disk }));
        next = segment.end();
    }
    if next < end {
        push(&mut runs, (next.0, Home::NONE));
    }
    runs
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
    fn a_long_segment_cut_and_mended_is_one() {
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
