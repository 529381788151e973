//! Locks that the kernel releases when their holder dies.
//!
//! They are locks of the open file description (`F_OFD_SETLK`): released when its last descriptor is closed, which for a dying process is
//! when its last thread has ended; and unlike `flock`, one can ask whether somebody has them without taking them.

use crate::error::{Error, Kind, Result};
use crate::sys;
use crate::units::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A holder's last close wakes those who wait, but a holder that is killed closes a moment before the lock goes: so they
/// also look this often.
const LOOK: Duration = Duration::from_millis(50);

/// Longest purpose that is written down, in bytes.
const LONGEST: usize = 200;

/// Makes the run directory, for its owner alone.
pub(super) fn make_run_dir(run: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run)
        .map_err(|why| Error::because(format!("run directory {}", run.display()), why))
}

/// A lock held on a whole file. Dropping it releases it.
pub(super) struct FileLock {
    file: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Before the close that wakes those who wait. If it fails, the close releases the lock.
        let _ = sys::unlock(self.file.as_fd());
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    move |why| Error::because(format!("lock {}", path.display()), why)
}

/// An attempt at a lock. Keeps the file open in between: to close it would wake those who wait, itself included.
struct Attempt<'a> {
    path: &'a Path,
    file: Option<File>,
}

impl<'a> Attempt<'a> {
    fn at(path: &'a Path) -> Self {
        Self { path, file: None }
    }

    /// Takes the lock if it is free.
    fn take(&mut self) -> io::Result<Option<FileLock>> {
        loop {
            let file = self.file.take().map_or_else(|| open(self.path), Ok)?;
            if !sys::try_lock(file.as_fd())? {
                self.file = Some(file);
                return Ok(None);
            }
            let (mine, lock) = (file.metadata()?, FileLock { file });
            // Whoever removed the file meanwhile made this lock worthless: others would lock its successor.
            let found = fs::metadata(self.path).map(|found| (found.dev(), found.ino()));
            if found.is_ok_and(|found| found == (mine.dev(), mine.ino())) {
                return Ok(Some(lock));
            }
        }
    }
}

/// Takes the lock, waiting at most so long (`None`: as long as it takes).
pub(super) fn take_within(path: &Path, within: Option<Duration>) -> Result<Option<FileLock>> {
    let mut attempt = Attempt::at(path);
    wait_for(path, within, || attempt.take()).map_err(failed(path))
}

fn locked(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => sys::locked_elsewhere(file.as_fd()),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why),
    }
}

/// Tries again whenever the file was closed by somebody who could write it, until there is an answer or the time is over.
fn wait_for<T>(
    path: &Path,
    within: Option<Duration>,
    mut attempt: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let deadline = within.and_then(|within| Instant::now().checked_add(within));
    if let Some(answer) = attempt()? {
        return Ok(Some(answer));
    }
    let closes = watch_closes(path)?;
    loop {
        // A close during the attempt is an event that waits, so none is missed.
        if let Some(answer) = attempt()? {
            return Ok(Some(answer));
        }
        let left = deadline.map_or(LOOK, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            return Ok(None);
        }
        await_event(&closes, left.min(LOOK))?;
    }
}

fn watch_closes(path: &Path) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    match inotify::add_watch(&watch, path, inotify::WatchFlags::CLOSE_WRITE) {
        // The next attempt makes the file, or finds the lock free.
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(watch),
        Err(why) => Err(why.into()),
    }
}

fn await_event(watch: &OwnedFd, within: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(within).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(why) => return Err(why.into()),
    }
    let mut events = [0; 1024];
    while matches!(rustix::io::read(watch, &mut events), Ok(read) if read > 0) {}
    Ok(())
}

/// Held by a process for as long as it lives, on `run/NAME.life`: released by the kernel when the last thread of the
/// process has ended, so that nothing of it can reach a disk any more.
pub struct LifeLock {
    _lock: FileLock,
}

