//! Copies data from disk to disk: prepares a run outside holds, and copies it under the hold.
//!
//! A copy skips ranges that are holes in the source and *clean* in the target, that is, known to read as zeroes. [`stage`] finds
//! clean ranges (and makes them so) ahead of the hold. Whether a hole still is one is checked again under the hold, so data that
//! a host writes into it in between is not missed. The target belongs to the job alone, so what was clean stays clean. Where the
//! source had data ahead of the hold, everything is copied: a hole that a host punches in between arrives as zeroes.
//!
//! Blocks of zeroes that the source stores as data become holes too. A piece that is found to be
//! zero ahead of the hold is made clean, and is skipped if it is still zero under the hold; reading
//! it costs less than copying it. For a piece with other content only its first bytes are read.

use super::write_gate::WriteGate;
use crate::blockdev::{CopyError, Disk, is_zero};
use crate::cluster::FlushLedger;
use crate::model::ranges::{both, clip, minus, rest, total};
use crate::model::units::{DiskId, DiskOffset};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

/// Size of the pieces in which zeroes are searched for: the smallest extent.
const PIECE: usize = 64 << 10;
const PIECE_BYTES: u64 = 64 << 10;
/// Bytes of a piece that are read first.
const PROBE: usize = 64;

/// A run of bytes, its source and its target. Ranges within it count from its start.
#[derive(Clone)]
pub(super) struct Route {
    /// The disk that the run is read from.
    pub(super) source: Arc<Disk>,
    /// The run's offset on the source disk.
    pub(super) at: DiskOffset,
    /// The disk that the run is written to.
    pub(super) target: Arc<Disk>,
    /// The run's offset on the target disk.
    pub(super) to: DiskOffset,
    /// The length, in bytes.
    pub(super) len: u64,
}

/// A copy error, and the side on which it occurred.
#[derive(Debug)]
pub(super) enum CopyFault {
    /// The source cannot be read.
    Source(io::Error),
    /// The target cannot be written.
    Target(io::Error),
}

/// What is known of a run that has been prepared for copying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Staged {
    /// Ranges that held data in the source. Hosts may have changed that since.
    pub(super) data: Vec<Range<u64>>,
    /// Ranges that read as zeroes in the target.
    pub(super) clean: Vec<Range<u64>>,
    /// Ranges of data that were all zeroes, and are clean in the target: whole pieces.
    pub(super) zeroes: Vec<Range<u64>>,
}

