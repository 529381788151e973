//! From disk to disk: making a run ready outside holds, and the copy under the hold.
//!
//! A copy leaves out what is a hole of the source and *clean* in the target, that is, known to read as zeroes. What is
//! clean is found (and made) by [`stage`] ahead of the hold; whether a hole still is one is asked again under the hold, so that data that a
//! host writes into it in between is seen. The target belongs to the job alone: what was clean stays clean. Where there was data ahead of the
//! hold everything is copied: a hole that a host punches in between arrives as zeroes.
//!
//! Blocks of zeroes that the source keeps as data become holes too: what is found to be zero ahead of the hold is made clean, and left out
//! if it is still zero under the hold, which costs less than to copy it. What is not zero costs a glance at its first bytes.

use super::ranges::{both, clip, minus, rest, total};
use super::stager::Gate;
use crate::disk::{CopyError, Disk, is_zero};
use crate::units::{DiskId, DiskOffset};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

/// Zeroes are looked for in pieces of this size: the smallest extent.
const PIECE: usize = 64 << 10;
const PIECE_BYTES: u64 = 64 << 10;
/// Looked at first.
const GLANCE: usize = 64;

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
    /// Data that was zero, and is clean: whole pieces.
    pub(super) zeroes: Vec<Range<u64>>,
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
            zeroes: shift(&self.zeroes),
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

/// The last run of data that was met: the next window mostly lies in it, and where data ends is dear to ask.
#[derive(Default)]
pub(super) struct Known {
    run: Option<(DiskId, Range<u64>)>,
}

impl Known {
    /// Data of a disk's range, counted from the start of the range. Holes punched since a run was met count as data.
    fn data(&mut self, disk: &Disk, at: DiskOffset, len: u64) -> io::Result<Vec<Range<u64>>> {
        let end = at.0 + len;
        let mut found = Vec::new();
        let mut from = at.0;
        while from < end {
            let known = |(id, run): &(DiskId, Range<u64>)| *id == disk.id() && run.contains(&from);
            if !self.run.as_ref().is_some_and(known) {
                let run = disk.data_run(DiskOffset(from), end - from)?;
                self.run = run.map(|run| (disk.id(), run));
            }
            let Some((_, run)) = &self.run else { break };
            let start = run.start.max(from);
            from = run.end.min(end);
            found.push(start - at.0..from - at.0);
        }
        Ok(found)
    }
}

/// Makes a run ready: its data is in the page cache, where it has holes or zeroes the target reads as zeroes, and what will be written
/// there has storage and memory.
pub(super) fn stage(route: &Route, known: &mut Known, gate: &Gate) -> Result<Staged, Fault> {
    let data = known
        .data(&route.source, route.at, route.len)
        .map_err(Fault::Source)?;
    for run in &data {
        route
            .source
            .prefetch(DiskOffset(route.at.0 + run.start), run.end - run.start);
    }
    for run in &data {
        let at = DiskOffset(route.at.0 + run.start);
        route
            .source
            .populate(at, run.end - run.start)
            .map_err(Fault::Source)?;
    }
    let target = route.target.id();
    let shared = !data.is_empty() && gate.write(target, || shares(route))?;
    let zeroes = if shared {
        // Sharing storage has the source's dirty pages written first: better now than under the hold.
        let ledger = gate.ledger(route.source.id());
        let settled = route.source.settle(route.at, route.len, &ledger);
        settled.map_err(Fault::Source)?;
        Vec::new()
    } else {
        zeroes(route, &data).map_err(Fault::Source)?
    };
    let clean = rest(route.len, &minus(&data, &zeroes));
    gate.write(target, || {
        clear(route, &clean).map_err(Fault::Target)?;
        if !shared {
            furnish(route, &rest(route.len, &clean)).map_err(Fault::Target)?;
        }
        Ok(())
    })?;
    Ok(Staged { data, clean, zeroes })
}

/// Whether the copy will be one of the storage itself. Only trying tells: with a block, which is cleared or copied again later.
fn shares(route: &Route) -> Result<bool, Fault> {
    if route.source.shares_with(&route.target) {
        route
            .source
            .copy_to(route.at, &route.target, route.to, route.len.min(4096))?;
    }
    Ok(route.source.shares_with(&route.target))
}

