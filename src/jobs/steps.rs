//! Operations on a copy progress table. Pure.

use crate::model::job::Step;
use crate::model::records::{Area, Delta, Edit, Segment, Span};
use crate::model::units::{DiskExtent, ExtentSize, Generation, VolumeExtent, VolumeId, VolumeOffset};

/// The piece of a step that one change moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The volume.
    pub volume: VolumeId,
    /// The run and its old placement.
    pub from: Segment,
    /// Its new placement.
    pub to: Area,
}

impl Chunk {
    /// Returns the number of extents.
    pub(super) fn len(&self) -> u64 {
        self.to.len
    }

    /// Returns the part that starts `skip` extents in and has at most `most` extents; `None` if that is empty.
    pub fn part(&self, skip: u64, most: u64) -> Option<Self> {
        let len = self.len().checked_sub(skip)?.min(most);
        (len > 0).then(|| Self {
            volume: self.volume,
            from: Segment {
                start: VolumeExtent(self.from.start.0 + skip),
                placement: sub_area(self.from.placement, skip, len),
            },
            to: sub_area(self.to, skip, len),
        })
    }

    /// Returns the delta of the change.
    pub fn delta(&self, from: Generation) -> Delta {
        let segments = vec![Segment {
            start: self.from.start,
            placement: self.to,
        }];
        Delta {
            from,
            edits: vec![Edit::Map {
                volume: self.volume,
                segments,
            }],
        }
    }

    /// Returns the range that the change holds.
    pub fn span(&self, size: ExtentSize) -> Span {
        let byte = |extent| size.volume_offset(extent).unwrap_or(VolumeOffset(u64::MAX));
        Span {
            volume: self.volume,
            start: byte(self.from.start),
            end: byte(self.from.end()),
        }
    }
}

/// Returns `len` extents of `area` from its extent `skip` on. The caller keeps within the area.
pub(super) fn sub_area(area: Area, skip: u64, len: u64) -> Area {
    Area {
        disk: area.disk,
        start: DiskExtent(area.start.0 + skip),
        len,
    }
}

/// Returns the whole step as a chunk.
pub(super) fn whole(step: &Step) -> Chunk {
    Chunk {
        volume: step.volume,
        from: step.from,
        to: step.to,
    }
}

/// Returns the part of the step that is still to be moved.
pub(super) fn remaining(step: &Step) -> Option<Chunk> {
    whole(step).part(step.done, u64::MAX)
}

/// Returns the part of the step that has been moved.
pub(super) fn moved(step: &Step) -> Option<Chunk> {
    whole(step).part(0, step.done)
}

/// Returns the step that moves a chunk.
pub(super) fn step(chunk: &Chunk, done: u64) -> Step {
    Step {
        volume: chunk.volume,
        from: chunk.from,
        to: chunk.to,
        done,
    }
}

/// Returns the parts of a run that still have the placement that `run` gives, according to `segments` (of the run's volume, in order).
pub(super) fn still_at(run: Segment, segments: &[Segment]) -> Vec<Segment> {
    let same = |part: &Segment| {
        let skip = part.start.0 - run.start.0;
        part.placement == sub_area(run.placement, skip, part.placement.len)
    };
    let first = segments.partition_point(|segment| segment.end() <= run.start);
    let touching = segments
        .iter()
        .skip(first)
        .take_while(|segment| segment.start < run.end());
    touching
        .filter_map(|segment| segment.clip(run.start, run.end()))
        .filter(same)
        .collect()
}

/// Returns the table without what others have moved, resized away or removed since it was made: steps stay, cut to what
/// still lies where it was. What has been moved stays on record. `segments` returns a volume's segments.
pub(super) fn reconciled<'a>(steps: &[Step], segments: impl Fn(VolumeId) -> &'a [Segment]) -> Vec<Step> {
    let mut table = Vec::with_capacity(steps.len());
    for one in steps {
        table.extend(moved(one).map(|chunk| step(&chunk, chunk.len())));
        let Some(rest) = remaining(one) else { continue };
        for part in still_at(rest.from, segments(rest.volume)) {
            let skip = part.start.0 - rest.from.start.0;
            table.extend(rest.part(skip, part.placement.len).map(|chunk| step(&chunk, 0)));
        }
    }
    merged(table)
}

