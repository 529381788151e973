//! Operations on disks that run on helper threads, and how long their callers wait for them.

use super::Disk;
use super::aside::{self, Asked};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::sys;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Set by a program that ends soon.
static ENDS_SOON: AtomicBool = AtomicBool::new(false);

/// Has disks asked in a child process before they are opened here. For a program that is to end when it has done its work: it cannot, as long as a thread of its own
/// waits for a disk.
pub fn ask_disks_in_children() {
    ENDS_SOON.store(true, Relaxed);
}

/// Waits for as long as the disk does not answer, in a way that does not keep this process from ending, if that is wanted.
pub fn ask_first(path: &Path) {
    if ENDS_SOON.load(Relaxed)
        && let Err(why) = sys::child::ask(path)
    {
        log::debug!("{}: not asked in a child process: {why}", path.display());
    }
}

/// An operation on a disk that runs on a helper thread: begun, and waited for as often as somebody wants.
pub struct Pending<T> {
    what: String,
    asked: Asked<Result<T>>,
}

/// The opening of a disk.
pub type Opening = Pending<Disk>;

impl<T: Send + 'static> Pending<T> {
    /// Begins an operation on the disk at this path, which is asked first as for an opening. `what` names the disk in errors.
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

    /// Begins an operation on the disk at this path. `what` names the disk in errors.
    pub fn begin(what: String, path: &Path, operation: impl FnOnce() -> Result<T> + Send + 'static) -> Self {
        Self {
            what,
            asked: aside::begin(path, operation),
        }
    }

    /// Where the disk is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.asked.path()
    }

    /// What came of it, if the disk answers in time. After a time-out it can be waited for again.
    ///
    /// # Errors
    /// The operation's; `TimedOut` when the disk has not answered until then, or has not for longer than `patience`.
    pub fn wait(&mut self, until: Instant, patience: Duration) -> Result<T> {
        let answer = self.asked.answer(until, patience);
        answer.unwrap_or_else(|why| Err(unanswered(&self.what, &why)))
    }

    /// Has something kept until the operation has ended, whoever still waits for it.
    pub fn keep(&self, what: impl Send + 'static) {
        self.asked.keep(Box::new(what));
    }
}

/// Runs an operation on the disk at this path on a helper thread, and waits for it no longer than `patience`.
///
/// # Errors
/// The operation's, and `TimedOut` when the disk does not answer.
pub fn within<T: Send + 'static>(
    patience: Duration,
    what: &str,
    path: &Path,
    operation: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    Pending::begin_asking(what.to_owned(), path, operation).wait(Instant::now() + patience, patience)
}

/// For how long an operation on the disk at this path has been under way on a helper thread.
#[must_use]
pub fn waiting_for(path: &Path) -> Option<Duration> {
    aside::waiting_for(path)
}

fn unanswered(what: &str, why: &io::Error) -> Error {
    Error::new(ErrorKind::TimedOut, what, why.to_string())
        .hint("see whether it is connected, and what the kernel tells: dmesg --level err,warn")
}

/// Runs a job on a helper thread that nobody waits for.
pub fn on_helper_thread(job: impl FnOnce() + Send + 'static) {
    aside::detach(job);
}

/// Closes a disk on a helper thread: where it does not answer, closing waits as well.
pub fn close_aside(disk: Arc<Disk>) {
    on_helper_thread(move || drop(disk));
}
