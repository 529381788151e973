//! Questions that a disk may never answer, asked in a thread of their own.

use crossbeam_channel::bounded;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What is asked about now.
static OPEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static CLOSED: Condvar = Condvar::new();

/// A question about a path. There is one at a time, so that one that is never answered costs no more than a thread.
struct Question(PathBuf);

impl Question {
    fn begin(path: &Path, until: Instant) -> Option<Self> {
        let left = until.saturating_duration_since(Instant::now());
        let (mut open, _) = CLOSED
            .wait_timeout_while(all_open(), left, |open| open.contains(path))
            .unwrap_or_else(PoisonError::into_inner);
        open.insert(path.to_owned()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        all_open().remove(&self.0);
        CLOSED.notify_all();
    }
}

fn all_open() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What asking comes to.
///
/// # Errors
/// `TimedOut` when the answer takes longer than `patience`, that to an earlier question about this path included. When a thread cannot be
/// started.
pub(crate) fn ask<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let no_answer = || io::Error::new(io::ErrorKind::TimedOut, "does not answer");
    let until = Instant::now() + patience;
    let question = Question::begin(path, until).ok_or_else(no_answer)?;
    let (tell, told) = bounded(1);
    let asking = move || {
        let answer = ask();
        drop(question);
        // Nobody may wait for it any more.
        let _ = tell.send(answer);
    };
    thread::Builder::new().name("aside".into()).spawn(asking)?;
    told.recv_deadline(until).map_err(|_| no_answer())
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
}
