//! Operations on disks that run on helper threads, with a bound on how long their callers wait.

use super::Disk;
use super::with_timeout::{self, PendingOperation};
use crate::model::error::{Error, ErrorKind, Result};
use crate::sys;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Whether the process ends after its work is done, so that no thread of its own may block on a disk.
static ENDS_SOON: AtomicBool = AtomicBool::new(false);

/// Makes a child process check each disk before this process opens it. For a program that ends when its work is done: it cannot end while a thread
/// of its own waits for a disk.
pub fn ask_disks_in_children() {
    ENDS_SOON.store(true, Relaxed);
}

/// Probes a disk and ends this process, if its arguments ask for that: it is the child of a process that asks a disk. A program calls this before anything
/// else; in one that does not, [`ask_first`] asks nothing.
pub fn probe_if_asked(arguments: &[OsString]) {
    sys::child::probe_if_asked(arguments);
}

/// Waits until the disk answers a child process, if [`ask_disks_in_children`] was called: that wait does not keep this process from ending.
pub fn ask_first(path: &Path) {
    if ENDS_SOON.load(Relaxed)
        && let Err(why) = sys::child::ask(path)
    {
        log::debug!("{}: the check in a child process failed: {why}", path.display());
    }
}

/// Operation on a disk that runs on a helper thread. It can be waited for several times.
pub struct Pending<T> {
    what: String,
    asked: PendingOperation<Result<T>>,
}

/// Opening of a disk that runs on a helper thread.
pub type Opening = Pending<Disk>;

impl<T: Send + 'static> Pending<T> {
    /// Starts an operation on the disk at this path, after [`ask_first`]. `what` names the disk in errors.
    pub fn begin_asking(
        what: String,
        path: &Path,
        operation: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Self {
        let asked = path.to_owned();
        Self::begin(what, path, move || {
            ask_first(&asked);
            operation()
        })
    }

    /// Starts an operation on the disk at this path. `what` names the disk in errors.
    pub fn begin(what: String, path: &Path, operation: impl FnOnce() -> Result<T> + Send + 'static) -> Self {
        Self {
            what,
            asked: with_timeout::begin(path, operation),
        }
    }

    /// Makes an operation on the disk at this path that has ended with this result.
    pub fn ended(what: String, path: &Path, result: Result<T>) -> Self {
        Self {
            what,
            asked: with_timeout::ended(path, result),
        }
    }

    /// Returns the path of the disk.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.asked.path()
    }

    /// Waits for the result until `until`. After a timeout it can be waited for again.
    ///
    /// # Errors
    /// Fails with the operation's error, or with `TimedOut` when there is no result by `until`, or an earlier operation on the path has taken longer
    /// than `patience`.
    pub fn wait(&mut self, until: Instant, patience: Duration) -> Result<T> {
        let answer = self.asked.answer(until, patience);
        answer.unwrap_or_else(|why| Err(unanswered(&self.what, &why)))
    }

    /// Keeps a value alive until the operation has ended, even if no thread waits for it any more.
    pub fn keep(&self, what: impl Send + 'static) {
        self.asked.keep(Box::new(what));
    }
}

/// Runs an operation on the disk at this path on a helper thread, and waits for it for at most `patience`.
///
/// # Errors
/// Fails with the operation's error, or with `TimedOut` when the disk does not answer.
pub fn within<T: Send + 'static>(
    patience: Duration,
    what: &str,
    path: &Path,
    operation: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    Pending::begin_asking(what.to_owned(), path, operation).wait(Instant::now() + patience, patience)
}

/// Returns how long an operation on the disk at this path has been running on a helper thread, if one is.
#[must_use]
pub fn waiting_for(path: &Path) -> Option<Duration> {
    with_timeout::waiting_for(path)
}

fn unanswered(what: &str, why: &io::Error) -> Error {
    Error::new(ErrorKind::TimedOut, what, why.to_string())
        .hint("check its connection, and the kernel's messages: dmesg --level err,warn")
}

/// Runs a job on a helper thread, without waiting for it.
pub fn on_helper_thread(job: impl FnOnce() + Send + 'static) {
    with_timeout::detach(job);
}

/// Closes a disk on a helper thread: closing a disk that hangs waits as well.
pub fn close_in_background(disk: Arc<Disk>) {
    on_helper_thread(move || drop(disk));
}
