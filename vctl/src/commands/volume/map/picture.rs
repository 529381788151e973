//! A volume as a bar that shows which disk has which part. Pure.

use apparatus::admin::view::PoolView;
use apparatus::model::job::Step;
use apparatus::model::records::Segment;
use apparatus::model::units::{DiskId, VolumeExtent, VolumeId};

/// Colours of the palette for disks; without colour, letters distinguish them.
pub const COLOURS: usize = 6;

/// The mark of a disk in pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskMark {
    /// `A` to `Z`, `a` to `z` in the order of the disks; `#` for further disks.
    pub letter: char,
    /// An index below [`COLOURS`].
    pub colour: usize,
}

/// Returns the mark of a disk, which is the same in every picture of a pool.
pub fn mark(view: &PoolView, id: DiskId) -> DiskMark {
    let at = view.disks.iter().position(|disk| disk.record.id == id);
    let letter = |at: usize| ('A'..='Z').chain('a'..='z').nth(at);
    DiskMark {
        letter: at.and_then(letter).unwrap_or('#'),
        colour: at.unwrap_or(0) % COLOURS,
    }
}

/// Returns one past the last extent of the segments.
pub fn extents(segments: &[Segment]) -> u64 {
    segments.last().map_or(0, |segment| segment.end().0)
}

/// Returns, for each of `width` equal parts, the disk with the largest share; `None` for a part without placement.
pub fn bar(segments: &[Segment], extents: u64, width: usize) -> Vec<Option<DiskId>> {
    let parts = u64::try_from(width.max(1)).unwrap_or(u64::MAX);
    let edge = |part: u64| u64::try_from(u128::from(part) * u128::from(extents) / u128::from(parts));
    (0..parts)
        .map(|part| {
            let start = edge(part).unwrap_or(u64::MAX);
            // If there are more parts than extents, an extent fills several.
            let end = edge(part + 1).unwrap_or(u64::MAX).max(start + 1);
            most(segments, VolumeExtent(start), VolumeExtent(end))
        })
        .collect()
}

fn most(segments: &[Segment], start: VolumeExtent, end: VolumeExtent) -> Option<DiskId> {
    let first = segments.partition_point(|segment| segment.end() <= start);
    let within = segments[first..].iter().map_while(|each| each.clip(start, end));
    let mut shares: Vec<(DiskId, u64)> = Vec::new();
    for piece in within {
        match shares.iter_mut().find(|(disk, _)| *disk == piece.placement.disk) {
            Some((_, share)) => *share += piece.placement.len,
            None => shares.push((piece.placement.disk, piece.placement.len)),
        }
    }
    // The first of equal shares counts.
    let largest = shares.iter().map(|(_, share)| *share).max()?;
    let found = shares.iter().find(|(_, share)| *share == largest);
    found.map(|(disk, _)| *disk)
}

/// Returns the segments of a volume after all steps of a job.
pub fn after(volume: VolumeId, segments: &[Segment], steps: &[Step]) -> Vec<Segment> {
    let mut layout = segments.to_vec();
    for step in steps.iter().filter(|step| step.volume == volume) {
        let mut placement = step.from;
        placement.placement.disk = step.to.disk;
        placement.placement.start = step.to.start;
        layout = laid_over(&layout, placement);
    }
    layout
}

/// Replaces whatever was mapped in the range of `new`.
fn laid_over(segments: &[Segment], new: Segment) -> Vec<Segment> {
    let before = segments
        .iter()
        .filter_map(|old| old.clip(VolumeExtent(0), new.start));
    let behind = segments
        .iter()
        .filter_map(|old| old.clip(new.end(), VolumeExtent(u64::MAX)));
    before.chain([new]).chain(behind).collect()
}

/// Returns the number of extents on each disk, in the order in which the disks first appear.
pub fn shares(segments: &[Segment]) -> Vec<(DiskId, u64)> {
    let mut shares: Vec<(DiskId, u64)> = Vec::new();
    for segment in segments {
        match shares
            .iter_mut()
            .find(|(disk, _)| *disk == segment.placement.disk)
        {
            Some((_, share)) => *share += segment.placement.len,
            None => shares.push((segment.placement.disk, segment.placement.len)),
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::segment;

    fn letters(bar: &[Option<DiskId>]) -> String {
        let letter = |id: &Option<DiskId>| id.map_or(".".into(), |id| id.to_string());
        bar.iter().map(letter).collect()
    }

    #[test]
    fn a_part_shows_the_disk_that_has_most_of_it() {
        let segments = [segment(0, 1, 1, 3), segment(3, 2, 1, 5)];
        assert_eq!(letters(&bar(&segments, 8, 8)), "11122222");
        assert_eq!(letters(&bar(&segments, 8, 4)), "1122");
        assert_eq!(letters(&bar(&segments, 8, 1)), "2");
        assert_eq!(letters(&bar(&segments, 8, 16)), "1111112222222222");
    }

    #[test]
    fn ranges_without_placement_are_empty() {
        assert_eq!(letters(&bar(&[], 0, 3)), "...");
        assert_eq!(letters(&bar(&[segment(2, 1, 1, 2)], 4, 4)), "..11");
    }

    #[test]
    fn an_outlook_is_the_layout_with_the_steps_done() {
        let segments = [segment(0, 1, 1, 8)];
        let step = Step {
            volume: VolumeId(7),
            from: segment(2, 1, 3, 3),
            to: segment(2, 2, 9, 3).placement,
            done: 1,
        };
        let then = after(VolumeId(7), &segments, &[step]);
        assert_eq!(
            then,
            [segment(0, 1, 1, 2), segment(2, 2, 9, 3), segment(5, 1, 6, 3)]
        );
        assert_eq!(after(VolumeId(8), &segments, &[step]), segments);
        assert_eq!(shares(&then), [(DiskId(1), 5), (DiskId(2), 3)]);
    }
}