/// A run of a volume that stays where it is, in extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remainder {
    /// The volume.
    pub(super) volume: VolumeId,
    /// First extent.
    pub(super) start: VolumeExtent,
    /// One past the last.
    pub(super) end: VolumeExtent,
}

/// Returns the parts of a run that are not in `left`.
pub(super) fn without(volume: VolumeId, run: Segment, left: &[Remainder]) -> Vec<Segment> {
    let mut parts = vec![run];
    for left in left.iter().filter(|left| left.volume == volume) {
        let around = |part: Segment| {
            let before = part.clip(VolumeExtent(0), left.start);
            let behind = part.clip(left.end, VolumeExtent(u64::MAX));
            before.into_iter().chain(behind)
        };
        parts = parts.into_iter().flat_map(around).collect();
    }
    parts
}

/// Returns the table without what is still to be moved of these runs. What has been moved stays on record.
pub(super) fn leave(steps: &[Step], left: &[Remainder]) -> Vec<Step> {
    let mut table = Vec::with_capacity(steps.len() + 2);
    for one in steps {
        table.extend(moved(one).map(|chunk| step(&chunk, chunk.len())));
        let Some(rest) = remaining(one) else { continue };
        for part in without(rest.volume, rest.from, left) {
            let skip = part.start.0 - rest.from.start.0;
            table.extend(rest.part(skip, part.placement.len).map(|chunk| step(&chunk, 0)));
        }
    }
    merged(table)
}

/// Joins neighbours that form one step: a step's moved part and the rest of it.
fn merged(steps: Vec<Step>) -> Vec<Step> {
    let mut table: Vec<Step> = Vec::with_capacity(steps.len());
    for next in steps {
        match table.last_mut() {
            Some(last) if joins(last, &next) => {
                last.done += next.done;
                last.from.placement.len += next.from.placement.len;
                last.to.len += next.to.len;
            }
            _ => table.push(next),
        }
    }
    table
}

