//! Runs a job as a pipeline of changes, each of which moves one chunk.

mod copying;

use super::chunks::{self, Begun, Chunks};
use super::copier::{CopyFault, Route};
use super::pace::{ChunkSize, HOLD_TARGET, Limiter};
use super::stager::{Stager, Window};
use super::steps::Chunk;
use crate::blockdev::{Disk, Disks};
use crate::cluster::{Claims, FlushLedgers};
use crate::controller::{ChangePipeline, Prepare};
use crate::model::change::NewChange;
use crate::model::error::Result;
use crate::model::holds::Holds;
use crate::model::job::{JobLimits, JobRecord, Progress, Step};
use crate::model::ranges::{clip, total};
use crate::model::units::{DiskId, DiskOffset, ExtentSize};
use crate::protocol::controller::Outcome;
use crate::rpc::written::Written;
use copying::{Copier, Run};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes prepared at once where there is data: enough for a disk to read in one operation. Where there
/// are holes, all that is left of a step is requested, and the stager cuts it where data begins.
pub(super) const WINDOW: u64 = 8 << 20;
/// Longest wait for the stager before the worker reads the operator's commands again.
const PATIENCE: Duration = Duration::from_millis(10);
/// Longest wait for disk operations under way to end.
const SETTLE: Duration = Duration::from_secs(5);

/// Why a pipeline ended early.
pub(super) type EarlyEnd = chunks::EarlyEnd<CopyFault>;

/// Figures of what was moved since the last call of [`Mover::take_figures`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MoveFigures {
    /// Changes committed.
    pub(super) chunks: u64,
    /// Bytes copied.
    pub(super) copied: u64,
    /// The longest hold.
    pub(super) longest: Duration,
    /// Host requests held.
    pub(super) held: u64,
    /// Durations of the holds.
    pub(super) holds: Holds,
}

/// The steps of a job, moved chunk by chunk.
pub(super) struct Mover {
    size: ExtentSize,
    limits: JobLimits,
    /// The chunks under way, and the steps: what has been requested of the stager is taken of them.
    chunks: Chunks<Copier>,
    copier: Copier,
    empty: bool,
    stager: Stager,
    window: Option<(Window, u64)>,
    /// The disks that the steps move between.
    needed: BTreeSet<DiskId>,
    chunk_size: ChunkSize,
    limiter: Limiter,
    round: Duration,
    /// Set at the first request for a change, because reaching the apparatuses before that may take long.
    round_ends: Option<Instant>,
    figures: MoveFigures,
}

impl Mover {
    /// Creates the mover of a job, with the steps as they are now.
    pub(super) fn new(
        job: &JobRecord,
        steps: Vec<Step>,
        size: ExtentSize,
        ledgers: &Arc<dyn FlushLedgers>,
    ) -> Result<Self> {
        let now = Instant::now();
        let mut mover = Self {
            size,
            limits: job.limits,
            chunks: Chunks::new(job.id, job.title.clone(), size),
            copier: Copier::new(ledgers.clone()),
            empty: false,
            stager: Stager::start(ledgers.clone())?,
            window: None,
            needed: BTreeSet::new(),
            chunk_size: ChunkSize::new(HOLD_TARGET),
            limiter: Limiter::new(None, now),
            round: Duration::ZERO,
            round_ends: None,
            figures: MoveFigures::default(),
        };
        mover.set_limits(job.limits);
        mover.restart(steps)?;
        Ok(mover)
    }

    /// Sets the operator's limits.
    pub(super) fn set_limits(&mut self, limits: JobLimits) {
        self.limits = limits;
        let target = limits.hold_target_us.map_or(HOLD_TARGET, Duration::from_micros);
        self.chunk_size.set_target(target);
        self.limiter
            .set_rate(limits.rate.map(|rate| rate.0), Instant::now());
    }

    /// Returns the copy progress table.
    pub(super) fn steps(&self) -> &[Step] {
        self.chunks.table.steps()
    }

    /// Replaces the table, or starts again from where it stands. What was prepared before is discarded.
    ///
    /// # Errors
    /// Fails when a disk does not answer.
    pub(super) fn restart(&mut self, steps: Vec<Step>) -> Result<()> {
        self.settle()?;
        self.chunks.restart(steps);
        self.needed = self.chunks.table.disks();
        Ok(())
    }

    /// Records that others acted in a gap: from now on a chunk whose placement has changed is not moved.
    pub(super) fn mark_stale(&mut self) {
        self.chunks.mark_stale();
    }

