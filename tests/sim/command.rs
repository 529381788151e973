//! What a controller's process does with the production driver: it takes the controller lock, moves chunks of jobs as pipelines, runs other
//! changes, persists, frees, yields the lock in gaps, and ends.

use super::copy::Copy;
use super::driver::Goal;
use super::fault::Fault;
use super::host::BLOCK;
use super::seams::pool;
use super::thread::{me, pause, world};
use super::work::{Done, Ended, Job, Next, Proposal};
use super::{Delay, World};
use apparatus::cluster::Role;
use apparatus::controller::{ChangePipeline, Controller, GapOutcome, Prepare, Wait};
use apparatus::model::change::NewChange;
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::units::JobId;
use apparatus::protocol::controller::Outcome;
use apparatus::rpc::written::Written;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// Chunks of a batch, at most.
const BATCH: u64 = 3;

/// The life of a controller's process.
pub fn run(goal: Goal) {
    let (role, wait) = match goal {
        Goal::Recover => (Role::Command, Wait::IfFree),
        Goal::Work => (Role::Job, Wait::For(None)),
    };
    let lived = Controller::acquire_in(&pool(), role, "simulation", wait).and_then(|mut controller| {
        note_recovery(&controller);
        match goal {
            Goal::Recover => Ok(()),
            Goal::Work => work(&mut controller),
        }
    });
    match lived {
        Ok(()) => {}
        Err(why)
            if matches!(
                why.kind(),
                ErrorKind::Busy | ErrorKind::TimedOut | ErrorKind::Stale
            ) =>
        {
            world(|world| {
                world.trace(|| format!("{:?} ends: {why}", me()));
                world.count("controllers that gave up");
            });
        }
        Err(why) => _ = world(|world| world.fail(format!("a driver fails: {why}"))),
    }
}

fn note_recovery(controller: &Controller) {
    world(|world| {
        for line in controller.recovered() {
            if line.contains("was left unfinished") {
                world.count("changes cancelled by the next controller");
            }
            if line.contains("did not follow") {
                world.count("fenced because they were behind");
            }
        }
        world.after_recovery();
    });
}

/// Works until nothing is left to do.
fn work(controller: &mut Controller) -> Result<()> {
    controller.yield_in_gaps()?;
    loop {
        let term = controller.term();
        let next = world(|world| world.next_work(term));
        match next {
            Some(Next::Chunks(job)) => move_chunks(controller, job)?,
            Some(Next::Change(proposal)) => change(controller, proposal)?,
            Some(Next::PlanBack(job)) => {
                settle(controller)?;
                world(|world| world.turn_back(term, job));
            }
            Some(Next::Nothing) | None => return settle(controller),
        }
        if world(|world| world.rng.permille(350)) == Some(true) {
            settle(controller)?;
        }
        let waited_for = controller.has_waiters()?;
        if world(|world| world.begins_gap(waited_for)) == Some(true) {
            gap(controller)?;
        }
    }
}

/// Persists what is committed, and frees what nobody uses any more.
fn settle(controller: &mut Controller) -> Result<()> {
    controller.persist()?;
    if world(|world| world.rng.permille(700)) == Some(true) {
        controller.free()
    } else {
        controller.free_now()
    }
}

/// Yields the lock, and takes it again. What is committed may be persisted meanwhile, as a job does it.
fn gap(controller: &mut Controller) -> Result<()> {
    let (us, persists) = world(|world| {
        world.count("gaps of jobs");
        (world.rng.between(0, 3_000), world.rng.permille(300))
    })
    .unwrap_or_default();
    if !persists {
        controller.yield_lock();
        pause(Delay::Exactly(us));
        return lead_again(controller);
    }
    let persisting = controller.begin_persisting()?;
    controller.yield_lock();
    controller.flush_and_record(&persisting)?;
    world(|world| world.count("persisted in a gap"));
    lead_again(controller)?;
    controller.end_persisting(&persisting)?;
    controller.free()
}

fn lead_again(controller: &mut Controller) -> Result<()> {
    loop {
        match controller.lead(Duration::from_millis(5))? {
            None => {}
            Some(GapOutcome::Unchanged) => {
                world(|world| world.count("gaps in which nobody acted"));
                return Ok(());
            }
            Some(GapOutcome::Changed) => {
                world(|world| world.count("gaps in which another controller acted"));
                note_recovery(controller);
                return Ok(());
            }
        }
    }
}