impl LifeLock {
    /// Takes it, or `None` when a living process has it.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub fn take(run: &Path, name: &str) -> Result<Option<Self>> {
        make_run_dir(run)?;
        let path = life(run, name);
        let lock = Attempt::at(&path).take().map_err(failed(&path))?;
        Ok(lock.map(|lock| Self { _lock: lock }))
    }

    /// Whether a living process has it. Takes nothing, so it is in nobody's way.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn alive(run: &Path, name: &str) -> Result<bool> {
        let path = life(run, name);
        locked(&path).map_err(failed(&path))
    }

    /// Waits for the end of the process that has it, at most so long. Whether it has ended.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn await_end(run: &Path, name: &str, within: Duration) -> Result<bool> {
        let path = life(run, name);
        let ended = wait_for(&path, Some(within), || Ok((!locked(&path)?).then_some(())));
        Ok(ended.map_err(failed(&path))?.is_some())
    }
}

fn life(run: &Path, name: &str) -> PathBuf {
    run.join(format!("{name}.life"))
}

/// Held while a volume is attached to a loop device, so that two who attach it at once see each other's device.
pub struct AttachLock {
    _lock: FileLock,
}

impl AttachLock {
    /// Takes it, waiting at most so long.
    ///
    /// # Errors
    /// `Kind::Busy`; or when the file cannot be made or locked.
    pub fn take(run: &Path, within: Duration) -> Result<Self> {
        make_run_dir(run)?;
        let lock = take_within(&run.join("attach"), Some(within))?;
        let lock = lock.ok_or_else(|| {
            Error::new(
                Kind::Busy,
                "loop devices",
                "another process is attaching a volume",
            )
            .hint("try again")
        })?;
        Ok(Self { _lock: lock })
    }
}

/// The arbitration: one controller of a pool acts at a time. Its file's text says for people who, for what, and since when.
pub struct ArbitrationLock {
    lock: FileLock,
}

impl ArbitrationLock {
    /// Takes it for a purpose (`job 7`, `volume create`), waiting at most so long (`None`: as long as it takes).
    ///
    /// # Errors
    /// `Kind::Busy` naming the holder; or when the file cannot be made or locked.
    pub fn take(run: &Path, purpose: &str, within: Option<Duration>) -> Result<Self> {
        make_run_dir(run)?;
        let path = arbitration(run);
        let Some(lock) = take_within(&path, within)? else {
            let holder = Self::holder(run)?.unwrap_or_else(|| "another controller".into());
            return Err(Error::new(Kind::Busy, "busy", holder).hint("wait for it with --wait"));
        };
        let this = Self { lock };
        this.set_purpose(purpose).map_err(failed(&path))?;
        Ok(this)
    }

    /// Says anew what it is held for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_purpose(&self, purpose: &str) -> io::Result<()> {
        let (pid, now) = (std::process::id(), Timestamp::now());
        let text = format!("{} by pid {pid} since {now:.0}\n", plain(purpose));
        self.lock.file.set_len(0)?;
        self.lock.file.write_all_at(text.as_bytes(), 0)
    }

    /// Who has it, for people: `job 7 by pid 123 since 2026-01-31T10:02:00Z`. `None` when it is free.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn holder(run: &Path) -> Result<Option<String>> {
        let path = arbitration(run);
        if !locked(&path).map_err(failed(&path))? {
            return Ok(None);
        }
        let mut text = Vec::new();
        let file = File::open(&path).map_err(failed(&path))?;
        file.take(2 * LONGEST as u64)
            .read_to_end(&mut text)
            .map_err(failed(&path))?;
        let text = String::from_utf8_lossy(&text);
        let line = plain(text.lines().next().unwrap_or_default());
        Ok(Some(if line.is_empty() {
            "another controller".into()
        } else {
            line
        }))
    }
}

impl Drop for ArbitrationLock {
    fn drop(&mut self) {
        // Only for people: a text that stays is not read, as nobody has the lock.
        let _ = self.lock.file.set_len(0);
    }
}

