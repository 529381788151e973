//! From disk to disk: making a run ready outside holds, and the copy under the hold.
//!
//! A copy leaves out what is a hole of the source and *clean* in the target, that is, known to read as zeroes. What is
//! clean is found (and made) by [`stage`] ahead of the hold; what is a hole is asked again under the hold, so that data that a host
//! writes into a hole, or a hole that a host punches, in between is seen. The target belongs to the job alone: what was clean stays clean.

use super::ranges::{both, clip, rest, total};
use crate::disk::{CopyError, Disk};
use crate::units::DiskOffset;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A run of bytes and where it goes. Ranges within it count from its start.
#[derive(Clone)]
pub(super) struct Route {
    /// From this disk.
    pub(super) source: Arc<Disk>,
    /// There.
    pub(super) at: DiskOffset,
    /// To this one.
    pub(super) target: Arc<Disk>,
    /// There.
    pub(super) to: DiskOffset,
    /// So many bytes.
    pub(super) len: u64,
}

/// What could not be copied, and on which side.
#[derive(Debug)]
pub(super) enum Fault {
    /// The source cannot be read.
    Source(io::Error),
    /// The target cannot be written.
    Target(io::Error),
}

/// What is known of a run that has been made ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Staged {
    /// What held data in the source. Hosts may have changed that since.
    pub(super) data: Vec<Range<u64>>,
    /// What reads as zeroes in the target.
    pub(super) clean: Vec<Range<u64>>,
}

impl Staged {
    /// The part of it that belongs to `[start, end)` of the run, counted from there.
    pub(super) fn part(&self, within: &Range<u64>) -> Self {
        let shift = |runs: &[Range<u64>]| {
            let moved = |run: Range<u64>| run.start - within.start..run.end - within.start;
            clip(runs, within).into_iter().map(moved).collect()
        };
        Self {
            data: shift(&self.data),
            clean: shift(&self.clean),
        }
    }
}

impl Route {
    /// The part `[skip, skip + len)` of it.
    pub(super) fn part(&self, skip: u64, len: u64) -> Self {
        let (at, to) = (DiskOffset(self.at.0 + skip), DiskOffset(self.to.0 + skip));
        Self {
            source: self.source.clone(),
            at,
            target: self.target.clone(),
            to,
            len,
        }
    }
}

/// Makes a run ready: its data is in the page cache, and where it has holes the target reads as zeroes.
pub(super) fn stage(route: &Route) -> Result<Staged, Fault> {
    let data = runs(&route.source, route.at, route.len).map_err(Fault::Source)?;
    for run in &data {
        route
            .source
            .prefetch(DiskOffset(route.at.0 + run.start), run.end - run.start);
    }
    let clean = rest(route.len, &data);
    let dirty = runs(&route.target, route.to, route.len).map_err(Fault::Target)?;
    for run in both(&clean, &dirty) {
        let at = DiskOffset(route.to.0 + run.start);
        route
            .target
            .zero(at, run.end - run.start, true)
            .map_err(Fault::Target)?;
    }
    for run in &data {
        let at = DiskOffset(route.at.0 + run.start);
        route
            .source
            .populate(at, run.end - run.start)
            .map_err(Fault::Source)?;
    }
    Ok(Staged { data, clean })
}

/// The copy, under the hold. Answers how many bytes it copied.
pub(super) fn copy(route: &Route, clean: &[Range<u64>]) -> Result<u64, Fault> {
    let holes = rest(
        route.len,
        &runs(&route.source, route.at, route.len).map_err(Fault::Source)?,
    );
    let needed = rest(route.len, &both(&holes, clean));
    for run in &needed {
        let (at, to) = (
            DiskOffset(route.at.0 + run.start),
            DiskOffset(route.to.0 + run.start),
        );
        route
            .source
            .copy_to(at, &route.target, to, run.end - run.start)
            .map_err(Fault::from)?;
    }
    Ok(total(&needed))
}

/// Data of a disk's range, counted from the start of the range.
fn runs(disk: &Disk, at: DiskOffset, len: u64) -> io::Result<Vec<Range<u64>>> {
    let relative = |run: Range<u64>| run.start.saturating_sub(at.0)..run.end.saturating_sub(at.0).min(len);
    let runs = disk.data_runs(at, len)?.into_iter().map(relative);
    Ok(runs.filter(|run| run.start < run.end).collect())
}

impl From<CopyError> for Fault {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Read(error) => Self::Source(error),
            CopyError::Write(error) => Self::Target(error),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source(error) => write!(f, "reading failed: {error}"),
            Self::Target(error) => write!(f, "writing failed: {error}"),
        }
    }
}
