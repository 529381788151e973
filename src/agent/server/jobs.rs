//! Threads that act as a controller inside this apparatus: background jobs, and finishing the change of a dead controller.

use super::Limits;
use super::job_records::{JobRecords, LeftJobs};
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
    /// Whether jobs that stop stay as they are, for the next process.
    hands_over: Arc<AtomicBool>,
    stopping_since: Option<Instant>,
    /// Jobs that run, for the next process of this apparatus.
    records: Arc<Mutex<Option<Box<dyn JobRecords>>>>,
    /// Jobs that are paused as long as this is `Some`.
    paused: Option<Vec<JobId>>,
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
            hands_over: Arc::default(),
            stopping_since: None,
            records: Arc::default(),
            paused: None,
        }
    }

    /// Goes on with the jobs that an earlier process of this apparatus has left, and records all from now on.
    pub(super) fn go_on(&mut self, left: LeftJobs) {
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = Some(left.records);
        self.begin_all(left.jobs);
    }

    fn begin_all(&mut self, jobs: Vec<JobId>) {
        for job in jobs {
            match self.begin(job) {
                Ok(()) => log::info!("goes on with job {job}"),
                Err(why) => log::error!("cannot go on with job {job}: {why}; vctl job resume {job}"),
            }
        }
    }

    /// Pauses all jobs, or has them go on. Returns whether none runs.
    pub(super) fn pause(&mut self, is_on: bool) -> bool {
        if is_on {
            let running = self.running();
            let is_idle = running.is_empty();
            self.paused.get_or_insert(running);
            self.hands_over.store(true, Ordering::Release);
            self.stop.store(true, Ordering::Release);
            return is_idle;
        }
        if let Some(paused) = self.paused.take() {
            // Threads that have not seen the flag go on, and the others begin anew.
            self.stop.store(false, Ordering::Release);
            self.hands_over.store(false, Ordering::Release);
            self.begin_all(paused);
        }
        false
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
        if self.jobs.len() >= self.limits.jobs || self.stopping_since.is_some() || self.paused.is_some() {
            return Err(Refusal::TooMany);
        }
        let (pool, stop) = (self.pool.clone(), Arc::clone(&self.stop));
        let hands_over = Arc::clone(&self.hands_over);
        let rerun = Arc::<Rerun>::default();
        let of_thread = Arc::clone(&rerun);
        let records = Arc::clone(&self.records);
        record(&records, |records| records.began(job));
        let by = format!("apparatus {}", self.me);
        let work = move || loop {
            let operation = Operation::begin_in(&pool, &by, ["job".into(), job.to_string()]);
            let worked = work_on(&pool, job, UntilStopped::new(&stop, &hands_over));
            match &worked {
                Ok(()) => operation.end(0, ""),
                Err(why) => operation.end(1, &why.to_string()),
            }
            if let Err(why) = worked {
                log::error!("job {job}: {why}");
            }
            let was_stopped = stop.load(Ordering::Acquire);
            if of_thread.may_leave() {
                if !was_stopped {
                    record(&records, |records| records.ended(job));
                }
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

/// Changes the records of jobs, if there are any.
fn record(records: &Mutex<Option<Box<dyn JobRecords>>>, change: impl FnOnce(&mut dyn JobRecords)) {
    if let Some(records) = &mut *records.lock().unwrap_or_else(PoisonError::into_inner) {
        change(&mut **records);
    }
}

fn work_on(pool: &PoolHandle, job: JobId, mut observer: UntilStopped) -> Result<()> {
    let lock = jobs::take_on(&*pool.cluster, job, jobs::RELEASE_TIMEOUT)?;
    let mut controller = loop {
        let purpose = format!("job {job}");
        match Controller::acquire_in(pool, Role::Job, &purpose, Wait::For(Some(CHECK))) {
            Err(why) if why.kind() == ErrorKind::Busy && !observer.stop.load(Ordering::Acquire) => {}
            other => break other?,
        }
    };
    jobs::run_taken(&mut controller, lock, &mut observer).map(|_| ())
}

/// Lets a job run until the apparatus leaves.
struct UntilStopped {
    stop: Arc<AtomicBool>,
    hands_over: Arc<AtomicBool>,
}

impl UntilStopped {
    fn new(stop: &Arc<AtomicBool>, hands_over: &Arc<AtomicBool>) -> Self {
        let (stop, hands_over) = (Arc::clone(stop), Arc::clone(hands_over));
        Self { stop, hands_over }
    }
}

impl Observer for UntilStopped {
    fn progress(&mut self, _job: &JobRecord, _done: u64, _total: u64) -> bool {
        !self.stop.load(Ordering::Acquire)
    }

    fn hands_over(&self) -> bool {
        self.hands_over.load(Ordering::Acquire)
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
