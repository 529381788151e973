//! Runs a job as a pipeline of changes, each of which moves one chunk.

mod copying;

use super::copier::{CopyFault, Route, Scratch};
use super::pace::{ChunkSize, HOLD_TARGET, Limiter};
use super::stager::{Stager, Window};
use super::steps::{Chunk, remaining, still_at};
use crate::blockdev::{Disk, Disks};
use crate::cluster::{Claims, FlushLedgers};
use crate::controller::{ChangePipeline, Prepare};
use crate::model::change::{HoldMode, NewChange};
use crate::model::error::{Error, Result};
use crate::model::holds::Holds;
use crate::model::job::{JobLimits, JobRecord, Progress, Step};
use crate::model::ranges::{clip, total};
use crate::model::units::{DiskId, DiskOffset, ExtentSize, JobId};
use crate::protocol::controller::{Outcome, Reason};
use crate::rpc::written::Written;
use copying::BegunChange;
use std::collections::{BTreeSet, VecDeque};
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
#[derive(Debug)]
pub(super) enum EarlyEnd {
    /// A disk failed.
    Disk(Chunk, CopyFault),
    /// A disk is not open in this process.
    NoDisk(DiskId),
    /// A range has another placement by now: it was moved in a gap.
    Overtaken,
    /// A change was given up.
    GaveUp(Reason),
    /// A change could not be brought to an end: only the store knows the state of the table.
    Unfinished(String),
}

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
    job: JobId,
    title: String,
    size: ExtentSize,
    limits: JobLimits,
    steps: Vec<Step>,
    /// The first step that is not done.
    first: usize,
    /// The total of the steps, kept because adding up many of them takes long.
    progress: Progress,
    /// What has been requested of the stager: this many extents of this step, and all steps before it.
    asked: (usize, u64),
    empty: bool,
    stager: Stager,
    ledgers: Arc<dyn FlushLedgers>,
    window: Option<(Window, u64)>,
    /// The disks that the steps move between.
    needed: BTreeSet<DiskId>,
    /// Others have held the controller lock since the steps were read: a chunk's placement is checked before it is moved.
    stale: bool,
    begun: VecDeque<BegunChange>,
    scratch: Scratch,
    chunk_size: ChunkSize,
    limiter: Limiter,
    round: Duration,
    /// Set at the first request for a change, because reaching the apparatuses before that may take long.
    round_ends: Option<Instant>,
    early_end: Option<EarlyEnd>,
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
            job: job.id,
            title: job.title.clone(),
            size,
            limits: job.limits,
            steps: Vec::new(),
            first: 0,
            progress: Progress::default(),
            asked: (0, 0),
            empty: false,
            stager: Stager::start(ledgers.clone())?,
            ledgers: ledgers.clone(),
            window: None,
            needed: BTreeSet::new(),
            stale: false,
            begun: VecDeque::new(),
            scratch: Scratch::new(),
            chunk_size: ChunkSize::new(HOLD_TARGET),
            limiter: Limiter::new(None, now),
            round: Duration::ZERO,
            round_ends: None,
            early_end: None,
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
        &self.steps
    }

    /// Replaces the table, or starts again from where it stands. What was prepared before is discarded.
    ///
    /// # Errors
    /// Fails when a disk does not answer.
    pub(super) fn restart(&mut self, steps: Vec<Step>) -> Result<()> {
        self.settle()?;
        self.progress = Progress::of(&steps);
        let disks = |step: &Step| [step.from.placement.disk, step.to.disk];
        let rest = steps.iter().filter(|step| step.done < step.to.len);
        self.needed = rest.flat_map(disks).collect();
        self.steps = steps;
        self.stale = false;
        self.first = 0;
        self.skip_done();
        self.asked = (self.first, self.steps.get(self.first).map_or(0, |step| step.done));
        Ok(())
    }

    /// Records that others acted in a gap: from now on a chunk whose placement has changed is not moved.
    pub(super) fn mark_stale(&mut self) {
        self.stale = true;
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
        self.begun.clear();
        self.window = None;
        self.stager.settle(SETTLE)?;
        let done = self.steps.get(self.first).map_or(0, |step| step.done);
        self.asked = (self.first, done);
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
        self.progress
    }

    /// Returns whether everything is moved.
    pub(super) fn finished(&self) -> bool {
        self.first >= self.steps.len()
    }

    /// Begins a round: the next pipeline lasts about this long.
    pub(super) fn begin_round(&mut self, round: Duration) {
        self.round = round;
        self.round_ends = None;
        self.early_end = None;
    }

    /// Returns why the last pipeline ended early, if it did.
    pub(super) fn take_early_end(&mut self) -> Option<EarlyEnd> {
        self.early_end.take()
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

    fn skip_done(&mut self) {
        while self
            .steps
            .get(self.first)
            .is_some_and(|step| step.done >= step.to.len)
        {
            self.first += 1;
        }
    }

    /// Keeps the stager busy with the next runs. Where there are holes it has one run at a time, because the end of such a run is not known
    /// before it is prepared.
    fn look_ahead(&mut self, disks: &Disks) {
        while self.early_end.is_none() && self.stager.has_room() && (!self.empty || self.stager.is_idle()) {
            let (index, skip) = self.asked;
            let Some(step) = self.steps.get(index) else { return };
            let extents = if self.empty {
                u64::MAX
            } else {
                (WINDOW >> self.size.shift()).max(1)
            };
            let whole = Chunk {
                volume: step.volume,
                from: step.from,
                to: step.to,
            };
            let Some(chunk) = whole.part(skip, extents) else {
                self.asked = (index + 1, self.steps.get(index + 1).map_or(0, |next| next.done));
                continue;
            };
            match self.route(&chunk, disks) {
                Ok(route) => {
                    if !self.stager.ask(chunk, route) {
                        return;
                    }
                    self.asked = (index, skip + chunk.len());
                }
                Err(early_end) => self.early_end = Some(early_end),
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
                    self.asked.1 = self.asked.1.saturating_sub(window.left_out);
                    self.window = Some((window, 0));
                }
                Some(Err((chunk, fault))) => self.early_end = Some(EarlyEnd::Disk(chunk, fault)),
                None => {}
            }
        }
        Ok(self.window.is_some())
    }

    /// Cuts the next chunk off the window.
    fn cut(&mut self) -> Option<BegunChange> {
        let (window, skip) = self.window.take()?;
        let budget = self.chunk_size.bytes().min(self.limiter.most());
        let extents = fitting(&window, skip, budget, self.size);
        let chunk = window.chunk.part(skip, extents)?;
        let (at, len) = (skip * self.size.bytes(), chunk.len() * self.size.bytes());
        let staged = window.staged.part(&(at..at + len));
        let begun = BegunChange {
            chunk,
            route: window.route.part(at, len),
            charged: total(&staged.data).saturating_sub(total(&staged.zeroes)),
            staged,
            ahead: 0,
            copied: 0,
            copying: Duration::ZERO,
            retried: false,
        };
        if skip + extents < window.chunk.len() {
            self.window = Some((window, skip + extents));
        }
        Some(begun)
    }

    fn count(&mut self, begun: &BegunChange, hold: Duration, parked: u64) {
        // Of what was copied ahead, the hold has only what hosts write meanwhile: the more of it there is, the smaller the next chunk.
        let size = if begun.ahead > 0 {
            begun.ahead
        } else {
            begun.copied
        };
        self.chunk_size.learn(size, begun.copying, hold);
        self.charge(begun.copied.saturating_sub(begun.charged));
        self.figures.chunks += 1;
        self.figures.copied += begun.copied;
        self.figures.longest = self.figures.longest.max(hold);
        self.figures.held += parked;
        let us = hold.as_micros();
        self.figures.holds.add(u64::try_from(us).unwrap_or(u64::MAX));
    }

    /// Advances the progress table by a chunk that the store has committed.
    fn advance(&mut self, chunk: &Chunk) -> Result<()> {
        let fits = |step: &&mut Step| remaining(step).is_some_and(|rest| rest.from.start == chunk.from.start);
        let Some(step) = self.steps.get_mut(self.first).filter(fits) else {
            return Err(Error::failed(
                format!("job {}", self.job),
                "its chunks ended out of order",
            ));
        };
        step.done += chunk.len();
        self.progress.done += chunk.len();
        self.skip_done();
        Ok(())
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

/// Returns whether a chunk still has the placement that it had when it was planned.
fn is_in_place(prepare: &mut Prepare<'_>, chunk: &Chunk) -> Result<bool> {
    let now = prepare
        .store
        .segments(chunk.volume, chunk.from.start, chunk.from.end())?;
    let there: u64 = still_at(chunk.from, &now)
        .iter()
        .map(|run| run.placement.len)
        .sum();
    Ok(there == chunk.len())
}

impl ChangePipeline for Mover {
    fn next(&mut self, prepare: &mut Prepare<'_>) -> Result<Option<NewChange>> {
        let idle = self.begun.is_empty();
        let now = Instant::now();
        let over = now >= *self.round_ends.get_or_insert(now + self.round);
        if self.early_end.is_some() || over || !self.wait().is_zero() {
            return Ok(None);
        }
        self.look_ahead(prepare.disks);
        if !self.fill_window(if idle { PATIENCE } else { Duration::ZERO })? {
            return Ok(None);
        }
        let Some(begun) = self.cut() else { return Ok(None) };
        if self.stale && !is_in_place(prepare, &begun.chunk)? {
            self.early_end = Some(EarlyEnd::Overtaken);
            return Ok(None);
        }
        let all = self.limits.hold_all || prepare.late_writes;
        let change = NewChange {
            title: self.title.clone(),
            job: Some(self.job),
            delta: begun.chunk.delta(prepare.from),
            spans: vec![begun.chunk.span(self.size)],
            mode: if all { HoldMode::All } else { HoldMode::Writes },
        };
        self.charge(begun.charged);
        self.begun.push_back(begun);
        Ok(Some(change))
    }

    fn before_holds(&mut self) {
        self.stager.pause();
    }

    fn after_holds(&mut self) {
        self.stager.open();
    }

    fn copies_ahead(&self) -> bool {
        self.begun.iter().all(BegunChange::is_direct)
    }

    fn copy_ahead(&mut self) -> Result<(), String> {
        self.copy_chunk_ahead()
    }

    fn work(&mut self, written: &Written) -> Result<(), String> {
        self.copy_chunk(written)
    }

    fn ended(&mut self, outcome: &Outcome, hold: Duration) -> Result<()> {
        let Some(begun) = self.begun.pop_front() else {
            return Ok(());
        };
        match outcome {
            Outcome::Finished { parked, .. } => {
                self.count(&begun, hold, *parked);
                self.advance(&begun.chunk)?;
                let route = begun.route;
                if begun.copied > 0 {
                    self.stager.write_back(route.target, route.to, route.len);
                }
            }
            Outcome::GaveUp { reason, .. } => {
                self.early_end
                    .get_or_insert_with(|| EarlyEnd::GaveUp(reason.clone()));
            }
            Outcome::Unfinished { why, .. } => self.early_end = Some(EarlyEnd::Unfinished(why.clone())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
