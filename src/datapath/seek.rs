//! `SEEK_DATA` and `SEEK_HOLE`: finds data and holes of a volume from those of its disks.

use super::context::Scratch;
use super::io::{DiskIo, open_disk};
use super::submit::{Completion, Outcome};
use super::{Failure, Target};
use crate::blockdev::OpenDisks;
use crate::gate::Access;
use crate::model::units::{VolumeId, VolumeOffset};
use std::ops::Range;

/// Bytes of the volume that one step covers. It bounds the number of runs that a disk lists.
const WINDOW: u64 = 256 << 20;

impl DiskIo {
    /// Finds the next byte that is data (or in a hole).
    pub(super) fn seek<'d>(
        &self,
        scratch: &mut Scratch,
        disks: &OpenDisks,
        volume: VolumeId,
        at: VolumeOffset,
        to: Target,
    ) -> Result<Outcome<'d>, Failure> {
        let found = self.find(scratch, disks, volume, at, to)?;
        Ok(Outcome::Completion(Completion::Found(found)))
    }

    fn find(
        &self,
        scratch: &mut Scratch,
        disks: &OpenDisks,
        volume: VolumeId,
        at: VolumeOffset,
        to: Target,
    ) -> Result<VolumeOffset, Failure> {
        let mut from = at.0;
        while let Some((_, inside)) =
            self.locate(scratch, Access::Read, volume, VolumeOffset(from), WINDOW)?
        {
            if let Some(found) = self.find_in_pieces(scratch, disks, from, to)? {
                return Ok(VolumeOffset(found));
            }
            from += inside;
        }
        match to {
            Target::Hole if from > at.0 => Ok(VolumeOffset(from)),
            _ => Err(Failure::NothingThere),
        }
    }

    /// Searches the pieces, of which the first begins at `from` in the volume. Returns an offset in the volume.
    fn find_in_pieces(
        &self,
        scratch: &mut Scratch,
        disks: &OpenDisks,
        mut from: u64,
        to: Target,
    ) -> Result<Option<u64>, Failure> {
        for piece in &scratch.pieces {
            let disk = open_disk(disks, piece.disk)?;
            let runs = disk.data_runs(piece.at, piece.len);
            let runs = runs.map_err(|error| self.disk_failed(disk, "seek", &error))?;
            let piece_range = piece.at.0..piece.at.0 + piece.len;
            if let Some(found) = first(&piece_range, &runs, to) {
                return Ok(Some(from + (found - piece_range.start)));
            }
            from += piece.len;
        }
        Ok(None)
    }
}

/// Returns the first byte of `piece` that is data, or is in a hole. `runs` are the data in it, in order.
fn first(piece_range: &Range<u64>, runs: &[Range<u64>], to: Target) -> Option<u64> {
    let mut hole = piece_range.start;
    for run in runs.iter().filter(|run| !run.is_empty()) {
        match to {
            Target::Data => return Some(run.start.max(piece_range.start)),
            Target::Hole if run.start > hole => return Some(hole),
            Target::Hole => hole = run.end,
        }
    }
    (to == Target::Hole && hole < piece_range.end).then_some(hole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_data_and_the_first_hole() {
        let piece_range = 100..200;
        let data = |runs: &[Range<u64>]| first(&piece_range, runs, Target::Data);
        let hole = |runs: &[Range<u64>]| first(&piece_range, runs, Target::Hole);
        assert_eq!((data(&[]), hole(&[])), (None, Some(100)));
        let all: &[Range<u64>] = std::slice::from_ref(&piece_range);
        assert_eq!((data(all), hole(all)), (Some(100), None));
        assert_eq!(data(&[150..160, 170..200]), Some(150));
        assert_eq!(hole(&[150..160, 170..200]), Some(100));
        assert_eq!(hole(&[100..150, 150..160, 180..200]), Some(160));
        assert_eq!(hole(&[100..150, 150..200]), None);
    }
}
