//! Runs disk operations that may hang on helper threads, and bounds how long their caller waits.
//!
//! A system call on a disk that does not answer cannot be taken back: its thread waits for as long as the disk does, and often not even the end of the
//! process ends it. So every opening of a disk, and whatever else may hang on one while somebody waits who can do without it, goes through here. There
//! is at most one operation under way for each path, so a disk that hangs keeps one thread. The age of that operation counts
//! against the patience of everybody who asks for another: after the first has lost patience, the next ones are answered at once.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The operations under way, by path, and since when.
static UNDER_WAY: Mutex<BTreeMap<PathBuf, Instant>> = Mutex::new(BTreeMap::new());
static ENDED: Condvar = Condvar::new();

type Job = Box<dyn FnOnce() + Send>;

/// Hands a job to a helper thread that is idle; nothing is queued.
static IDLE: LazyLock<(Sender<Job>, Receiver<Job>)> = LazyLock::new(|| bounded(0));
/// How long an idle helper thread waits for its next job.
const KEPT: Duration = Duration::from_secs(5);

/// The right to run the one operation on a path.
struct Turn(PathBuf);

impl Turn {
    /// Takes it if there is none under way.
    fn take(path: &Path) -> Option<Self> {
        Self::insert(&mut under_way(), path)
    }

    /// Waits for the end of the one under way. `patience` is counted from when that began.
    fn wait(path: &Path, until: Instant, patience: Duration) -> Option<Self> {
        let mut ways = under_way();
        while let Some(since) = ways.get(path) {
            let left = until
                .min(*since + patience)
                .saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            (ways, _) = ENDED
                .wait_timeout(ways, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Self::insert(&mut ways, path)
    }

    fn insert(ways: &mut BTreeMap<PathBuf, Instant>, path: &Path) -> Option<Self> {
        if ways.contains_key(path) {
            return None;
        }
        ways.insert(path.to_owned(), Instant::now());
        Some(Self(path.to_owned()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        under_way().remove(&self.0);
        ENDED.notify_all();
    }
}

fn under_way() -> MutexGuard<'static, BTreeMap<PathBuf, Instant>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For how long an operation on this path has been under way, if one is.
pub(super) fn waiting_for(path: &Path) -> Option<Duration> {
    under_way().get(path).map(Instant::elapsed)
}

/// An operation that has been asked for.
pub(super) struct Asked<T> {
    path: PathBuf,
    state: State<T>,
}

/// What is kept until an operation has ended.
type Keep = Arc<Mutex<Kept>>;

#[derive(Default)]
struct Kept {
    ended: bool,
    what: Vec<Box<dyn Send>>,
}

enum State<T> {
    /// Another operation on the path comes first.
    Queued(Box<dyn FnOnce() -> T + Send>),
    Begun(Receiver<T>, Keep),
    /// The answer has been given, or there will be none.
    Over,
}

/// Asks for an operation without waiting for it.
pub(super) fn begin<T: Send + 'static>(
    path: &Path,
    operation: impl FnOnce() -> T + Send + 'static,
) -> Asked<T> {
    let mut asked = Asked {
        path: path.to_owned(),
        state: State::Queued(Box::new(operation)),
    };
    if let Some(turn) = Turn::take(path) {
        asked.run(turn);
    }
    asked
}

impl<T: Send + 'static> Asked<T> {
    fn run(&mut self, turn: Turn) {
        let State::Queued(operation) = std::mem::replace(&mut self.state, State::Over) else {
            return;
        };
        let (tell, told) = bounded(1);
        let kept = Keep::default();
        let keeps = Arc::clone(&kept);
        let job = move || {
            let answer = operation();
            let mut kept = keeps.lock().unwrap_or_else(PoisonError::into_inner);
            kept.ended = true;
            kept.what.clear();
            drop(kept);
            drop(turn);
            // Nobody may wait for it any more.
            let _ = tell.send(answer);
        };
        match run(Box::new(job)) {
            Ok(()) => self.state = State::Begun(told, kept),
            Err(why) => log::error!("{}: {why}", self.path.display()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The answer, if it comes in time. It can be asked for again when it did not.
    ///
    /// # Errors
    /// `TimedOut` when the operation, or an earlier one on this path, takes longer than `patience` and until `until`.
    pub(super) fn answer(&mut self, until: Instant, patience: Duration) -> io::Result<T> {
        if matches!(self.state, State::Queued(_))
            && let Some(turn) = Turn::wait(&self.path, until, patience)
        {
            self.run(turn);
        }
        let State::Begun(told, _) = &self.state else {
            return Err(no_answer());
        };
        let answer = told.recv_deadline(until).map_err(|_| no_answer())?;
        self.state = State::Over;
        Ok(answer)
    }

    /// Has something kept until the operation has ended; dropped at once when it has, or was never begun.
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
/// `TimedOut` when the answer takes longer than `patience`, the time that an earlier operation on this path has taken included.
pub(crate) fn ask<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    operation: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    begin(path, operation).answer(Instant::now() + patience, patience)
}

/// Runs a job on a helper thread.
fn run(job: Job) -> io::Result<()> {
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

/// Runs a job on a helper thread that nobody waits for, whatever else is under way on the same disk.
pub(super) fn detach(job: impl FnOnce() + Send + 'static) {
    if let Err(why) = run(Box::new(job)) {
        log::error!("a helper thread for a disk: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_question_without_an_answer_is_not_asked_again_until_there_is_one() {
        let (path, other) = (Path::new("/hangs"), Path::new("/answers"));
        let (answer, answers) = bounded(1);
        let asked = ask(path, SHORT, move || answers.recv());
        assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let again = ask(path, SHORT, || -> () { panic!("asked again") });
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(waiting_for(path).is_some() && waiting_for(other).is_none());
        assert_eq!(ask(other, LONG, || 7).unwrap(), 7);
        answer.send(()).unwrap();
        assert_eq!(ask(path, LONG, || 8).unwrap(), 8);
    }

    #[test]
    fn those_who_ask_about_the_same_at_once_are_all_answered() {
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
    fn many_that_hang_are_waited_for_together_and_may_be_waited_for_again() {
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
        // Each of them is under way: none waited for another.
        assert!((0..8).all(|n| waiting_for(&path(n)).is_some()));
        drop(answer);
        assert!(
            asked
                .iter_mut()
                .all(|each| each.answer(Instant::now() + LONG, LONG).unwrap())
        );
    }
}
