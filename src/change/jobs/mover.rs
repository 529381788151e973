//! The series of changes that a job is: each moves one chunk.

use super::copier::{Fault, Route, Scratch, Staged, copy};
use super::pace::{ChunkSize, HOLD_TARGET, Limiter};
use super::ranges::{clip, total};
use super::stager::{Stager, Window};
use super::steps::{Chunk, remaining};
use crate::change::controller::{Outcome, Reason};
use crate::change::driver::{Prepare, Series};
use crate::disk::{Disk, Disks};
use crate::error::{Error, Result};
use crate::member::MemberTable;
use crate::pool::dir::PoolDir;
use crate::pool::holds::Holds;
use crate::store::{HoldMode, JobLimits, JobRecord, NewChange, Progress, Step};
use crate::units::{DiskId, DiskOffset, ExtentSize, JobId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Made ready at once where there is data: enough for a disk to read in one go. Where there are holes it is all that is left of a step, and
/// the stager cuts it where data begins.
pub(super) const WINDOW: u64 = 8 << 20;
/// Longest wait for the stager before the worker looks at the operator's wishes again.
const PATIENCE: Duration = Duration::from_millis(50);
/// Longest wait for disk operations in hand to end.
const SETTLE: Duration = Duration::from_secs(5);

/// Why the series ended before its time.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A disk failed.
    Disk(Chunk, Fault),
    /// A disk is not open here.
    NoDisk(DiskId),
    /// A change was given up.
    GaveUp(Reason),
    /// A change could not be ended: how the table is now, only the store knows.
    Unfinished(String),
}

/// What was moved since it was last asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Changes committed.
    pub(super) chunks: u64,
    /// Bytes copied.
    pub(super) copied: u64,
    /// The longest hold.
    pub(super) longest: Duration,
    /// Host requests held.
    pub(super) held: u64,
    /// How long the holds took.
    pub(super) holds: Holds,
}

/// A change under way.
struct Begun {
    chunk: Chunk,
    route: Route,
    staged: Staged,
    /// The rate limit knows of so many bytes.
    paid: u64,
    copied: u64,
    copying: Duration,
    /// Asked for again after its work: what is clean is not known any more.
    again: bool,
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
    /// What the steps come to: to add them up takes long where they are many.
    progress: Progress,
    /// What has been asked of the stager: so many extents of this step, and all before it.
    asked: (usize, u64),
    empty: bool,
    stager: Stager,
    window: Option<(Window, u64)>,
    begun: VecDeque<Begun>,
    scratch: Scratch,
    chunk_size: ChunkSize,
    limiter: Limiter,
    round: Duration,
    /// Set when the series first asks: reaching the apparatuses before that may take long.
    round_ends: Option<Instant>,
    trouble: Option<Trouble>,
    figures: Figures,
}

