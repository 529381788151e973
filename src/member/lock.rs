//! Locks that the kernel releases when their holder dies.
//!
//! They are locks of the open file description (`F_OFD_SETLK`): released when its last descriptor is closed, which for a dying process is
//! when its last thread has ended; and unlike `flock`, one can ask whether somebody has them without taking them.
//!
//! Each is taken twice: on a file of the run directory, which lets others wait for its end and tells who has it, and on the pool's directory
//! (see [`super::anchor`]), because somebody may delete the file. It is free when neither is locked.

use super::anchor::{ARBITRATION, Anchor, byte_of_discard, byte_of_life, identity, one};
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use crate::sys;
use crate::units::{DiskId, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
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
            let lock = FileLock { file };
            // Whoever removed the file meanwhile made this lock worthless: others would lock its successor.
            if is_at(&lock.file, self.path)? {
                return Ok(Some(lock));
            }
        }
    }
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
    /// Given back before the file's, which wakes those who wait.
    anchor: Anchor,
    lock: Mutex<FileLock>,
    name: String,
}

impl LifeLock {
    /// Takes it, or `None` when a living process has it.
    ///
    /// # Errors
    /// When the file cannot be made or locked, or the pool's directory is not there.
    pub fn take(pool: &PoolDir, name: &str) -> Result<Option<Self>> {
        make_run_dir(&pool.run())?;
        let path = life(&pool.run(), name);
        let anchor = Anchor::of(pool)?;
        let Some(lock) = Attempt::at(&path).take().map_err(failed(&path))? else {
            return Ok(None);
        };
        let claimed = anchor.claim(byte_of_life(name)).map_err(failed(pool.path()))?;
        let lock = Mutex::new(lock);
        let name = name.to_owned();
        Ok(claimed.then_some(Self { anchor, lock, name }))
    }

    /// Whether a living process has it. Takes nothing, so it is in nobody's way.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn alive(pool: &PoolDir, name: &str) -> Result<bool> {
        let path = life(&pool.run(), name);
        alive(pool, name, &path).map_err(failed(&path))
    }

    /// Waits for the end of the process that has it, at most so long. Whether it has ended.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn await_end(pool: &PoolDir, name: &str, within: Duration) -> Result<bool> {
        let path = life(&pool.run(), name);
        let ended = wait_for(&path, Some(within), || {
            Ok((!alive(pool, name, &path)?).then_some(()))
        });
        Ok(ended.map_err(failed(&path))?.is_some())
    }

    /// Makes the file again, locked, if it was deleted. Whether it was.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn restore(&self) -> Result<bool> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let run = self.pool().run();
        let path = life(&run, &self.name);
        let failed = failed(&path);
        if is_at(&lock.file, &path).map_err(&failed)? {
            return Ok(false);
        }
        make_run_dir(&run)?;
        // Whoever else has just locked the new file finds the life on the directory, and lets go.
        if let Some(new) = Attempt::at(&path).take().map_err(&failed)? {
            *lock = new;
        }
        Ok(true)
    }

    /// The pool's directory as it was when the lock was taken, whatever it is called by now. Good as long as the lock is.
    #[must_use]
    pub fn pool(&self) -> PoolDir {
        self.anchor.pool()
    }
}

fn alive(pool: &PoolDir, name: &str, path: &Path) -> io::Result<bool> {
    let anchored = match Anchor::of_existing(pool)? {
        Some(anchor) => anchor.shared_elsewhere(one(byte_of_life(name)))?,
        None => false,
    };
    Ok(anchored || locked(path)?)
}

/// Whether this is the file that is found there.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let mine = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok(identity(&found) == identity(&mine)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why),
    }
}

/// Held by a thread that discards freed extents of a disk, as long as the disk keeps it: nobody is given those meanwhile.
pub struct DiscardLock {
    _anchor: Anchor,
}

impl DiscardLock {
    /// Takes that of a disk, or `None` while another thread has it, of whatever process.
    ///
    /// # Errors
    /// When the pool's directory cannot be locked.
    pub fn take(pool: &PoolDir, disk: DiskId) -> Result<Option<Self>> {
        let anchor = Anchor::of(pool)?;
        let claimed = anchor.claim(byte_of_discard(disk)).map_err(failed(pool.path()))?;
        Ok(claimed.then_some(Self { _anchor: anchor }))
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
        let path = run.join("attach");
        let mut attempt = Attempt::at(&path);
        let lock = wait_for(&path, Some(within), || attempt.take()).map_err(failed(&path))?;
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
    /// Given back before the file's, which wakes those who wait.
    anchor: Anchor,
    lock: FileLock,
}

impl ArbitrationLock {
    /// Takes it for a purpose (`job 7`, `volume create`), waiting at most so long (`None`: as long as it takes).
    ///
    /// # Errors
    /// `Kind::Busy` naming the holder; or when the file cannot be made or locked.
    pub fn take(pool: &PoolDir, purpose: &str, within: Option<Duration>) -> Result<Self> {
        make_run_dir(&pool.run())?;
        let path = arbitration(&pool.run());
        let anchor = Anchor::of(pool)?;
        let (mut attempt, mut file) = (Attempt::at(&path), None);
        let taken = wait_for(&path, within, || {
            if file.is_none() {
                file = attempt.take()?;
            }
            // Somebody may hold it by a file that was deleted.
            Ok((file.is_some() && anchor.claim(ARBITRATION)?).then_some(()))
        });
        let taken = taken.map_err(failed(&path))?;
        let Some(lock) = taken.and(file) else {
            let holder = Self::holder(pool)?.unwrap_or_else(|| ANOTHER.into());
            return Err(Error::new(Kind::Busy, "busy", holder).hint("wait for it with --wait"));
        };
        let this = Self { anchor, lock };
        this.set_purpose(purpose).map_err(failed(&path))?;
        Ok(this)
    }