fn arbitration(run: &Path) -> PathBuf {
    run.join("arbitration")
}

/// One line without control characters, of bounded length.
fn plain(text: &str) -> String {
    let mut line: String = text.chars().filter(|c| !c.is_control()).collect();
    while line.len() > LONGEST {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn one_holder_at_a_time_and_the_others_are_told_who() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(ArbitrationLock::holder(run.path()).unwrap(), None);
        let lock = ArbitrationLock::take(run.path(), "job 7\n\u{1b}[31m", Some(Duration::ZERO)).unwrap();
        let refusal = ArbitrationLock::take(run.path(), "x", Some(Duration::ZERO))
            .err()
            .unwrap();
        assert_eq!(refusal.kind(), Kind::Busy);
        let expected = format!("busy: job 7[31m by pid {} since 2", std::process::id());
        assert!(refusal.to_string().starts_with(&expected), "{refusal}");
        assert_eq!(
            ArbitrationLock::holder(run.path()).unwrap().as_deref(),
            Some(refusal.why())
        );
        drop(lock);
        assert_eq!(ArbitrationLock::holder(run.path()).unwrap(), None);
        ArbitrationLock::take(run.path(), "x", Some(Duration::ZERO)).unwrap();
    }

    #[test]
    fn a_waiter_gets_it_when_it_is_released_and_gives_up_in_time() {
        let run = tempfile::tempdir().unwrap();
        let lock = ArbitrationLock::take(run.path(), "first", None).unwrap();
        let start = Instant::now();
        assert!(ArbitrationLock::take(run.path(), "x", Some(Duration::from_millis(120))).is_err());
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(120), "{waited:?}");
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let path = run.path();
            scope.spawn(move || {
                tell.send("waiting").unwrap();
                let lock = ArbitrationLock::take(path, "second", None);
                tell.send("has it").unwrap();
                drop(lock.unwrap());
            });
            assert_eq!(told.recv().unwrap(), "waiting");
            assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
            drop(lock);
            assert_eq!(told.recv_timeout(Duration::from_secs(10)).unwrap(), "has it");
        });
    }

    #[test]
    fn waiting_does_not_wake_itself() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("lock");
        let _held = take_within(&path, None).unwrap().unwrap();
        let (mut attempt, mut attempts) = (Attempt::at(&path), 0);
        let taken = wait_for(&path, Some(4 * LOOK), || {
            attempts += 1;
            attempt.take()
        });
        assert!(taken.unwrap().is_none());
        assert!(attempts <= 8, "{attempts}");
    }

    #[test]
    fn a_lock_on_a_file_that_was_removed_is_none() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("lock");
        let mut attempt = Attempt::at(&path);
        let held = attempt.take().unwrap().unwrap();
        let mut late = Attempt::at(&path);
        assert!(late.take().unwrap().is_none());
        fs::remove_file(&path).unwrap();
        drop(held);
        let late = late.take().unwrap().unwrap();
        assert_eq!(
            late.file.metadata().unwrap().ino(),
            fs::metadata(&path).unwrap().ino()
        );
    }

    #[test]
    fn life_is_seen_without_being_disturbed() {
        let run = tempfile::tempdir().unwrap();
        assert!(!LifeLock::alive(run.path(), "a").unwrap());
        assert!(LifeLock::await_end(run.path(), "a", Duration::ZERO).unwrap());
        let life = LifeLock::take(run.path(), "a").unwrap().unwrap();
        assert!(LifeLock::alive(run.path(), "a").unwrap());
        assert!(!LifeLock::alive(run.path(), "b").unwrap());
        assert!(LifeLock::take(run.path(), "a").unwrap().is_none());
        assert!(!LifeLock::await_end(run.path(), "a", Duration::from_millis(60)).unwrap());
        drop(life);
        assert!(!LifeLock::alive(run.path(), "a").unwrap());
        assert!(LifeLock::take(run.path(), "a").unwrap().is_some());
    }
}
