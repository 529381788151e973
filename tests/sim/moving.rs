//! Jobs of a driver: planned, cut into chunks and moved by production code (`src/jobs/`); the simulation copies the blocks.

use super::World;
use super::copy::{Copy, copies};
use super::fault::Fault;
use super::host::BLOCK;
use super::thread::{me, pause, world};
use super::work::{Ended, Job};
use super::{Delay, jobs};
use apparatus::controller::{ChangePipeline, Controller, Prepare};
use apparatus::jobs::chunks::{ChunkCopier, Chunks, EarlyEnd};
use apparatus::jobs::{Request, plan, plan_back, up_to_date};
use apparatus::model::alloc::Faults;
use apparatus::model::change::NewChange;
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::job::{JobState, Progress};
use apparatus::model::units::{ExtentSize, JobId};
use apparatus::protocol::controller::Outcome;
use apparatus::rpc::written::Written;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// Chunks of a batch, at most.
const BATCH: u64 = 3;

/// The jobs that a driver works on.
pub type Moves = BTreeMap<JobId, Move>;

/// A job that is moved.
pub struct Move {
    chunks: Chunks<Blocks>,
    /// Chunks that are still to be begun in this batch.
    most: u64,
    /// Whether chunks are copied before they are held.
    ahead: bool,
}

/// The blocks of a chunk.
struct Run {
    copies: Vec<Copy>,
    /// Whether they are copied.
    copied: bool,
}

/// Copies blocks, each access in its own time.
struct Blocks;

impl ChunkCopier for Blocks {
    type Run = Run;
    type Fault = String;

    fn copy(&mut self, run: &mut Run, durably: bool) -> Result<u64, String> {
        let bytes = run.copies.len() as u64 * BLOCK;
        if durably {
            copy_slowly(&mut run.copies);
            run.copied = true;
            return Ok(bytes);
        }
        let passes = world(World::passes).unwrap_or(1);
        (0..passes).for_each(|_| match run.copied {
            true => copy_again(
                &mut run.copies,
                &[Range {
                    start: 0,
                    end: u64::MAX,
                }],
            ),
            false => carry_out(&mut run.copies),
        });
        Ok(bytes)
    }

    fn copy_parts(&mut self, run: &mut Run, parts: &[Range<u64>]) -> Result<u64, String> {
        let passes = world(World::passes).unwrap_or(1);
        (0..passes).for_each(|_| copy_again(&mut run.copies, parts));
        Ok(0)
    }
}

/// Plans a job and records it. Returns false if there is nothing to move, or no room.
pub fn create_job(controller: &mut Controller, request: &Request) -> Result<bool> {
    let Request::Move { volume, .. } = *request else {
        return Ok(false);
    };
    let steps = match plan(controller.store(), request, &Faults::new()) {
        Ok(steps) if !steps.is_empty() => steps,
        _ => return Ok(false),
    };
    let term = controller.term();
    let created = controller.store().create_job(term, &jobs::record(volume), &steps);
    world(|world| {
        world.trace(|| format!("{created:?}: {steps:?}"));
        world.count("jobs");
    });
    created.map(|_| true)
}

/// Plans the way back of what a job has moved, now that it is persisted.
pub fn turn_back(controller: &mut Controller, job: JobId) -> Result<()> {
    let steps = controller.store().steps(job)?;
    let Ok(back) = plan_back(controller.store(), &steps, "job") else {
        world(|world| world.end_job_without_room(job));
        return Ok(());
    };
    let term = controller.term();
    controller.store().replace_steps(term, job, &back, true)
}

/// Others have acted in a gap: chunks are looked at before they are moved, and what is done otherwise by now is planned again.
pub fn others_acted(controller: &mut Controller, moves: &mut Moves) -> Result<()> {
    for job in moves.keys().copied().collect::<Vec<_>>() {
        let progress = controller.store().job(job)?.map(|record| record.progress);
        let overlooks = world(|world| world.wrong(Fault::OvertakenGoesOn)) == Some(true);
        match moves.get_mut(&job) {
            Some(one) if progress != Some(one.chunks.table.progress()) => _ = moves.remove(&job),
            Some(one) if !overlooks => one.chunks.mark_stale(),
            _ => {}
        }
    }
    Ok(())
}