impl Staged {
    /// Returns the part that belongs to `[start, end)` of the run, counted from `start`.
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
    /// Returns the part `[skip, skip + len)` of the route.
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

/// Cache of the last run of data found: the next window mostly lies in it, and asking where data ends is expensive.
#[derive(Default)]
pub(super) struct LastRun {
    run: Option<(DiskId, Range<u64>)>,
}

impl LastRun {
    /// Returns the data ranges within a disk's range, counted from the start of the range. Holes punched since a run was found count as
    /// data.
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

/// Prepares a run for copying: brings its data into the page cache, makes the target read as zeroes where the
/// source has holes or zeroes, and has storage and memory allocated in the target for what will be written there.
pub(super) fn stage(route: &Route, known: &mut LastRun, gate: &WriteGate) -> Result<Staged, CopyFault> {
    let data = known
        .data(&route.source, route.at, route.len)
        .map_err(CopyFault::Source)?;
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
            .map_err(CopyFault::Source)?;
    }
    let target = route.target.id();
    let may_share = !data.is_empty() && route.source.shares_with(&route.target);
    let shared = may_share && gate.write(target, || shares(route))?;
    let zeroes = if shared || route.source.is_direct() {
        // A copy that shares storage first writes back the source's dirty pages; that is done here, not under the hold.
        let ledger = gate.ledger(route.source.id());
        let settled = route.source.settle(route.at, route.len, &*ledger);
        settled.map_err(CopyFault::Source)?;
        // Zeroes are not looked for on a disk that is used directly: looking costs as much as copying.
        Vec::new()
    } else {
        zeroes(route, &data).map_err(CopyFault::Source)?
    };
    let clean = rest(route.len, &minus(&data, &zeroes));
    let written = rest(route.len, &clean);
    gate.write(target, || {
        clear(route, &clean).map_err(CopyFault::Target)?;
        if !shared {
            allocate(route, &written).map_err(CopyFault::Target)?;
        }
        Ok(())
    })?;
    if !shared {
        bring_in(route, &written).map_err(CopyFault::Target)?;
    }
    Ok(Staged { data, clean, zeroes })
}

/// Returns whether the storage itself can copy (reflink). Only a trial
/// shows that: it uses one block, which is cleared or copied again later.
fn shares(route: &Route) -> Result<bool, CopyFault> {
    route
        .source
        .copy_to(route.at, &route.target, route.to, route.len.min(4096))?;
    Ok(route.source.shares_with(&route.target))
}

/// Has the target's file system allocate these ranges; otherwise the copy under the hold would wait for what is being
/// written back. Where the file system is full, allocation stops without an error and the copy goes as far as there is room.
fn allocate(route: &Route, ranges: &[Range<u64>]) -> io::Result<()> {
    for run in ranges {
        let at = DiskOffset(route.to.0 + run.start);
        match route.target.allocate(at, run.end - run.start) {
            Err(full) if matches!(full.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => break,
            allocated => allocated?,
        }
    }
    Ok(())
}

/// Brings into memory the ranges that the target's file system knows to be zero; otherwise the copy
/// under the hold would wait for memory. Ranges that have been written before are not read for that.
fn bring_in(route: &Route, ranges: &[Range<u64>]) -> io::Result<()> {
    if ranges.is_empty() {
        return Ok(());
    }
    let at = |run: &Range<u64>| DiskOffset(route.to.0 + run.start);
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

/// Returns the pieces of the source's data that are all zeroes.
fn zeroes(route: &Route, data: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    let mut scratch = vec![0; PIECE];
    let mut found = Vec::new();
    for piece in pieces(data) {
        let at = DiskOffset(route.at.0 + piece.start);
        route.source.read_at(&mut scratch[..PROBE], at)?;
        if is_zero(&scratch[..PROBE]) && still_zero(route, &piece, &mut scratch)? {
            found.push(piece);
        }
    }
    Ok(found)
}

/// Iterates over the whole pieces in these runs.
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

/// Copies a run under the hold. Returns how many bytes were copied.
pub(super) fn copy(route: &Route, staged: &Staged, scratch: &mut Scratch) -> Result<u64, CopyFault> {
    let mut same = still_clean(route, staged).map_err(CopyFault::Source)?;
    for piece in pieces(&staged.zeroes) {
        if !still_zero(route, &piece, &mut scratch.0).map_err(CopyFault::Source)? {
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
            .map_err(CopyFault::from)?;
    }
    Ok(total(&needed))
}

/// Copies these ranges of a run, durably. Returns how many bytes were copied.
pub(super) fn copy_durably(
    route: &Route,
    ranges: &[Range<u64>],
    ledger: &dyn FlushLedger,
) -> Result<u64, CopyFault> {
    for run in ranges {
        let (at, to) = (
            DiskOffset(route.at.0 + run.start),
            DiskOffset(route.to.0 + run.start),
        );
        let target = &route.target;
        route
            .source
            .copy_durably_to(at, target, to, run.end - run.start, ledger)
            .map_err(CopyFault::from)?;
    }
    Ok(total(ranges))
}

/// Returns the clean ranges that are still holes or were zero: the clean ranges without the pieces
/// of holes that have data in them now. It asks where data begins, and never where it ends.
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

/// A buffer for one piece, allocated ahead so that no memory is needed under a hold.
pub(super) struct Scratch(Box<[u8]>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(vec![0; PIECE].into())
    }
}

/// Returns the data ranges within a disk's range, counted from the start of the range.
fn runs(disk: &Disk, at: DiskOffset, len: u64) -> io::Result<Vec<Range<u64>>> {
    let relative = |run: Range<u64>| run.start.saturating_sub(at.0)..run.end.saturating_sub(at.0).min(len);
    let runs = disk.data_runs(at, len)?.into_iter().map(relative);
    Ok(runs.filter(|run| run.start < run.end).collect())
}

impl From<CopyError> for CopyFault {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Read(error) => Self::Source(error),
            CopyError::Write(error) => Self::Target(error),
        }
    }
}

impl std::fmt::Display for CopyFault {
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
        let staged = stage(&route, &mut LastRun::default(), &WriteGate::new(images.ledgers())).unwrap();
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
            &mut LastRun::default(),
            &WriteGate::new(images.ledgers()),
        )
        .unwrap();
        let allocated = (images.files[1].metadata().unwrap().blocks() - before) * 512;
        assert_eq!(allocated, LEN / 2);
        // The first block may have been written to find out whether the two share storage.
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
        let staged = stage(&route, &mut LastRun::default(), &WriteGate::new(images.ledgers())).unwrap();
        assert_eq!(total(&staged.zeroes), 3 * PIECE_BYTES);
        // One write into a hole, one into zeroes, and a hole punched where data was.
        images.files[0]
            .write_all_at(&bytes(2, 4096), LEN + 12 * PIECE_BYTES)
            .unwrap();
        images.files[0]
            .write_all_at(&bytes(3, 4096), LEN + 3 * PIECE_BYTES + 4096)
            .unwrap();
        route.source.zero(DiskOffset(LEN), 4096, true).unwrap();
        let copied = copy(&route, &staged, &mut Scratch::new()).unwrap();
        assert!(same(&images));
        // Copied: the data, punched or not; the piece of the hole that has a block in it; the piece that is no longer zero.
        assert_eq!(copied, 8192 + PIECE_BYTES + PIECE_BYTES);
    }

    #[test]
    fn what_was_left_of_an_attempt_that_was_given_up_is_cleared() {
        let images = Images::new();
        images.files[0].write_all_at(&bytes(1, SIZE), LEN).unwrap();
        let route = route(&images);
        let staged = stage(&route, &mut LastRun::default(), &WriteGate::new(images.ledgers())).unwrap();
        copy(&route, &staged, &mut Scratch::new()).unwrap();
        route.source.zero(route.at, LEN / 2, true).unwrap();
        let staged = stage(&route, &mut LastRun::default(), &WriteGate::new(images.ledgers())).unwrap();
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
            stage(&route, &mut LastRun::default(), &WriteGate::new(images.ledgers())),
            Err(CopyFault::Source(_))
        ));
        let images = Images::new();
        let route = self::route(&images);
        images.files[1].set_len(LEN).unwrap();
        assert!(matches!(
            stage(&route, &mut LastRun::default(), &WriteGate::new(images.ledgers())),
            Err(CopyFault::Target(_))
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

    #[test]
    fn a_durable_copy_of_several_pieces_has_each_in_its_place() {
        let images = Images::new();
        let long = bytes(5, 3 * SIZE + 4096);
        images.files[0].write_all_at(&long, LEN).unwrap();
        let route = Route {
            len: long.len() as u64,
            ..route(&images)
        };
        let whole = 0..route.len;
        let ledger = images.ledgers().ledger(route.target.id());
        copy_durably(&route, std::slice::from_ref(&whole), &*ledger).unwrap();
        let mut copied = vec![0; long.len()];
        images.files[1].read_exact_at(&mut copied, 2 * LEN).unwrap();
        assert!(copied == long);
    }
}