/// Returns whether `next` continues `last` in volume, source and target, and moving it continues what has been moved.
fn joins(last: &Step, next: &Step) -> bool {
    let complete = last.done == last.to.len;
    last.volume == next.volume
        && last.from.continues_as(next.from)
        && last.to.disk == next.to.disk
        && last.to.end() == next.to.start
        && (complete || next.done == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{area, segment};
    use crate::model::job::Progress;
    use proptest::prelude::*;

    fn a_step(done: u64) -> Step {
        Step {
            volume: VolumeId(1),
            from: segment(10, 1, 100, 8),
            to: area(2, 50, 8),
            done,
        }
    }

    #[test]
    fn a_step_falls_into_what_was_moved_and_what_was_not() {
        for done in 0..=8 {
            let step = a_step(done);
            let (moved, rest) = (moved(&step), remaining(&step));
            assert_eq!(moved.map_or(0, |m| m.len()), done);
            assert_eq!(rest.map_or(0, |r| r.len()), 8 - done);
            if let (Some(moved), Some(rest)) = (moved, rest) {
                assert!(moved.from.continues_as(rest.from));
                assert_eq!(moved.to.end(), rest.to.start);
            }
        }
    }

    #[test]
    fn an_untouched_table_is_left_as_it_is() {
        let steps = vec![a_step(3)];
        let now = vec![
            segment(0, 1, 90, 10),
            segment(10, 2, 50, 3),
            segment(13, 1, 103, 5),
        ];
        assert_eq!(reconciled(&steps, |_| &now), steps);
    }

    #[test]
    fn what_others_moved_or_cut_off_is_dropped() {
        let steps = vec![a_step(2)];
        // Extents 14 and 15 were moved elsewhere, 17 was cut off.
        let now = vec![
            segment(10, 2, 50, 2),
            segment(12, 1, 102, 2),
            segment(14, 3, 7, 2),
            segment(16, 1, 106, 1),
        ];
        let table = reconciled(&steps, |_| &now);
        let expected = vec![
            Step {
                volume: VolumeId(1),
                from: segment(10, 1, 100, 4),
                to: area(2, 50, 4),
                done: 2,
            },
            Step {
                volume: VolumeId(1),
                from: segment(16, 1, 106, 1),
                to: area(2, 56, 1),
                done: 0,
            },
        ];
        assert_eq!(table, expected);
        assert_eq!(
            reconciled(&steps, |_| &[]),
            vec![step(&moved(&a_step(2)).unwrap(), 2)]
        );
    }

    #[test]
    fn what_stays_is_cut_out_and_what_was_moved_stays_on_record() {
        let left = |start, end| Remainder {
            volume: VolumeId(1),
            start: VolumeExtent(start),
            end: VolumeExtent(end),
        };
        let steps = vec![a_step(2)];
        let table = leave(&steps, &[left(14, 15), left(17, 40)]);
        let expected = vec![
            Step {
                volume: VolumeId(1),
                from: segment(10, 1, 100, 4),
                to: area(2, 50, 4),
                done: 2,
            },
            Step {
                volume: VolumeId(1),
                from: segment(15, 1, 105, 2),
                to: area(2, 55, 2),
                done: 0,
            },
        ];
        assert_eq!(table, expected);
        let all = Remainder {
            end: VolumeExtent(u64::MAX),
            ..left(0, 0)
        };
        assert_eq!(leave(&steps, &[all]), vec![step(&moved(&a_step(2)).unwrap(), 2)]);
        let other = Remainder {
            volume: VolumeId(2),
            ..all
        };
        assert_eq!(leave(&steps, &[other]), steps);
    }

    #[test]
    fn a_chunk_holds_its_own_bytes() {
        let chunk = whole(&a_step(0)).part(2, 3).unwrap();
        let span = chunk.span(ExtentSize::DEFAULT);
        assert_eq!((span.start.0 >> 20, span.end.0 >> 20), (12, 15));
        assert_eq!(chunk.from.placement, area(1, 102, 3));
        assert_eq!(chunk.to, area(2, 52, 3));
    }

    proptest! {
        /// Compares with a check of the extents one by one.
        #[test]
        fn reconciling_keeps_exactly_what_still_lies_there(done in 0u64..9, elsewhere in prop::collection::vec(any::<bool>(), 8)) {
            let one = a_step(done.min(8));
            let now: Vec<Segment> = (0..8u64)
                .map(|i| match (i < one.done, elsewhere[usize::try_from(i).unwrap()]) {
                    (true, _) => segment(10 + i, 2, 50 + i, 1),
                    (false, false) => segment(10 + i, 1, 100 + i, 1),
                    (false, true) => segment(10 + i, 9, i + 1, 1),
                })
                .collect();
            let table = reconciled(&[one], |_| &now);
            let mut left: Vec<u64> = Vec::new();
            for step in &table {
                prop_assert_eq!(step.from.placement.start.0 - step.from.start.0, 90);
                prop_assert_eq!(step.to.start.0 - step.from.start.0, 40);
                if let Some(rest) = remaining(step) {
                    left.extend(rest.from.start.0..rest.from.end().0);
                }
            }
            let expected: Vec<u64> = (one.done..8).filter(|&i| !elsewhere[usize::try_from(i).unwrap()]).map(|i| i + 10).collect();
            prop_assert_eq!(left, expected);
            prop_assert_eq!(Progress::of(&table).done, one.done);
        }
    }
}
