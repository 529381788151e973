//! What a controller's process does with the production driver: it takes the controller lock, moves chunks of jobs as pipelines, runs other
//! changes, persists, frees, yields the lock in gaps, and ends.

use super::driver::Goal;
use super::fault::Fault;
use super::moving::{self, Moves, create_job, move_chunks, turn_back};
use super::seams::pool;
use super::thread::{me, pause, world};
use super::work::{Done, Ended, Next, Proposal};
use super::{Delay, World};
use apparatus::cluster::Role;
use apparatus::controller::{Controller, GapOutcome, Wait};
use apparatus::model::change::NewChange;
use apparatus::model::error::{Error, ErrorKind, Result};
use std::time::Duration;

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
    let mut moves = Moves::new();
    loop {
        let next = world(World::next_work);
        match next {
            Some(Next::Chunks(job)) => move_chunks(controller, job, &mut moves)?,
            Some(Next::Move(request)) if create_job(controller, &request)? => {}
            Some(Next::Change(proposal)) => change(controller, proposal)?,
            Some(Next::PlanBack(job)) => {
                settle(controller)?;
                moves.remove(&job);
                turn_back(controller, job)?;
            }
            Some(Next::Move(_) | Next::Nothing) | None => return settle(controller),
        }
        if world(|world| world.rng.permille(350)) == Some(true) {
            settle(controller)?;
        }
        let waited_for = controller.has_waiters()?;
        if world(|world| world.begins_gap(waited_for)) == Some(true) {
            gap(controller, &mut moves)?;
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
fn gap(controller: &mut Controller, moves: &mut Moves) -> Result<()> {
    let (us, persists) = world(|world| {
        world.count("gaps of jobs");
        (world.rng.between(0, 3_000), world.rng.permille(300))
    })
    .unwrap_or_default();
    if !persists {
        controller.yield_lock();
        pause(Delay::Exactly(us));
        return lead_again(controller, moves);
    }
    let persisting = controller.begin_persisting()?;
    controller.yield_lock();
    controller.flush_and_record(&persisting)?;
    world(|world| world.count("persisted in a gap"));
    lead_again(controller, moves)?;
    controller.end_persisting(&persisting)?;
    controller.free()
}

fn lead_again(controller: &mut Controller, moves: &mut Moves) -> Result<()> {
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
                return moving::others_acted(controller, moves);
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
            moving::carry_out(&mut copies.clone());
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
