//! The chunks of a job as changes: which is next, whether it still lies where it was planned, what is copied before its hold and what under it, and how
//! far the job is afterwards. Whatever copies the bytes is a [`ChunkCopier`].
//!
//! ```text
//!  StepTable --chunk--> plan: still in place? --change--> [copy_ahead]  hold  copy_held  commit --> ended: the table advances
//!                         | no                                                    | a disk fails    | given up, unfinished
//!                         v                                                       v                 v
//!                      EarlyEnd::Overtaken                                  EarlyEnd::Disk     EarlyEnd::GaveUp, Unfinished
//! ```
//!
//! [`super::mover`] is the production copier's; the simulation in `tests/` moves chunks by the same code.

use super::steps::{Chunk, remaining, still_at};
use crate::controller::Prepare;
use crate::model::change::{HoldMode, NewChange};
use crate::model::error::{Error, Result};
use crate::model::job::{Progress, Step};
use crate::model::units::{DiskId, ExtentSize, JobId};
use crate::protocol::controller::{Outcome, Reason};
use crate::rpc::written::Written;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use std::ops::Range;

/// Why a pipeline ended early.
#[derive(Debug)]
pub enum EarlyEnd<F> {
    /// A disk failed.
    Disk(Chunk, F),
    /// A disk is not open in this process.
    NoDisk(DiskId),
    /// A range has another placement by now: it was moved in a gap.
    Overtaken,
    /// A change was given up.
    GaveUp(Reason),
    /// A change could not be brought to an end: only the store knows the state of the table.
    Unfinished(String),
}

/// Copies the bytes of chunks.
pub trait ChunkCopier {
    /// What the copier knows of one chunk.
    type Run;
    /// A failure of a disk.
    type Fault: Display;

    /// Copies all of a chunk; before its hold, `durably`. Returns how many bytes were copied.
    ///
    /// # Errors
    /// Fails when a disk does.
    fn copy(&mut self, run: &mut Self::Run, durably: bool) -> Result<u64, Self::Fault>;

    /// Copies these parts of a chunk durably, under its hold. Returns how many bytes were copied.
    ///
    /// # Errors
    /// Fails when a disk does.
    fn copy_parts(&mut self, run: &mut Self::Run, parts: &[Range<u64>]) -> Result<u64, Self::Fault>;
}

/// The steps of a job, and how far they are.
#[derive(Clone, Debug, Default)]
pub struct StepTable {
    steps: Vec<Step>,
    /// The first step that is not done.
    first: usize,
    /// The total of the steps, kept because adding up many of them takes long.
    progress: Progress,
    /// What has been taken: this many extents of this step, and all steps before it.
    taken: (usize, u64),
}

impl StepTable {
    /// Makes it of the steps as they are in the store.
    #[must_use]
    pub fn new(steps: Vec<Step>) -> Self {
        let mut table = Self {
            progress: Progress::of(&steps),
            steps,
            first: 0,
            taken: (0, 0),
        };
        table.skip_done();
        table.rewind();
        table
    }

    /// Returns the steps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns extents moved and extents in all.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Returns whether everything is moved.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.first >= self.steps.len()
    }

    /// Returns the disks that what is left is moved between.
    #[must_use]
    pub fn disks(&self) -> BTreeSet<DiskId> {
        let disks = |step: &Step| [step.from.placement.disk, step.to.disk];
        let rest = self.steps.iter().filter(|step| step.done < step.to.len);
        rest.flat_map(disks).collect()
    }

    /// Returns the next chunk that has not been taken, of at most `most` extents.
    pub fn next(&mut self, most: u64) -> Option<Chunk> {
        loop {
            let (index, skip) = self.taken;
            let step = self.steps.get(index)?;
            let whole = super::steps::whole(step);
            if let Some(chunk) = whole.part(skip, most) {
                return Some(chunk);
            }
            self.taken = (index + 1, self.steps.get(index + 1).map_or(0, |next| next.done));
        }
    }

    /// Takes so many extents of the step that [`StepTable::next`] returned a chunk of.
    pub fn take(&mut self, extents: u64) {
        self.taken.1 += extents;
    }

    /// Gives back the last extents that were taken.
    pub fn give_back(&mut self, extents: u64) {
        self.taken.1 = self.taken.1.saturating_sub(extents);
    }

    /// Gives back everything that was taken and is not moved.
    pub fn rewind(&mut self) {
        let done = self.steps.get(self.first).map_or(0, |step| step.done);
        self.taken = (self.first, done);
    }

    /// Records that a chunk has been moved. Returns false if it is not the next one.
    fn advance(&mut self, chunk: &Chunk) -> bool {
        let fits = |step: &&mut Step| remaining(step).is_some_and(|rest| rest.from.start == chunk.from.start);
        let Some(step) = self.steps.get_mut(self.first).filter(fits) else {
            return false;
        };
        step.done += chunk.len();
        self.progress.done += chunk.len();
        self.skip_done();
        true
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
}

/// A change under way, from planning to its end.
#[derive(Debug)]
pub struct Begun<R> {
    /// What it moves.
    pub chunk: Chunk,
    /// What the copier knows of that.
    pub run: R,
    /// Bytes copied before the hold.
    pub ahead: u64,
    /// Bytes copied in all.
    pub copied: u64,
}