    /// Lets the stager write to targets: the job's controller has the controller lock.
    pub(super) fn enter(&self) {
        self.stager.open();
    }

    /// Returns whether all disks that the steps need are open.
    pub(super) fn has_disks_open(&self, disks: &Disks) -> bool {
        self.needed.iter().all(|id| disks.get(*id).is_some())
    }

    /// Begins a gap: no target is written to from now on, except one that hangs and is marked.
    ///
    /// # Errors
    /// Fails when a disk hangs and cannot be marked: then there is no gap.
    pub(super) fn leave(&self, claims: &dyn Claims) -> Result<()> {
        self.stager.close(claims)
    }

    /// Waits until the stager has a run ready or waits for permission to write, at most for `patience`.
    pub(super) fn wait_for_run(&self, patience: Duration) {
        if self.window.is_none() {
            self.stager.wait_for_run(patience);
        }
    }

    /// Waits until nothing is under way in any target.
    ///
    /// # Errors
    /// Fails when a disk does not answer.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.chunks.forget();
        self.window = None;
        self.stager.settle(SETTLE)?;
        self.chunks.table.rewind();
        Ok(())
    }

    /// Stops waiting for operations on a disk that does not answer; this mover can move nothing afterwards.
    ///
    /// # Errors
    /// Fails when the target cannot be marked, so that the operation has to be waited for.
    pub(super) fn abandon(&mut self, claims: &dyn Claims) -> Result<()> {
        self.stager.abandon(claims)
    }

    /// Returns the disk on which a run is being prepared, and for how long.
    pub(super) fn staging_disk(&self) -> Option<(DiskId, Duration)> {
        self.stager.at()
    }

    /// Returns extents moved and extents in all.
    pub(super) fn progress(&self) -> Progress {
        self.chunks.table.progress()
    }

    /// Returns whether everything is moved.
    pub(super) fn finished(&self) -> bool {
        self.chunks.table.finished()
    }

    /// Begins a round: the next pipeline lasts about this long.
    pub(super) fn begin_round(&mut self, round: Duration) {
        self.round = round;
        self.round_ends = None;
        self.chunks.take_early_end();
    }

    /// Returns why the last pipeline ended early, if it did.
    pub(super) fn take_early_end(&mut self) -> Option<EarlyEnd> {
        self.chunks.take_early_end()
    }

    /// Returns the figures since the last call.
    pub(super) fn take_figures(&mut self) -> MoveFigures {
        std::mem::take(&mut self.figures)
    }

    /// Returns how long the rate limit asks to wait.
    pub(super) fn wait(&self) -> Duration {
        self.limiter.wait(Instant::now())
    }

    fn charge(&mut self, bytes: u64) {
        if bytes > 0 {
            self.limiter.spent(bytes, Instant::now());
        }
    }

    /// Keeps the stager busy with the next runs. Where there are holes it has one run at a time, because the end of such a run is not known
    /// before it is prepared.
    fn look_ahead(&mut self, disks: &Disks) {
        while !self.chunks.has_ended() && self.stager.has_room() && (!self.empty || self.stager.is_idle()) {
            let extents = if self.empty {
                u64::MAX
            } else {
                (WINDOW >> self.size.shift()).max(1)
            };
            let Some(chunk) = self.chunks.table.next(extents) else {
                return;
            };
            match self.route(&chunk, disks) {
                Ok(route) => {
                    if !self.stager.ask(chunk, route) {
                        return;
                    }
                    self.chunks.table.take(chunk.len());
                }
                Err(early_end) => self.chunks.end_early(early_end),
            }
        }
    }

    fn route(&self, chunk: &Chunk, disks: &Disks) -> Result<Route, EarlyEnd> {
        let open = |id: DiskId| -> Result<Arc<Disk>, EarlyEnd> { disks.get(id).ok_or(EarlyEnd::NoDisk(id)) };
        let byte = |extent| self.size.disk_offset(extent).unwrap_or(DiskOffset(u64::MAX));
        Ok(Route {
            source: open(chunk.from.placement.disk)?,
            at: byte(chunk.from.placement.start),
            target: open(chunk.to.disk)?,
            to: byte(chunk.to.start),
            len: chunk.len().saturating_mul(self.size.bytes()),
        })
    }

    /// Makes sure that there is a window to cut the next chunk from. Returns false if none is ready in time.
    fn fill_window(&mut self, patience: Duration) -> Result<bool> {
        if self.window.is_none() {
            match self.stager.take(patience)? {
                Some(Ok(window)) => {
                    self.empty = window.staged.data.is_empty();
                    self.chunks.table.give_back(window.left_out);
                    self.window = Some((window, 0));
                }
                Some(Err((chunk, fault))) => self.chunks.end_early(EarlyEnd::Disk(chunk, fault)),
                None => {}
            }
        }
        Ok(self.window.is_some())
    }

    /// Cuts the next chunk off the window.
    fn cut(&mut self) -> Option<(Chunk, Run)> {
        let (window, skip) = self.window.take()?;
        let budget = self.chunk_size.bytes().min(self.limiter.most());
        let extents = fitting(&window, skip, budget, self.size);
        let chunk = window.chunk.part(skip, extents)?;
        let (at, len) = (skip * self.size.bytes(), chunk.len() * self.size.bytes());
        let staged = window.staged.part(&(at..at + len));
        let run = Run {
            route: window.route.part(at, len),
            charged: total(&staged.data).saturating_sub(total(&staged.zeroes)),
            staged,
            copying: Duration::ZERO,
            retried: false,
        };
        if skip + extents < window.chunk.len() {
            self.window = Some((window, skip + extents));
        }
        Some((chunk, run))
    }

    fn count(&mut self, begun: &Begun<Run>, hold: Duration, parked: u64) {
        // Of what was copied ahead, the hold has only what hosts write meanwhile: the more of it there is, the smaller the next chunk.
        let size = if begun.ahead > 0 {
            begun.ahead
        } else {
            begun.copied
        };
        self.chunk_size.learn(size, begun.run.copying, hold);
        self.charge(begun.copied.saturating_sub(begun.run.charged));
        self.figures.chunks += 1;
        self.figures.copied += begun.copied;
        self.figures.longest = self.figures.longest.max(hold);
        self.figures.held += parked;
        let us = hold.as_micros();
        self.figures.holds.add(u64::try_from(us).unwrap_or(u64::MAX));
    }
}