impl Mover {
    /// Of this job, with the steps as they are now.
    pub(super) fn new(
        job: &JobRecord,
        steps: Vec<Step>,
        size: ExtentSize,
        ledgers: &Arc<MemberTable>,
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
            window: None,
            begun: VecDeque::new(),
            scratch: Scratch::new(),
            chunk_size: ChunkSize::new(HOLD_TARGET),
            limiter: Limiter::new(None, now),
            round: Duration::ZERO,
            round_ends: None,
            trouble: None,
            figures: Figures::default(),
        };
        mover.obey(job.limits);
        mover.restart(steps)?;
        Ok(mover)
    }

    /// The operator's wishes from now on.
    pub(super) fn obey(&mut self, limits: JobLimits) {
        self.limits = limits;
        let target = limits.hold_target_us.map_or(HOLD_TARGET, Duration::from_micros);
        self.chunk_size.set_target(target);
        self.limiter
            .set_rate(limits.rate.map(|rate| rate.0), Instant::now());
    }

    /// The copy progress table.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Another table, or the same from where it stands. Nothing made ready before counts any more.
    ///
    /// # Errors
    /// When a disk does not answer.
    pub(super) fn restart(&mut self, steps: Vec<Step>) -> Result<()> {
        self.settle()?;
        self.progress = Progress::of(&steps);
        self.steps = steps;
        self.first = 0;
        self.skip_done();
        self.asked = (self.first, self.steps.get(self.first).map_or(0, |step| step.done));
        Ok(())
    }

    /// Nothing is under way in any target when this returns.
    ///
    /// # Errors
    /// When a disk does not answer.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.begun.clear();
        self.window = None;
        self.stager.settle(SETTLE)?;
        let done = self.steps.get(self.first).map_or(0, |step| step.done);
        self.asked = (self.first, done);
        Ok(())
    }

    /// Stops waiting for what is under way on a disk that does not answer; nothing can be moved with this after it.
    ///
    /// # Errors
    /// When it has to be waited for.
    pub(super) fn leave_behind(&mut self, pool: &PoolDir) -> Result<()> {
        self.stager.leave_behind(pool)
    }

    /// The disk that a run is being made ready on, and for how long.
    pub(super) fn kept_by(&self) -> Option<(DiskId, Duration)> {
        self.stager.at()
    }

    /// Extents moved and extents in all.
    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// Everything is moved.
    pub(super) fn finished(&self) -> bool {
        self.first >= self.steps.len()
    }

    /// The next series lasts about so long.
    pub(super) fn begin_round(&mut self, round: Duration) {
        self.round = round;
        self.round_ends = None;
        self.trouble = None;
    }

    /// Why the last series ended early, if it did.
    pub(super) fn take_trouble(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    /// What was moved since the last call.
    pub(super) fn take_figures(&mut self) -> Figures {
        std::mem::take(&mut self.figures)
    }

    /// How long the rate limit asks to wait.
    pub(super) fn wait(&self) -> Duration {
        self.limiter.wait(Instant::now())
    }

    fn pay(&mut self, bytes: u64) {
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

    /// Keeps the stager busy with what comes next. Where there are holes it has one run at a time, because where that ends is not known
    /// before it is made ready.
    fn look_ahead(&mut self, disks: &Disks) {
        while self.trouble.is_none() && self.stager.has_room() && (!self.empty || self.stager.is_idle()) {
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
                Err(trouble) => self.trouble = Some(trouble),
            }
        }
    }

    fn route(&self, chunk: &Chunk, disks: &Disks) -> Result<Route, Trouble> {
        let open = |id: DiskId| -> Result<Arc<Disk>, Trouble> { disks.get(id).ok_or(Trouble::NoDisk(id)) };
        let byte = |extent| self.size.disk_offset(extent).unwrap_or(DiskOffset(u64::MAX));
        Ok(Route {
            source: open(chunk.from.home.disk)?,
            at: byte(chunk.from.home.start),
            target: open(chunk.to.disk)?,
            to: byte(chunk.to.start),
            len: chunk.len().saturating_mul(self.size.bytes()),
        })
    }

    /// The window that the next chunk is cut from, if one is ready in time.
    fn fill_window(&mut self, patience: Duration) -> Result<bool> {
        if self.window.is_none() {
            match self.stager.take(patience)? {
                Some(Ok(window)) => {
                    self.empty = window.staged.data.is_empty();
                    self.asked.1 = self.asked.1.saturating_sub(window.left_out);
                    self.window = Some((window, 0));
                }
                Some(Err((chunk, fault))) => self.trouble = Some(Trouble::Disk(chunk, fault)),
                None => {}
            }
        }
        Ok(self.window.is_some())
    }

    /// Cuts the next chunk off the window.
    fn cut(&mut self) -> Option<Begun> {
        let (window, skip) = self.window.take()?;
        let budget = self.chunk_size.bytes().min(self.limiter.most());
        let extents = fitting(&window, skip, budget, self.size);
        let chunk = window.chunk.part(skip, extents)?;
        let (at, len) = (skip * self.size.bytes(), chunk.len() * self.size.bytes());
        let staged = window.staged.part(&(at..at + len));
        let begun = Begun {
            chunk,
            route: window.route.part(at, len),
            paid: total(&staged.data).saturating_sub(total(&staged.zeroes)),
            staged,
            copied: 0,
            copying: Duration::ZERO,
            again: false,
        };
        if skip + extents < window.chunk.len() {
            self.window = Some((window, skip + extents));
        }
        Some(begun)
    }

    fn count(&mut self, begun: &Begun, hold: Duration, parked: u64) {
        self.chunk_size.learn(begun.copied, begun.copying, hold);
        self.pay(begun.copied.saturating_sub(begun.paid));
        self.figures.chunks += 1;
        self.figures.copied += begun.copied;
        self.figures.longest = self.figures.longest.max(hold);
        self.figures.held += parked;
        let us = hold.as_micros();
        self.figures.holds.add(u64::try_from(us).unwrap_or(u64::MAX));
    }

    /// The progress table follows what the store has committed.
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

/// Extents of a window, from `skip` on, that together have at most `budget` bytes of data; at least one.
fn fitting(window: &Window, skip: u64, budget: u64, size: ExtentSize) -> u64 {
    let rest = window.chunk.len() - skip;
    let from = skip * size.bytes();
    let data = |extents: u64| total(&clip(&window.staged.data, &(from..from + extents * size.bytes())));
    // Data only grows with the number of extents, so the border is found by halving.
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

impl Series for Mover {
    fn next(&mut self, prepare: &mut Prepare<'_>) -> Result<Option<NewChange>> {
        let idle = self.begun.is_empty();
        let now = Instant::now();
        let over = now >= *self.round_ends.get_or_insert(now + self.round);
        if self.trouble.is_some() || over || !self.wait().is_zero() {
            return Ok(None);
        }
        self.look_ahead(prepare.disks);
        if !self.fill_window(if idle { PATIENCE } else { Duration::ZERO })? {
            return Ok(None);
        }
        let Some(begun) = self.cut() else { return Ok(None) };
        let all = self.limits.hold_all || prepare.late_writes;
        let change = NewChange {
            title: self.title.clone(),
            job: Some(self.job),
            difference: begun.chunk.difference(prepare.from),
            spans: vec![begun.chunk.span(self.size)],
            mode: if all { HoldMode::All } else { HoldMode::Writes },
        };
        self.pay(begun.paid);
        self.begun.push_back(begun);
        Ok(Some(change))
    }

    fn work(&mut self) -> Result<(), String> {
        let Some(begun) = self.begun.front_mut() else {
            return Err("no chunk was begun".into());
        };
        if std::mem::replace(&mut begun.again, true) {
            begun.staged = Staged::default();
        }
        let start = Instant::now();
        match copy(&begun.route, &begun.staged, &mut self.scratch) {
            Ok(bytes) => {
                begun.copied = bytes;
                begun.copying = start.elapsed();
                Ok(())
            }
            Err(fault) => {
                let text = fault.to_string();
                self.trouble = Some(Trouble::Disk(begun.chunk, fault));
                Err(text)
            }
        }
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
                self.trouble
                    .get_or_insert_with(|| Trouble::GaveUp(reason.clone()));
            }
            Outcome::Unfinished { why, .. } => self.trouble = Some(Trouble::Unfinished(why.clone())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
