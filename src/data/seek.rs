//! `SEEK_DATA` and `SEEK_HOLE`: what the disks say, put together along the volume.

use super::way::{Ready, Verdict};
use super::{Apparatus, Failure, Target, Tools};
use crate::disk::View;
use crate::gate::Access;
use crate::units::{VolumeId, VolumeOffset};
use std::ops::Range;

/// Looked at in one go: bounds what a disk lists.
const WINDOW: u64 = 256 << 20;

impl Apparatus {
    pub(super) fn seek<'d>(
        &self,
        tools: &mut Tools,
        disks: &View,
        volume: VolumeId,
        at: VolumeOffset,
        to: Target,
    ) -> Result<Verdict<'d>, Failure> {
        let found = self.find(tools, disks, volume, at, to)?;
        Ok(Verdict::Ready(Ready::Found(found)))
    }

    fn find(
        &self,
        tools: &mut Tools,
        disks: &View,
        volume: VolumeId,
        at: VolumeOffset,
        to: Target,
    ) -> Result<VolumeOffset, Failure> {
        let mut from = at.0;
        while let Some((_, inside)) = self.locate(tools, Access::Read, volume, VolumeOffset(from), WINDOW)? {
            if let Some(found) = self.find_in_pieces(tools, disks, from, to)? {
                return Ok(VolumeOffset(found));
            }
            from += inside;
        }
        match to {
            Target::Hole if from > at.0 => Ok(VolumeOffset(from)),
            _ => Err(Failure::NothingThere),
        }
    }

    /// Looks through the pieces, of which the first begins at `from` in the volume.
    fn find_in_pieces(
        &self,
        tools: &mut Tools,
        disks: &View,
        mut from: u64,
        to: Target,
    ) -> Result<Option<u64>, Failure> {
        for piece in &tools.pieces {
            let disk = self.open_disk(disks, piece.disk)?;
            let runs = disk.data_runs(piece.at, piece.len);
            let runs = runs.map_err(|error| self.disk_failed(disk, "seek", &error))?;
            let place = piece.at.0..piece.at.0 + piece.len;
            if let Some(found) = first(&place, &runs, to) {
                return Ok(Some(from + (found - place.start)));
            }
            from += piece.len;
        }
        Ok(None)
    }
}

/// The first byte of `place` that is data, or is in a hole. `runs` are the data in it, in order.
fn first(place: &Range<u64>, runs: &[Range<u64>], to: Target) -> Option<u64> {
    let mut hole = place.start;
    for run in runs.iter().filter(|run| !run.is_empty()) {
        match to {
            Target::Data => return Some(run.start.max(place.start)),
            Target::Hole if run.start > hole => return Some(hole),
            Target::Hole => hole = run.end,
        }
    }
    (to == Target::Hole && hole < place.end).then_some(hole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_data_and_the_first_hole() {
        let place = 100..200;
        let data = |runs: &[Range<u64>]| first(&place, runs, Target::Data);
        let hole = |runs: &[Range<u64>]| first(&place, runs, Target::Hole);
        assert_eq!((data(&[]), hole(&[])), (None, Some(100)));
        let all: &[Range<u64>] = std::slice::from_ref(&place);
        assert_eq!((data(all), hole(all)), (Some(100), None));
        assert_eq!(data(&[150..160, 170..200]), Some(150));
        assert_eq!(hole(&[150..160, 170..200]), Some(100));
        assert_eq!(hole(&[100..150, 150..160, 180..200]), Some(160));
        assert_eq!(hole(&[100..150, 150..200]), None);
    }
}
