//! Runs disk operations that may hang on helper threads, and bounds how long their caller waits.
//!
//! A system call on a hung disk cannot be cancelled: its thread waits for as long as the disk hangs, and often not even the end of the process ends
//! it. So every opening of a disk goes through here, and every other operation that may hang while its caller can do without the result. At most
//! one operation runs on each path, so a hung disk blocks one thread. The age of that operation counts against the patience of every other caller:
//! after the first has timed out, the next ones time out at once.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Start times of the running operations, by path.
static RUNNING: Mutex<BTreeMap<PathBuf, Instant>> = Mutex::new(BTreeMap::new());
static ENDED: Condvar = Condvar::new();

type Operation = Box<dyn FnOnce() + Send>;

/// Passes a job to an idle helper thread; the channel queues nothing.
static IDLE: LazyLock<(Sender<Operation>, Receiver<Operation>)> = LazyLock::new(|| bounded(0));
/// Time that an idle helper thread waits for its next job.
const KEPT: Duration = Duration::from_secs(5);

/// Permit to run the one operation on a path; dropping it releases it.
struct PathPermit(PathBuf);

impl PathPermit {
    /// Takes the permit if no operation is running.
    fn take(path: &Path) -> Option<Self> {
        Self::insert(&mut running(), path)
    }

    /// Waits for the end of the running operation, and takes the permit. `patience` counts from the start of that operation.
    fn wait(path: &Path, until: Instant, patience: Duration) -> Option<Self> {
        let mut running_since = running();
        while let Some(since) = running_since.get(path) {
            let left = until
                .min(*since + patience)
                .saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            (running_since, _) = ENDED
                .wait_timeout(running_since, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Self::insert(&mut running_since, path)
    }

    fn insert(running_since: &mut BTreeMap<PathBuf, Instant>, path: &Path) -> Option<Self> {
        if running_since.contains_key(path) {
            return None;
        }
        running_since.insert(path.to_owned(), Instant::now());
        Some(Self(path.to_owned()))
    }
}

impl Drop for PathPermit {
    fn drop(&mut self) {
        running().remove(&self.0);
        ENDED.notify_all();
    }
}

fn running() -> MutexGuard<'static, BTreeMap<PathBuf, Instant>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns how long an operation on this path has been running, if one is.
pub(super) fn waiting_for(path: &Path) -> Option<Duration> {
    running().get(path).map(Instant::elapsed)
}

/// Operation that has been queued or started.
pub(super) struct PendingOperation<T> {
    path: PathBuf,
    state: State<T>,
}

/// Values that are kept alive until an operation has ended.
type Keep = Arc<Mutex<Resources>>;

#[derive(Default)]
struct Resources {
    ended: bool,
    what: Vec<Box<dyn Send>>,
}

enum State<T> {
    /// The operation waits for another one on the path.
    Queued(Box<dyn FnOnce() -> T + Send>),
    Begun(Receiver<T>, Keep),
    /// The result has been taken, or there will be none.
    Over,
}

/// Starts or queues an operation, without waiting for it.
pub(super) fn begin<T: Send + 'static>(
    path: &Path,
    operation: impl FnOnce() -> T + Send + 'static,
) -> PendingOperation<T> {
    let mut asked = PendingOperation {
        path: path.to_owned(),
        state: State::Queued(Box::new(operation)),
    };
    if let Some(permit) = PathPermit::take(path) {
        asked.run(permit);
    }
    asked
}

/// Returns an operation on this path that has ended with this result.
pub(super) fn ended<T: Send + 'static>(path: &Path, result: T) -> PendingOperation<T> {
    let (sender, results) = bounded(1);
    // The channel has room for it.
    let _ = sender.send(result);
    PendingOperation {
        path: path.to_owned(),
        state: State::Begun(results, Keep::default()),
    }
}

