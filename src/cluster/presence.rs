//! Presence: which processes of a pool live, and which are known to have ended.

use crate::model::audit::Process;
use crate::model::error::Result;
use crate::model::member::{Member, Origin};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Living processes of a pool. "Known to have ended" is a promise that no thread of that process can write to a disk any more.
pub trait Presence: Send + Sync {
    /// Claims a name for this process. Returns `None` when a living process has it.
    ///
    /// # Errors
    /// Fails when the name cannot be claimed.
    fn claim(&self, name: &str) -> Result<Option<Arc<dyn NameClaim>>>;

    /// Returns whether a living process has this name, whatever the store contains. Changes nothing.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn is_claimed(&self, name: &str) -> Result<bool>;

    /// Waits for the end of the process that has this name, for at most `within`. Returns whether it has ended.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn await_end(&self, name: &str, within: Duration) -> Result<bool>;

    /// Returns a living process that has a name in this pool, if there is one, whatever the store contains.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn any_claimed(&self) -> Result<Option<Claimed>>;

    /// Returns whether the process of a member is known to have ended.
    ///
    /// # Errors
    /// Fails with `ErrorKind::Busy` when the process may live but is not visible from here, or when that cannot be determined.
    fn has_ended(&self, member: &Member) -> Result<bool>;

    /// Returns where this process runs, for its record in the store, or `None` when that cannot be determined, which is logged.
    fn origin(&self) -> Option<Origin>;

    /// Returns this process, for the audit log.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn this_process(&self) -> io::Result<Process>;

    /// Returns whether a process with the id `pid` lives, for messages, or `None` when it is not visible from here.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn process_lives(&self, process: Process, pid: u32) -> io::Result<Option<bool>>;
}

/// Claim of this process on a name, until it is dropped or the process has ended.
pub trait NameClaim: Send + Sync {
    /// Restores deleted parts of the claim, so that other processes find it. Returns whether any was deleted.
    ///
    /// # Errors
    /// Fails when they cannot be restored.
    fn restore(&self) -> Result<bool>;
}

/// Living process that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Its name.
    Named(String),
    /// There is one, but its name cannot be determined.
    Nameless,
}
