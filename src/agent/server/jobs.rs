//! Threads that act as a controller inside this apparatus: background jobs, and finishing the change of a dead controller.

use super::Limits;
use crate::cluster::Role;
use crate::controller::history::Operation;
use crate::controller::pool::PoolHandle;
use crate::controller::{Controller, Wait};
use crate::jobs::{self, Observer};
use crate::model::error::{ErrorKind, Result};
use crate::model::job::JobRecord;
use crate::model::names::Name;
use crate::model::units::JobId;
use crate::rpc::message::Refusal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Interval at which a job that waits for the controller lock checks whether it is to stop.
const CHECK: Duration = Duration::from_secs(1);

/// Threads that act as a controller.
pub(super) struct Jobs {
    pool: PoolHandle,
    me: Name,
    limits: Limits,
    jobs: Vec<RunningJob>,
    taking_over: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    stopping_since: Option<Instant>,
}

/// Job, and the thread that runs it.
struct RunningJob {
    id: JobId,
    rerun: Arc<Rerun>,
    thread: JoinHandle<()>,
}

/// Whether a thread has to run its job once more: a thread that is about to leave a paused job must not miss a request to resume it.
#[derive(Default)]
struct Rerun(Mutex<RerunState>);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum RerunState {
    /// No request has come since the thread last began with the job.
    #[default]
    No,
    /// A request has come.
    Again,
    /// The thread has left the job: the next request needs another thread.
    Over,
}

impl Rerun {
    /// Asks the thread to run the job once more. Returns false when it has left.
    fn ask(&self) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *asked == RerunState::Over {
            return false;
        }
        *asked = RerunState::Again;
        true
    }

    /// Returns whether the thread may leave, after it has run the job.
    fn may_leave(&self) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let again = *asked == RerunState::Again;
        *asked = if again { RerunState::No } else { RerunState::Over };
        !again
    }
}

impl Jobs {
    /// Makes it for the apparatus of this name, without a job.
    pub(super) fn new(pool: PoolHandle, me: Name, limits: Limits) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Self {
            pool,
            me,
            limits,
            jobs: Vec::new(),
            taking_over: None,
            stop,
            stopping_since: None,
        }
    }

    /// Returns the jobs that are running.
    pub(super) fn running(&self) -> Vec<JobId> {
        self.jobs
            .iter()
            .filter(|job| !job.thread.is_finished())
            .map(|job| job.id)
            .collect()
    }

    /// Starts running a job. Does nothing if it is running already.
    pub(super) fn begin(&mut self, job: JobId) -> Result<(), Refusal> {
        self.jobs.retain(|job| !job.thread.is_finished());
        if self
            .jobs
            .iter()
            .any(|running| running.id == job && running.rerun.ask())
        {
            return Ok(());
        }
        if self.jobs.len() >= self.limits.jobs || self.stopping_since.is_some() {
            return Err(Refusal::TooMany);
        }
        let (pool, stop) = (self.pool.clone(), Arc::clone(&self.stop));
        let rerun = Arc::<Rerun>::default();
        let of_thread = Arc::clone(&rerun);
        let by = format!("apparatus {}", self.me);
        let work = move || loop {
            let operation = Operation::begin_in(&pool, &by, ["job".into(), job.to_string()]);
            let worked = work_on(&pool, job, Arc::clone(&stop));
            match &worked {
                Ok(()) => operation.end(0, ""),
                Err(why) => operation.end(1, &why.to_string()),
            }
            if let Err(why) = worked {
                log::error!("job {job}: {why}");
            }
            if of_thread.may_leave() {
                return;
            }
        };
        let thread = std::thread::Builder::new().name(format!("job-{job}")).spawn(work);
        let thread = thread.map_err(|why| Refusal::Failed(why.to_string()))?;
        self.jobs.push(RunningJob {
            id: job,
            rerun,
            thread,
        });
        Ok(())
    }

    /// Takes the controller lock, if it is free, and finishes the change that the last controller left.
    pub(super) fn take_over(&mut self) {
        if self
            .taking_over
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return;
        }
        let pool = self.pool.clone();
        let work = move || match Controller::acquire_in(&pool, Role::Command, "finishing a change", Wait::No)
        {
            Ok(controller) => controller
                .recovered()
                .iter()
                .for_each(|action| log::warn!("{action}")),
            Err(why) => log::info!("another controller has to finish the last change: {why}"),
        };
        self.taking_over = std::thread::Builder::new()
            .name("take-over".into())
            .spawn(work)
            .ok();
    }

    /// Asks the jobs to stop at the end of a chunk. Returns whether they have stopped, or their time is over.
    pub(super) fn stop(&mut self) -> bool {
        self.stop.store(true, Ordering::Release);
        let since = *self.stopping_since.get_or_insert_with(Instant::now);
        self.running().is_empty() || since.elapsed() >= self.limits.leaving
    }
}

fn work_on(pool: &PoolHandle, job: JobId, stop: Arc<AtomicBool>) -> Result<()> {
    let lock = jobs::take_on(&*pool.cluster, job, jobs::RELEASE_TIMEOUT)?;
    let mut controller = loop {
        let purpose = format!("job {job}");
        match Controller::acquire_in(pool, Role::Job, &purpose, Wait::For(Some(CHECK))) {
            Err(why) if why.kind() == ErrorKind::Busy && !stop.load(Ordering::Acquire) => {}
            other => break other?,
        }
    };
    jobs::run_taken(&mut controller, lock, &mut UntilStopped(stop)).map(|_| ())
}

/// Lets a job run until the apparatus leaves.
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
    fn a_job_requested_while_its_thread_leaves_runs_once_more() {
        let rerun = Rerun::default();
        assert!(rerun.ask());
        assert!(rerun.ask());
        assert!(!rerun.may_leave());
        assert!(rerun.may_leave());
        assert!(!rerun.ask());
    }
}