/// Returns how many extents of a window, from `skip` on, have at most `budget` bytes of data together; at least one.
fn fitting(window: &Window, skip: u64, budget: u64, size: ExtentSize) -> u64 {
    let rest = window.chunk.len() - skip;
    let from = skip * size.bytes();
    let data = |extents: u64| total(&clip(&window.staged.data, &(from..from + extents * size.bytes())));
    // The amount of data only grows with the number of extents, so bisection finds the limit.
    let (mut fits, mut beyond) = (1, rest + 1);
    while beyond - fits > 1 {
        let middle = fits + (beyond - fits) / 2;
        if data(middle) <= budget {
            fits = middle
        } else {
            beyond = middle
        }
    }
    fits
}

impl ChangePipeline for Mover {
    fn next(&mut self, prepare: &mut Prepare<'_>) -> Result<Option<NewChange>> {
        let idle = self.chunks.is_idle();
        let now = Instant::now();
        let over = now >= *self.round_ends.get_or_insert(now + self.round);
        if self.chunks.has_ended() || over || !self.wait().is_zero() {
            return Ok(None);
        }
        self.look_ahead(prepare.disks);
        if !self.fill_window(if idle { PATIENCE } else { Duration::ZERO })? {
            return Ok(None);
        }
        let Some((chunk, run)) = self.cut() else {
            return Ok(None);
        };
        let charged = run.charged;
        let change = self.chunks.plan(prepare, (chunk, run), self.limits.hold_all)?;
        if change.is_some() {
            self.charge(charged);
        }
        Ok(change)
    }

    fn before_holds(&mut self) {
        self.stager.pause();
    }

    fn after_holds(&mut self) {
        self.stager.open();
    }

    fn copies_ahead(&self) -> bool {
        self.chunks.begun().all(|begun| begun.run.is_direct())
    }

    fn copy_ahead(&mut self) -> Result<(), String> {
        self.chunks.copy_ahead(&mut self.copier)
    }

    fn work(&mut self, written: &Written) -> Result<(), String> {
        self.chunks.copy_held(&mut self.copier, written)
    }

    fn ended(&mut self, outcome: &Outcome, hold: Duration) -> Result<()> {
        let moved = self.chunks.ended(outcome)?;
        if let (Some(begun), Outcome::Finished { parked, .. }) = (moved, outcome) {
            self.count(&begun, hold, *parked);
            let route = begun.run.route;
            if begun.copied > 0 {
                self.stager.write_back(route.target, route.to, route.len);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
