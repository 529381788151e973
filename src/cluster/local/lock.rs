//! Locks that the kernel releases when the process that holds them dies.
//!
//! They are locks of the open file description (`F_OFD_SETLK`). The kernel releases them when the last descriptor is closed, which for a dying process
//! is when its last thread has ended. Unlike with `flock`, a process can test them without taking them.
//!
//! Each lock is taken twice: on a file of the run directory, which lets others wait for its release and names its holder, and on the pool's directory
//! (see [`super::anchor`]), because the file may be deleted. It is free when neither is locked.

use super::anchor::{Anchor, byte_of_discard, byte_of_life, identity, one};
use crate::cluster::NameClaim;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::units::DiskId;
use crate::sys;
use crate::sys::hold;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Interval at which waiters retry. The last close of a holder wakes them too, but a killed process closes a moment before its lock is released.
pub(super) const RETRY: Duration = Duration::from_millis(50);

/// Creates the run directory, with access for its owner only.
pub(super) fn make_run_dir(pool: &PoolDir) -> Result<()> {
    let run = pool.run();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&run);
    made.map_err(|why| Error::because(format!("run directory {}", pool.name_of(&run).display()), why))
}

/// Held lock on a file. Dropping it releases it.
pub(super) struct FileLock {
    pub(super) file: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // This comes before the close, which wakes waiters. If it fails, the close releases the lock.
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

pub(super) fn failed(pool: &PoolDir, path: &Path) -> impl Fn(io::Error) -> Error {
    move |why| {
        let takes_nothing = matches!(
            why.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
        );
        let error = Error::because(format!("lock {}", pool.name_of(path).display()), why);
        match takes_nothing {
            true => error.hint(format!(
                "make room in the file system of the pool's directory, or have it writable again: df -h {}",
                pool.display()
            )),
            false => error,
        }
    }
}

/// Repeated attempt at a lock. It keeps the file open in between, because a close would wake all waiters, itself included.
pub(super) struct Attempt<'a> {
    path: &'a Path,
    /// First byte of the lock, which extends beyond the end of the file.
    start: u64,
    file: Option<File>,
}

impl<'a> Attempt<'a> {
    pub(super) fn at(path: &'a Path) -> Self {
        Self::from(path, 0)
    }

    /// Makes an attempt at a lock of all bytes from `start` on.
    pub(super) fn from(path: &'a Path, start: u64) -> Self {
        Self {
            path,
            start,
            file: None,
        }
    }

    /// Takes the lock if it is free.
    pub(super) fn take(&mut self) -> io::Result<Option<FileLock>> {
        loop {
            let file = self.file.take().map_or_else(|| open(self.path), Ok)?;
            if !sys::try_lock_from(file.as_fd(), self.start)? {
                self.file = Some(file);
                return Ok(None);
            }
            let lock = FileLock { file };
            // If the file was removed meanwhile, this lock is worthless: others would lock a new file.
            if is_at(&lock.file, self.path)? {
                return Ok(Some(lock));
            }
        }
    }
}

pub(super) fn locked(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => sys::locked_elsewhere(file.as_fd()),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why),
    }
}

/// Repeats `attempt` whenever a writer has closed the file, until there is a result or the time is over.
pub(super) fn wait_for<T>(
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
        // A close during the attempt is a pending event, so none is missed.
        if let Some(answer) = attempt()? {
            return Ok(Some(answer));
        }
        let left = deadline.map_or(RETRY, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            return Ok(None);
        }
        match &closes {
            Some(closes) => await_event(closes, left.min(RETRY))?,
            None => std::thread::park_timeout(left.min(RETRY / 10)),
        }
    }
}

/// Watches for a close of the file. Returns `None` where the kernel has no more watches for this user, so that the caller has to poll.
fn watch_closes(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let Ok(watch) = inotify::init(flags) else {
        return Ok(None);
    };
    match inotify::add_watch(&watch, path, inotify::WatchFlags::CLOSE_WRITE) {
        // The next attempt creates the file, or finds the lock free.
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(Some(watch)),
        Err(rustix::io::Errno::NOSPC) => Ok(None),
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

/// Lock that a process holds on `run/NAME.life` for as long as it lives. The kernel releases it when the last thread of the process has ended, so that
/// none of them can write to a disk any more.
pub(super) struct LifeLock {
    /// Released before the lock on the file, whose release wakes waiters.
    _anchor: Anchor,
    lock: Mutex<FileLock>,
    pool: PoolDir,
    name: String,
}

impl LifeLock {
    /// Takes the lock. Returns `None` when a living process has it.
    ///
    /// # Errors
    /// Fails when the file cannot be created or locked, or the pool's directory does not exist.
    pub(super) fn take(pool: &PoolDir, name: &str) -> Result<Option<Self>> {
        let pool = hold(pool)?;
        make_run_dir(&pool)?;
        let path = life(&pool.run(), name);
        let anchor = Anchor::of(&pool)?;
        let Some(lock) = Attempt::at(&path).take().map_err(failed(&pool, &path))? else {
            return Ok(None);
        };
        let claimed = anchor
            .claim(byte_of_life(name))
            .map_err(failed(&pool, pool.path()))?;
        Ok(claimed.then(|| Self {
            _anchor: anchor,
            lock: Mutex::new(lock),
            pool,
            name: name.to_owned(),
        }))
    }

    /// Returns whether a living process has the lock. Takes no lock, so it disturbs no other process.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub(super) fn alive(pool: &PoolDir, name: &str) -> Result<bool> {
        let path = life(&pool.run(), name);
        alive(pool, name, &path).map_err(failed(pool, &path))
    }

    /// Waits for the end of the process that has the lock, for at most `within`. Returns whether it has ended.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub(super) fn await_end(pool: &PoolDir, name: &str, within: Duration) -> Result<bool> {
        let path = life(&pool.run(), name);
        let ended = wait_for(&path, Some(within), || {
            Ok((!alive(pool, name, &path)?).then_some(()))
        });
        Ok(ended.map_err(failed(pool, &path))?.is_some())
    }
}