/// Runs one change alone.
fn change(controller: &mut Controller, proposal: Proposal) -> Result<()> {
    let Proposal {
        change,
        purpose,
        copies,
        ..
    } = proposal;
    let (whole, persist) =
        world(|world| (world.rng.permille(300), world.rng.permille(500))).unwrap_or_default();
    // New space is filled when the change has claimed it, and before anything is held.
    let mut filled = false;
    let mut fill = |_: &mut Controller, _: &NewChange| {
        if !std::mem::replace(&mut filled, true) {
            carry_out(&mut copies.clone());
        }
        Ok(())
    };
    let early = world(|world| world.wrong(Fault::ZeroUnclaimed)) == Some(true);
    if early {
        fill(controller, &change)?;
    }
    let done = if whole || !copies.is_empty() {
        controller.run_whole_claimed(change, &mut fill, &mut || Ok(()))
    } else {
        controller.run(change, persist, &mut || Ok(()))
    };
    match done {
        Ok(outcome) => {
            world(|world| {
                world.filled(&copies);
                world.ended(purpose, Ended::of(&outcome));
            });
            Ok(())
        }
        Err(why) if is_unfinished(&why) => {
            world(|world| {
                world.ended(
                    purpose,
                    Ended::Not(Done::Unfinished, "changes left to the next controller"),
                )
            });
            Err(Error::new(
                ErrorKind::Stale,
                "simulation",
                "is left to the next controller",
            ))
        }
        Err(why) if why.kind() == ErrorKind::Stale => Err(why),
        Err(why) => {
            world(|world| {
                world.trace(|| format!("{:?} gave up: {why}", me()));
                world.ended(purpose, Ended::Not(Done::GaveUp, "changes given up"));
            });
            Ok(())
        }
    }
}

/// Whether only the store knows what became of the change.
fn is_unfinished(why: &Error) -> bool {
    why.way_out().is_some_and(|hint| hint.contains("finishes"))
}

/// Moves a batch of chunks of a job.
fn move_chunks(controller: &mut Controller, job: JobId) -> Result<()> {
    let most = world(|world| world.rng.between(1, BATCH)).unwrap_or(1);
    let ahead = world(World::copies_ahead) == Some(true);
    let mut chunks = Chunks {
        job,
        most,
        ahead,
        copied: false,
        outstanding: VecDeque::new(),
        unfinished: false,
    };
    let ran = controller.run_pipeline(&mut chunks);
    if chunks.unfinished {
        return Err(Error::new(
            ErrorKind::Stale,
            "simulation",
            "is left to the next controller",
        ));
    }
    match ran {
        Err(why) if why.kind() == ErrorKind::TimedOut => {
            world(|world| world.count("pipelines that gave up"));
            Ok(())
        }
        ran => ran,
    }
}

/// Chunks of one job as a pipeline.
struct Chunks {
    job: JobId,
    most: u64,
    /// Whether chunks are copied before they are held.
    ahead: bool,
    /// Whether the chunk under way is copied.
    copied: bool,
    outstanding: VecDeque<Proposal>,
    unfinished: bool,
}

impl ChangePipeline for Chunks {
    fn next(&mut self, prepare: &mut Prepare<'_>) -> Result<Option<NewChange>> {
        if self.most == 0 {
            return Ok(None);
        }
        self.most -= 1;
        let ahead: u64 = self.outstanding.iter().map(|chunk| chunk.extents).sum();
        let chunk = world(|world| {
            if prepare.late_writes {
                world.count("changes with late writers about");
            }
            if ahead > 0 {
                world.count("pipelined");
            }
            world.chunk_ahead(self.job, ahead)
        });
        let Some(mut chunk) = chunk.flatten() else {
            self.most = 0;
            return Ok(None);
        };
        chunk.change.delta.from = prepare.from;
        let change = chunk.change.clone();
        self.outstanding.push_back(chunk);
        Ok(Some(change))
    }

    fn copies_ahead(&self) -> bool {
        self.ahead
    }

    fn copy_ahead(&mut self) -> Result<(), String> {
        let chunk = self.outstanding.front_mut().ok_or("no chunk is under way")?;
        copy_slowly(&mut chunk.copies);
        self.copied = true;
        Ok(())
    }

    fn work(&mut self, written: &Written) -> Result<(), String> {
        let chunk = self.outstanding.front_mut().ok_or("no chunk is under way")?;
        world(|world| world.apply_before_commit(me()));
        let passes = world(World::passes).unwrap_or(1);
        let ranges = chunk.change.spans.first().and_then(|span| written.within(span));
        let ranges = ranges.or_else(|| self.copied.then(|| std::iter::once(0..u64::MAX).collect()));
        (0..passes).for_each(|_| match &ranges {
            Some(ranges) => copy_again(&mut chunk.copies, ranges),
            None => carry_out(&mut chunk.copies),
        });
        Ok(())
    }

    fn ended(&mut self, outcome: &Outcome, _hold: Duration) -> Result<()> {
        self.outstanding.pop_front();
        self.copied = false;
        self.unfinished |= matches!(outcome, Outcome::Unfinished { .. });
        if !matches!(outcome, Outcome::Finished { .. }) {
            self.most = 0;
        }
        world(|world| world.ended(Job::Chunk, Ended::of(outcome)));
        Ok(())
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
fn carry_out(copies: &mut [Copy]) {
    for copy in copies.iter_mut() {
        pause(Delay::Step);
        world(|world| world.read_copy(copy));
    }
    for (index, copy) in copies.iter().enumerate() {
        pause(Delay::Step);
        world(|world| world.write_copy(*copy, index));
    }
}
