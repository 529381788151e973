//! What survives of background jobs: records of those that run, and their pause while another process takes over.

use crate::model::units::JobId;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Records of the jobs that run, for the next process of this apparatus.
pub trait JobRecords: Send {
    /// Records that a job runs here.
    fn began(&mut self, job: JobId);
    /// Records that a job does not run here any more: it has ended, or was paused.
    fn ended(&mut self, job: JobId);
}

/// Jobs that an earlier process of this apparatus has left.
pub struct LeftJobs {
    /// The records of jobs.
    pub records: Box<dyn JobRecords>,
    /// The jobs that are to go on.
    pub jobs: Vec<JobId>,
}

/// Pause of all jobs, requested by one thread and carried out by the control thread.
#[derive(Default)]
pub(super) struct JobPause {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Jobs run.
    #[default]
    Off,
    /// Jobs are to stop.
    Wanted,
    /// No job runs.
    Idle,
}

impl JobPause {
    /// Requests the pause.
    pub(super) fn begin(&self) {
        self.set(State::Wanted);
    }

    /// Requests its end.
    pub(super) fn end(&self) {
        self.set(State::Off);
    }

    /// Waits until no job runs. Returns whether that is so.
    pub(super) fn await_idle(&self, within: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .idle
            .wait_timeout_while(state, within, |state| *state != State::Idle);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == State::Idle
    }

    /// Returns whether jobs are to pause.
    pub(super) fn is_on(&self) -> bool {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) != State::Off
    }

    /// Records that no job runs.
    pub(super) fn is_idle(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Wanted {
            *state = State::Idle;
            self.idle.notify_all();
        }
    }

    fn set(&self, to: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_reached_when_the_control_thread_says_so() {
        let pause = JobPause::default();
        pause.is_idle();
        assert!(!pause.is_on());
        pause.begin();
        assert!(pause.is_on() && !pause.await_idle(Duration::ZERO));
        pause.is_idle();
        assert!(pause.await_idle(Duration::ZERO) && pause.is_on());
        pause.end();
        assert!(!pause.is_on() && !pause.await_idle(Duration::ZERO));
    }
}