    /// The pool's directory as it was when the lock was taken, whatever it is called by now. Good as long as the lock is.
    #[must_use]
    pub fn pool(&self) -> PoolDir {
        self.anchor.pool()
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
    pub fn holder(pool: &PoolDir) -> Result<Option<String>> {
        let path = arbitration(&pool.run());
        let failed = failed(&path);
        if locked(&path).map_err(&failed)? {
            return told_by(&path).map(Some).map_err(failed);
        }
        let anchored = match Anchor::of_existing(pool).map_err(&failed)? {
            Some(anchor) => anchor.shared_elsewhere(one(ARBITRATION)).map_err(failed)?,
            None => false,
        };
        Ok(anchored.then(|| format!("{ANOTHER} (its file in the run directory was deleted)")))
    }
}

const ANOTHER: &str = "another controller";

/// What the file of the arbitration says.
fn told_by(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?
        .take(2 * LONGEST as u64)
        .read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let line = plain(text.lines().next().unwrap_or_default());
    Ok(if line.is_empty() { ANOTHER.into() } else { line })
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
        let pool = PoolDir::new(run.path());
        assert_eq!(ArbitrationLock::holder(&pool).unwrap(), None);
        let lock = ArbitrationLock::take(&pool, "job 7\n\u{1b}[31m", Some(Duration::ZERO)).unwrap();
        let refusal = ArbitrationLock::take(&pool, "x", Some(Duration::ZERO))
            .err()
            .unwrap();
        assert_eq!(refusal.kind(), Kind::Busy);
        let expected = format!("busy: job 7[31m by pid {} since 2", std::process::id());
        assert!(refusal.to_string().starts_with(&expected), "{refusal}");
        assert_eq!(
            ArbitrationLock::holder(&pool).unwrap().as_deref(),
            Some(refusal.why())
        );
        drop(lock);
        assert_eq!(ArbitrationLock::holder(&pool).unwrap(), None);
        ArbitrationLock::take(&pool, "x", Some(Duration::ZERO)).unwrap();
    }

    #[test]
    fn a_waiter_gets_it_when_it_is_released_and_gives_up_in_time() {
        let run = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(run.path());
        let lock = ArbitrationLock::take(&pool, "first", None).unwrap();
        let start = Instant::now();
        assert!(ArbitrationLock::take(&pool, "x", Some(Duration::from_millis(120))).is_err());
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(120), "{waited:?}");
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let path = &pool;
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
        let _held = Attempt::at(&path).take().unwrap().unwrap();
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
        assert!(is_at(&late.file, &path).unwrap());
    }

    #[test]
    fn life_is_seen_without_being_disturbed() {
        let run = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(run.path());
        assert!(!LifeLock::alive(&pool, "a").unwrap());
        assert!(LifeLock::await_end(&pool, "a", Duration::ZERO).unwrap());
        let life = LifeLock::take(&pool, "a").unwrap().unwrap();
        assert!(LifeLock::alive(&pool, "a").unwrap());
        assert!(!LifeLock::alive(&pool, "b").unwrap());
        assert!(LifeLock::take(&pool, "a").unwrap().is_none());
        assert!(!LifeLock::await_end(&pool, "a", Duration::from_millis(60)).unwrap());
        drop(life);
        assert!(!LifeLock::alive(&pool, "a").unwrap());
        assert!(LifeLock::take(&pool, "a").unwrap().is_some());
    }

    #[test]
    fn a_life_outlives_the_run_directory_and_the_file_can_be_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path());
        let life = LifeLock::take(&pool, "a").unwrap().unwrap();
        assert!(!life.restore().unwrap());
        fs::remove_dir_all(pool.run()).unwrap();
        assert!(LifeLock::alive(&pool, "a").unwrap());
        assert!(LifeLock::take(&pool, "a").unwrap().is_none());
        assert!(!LifeLock::await_end(&pool, "a", Duration::ZERO).unwrap());
        assert!(life.restore().unwrap() && !life.restore().unwrap());
        assert!(locked(&pool.run().join("a.life")).unwrap());
        drop(life);
        assert!(!LifeLock::alive(&pool, "a").unwrap());
        drop(LifeLock::take(&pool, "a").unwrap().unwrap());
    }

    #[test]
    fn an_arbitration_whose_file_is_deleted_is_still_one() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path());
        let lock = ArbitrationLock::take(&pool, "first", None).unwrap();
        fs::remove_dir_all(pool.run()).unwrap();
        let refusal = ArbitrationLock::take(&pool, "second", Some(Duration::ZERO)).err();
        assert_eq!(refusal.map(|why| why.kind()), Some(Kind::Busy));
        let holder = ArbitrationLock::holder(&pool).unwrap();
        assert!(holder.is_some_and(|holder| holder.starts_with(ANOTHER)));
        drop(lock);
        assert_eq!(ArbitrationLock::holder(&pool).unwrap(), None);
        drop(ArbitrationLock::take(&pool, "second", Some(Duration::ZERO)).unwrap());
    }
}
