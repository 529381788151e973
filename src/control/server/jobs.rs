//! Threads that act as a controller inside this apparatus: background jobs, and finishing what a dead controller left.

use super::Limits;
use crate::change::driver::{Controller, Wait};
use crate::change::jobs::{self, Observer};
use crate::error::Result;
use crate::ops::history::Deed;
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::JobRecord;
use crate::units::JobId;
use crate::wire::message::Refusal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a job waits for the arbitration: whoever asked for it still has it for a moment.
const ARBITRATION: Duration = Duration::from_secs(10);

/// The threads.
pub(super) struct Jobs {
    limits: Limits,
    jobs: Vec<Job>,
    taking_over: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    stopping_since: Option<Instant>,
}

/// A job and the thread that works on it.
struct Job {
    id: JobId,
    turn: Arc<Turn>,
    thread: JoinHandle<()>,
}

/// Whether a thread has to look at its job once more: one that was paused and is about to leave it must not miss that it is to go on.
#[derive(Default)]
struct Turn(Mutex<Asked>);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Asked {
    /// Nothing since the thread last began with it.
    #[default]
    No,
    /// For it.
    Again,
    /// The thread has left it: the next needs another.
    Over,
}

impl Turn {
    /// Asks the thread to look once more; false when it has left.
    fn ask(&self) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *asked == Asked::Over {
            return false;
        }
        *asked = Asked::Again;
        true
    }

    /// The thread has done what it could. Whether it may leave.
    fn may_leave(&self) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let again = *asked == Asked::Again;
        *asked = if again { Asked::No } else { Asked::Over };
        !again
    }
}

impl Jobs {
    pub(super) fn new(limits: Limits) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Self {
            limits,
            jobs: Vec::new(),
            taking_over: None,
            stop,
            stopping_since: None,
        }
    }

    /// Those that are worked on.
    pub(super) fn running(&self) -> Vec<JobId> {
        self.jobs
            .iter()
            .filter(|job| !job.thread.is_finished())
            .map(|job| job.id)
            .collect()
    }

    /// Begins to work on a job; no harm when it is worked on already.
    pub(super) fn begin(&mut self, pool: &PoolDir, me: &Name, job: JobId) -> Result<(), Refusal> {
        self.jobs.retain(|job| !job.thread.is_finished());
        if self
            .jobs
            .iter()
            .any(|running| running.id == job && running.turn.ask())
        {
            return Ok(());
        }
        if self.jobs.len() >= self.limits.jobs || self.stopping_since.is_some() {
            return Err(Refusal::TooMany);
        }
        let (pool, stop, turn) = (pool.clone(), Arc::clone(&self.stop), Arc::<Turn>::default());
        let seen = Arc::clone(&turn);
        let by = format!("apparatus {me}");
        let work = move || loop {
            let deed = Deed::begin(&pool, &by, ["job".into(), job.to_string()]);
            let worked = work_on(&pool, job, Arc::clone(&stop));
            match &worked {
                Ok(()) => deed.end(0, ""),
                Err(why) => deed.end(1, &why.to_string()),
            }
            if let Err(why) = worked {
                log::error!("job {job}: {why}");
            }
            if seen.may_leave() {
                return;
            }
        };
        let thread = std::thread::Builder::new().name(format!("job-{job}")).spawn(work);
        let thread = thread.map_err(|why| Refusal::Failed(why.to_string()))?;
        self.jobs.push(Job {
            id: job,
            turn,
            thread,
        });
        Ok(())
    }

    /// Takes the arbitration, if it is free, and finishes what the last controller left.
    pub(super) fn take_over(&mut self, pool: &PoolDir) {
        if self
            .taking_over
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return;
        }
        let pool = pool.clone();
        let work = move || match Controller::acquire(&pool, "finishing a change", Wait::No) {
            Ok(controller) => controller.recovered().iter().for_each(|did| log::warn!("{did}")),
            Err(why) => log::info!("the last change is left to another controller: {why}"),
        };
        self.taking_over = std::thread::Builder::new()
            .name("take-over".into())
            .spawn(work)
            .ok();
    }

    /// Tells them to stop at the end of a chunk. Answers whether they have, or have had their time.
    pub(super) fn stop(&mut self) -> bool {
        self.stop.store(true, Ordering::Release);
        let since = *self.stopping_since.get_or_insert_with(Instant::now);
        self.running().is_empty() || since.elapsed() >= self.limits.leaving
    }
}

fn work_on(pool: &PoolDir, job: JobId, stop: Arc<AtomicBool>) -> Result<()> {
    let wait = Wait::For(Some(ARBITRATION));
    let mut controller = Controller::acquire(pool, &format!("job {job}"), wait)?;
    jobs::run(&mut controller, job, &mut UntilStopped(stop)).map(|_| ())
}

/// Lets a job go on until the apparatus leaves.
struct UntilStopped(Arc<AtomicBool>);

impl Observer for UntilStopped {
    fn progress(&mut self, _job: &JobRecord, _done: u64, _total: u64) -> bool {
        !self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_asked_for_while_its_thread_leaves_is_looked_at_once_more() {
        let turn = Turn::default();
        assert!(turn.ask());
        assert!(turn.ask());
        assert!(!turn.may_leave());
        assert!(turn.may_leave());
        assert!(!turn.ask());
    }
}
