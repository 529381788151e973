//! Runs verbs: finds out what a verb would do, and does it, by the operations that the commands use.

mod plan;
mod preview;
mod send;

use super::verb::Verb;
use crate::output::{PoolPreview, Style};
use apparatus::admin;
use apparatus::controller::{Controller, Wait};
use apparatus::jobs::Observer;
use apparatus::model::dir::PoolDir;
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::job::JobRecord;
use apparatus::model::records::Delta;
use apparatus::store::{Store, TableStore};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest wait for the controller lock, whose holder may be about to release it.
const LEADERSHIP: Duration = Duration::from_secs(2);
/// The longest time that an apparatus may take to start, to end or to rejoin.
const LONG: Duration = Duration::from_secs(60);
/// The longest wait for the end of an apparatus that was killed.
const ENDING: Duration = Duration::from_secs(2);
/// The interval at which a wait checks whether the console ends.
const MOMENT: Duration = Duration::from_secs(1);
/// Number of lines that describe changes.
const CHANGES: usize = 1000;

/// Ends holds and jobs of this console on request, and reaps apparatuses that it started.
#[derive(Default)]
pub struct Background {
    leaving: AtomicBool,
    /// Closing it ends the hold that is in place.
    hold: Mutex<Option<UnixStream>>,
    started: Mutex<Vec<Child>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Background {
    /// Ends the hold.
    pub fn release(&self) {
        drop(lock(&self.hold).take());
    }

    /// Ends everything.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.release();
    }

    /// Reaps apparatuses that were started here and have ended.
    pub fn collect(&self) {
        lock(&self.started).retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    fn adopt(&self, child: Child) {
        lock(&self.started).push(child);
    }

    fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Returns a descriptor that becomes readable when the hold has to end.
    fn for_hold(&self) -> Result<OwnedFd> {
        let failed = |error| Error::because("hold", error);
        let (receiver, sender) = UnixStream::pair().map_err(failed)?;
        *lock(&self.hold) = Some(sender);
        if self.leaving() {
            self.release();
        }
        Ok(receiver.into())
    }
}

/// Observes a job that this process works on.
impl Observer for &Background {
    fn progress(&mut self, _: &JobRecord, _: u64, _: u64) -> bool {
        !self.leaving()
    }
}

/// Rephrases errors for the console, where an operator cannot type `--wait`.
fn in_words(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Busy => Error::new(ErrorKind::Busy, "busy", error.why())
            .hint("another command has the controller lock: wait for its end"),
        _ => error,
    }
}

/// Runs verbs on one pool.
pub struct Operator<'a> {
    /// The pool.
    pub pool: &'a PoolDir,
    /// Ends holds and jobs.
    pub background: &'a Background,
}

impl Operator<'_> {
    fn store(&self) -> Result<Box<dyn Store>> {
        admin::open(self.pool)
    }

    /// Opens a store for planning; fails if the change would be refused because the database is a copy.
    fn rehearsal(&self) -> Result<Box<dyn Store>> {
        drop(self.store()?);
        admin::open_to_rehearse(self.pool)
    }

    fn controller(&self, purpose: &str) -> Result<Controller> {
        let acquired = Controller::acquire(self.pool, purpose, Wait::For(Some(LEADERSHIP)));
        acquired.map_err(in_words)
    }

    /// Takes the controller lock to work on a job, which yields it in its gaps.
    fn controller_for_job(&self, purpose: &str) -> Result<Controller> {
        let acquired = Controller::acquire_for_job(self.pool, purpose, Wait::For(Some(LEADERSHIP)));
        acquired.map_err(in_words)
    }
}

/// Describes the effect of a delta, one line for each change.
fn changes(store: &mut dyn TableStore, delta: &Delta) -> Result<Vec<String>> {
    let mut lines = PoolPreview::of(store.snapshot()?, Style::default()).describe(delta);
    let more = lines.len().saturating_sub(CHANGES);
    if more > 0 {
        lines.truncate(CHANGES);
        lines.push(format!("and {more} more lines"));
    }
    Ok(lines)
}

/// Returns the error for a verb whose plan has changed since its preview.
fn stale(verb: &Verb) -> Error {
    let why = "the pool has changed since the preview, nothing was sent";
    Error::new(ErrorKind::Stale, verb.command(), why).hint("check the new preview")
}
