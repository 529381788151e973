//! Leadership: one controller of a pool acts at a time, and a job yields the leadership in its gaps.

use crate::model::error::Result;
use std::time::Duration;

/// Limit of a wait for the leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitLimit {
    /// Do not wait.
    No,
    /// Wait until a job yields the leadership; do not wait for a command.
    ForJobs,
    /// Wait for at most this time, for any holder (`None`: without a limit).
    For(Option<Duration>),
}

impl WaitLimit {
    /// Returns the limit of a wait for any holder of at most `within` (`None`: without a limit).
    #[must_use]
    pub fn of(within: Option<Duration>) -> Self {
        match within {
            Some(Duration::ZERO) => Self::No,
            within => Self::For(within),
        }
    }
}

/// Role of a leader, or of a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A command, which holds the leadership until it is done.
    Command,
    /// A job, which yields the leadership in its gaps.
    Job,
}

/// Leadership of a pool, or a request for it. Dropping it releases the leadership.
///
/// It prevents controllers from working at the same time; the *term*, which the store checks, is what makes their writes safe. So a controller that acquires
/// the leadership raises the term in the store (`raise_term`) before it changes anything, and after each gap in which another one has raised it.
pub trait Leadership: Send {
    /// Acquires the leadership, unless it is held already. Returns false when others hold it for longer than `wait` allows; the place in the queue stays for
    /// the next attempt.
    ///
    /// # Errors
    /// Fails when the leadership cannot be requested.
    fn acquire(&mut self, wait: WaitLimit) -> Result<bool>;

    /// Returns whether it is held.
    fn is_held(&self) -> bool;

    /// Returns whether a process in this role waits for it that has not been overtaken a moment ago.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn is_wanted_by(&self, role: Role) -> Result<bool>;

    /// Turns it into the leadership of a job, which yields it in its gaps, so that commands wait for that.
    ///
    /// # Errors
    /// Fails when the role cannot be published.
    fn yield_in_gaps(&mut self) -> Result<()>;

    /// Releases it.
    fn release(&mut self);

    /// Publishes a new purpose.
    ///
    /// # Errors
    /// Fails when the purpose cannot be published.
    fn set_purpose(&mut self, purpose: &str) -> Result<()>;
}