impl<T: Send + 'static> PendingOperation<T> {
    fn run(&mut self, permit: PathPermit) {
        let State::Queued(operation) = std::mem::replace(&mut self.state, State::Over) else {
            return;
        };
        let (sender, result) = bounded(1);
        let kept = Keep::default();
        let keeps = Arc::clone(&kept);
        let job = move || {
            let answer = operation();
            let mut kept = keeps.lock().unwrap_or_else(PoisonError::into_inner);
            kept.ended = true;
            kept.what.clear();
            drop(kept);
            drop(permit);
            // The send fails if the caller no longer waits.
            let _ = sender.send(answer);
        };
        match run(Box::new(job)) {
            Ok(()) => self.state = State::Begun(result, kept),
            Err(why) => log::error!("{}: cannot start a helper thread: {why}", self.path.display()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the result until `until`. After a timeout it can be waited for again.
    ///
    /// # Errors
    /// Fails with `TimedOut` when there is no result by `until`, or an earlier operation on this path takes longer than `patience`.
    pub(super) fn answer(&mut self, until: Instant, patience: Duration) -> io::Result<T> {
        if matches!(self.state, State::Queued(_))
            && let Some(permit) = PathPermit::wait(&self.path, until, patience)
        {
            self.run(permit);
        }
        let State::Begun(result, _) = &self.state else {
            return Err(no_answer());
        };
        let answer = result.recv_deadline(until).map_err(|_| no_answer())?;
        self.state = State::Over;
        Ok(answer)
    }

    /// Keeps a value alive until the operation has ended. Drops it at once if the operation has ended or was never started.
    pub(super) fn keep(&self, what: Box<dyn Send>) {
        if let State::Begun(_, kept) = &self.state {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if !kept.ended {
                kept.what.push(what);
            }
        }
    }
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "does not answer")
}

/// Runs an operation and waits for it for at most `patience`.
///
/// # Errors
/// Fails with `TimedOut` when the result takes longer than `patience`, including the time of an earlier operation on this path.
pub(crate) fn ask<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    operation: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    begin(path, operation).answer(Instant::now() + patience, patience)
}

/// Runs a job on a helper thread.
fn run(job: Operation) -> io::Result<()> {
    let job = match IDLE.0.try_send(job) {
        Ok(()) => return Ok(()),
        Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
    };
    let work = move || {
        job();
        while let Ok(job) = IDLE.1.recv_timeout(KEPT) {
            job();
        }
    };
    thread::Builder::new()
        .name("disk-helper".into())
        .spawn(work)
        .map(drop)
}

/// Runs a job on a helper thread without waiting for it, whether or not another operation runs on the same disk.
pub(super) fn detach(job: impl FnOnce() + Send + 'static) {
    if let Err(why) = run(Box::new(job)) {
        log::error!("cannot start a helper thread for a disk: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn an_operation_that_hangs_is_not_started_again_until_it_has_ended() {
        let (path, other) = (Path::new("/hangs"), Path::new("/answers"));
        let (answer, answers) = bounded(1);
        let asked = ask(path, SHORT, move || answers.recv());
        assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let again = ask(path, SHORT, || -> () { panic!("started again") });
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(waiting_for(path).is_some() && waiting_for(other).is_none());
        assert_eq!(ask(other, LONG, || 7).unwrap(), 7);
        answer.send(()).unwrap();
        assert_eq!(ask(path, LONG, || 8).unwrap(), 8);
    }

    #[test]
    fn all_callers_of_operations_on_one_path_get_their_results() {
        thread::scope(|scope| {
            let asking =
                (0..8).map(|n| scope.spawn(move || ask(Path::new("/same"), LONG, move || n).unwrap()));
            let asking: Vec<_> = asking.collect();
            let mut answers: Vec<i32> = asking.into_iter().map(|asked| asked.join().unwrap()).collect();
            answers.sort_unstable();
            assert_eq!(answers, (0..8).collect::<Vec<_>>());
        });
    }

    #[test]
    fn operations_that_hang_share_a_timeout_and_may_be_waited_for_again() {
        let (answer, answers) = bounded::<()>(0);
        let path = |n: usize| PathBuf::from(format!("/hangs-{n}"));
        let hang = |n| {
            let answers = answers.clone();
            begin(&path(n), move || answers.recv().is_err())
        };
        let mut asked: Vec<_> = (0..8).map(hang).collect();
        let until = Instant::now() + SHORT;
        for each in &mut asked {
            assert_eq!(
                each.answer(until, SHORT).unwrap_err().kind(),
                io::ErrorKind::TimedOut
            );
        }
        // All of them are running: none waited for another.
        assert!((0..8).all(|n| waiting_for(&path(n)).is_some()));
        drop(answer);
        assert!(
            asked
                .iter_mut()
                .all(|each| each.answer(Instant::now() + LONG, LONG).unwrap())
        );
    }
}