/// The chunks of one job that are under way.
pub struct Chunks<C: ChunkCopier> {
    job: JobId,
    title: String,
    size: ExtentSize,
    /// How far the job is.
    pub table: StepTable,
    /// Others have held the controller lock since the steps were read: a chunk's placement is checked before it is moved.
    stale: bool,
    begun: VecDeque<Begun<C::Run>>,
    early_end: Option<EarlyEnd<C::Fault>>,
}

impl<C: ChunkCopier> Chunks<C> {
    /// Makes it with nothing under way.
    #[must_use]
    pub fn new(job: JobId, title: String, size: ExtentSize) -> Self {
        Self {
            job,
            title,
            size,
            table: StepTable::default(),
            stale: false,
            begun: VecDeque::new(),
            early_end: None,
        }
    }

    /// Replaces the table, or starts again from where it stands; nothing is under way any more.
    pub fn restart(&mut self, steps: Vec<Step>) {
        self.begun.clear();
        self.table = StepTable::new(steps);
        self.stale = false;
    }

    /// Drops what is under way.
    pub fn forget(&mut self) {
        self.begun.clear();
    }

    /// Records that others acted in a gap: from now on a chunk whose placement has changed is not moved.
    pub fn mark_stale(&mut self) {
        self.stale = true;
    }

    /// Returns whether no change is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.begun.is_empty()
    }

    /// Returns the changes under way, in their order.
    pub fn begun(&self) -> impl Iterator<Item = &Begun<C::Run>> {
        self.begun.iter()
    }

    /// Returns whether the pipeline has ended early.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.early_end.is_some()
    }

    /// Ends the pipeline early.
    pub fn end_early(&mut self, why: EarlyEnd<C::Fault>) {
        self.early_end = Some(why);
    }

    /// Returns why the pipeline ended early, if it did.
    pub fn take_early_end(&mut self) -> Option<EarlyEnd<C::Fault>> {
        self.early_end.take()
    }

    /// Begins the change of a chunk. Returns `None`, and ends the pipeline, if the chunk does not lie any more where it was planned.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn plan(
        &mut self,
        prepare: &mut Prepare<'_>,
        (chunk, run): (Chunk, C::Run),
        hold_all: bool,
    ) -> Result<Option<NewChange>> {
        if self.stale && !is_in_place(prepare, &chunk)? {
            self.early_end = Some(EarlyEnd::Overtaken);
            return Ok(None);
        }
        let all = hold_all || prepare.late_writes;
        let change = NewChange {
            title: self.title.clone(),
            job: Some(self.job),
            delta: chunk.delta(prepare.from),
            spans: vec![chunk.span(self.size)],
            mode: if all { HoldMode::All } else { HoldMode::Writes },
        };
        self.begun.push_back(Begun {
            chunk,
            run,
            ahead: 0,
            copied: 0,
        });
        Ok(Some(change))
    }

    /// Copies the chunk that is next before its hold, durably.
    ///
    /// # Errors
    /// Fails with the fault of a disk, which ends the pipeline.
    pub fn copy_ahead(&mut self, copier: &mut C) -> Result<(), String> {
        let begun = self.begun.front_mut().ok_or("no chunk was begun")?;
        match copier.copy(&mut begun.run, true) {
            Ok(bytes) => begun.ahead = bytes,
            Err(fault) => return Err(self.failed(fault)),
        }
        Ok(())
    }

    /// Copies, under the hold, what was written to the chunk since it was copied ahead; all of it, where it was not.
    ///
    /// # Errors
    /// Fails with the fault of a disk, which ends the pipeline.
    pub fn copy_held(&mut self, copier: &mut C, written: &Written) -> Result<(), String> {
        let begun = self.begun.front_mut().ok_or("no chunk was begun")?;
        let copied = match written.within(&begun.chunk.span(self.size)) {
            Some(parts) => copier.copy_parts(&mut begun.run, &parts),
            None => copier.copy(&mut begun.run, false),
        };
        match copied {
            Ok(bytes) => begun.copied = begun.ahead + bytes,
            Err(fault) => return Err(self.failed(fault)),
        }
        Ok(())
    }

    fn failed(&mut self, fault: C::Fault) -> String {
        let text = fault.to_string();
        let chunk = self.begun.front().map(|begun| begun.chunk);
        self.early_end = chunk.map(|chunk| EarlyEnd::Disk(chunk, fault));
        text
    }

    /// Ends the change that is first. Returns it if its chunk is moved.
    ///
    /// # Errors
    /// Fails when changes ended out of order.
    pub fn ended(&mut self, outcome: &Outcome) -> Result<Option<Begun<C::Run>>> {
        let Some(begun) = self.begun.pop_front() else {
            return Ok(None);
        };
        match outcome {
            Outcome::Finished { .. } if self.table.advance(&begun.chunk) => return Ok(Some(begun)),
            Outcome::Finished { .. } => {
                let job = format!("job {}", self.job);
                return Err(Error::failed(job, "its chunks ended out of order"));
            }
            Outcome::GaveUp { reason, .. } => {
                self.early_end
                    .get_or_insert_with(|| EarlyEnd::GaveUp(reason.clone()));
            }
            Outcome::Unfinished { why, .. } => self.early_end = Some(EarlyEnd::Unfinished(why.clone())),
        }
        Ok(None)
    }
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