/// Has the target's file system allocate these ranges, and brings into memory what it knows to be zero there: under the hold the copy would
/// wait for what is being written back, and for memory to be found. What has been written before is not read for that. Where the file system
/// is full the copy goes as far as there is room.
fn furnish(route: &Route, ranges: &[Range<u64>]) -> io::Result<()> {
    let at = |run: &Range<u64>| DiskOffset(route.to.0 + run.start);
    for run in ranges {
        match route.target.allocate(at(run), run.end - run.start) {
            Err(full) if matches!(full.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => break,
            allocated => allocated?,
        }
    }
    if ranges.is_empty() {
        return Ok(());
    }
    let written = runs(&route.target, route.to, route.len)?;
    minus(ranges, &written)
        .iter()
        .try_for_each(|run| route.target.populate(at(run), run.end - run.start))
}

/// Makes these ranges of the target read as zeroes.
fn clear(route: &Route, ranges: &[Range<u64>]) -> io::Result<()> {
    if ranges.is_empty() {
        return Ok(());
    }
    let dirty = runs(&route.target, route.to, route.len)?;
    for run in both(ranges, &dirty) {
        let at = DiskOffset(route.to.0 + run.start);
        route.target.zero(at, run.end - run.start, true)?;
    }
    Ok(())
}

/// The pieces of the source's data that are zero.
fn zeroes(route: &Route, data: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    let mut scratch = vec![0; PIECE];
    let mut found = Vec::new();
    for piece in pieces(data) {
        let at = DiskOffset(route.at.0 + piece.start);
        route.source.read_at(&mut scratch[..GLANCE], at)?;
        if is_zero(&scratch[..GLANCE]) && still_zero(route, &piece, &mut scratch)? {
            found.push(piece);
        }
    }
    Ok(found)
}

/// The whole pieces in these runs.
fn pieces(runs: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> {
    runs.iter().flat_map(|run| {
        let whole = run.start.div_ceil(PIECE_BYTES)..run.end / PIECE_BYTES;
        whole.map(|piece| piece * PIECE_BYTES..(piece + 1) * PIECE_BYTES)
    })
}

fn still_zero(route: &Route, piece: &Range<u64>, scratch: &mut [u8]) -> io::Result<bool> {
    route
        .source
        .read_at(scratch, DiskOffset(route.at.0 + piece.start))?;
    Ok(is_zero(scratch))
}

/// The copy, under the hold. Answers how many bytes it copied.
pub(super) fn copy(route: &Route, staged: &Staged, scratch: &mut Scratch) -> Result<u64, Fault> {
    let mut same = still_clean(route, staged).map_err(Fault::Source)?;
    for piece in pieces(&staged.zeroes) {
        if !still_zero(route, &piece, &mut scratch.0).map_err(Fault::Source)? {
            same = minus(&same, std::slice::from_ref(&piece));
        }
    }
    let needed = rest(route.len, &same);
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

/// What was a hole and still is, or was zero: clean, less the pieces of holes with data in them now. Asks where data begins and
/// never where it ends.
fn still_clean(route: &Route, staged: &Staged) -> io::Result<Vec<Range<u64>>> {
    let mut written = Vec::new();
    for hole in minus(&staged.clean, &staged.zeroes) {
        let mut from = hole.start;
        let next = |from| {
            route
                .source
                .data_from(DiskOffset(route.at.0 + from), hole.end - from)
        };
        while let Some(data) = next(from)? {
            let data = data - route.at.0;
            from = ((data / PIECE_BYTES + 1) * PIECE_BYTES).min(hole.end);
            written.push(data..from);
        }
    }
    Ok(minus(&staged.clean, &written))
}

/// Memory for looking at a piece, so that none is asked for under a hold.
pub(super) struct Scratch(Box<[u8]>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(vec![0; PIECE].into())
    }
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

#[cfg(test)]
mod tests {
    use super::super::testing::Images;
    use super::*;
    use std::os::unix::fs::FileExt;

    const LEN: u64 = 1 << 20;
    const SIZE: usize = 1 << 20;

    fn route(images: &Images) -> Route {
        let [source, target] = images.open();
        Route {
            source,
            at: DiskOffset(LEN),
            target,
            to: DiskOffset(2 * LEN),
            len: LEN,
        }
    }

    fn bytes(seed: u8, len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| seed.wrapping_add(u8::try_from(i % 251).unwrap()))
            .collect()
    }

    fn same(images: &Images) -> bool {
        let mut both = [vec![0; SIZE], vec![0; SIZE]];
        images.files[0].read_exact_at(&mut both[0], LEN).unwrap();
        images.files[1].read_exact_at(&mut both[1], 2 * LEN).unwrap();
        both[0] == both[1]
    }

    #[test]
    fn holes_stay_holes_and_data_arrives() {
        let images = Images::new();
        images.files[0]
            .write_all_at(&bytes(1, 8192), LEN + 65536)
            .unwrap();
        images.files[1].write_all_at(&bytes(9, SIZE), 2 * LEN).unwrap();
        let route = route(&images);
        let staged = stage(&route, &mut Known::default(), &Gate::new(images.ledgers())).unwrap();
        assert_eq!(staged.data, vec![65536..65536 + 8192]);
        assert_eq!(copy(&route, &staged, &mut Scratch::new()).unwrap(), 8192);
        assert!(same(&images));
        assert_eq!(total(&runs(&route.target, route.to, LEN).unwrap()), 8192);
    }

    #[test]
    fn what_will_be_written_is_allocated_and_reads_as_zeroes() {
        use std::os::unix::fs::MetadataExt;
        let images = Images::new();
        images.files[0].write_all_at(&bytes(1, SIZE / 2), LEN).unwrap();
        let before = images.files[1].metadata().unwrap().blocks();
        stage(
            &route(&images),
            &mut Known::default(),
            &Gate::new(images.ledgers()),
        )
        .unwrap();
        let allocated = (images.files[1].metadata().unwrap().blocks() - before) * 512;
        assert_eq!(allocated, LEN / 2);
        // The first block may have been written to see whether the two share storage.
        let mut there = vec![1; SIZE - 4096];
        images.files[1].read_exact_at(&mut there, 2 * LEN + 4096).unwrap();
        assert!(is_zero(&there));
    }

    #[test]
    fn what_changes_between_staging_and_copy_is_copied() {
        let images = Images::new();
        images.files[0].write_all_at(&bytes(1, 8192), LEN).unwrap();
        images.files[0]
            .write_all_at(&vec![0; 3 * PIECE], LEN + 2 * PIECE_BYTES)
            .unwrap();
        let route = route(&images);
        let staged = stage(&route, &mut Known::default(), &Gate::new(images.ledgers())).unwrap();
        assert_eq!(total(&staged.zeroes), 3 * PIECE_BYTES);
        // Into a hole, into zeroes, and a hole where data was.
        images.files[0]
            .write_all_at(&bytes(2, 4096), LEN + 12 * PIECE_BYTES)
            .unwrap();
        images.files[0]
            .write_all_at(&bytes(3, 4096), LEN + 3 * PIECE_BYTES + 4096)
            .unwrap();
        route.source.zero(DiskOffset(LEN), 4096, true).unwrap();
        let copied = copy(&route, &staged, &mut Scratch::new()).unwrap();
        assert!(same(&images));
        // What was data, punched or not; the piece of the hole with a block in it; the piece that is not zero any more.
        assert_eq!(copied, 8192 + PIECE_BYTES + PIECE_BYTES);
    }

    #[test]
    fn what_was_left_of_an_attempt_that_was_given_up_is_cleared() {
        let images = Images::new();
        images.files[0].write_all_at(&bytes(1, SIZE), LEN).unwrap();
        let route = route(&images);
        let staged = stage(&route, &mut Known::default(), &Gate::new(images.ledgers())).unwrap();
        copy(&route, &staged, &mut Scratch::new()).unwrap();
        route.source.zero(route.at, LEN / 2, true).unwrap();
        let staged = stage(&route, &mut Known::default(), &Gate::new(images.ledgers())).unwrap();
        assert_eq!(copy(&route, &staged, &mut Scratch::new()).unwrap(), LEN / 2);
        assert!(same(&images));
    }

    #[test]
    fn a_truncated_side_is_named() {
        let images = Images::new();
        images.files[0].write_all_at(&bytes(1, SIZE), LEN).unwrap();
        let route = route(&images);
        images.files[0].set_len(LEN + 4096).unwrap();
        assert!(matches!(
            stage(&route, &mut Known::default(), &Gate::new(images.ledgers())),
            Err(Fault::Source(_))
        ));
        let images = Images::new();
        let route = self::route(&images);
        images.files[1].set_len(LEN).unwrap();
        assert!(matches!(
            stage(&route, &mut Known::default(), &Gate::new(images.ledgers())),
            Err(Fault::Target(_))
        ));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one range is meant")]
    fn parts_keep_what_is_known_of_them() {
        let staged = Staged {
            data: vec![10..20, 30..50],
            clean: vec![0..10, 20..30],
            zeroes: vec![],
        };
        let part = Staged {
            data: vec![0..5, 15..20],
            clean: std::iter::once(5..15).collect(),
            zeroes: vec![],
        };
        assert_eq!(staged.part(&(15..35)), part);
    }
}