impl NameClaim for LifeLock {
    /// Creates and locks the file again if it was deleted.
    fn restore(&self) -> Result<bool> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let path = life(&self.pool.run(), &self.name);
        let failed = failed(&self.pool, &path);
        if is_at(&lock.file, &path).map_err(&failed)? {
            return Ok(false);
        }
        make_run_dir(&self.pool)?;
        // Another process that has just locked the new file finds the life lock on the directory, and releases it.
        if let Some(new) = Attempt::at(&path).take().map_err(&failed)? {
            *lock = new;
        }
        Ok(true)
    }
}

fn alive(pool: &PoolDir, name: &str, path: &Path) -> io::Result<bool> {
    let anchored = match Anchor::of_existing(pool)? {
        Some(anchor) => anchor.shared_elsewhere(one(byte_of_life(name)))?,
        None => false,
    };
    Ok(anchored || locked(path)?)
}

/// Returns whether the path leads to this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let mine = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok(identity(&found) == identity(&mine)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why),
    }
}

/// Lock that a thread holds while it discards freed extents of a disk, which are not allocated meanwhile.
pub(super) struct DiscardLock {
    _anchor: Anchor,
}

impl DiscardLock {
    /// Takes the lock for a disk. Returns `None` while another thread of any process has it.
    ///
    /// # Errors
    /// Fails when the pool's directory cannot be locked.
    pub(super) fn take(pool: &PoolDir, disk: DiskId) -> Result<Option<Self>> {
        let anchor = Anchor::of(pool)?;
        let claimed = anchor
            .claim(byte_of_discard(disk))
            .map_err(failed(pool, pool.path()))?;
        Ok(claimed.then_some(Self { _anchor: anchor }))
    }
}

fn life(run: &Path, name: &str) -> PathBuf {
    run.join(format!("{name}.life"))
}

/// Lock that is held while a volume is attached to a loop device, so that of two processes which attach it at once one sees the device of the other.
pub(super) struct AttachLock {
    _lock: FileLock,
}

impl AttachLock {
    /// Takes the lock, and waits for at most `within`.
    ///
    /// # Errors
    /// Fails with `ErrorKind::Busy`, or when the file cannot be created or locked.
    pub(super) fn take(pool: &PoolDir, within: Duration) -> Result<Self> {
        make_run_dir(pool)?;
        let path = pool.run().join("attach");
        let mut attempt = Attempt::at(&path);
        let lock = wait_for(&path, Some(within), || attempt.take()).map_err(failed(pool, &path))?;
        let lock = lock.ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                "loop devices",
                "another process is attaching a volume",
            )
            .hint("try again")
        })?;
        give_to_owner(&lock.file, pool).map_err(failed(pool, &path))?;
        Ok(Self { _lock: lock })
    }
}

/// Gives a file that root has created in the run directory to the pool's owner, who could not use it otherwise.
fn give_to_owner(file: &File, pool: &PoolDir) -> io::Result<()> {
    let (file_owner, pool_owner) = (file.metadata()?.uid(), fs::metadata(pool.path())?);
    if !rustix::process::geteuid().is_root() || file_owner == pool_owner.uid() {
        return Ok(());
    }
    fchown(file, Some(pool_owner.uid()), Some(pool_owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_does_not_wake_itself() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("lock");
        let _held = Attempt::at(&path).take().unwrap().unwrap();
        let (mut attempt, mut attempts) = (Attempt::at(&path), 0);
        let taken = wait_for(&path, Some(4 * RETRY), || {
            attempts += 1;
            attempt.take()
        });
        assert!(taken.unwrap().is_none());
        assert!(attempts <= 8, "{attempts}");
    }

    #[test]
    fn a_lock_on_a_removed_file_does_not_count() {
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
    fn a_life_lock_can_be_tested_without_being_taken() {
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
    fn a_life_lock_outlives_the_run_directory_and_its_file_can_be_restored() {
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
}
