//! Counts how many bytes of a volume hold data, one part at a time.

use super::Failure;
use super::context::Scratch;
use super::io::{DiskIo, open_disk};
use crate::blockdev::OpenDisks;
use crate::gate::Access;
use crate::model::units::{VolumeId, VolumeOffset};
use quanta::Instant;
use std::time::Duration;

/// Bytes that one pass through the gate counts.
const WINDOW: u64 = 256 << 20;
/// Runs of data that one count visits.
const MOST_RUNS: u64 = 100_000;

/// Count in progress.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    at: VolumeOffset,
    data: u64,
    runs: u64,
    began: Instant,
    /// Last time of writing of the volume when the count began.
    modified_us: u64,
}

impl Count {
    /// Begins a count.
    pub(super) fn new(modified_us: u64) -> Self {
        Self {
            modified_us,
            at: VolumeOffset(0),
            data: 0,
            runs: 0,
            began: Instant::now(),
        }
    }

    /// Returns the bytes of data that it has found.
    pub(super) fn data(&self) -> u64 {
        self.data
    }

    /// Returns how long it has taken.
    pub(super) fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the last time of writing of the volume when it began.
    pub(super) fn modified_us(&self) -> u64 {
        self.modified_us
    }
}

impl DiskIo {
    /// Counts the next part of a volume. Returns whether the count is complete.
    pub(super) fn count_data(
        &self,
        scratch: &mut Scratch,
        disks: &OpenDisks,
        volume: VolumeId,
        count: &mut Count,
    ) -> Result<bool, Failure> {
        let len = if count.runs < MOST_RUNS {
            WINDOW
        } else {
            u64::MAX >> 1
        };
        let Some((_, inside)) = self.locate(scratch, Access::Read, volume, count.at, len)? else {
            return Ok(true);
        };
        if count.runs < MOST_RUNS {
            for piece in &scratch.pieces {
                let disk = open_disk(disks, piece.disk)?;
                let runs = disk.data_runs(piece.at, piece.len);
                let runs = runs.map_err(|error| self.disk_failed(disk, "seek", &error))?;
                count.runs += 1 + runs.len() as u64;
                count.data += runs.iter().map(|run| run.end - run.start).sum::<u64>();
            }
        } else {
            count.data += inside;
        }
        count.at.0 += inside;
        Ok(false)
    }
}