/// Moves a batch of chunks of a job.
pub fn move_chunks(controller: &mut Controller, job: JobId, moves: &mut Moves) -> Result<()> {
    let steps = controller.store().steps(job)?;
    let known = moves.remove(&job);
    let known = known.filter(|one| one.chunks.table.steps() == steps);
    let Some(mut one) = known.map_or_else(|| planned(controller, job), |one| Ok(Some(one)))? else {
        return Ok(());
    };
    one.most = world(|world| world.rng.between(1, BATCH)).unwrap_or(1);
    one.ahead = world(World::copies_ahead) == Some(true);
    one.chunks.forget();
    one.chunks.table.rewind();
    let ran = controller.run_pipeline(&mut one);
    match one.chunks.take_early_end() {
        Some(EarlyEnd::Unfinished(_)) => {
            let why = "is left to the next controller";
            return Err(Error::new(ErrorKind::Stale, "simulation", why));
        }
        // It is planned again.
        Some(EarlyEnd::Overtaken) => _ = world(|world| world.count("jobs overtaken by another")),
        _ => _ = moves.insert(job, one),
    }
    match ran {
        Err(why) if why.kind() == ErrorKind::TimedOut => {
            world(|world| world.count("pipelines that gave up"));
            Ok(())
        }
        ran => ran,
    }
}

/// The job by its steps as they are now, without what others have moved.
fn planned(controller: &mut Controller, job: JobId) -> Result<Option<Move>> {
    let Some(record) = controller.store().job(job)? else {
        return Ok(None);
    };
    let Ok(steps) = up_to_date(controller, &record) else {
        world(|world| world.count("jobs whose destination is another's"));
        return Ok(None);
    };
    if Progress::of(&steps) != record.progress {
        world(|world| world.count("jobs planned again"));
    }
    if !matches!(record.state, JobState::Running | JobState::RollingBack) {
        return Ok(None);
    }
    let mut chunks = Chunks::new(job, "simulated".into(), ExtentSize::MIN);
    chunks.restart(steps);
    Ok(Some(Move {
        chunks,
        most: 0,
        ahead: false,
    }))
}

impl ChangePipeline for Move {
    fn next(&mut self, prepare: &mut Prepare<'_>) -> Result<Option<NewChange>> {
        if self.most == 0 || self.chunks.has_ended() {
            return Ok(None);
        }
        self.most -= 1;
        let pipelined = !self.chunks.is_idle();
        let (most, all) = world(|world| {
            if prepare.late_writes {
                world.count("changes with late writers about");
            }
            if pipelined {
                world.count("pipelined");
            }
            (world.rng.between(1, 2), world.rng.permille(100))
        })
        .unwrap_or((1, false));
        let Some(chunk) = self.chunks.table.next(most) else {
            return Ok(None);
        };
        self.chunks.table.take(chunk.to.len);
        let run = Run {
            copies: copies(chunk.from.placement, chunk.to),
            copied: false,
        };
        let mut change = self.chunks.plan(prepare, (chunk, run), all)?;
        if world(|world| world.wrong(Fault::CopyWithoutHold)) == Some(true) {
            change.iter_mut().for_each(|change| change.spans.clear());
        }
        Ok(change)
    }

    fn copies_ahead(&self) -> bool {
        self.ahead
    }

    fn copy_ahead(&mut self) -> Result<(), String> {
        self.chunks.copy_ahead(&mut Blocks)
    }

    fn work(&mut self, written: &Written) -> Result<(), String> {
        world(|world| world.apply_before_commit(me()));
        self.chunks.copy_held(&mut Blocks, written)
    }

    fn ended(&mut self, outcome: &Outcome, _hold: Duration) -> Result<()> {
        world(|world| world.ended(Job::Chunk, Ended::of(outcome)));
        self.chunks.ended(outcome).map(drop)
    }
}

/// Copies blocks while hosts write to them: any time may pass between two accesses. The copy is durable then.
fn copy_slowly(copies: &mut [Copy]) {
    world(|world| world.count("chunks copied ahead"));
    for (index, copy) in copies.iter_mut().enumerate() {
        pause(Delay::Disk);
        world(|world| world.read_copy(copy));
        pause(Delay::Disk);
        world(|world| world.write_copy(*copy, index));
    }
    let begun = world(|world| world.begin_flush_of(copies)).unwrap_or_default();
    pause(Delay::Disk);
    world(|world| {
        world.end_flush_of(begun);
        world.note_copied_ahead();
    });
}

/// Copies the blocks once more that hosts have written to since.
fn copy_again(copies: &mut [Copy], ranges: &[Range<u64>]) {
    for (index, copy) in copies.iter_mut().enumerate() {
        let at = index as u64 * BLOCK;
        if ranges
            .iter()
            .any(|range| range.start < at + BLOCK && at < range.end)
        {
            pause(Delay::Step);
            world(|world| world.read_copy(copy));
            pause(Delay::Step);
            world(|world| world.write_copy_again(*copy, index));
        }
    }
}

/// Copies and fills blocks, each access in its own time.
pub fn carry_out(copies: &mut [Copy]) {
    for copy in copies.iter_mut() {
        pause(Delay::Step);
        world(|world| world.read_copy(copy));
    }
    for (index, copy) in copies.iter().enumerate() {
        pause(Delay::Step);
        world(|world| world.write_copy(*copy, index));
    }
}
