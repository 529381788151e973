//! Locks of open file descriptions: of whole files, of ranges, and of single bytes that stand for something else.
#![allow(unsafe_code)]

use super::{done, signed};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes the exclusive lock of the byte at `at`; returns false if another description has a lock on it.
///
/// # Errors
/// Fails if the file system has no locks, or the descriptor is not writable.
pub fn try_lock_at(file: BorrowedFd<'_>, at: u64) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    (lock.l_start, lock.l_len) = (signed(at)?, 1);
    set_lock(file, &lock)
}

/// Returns where in a range another open file description has a lock, of either kind. It takes no lock.
///
/// # Errors
/// Fails with the kernel's error.
pub fn locked_within(file: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<Option<u64>> {
    let mut lock = whole_file_lock();
    (lock.l_start, lock.l_len) = (signed(start)?, signed(len)?);
    // SAFETY: the command reads and writes one `struct flock`.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok((lock.l_type != UNLOCK).then(|| u64::try_from(lock.l_start).unwrap_or_default()))
}

/// Takes the exclusive lock of one byte, which need not exist, as [`try_lock`] takes that of a file.
///
/// # Errors
/// Fails if the file system has no locks, or the descriptor is not writable.
pub fn try_lock_byte(file: BorrowedFd<'_>, byte: u32) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    (lock.l_start, lock.l_len) = (byte.into(), 1);
    set_lock(file, &lock)
}

/// Releases the lock of a byte.
///
/// # Errors
/// Fails with the kernel's error.
pub fn unlock_byte(file: BorrowedFd<'_>, byte: u32) -> io::Result<()> {
    let mut lock = whole_file_lock();
    (lock.l_type, lock.l_start, lock.l_len) = (UNLOCK, byte.into(), 1);
    set_lock(file, &lock).map(drop)
}

/// Takes a shared lock of one byte of a file, which need not exist: any number of descriptions may share it, and none can have
/// it exclusively meanwhile. A readable descriptor is enough, so that of a directory works.
///
/// # Errors
/// Fails if the file system has no locks.
pub fn share_byte(file: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    let mut lock = whole_file_lock();
    (lock.l_type, lock.l_start, lock.l_len) = (SHARED_LOCK, signed(byte)?, 1);
    set_lock(file, &lock).map(drop)
}

/// Takes a shared lock as [`share_byte`] does; returns false if another description has it exclusively.
///
/// # Errors
/// Fails if the file system has no locks.
pub fn try_share_byte(file: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    (lock.l_type, lock.l_start, lock.l_len) = (SHARED_LOCK, signed(byte)?, 1);
    set_lock(file, &lock)
}

/// Releases a shared lock of a byte.
///
/// # Errors
/// Fails with the kernel's error.
pub fn unshare_byte(file: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    let mut lock = whole_file_lock();
    (lock.l_type, lock.l_start, lock.l_len) = (UNLOCK, signed(byte)?, 1);
    set_lock(file, &lock).map(drop)
}

/// Returns whether another open file description has a lock of any kind within these bytes. It takes no lock.
///
/// # Errors
/// Fails with the kernel's error.
pub fn bytes_locked_elsewhere(file: BorrowedFd<'_>, bytes: std::ops::Range<u64>) -> io::Result<bool> {
    if bytes.is_empty() {
        return Ok(false);
    }
    let mut lock = whole_file_lock();
    (lock.l_start, lock.l_len) = (signed(bytes.start)?, signed(bytes.end - bytes.start)?);
    is_locked(file, lock)
}

/// Sets a lock; returns false if another description's lock conflicts.
fn set_lock(file: BorrowedFd<'_>, lock: &libc::flock) -> io::Result<bool> {
    // SAFETY: the command reads one `struct flock`.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const *lock) };
    match done(answer) {
        Ok(()) => Ok(true),
        Err(why) if matches!(why.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(why) => Err(why),
    }
}

fn whole_file_lock() -> libc::flock {
    // SAFETY: this is a structure of integers, for which zero is valid: from byte 0 to the end, whatever the length.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = WRITE_LOCK;
    lock
}

const SHARED_LOCK: libc::c_short = 0;
const WRITE_LOCK: libc::c_short = 1;
const UNLOCK: libc::c_short = 2;
const _: () = assert!(
    SHARED_LOCK as libc::c_int == libc::F_RDLCK
        && WRITE_LOCK as libc::c_int == libc::F_WRLCK
        && UNLOCK as libc::c_int == libc::F_UNLCK
);

/// A lock on a range of a file, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// True for exclusive, false for shared, `None` for no lock.
    pub exclusive: Option<bool>,
}

const READ_LOCK: libc::c_short = 0;
const _: () = assert!(READ_LOCK as libc::c_int == libc::F_RDLCK);

impl RangeLock {
    fn as_flock(self) -> io::Result<libc::flock> {
        let mut lock = whole_file_lock();
        lock.l_type = match self.exclusive {
            Some(true) => WRITE_LOCK,
            Some(false) => READ_LOCK,
            None => UNLOCK,
        };
        lock.l_start = signed(self.start)?;
        // A length of 0 means up to the end of the largest file.
        let end = i64::try_from(self.end).unwrap_or(i64::MAX);
        if end < lock.l_start {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        lock.l_len = if end == i64::MAX {
            0
        } else {
            end - lock.l_start + 1
        };
        Ok(lock)
    }
}

/// Changes the lock of an open file description on a range. Returns false if another description's lock conflicts; nothing has
/// changed then.
///
/// # Errors
/// Fails with the kernel's error.
pub fn set_range_lock(file: BorrowedFd<'_>, lock: RangeLock) -> io::Result<bool> {
    set_lock(file, &lock.as_flock()?)
}

/// Returns a lock of another open file description that conflicts with this one.
///
/// # Errors
/// Fails with the kernel's error.
pub fn range_lock_conflict(file: BorrowedFd<'_>, lock: RangeLock) -> io::Result<Option<RangeLock>> {
    let mut lock = lock.as_flock()?;
    // SAFETY: the command reads and writes one `struct flock`.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    let start = u64::try_from(lock.l_start).unwrap_or_default();
    let length = u64::try_from(lock.l_len).unwrap_or_default();
    Ok((lock.l_type != UNLOCK).then(|| RangeLock {
        start,
        end: match length {
            0 => i64::MAX.unsigned_abs(),
            length => start + length - 1,
        },
        exclusive: Some(lock.l_type == WRITE_LOCK),
    }))
}

/// Takes the exclusive lock of an open file description. Returns false if another description has it.
///
/// # Errors
/// Fails if the file system has no locks, or the descriptor is not writable.
pub fn try_lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    set_lock(file, &whole_file_lock())
}

/// Takes the exclusive lock of all bytes from `start` on.
///
/// # Errors
/// Fails if the file system has no locks, or the descriptor is not writable.
pub fn try_lock_from(file: BorrowedFd<'_>, start: u64) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    lock.l_start = signed(start)?;
    set_lock(file, &lock)
}

/// Returns the first byte of another description's lock, of either kind. It takes no lock.
///
/// # Errors
/// Fails with the kernel's error.
pub fn locked_from(file: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    locked_within(file, 0, 0)
}

/// Releases the lock.
///
/// # Errors
/// Fails with the kernel's error.
pub fn unlock(file: BorrowedFd<'_>) -> io::Result<()> {
    let mut lock = whole_file_lock();
    lock.l_type = UNLOCK;
    set_lock(file, &lock).map(drop)
}

/// Returns whether another open file description has the lock. It takes no lock, so it never blocks anyone.
///
/// # Errors
/// Fails with the kernel's error.
pub fn locked_elsewhere(file: BorrowedFd<'_>) -> io::Result<bool> {
    is_locked(file, whole_file_lock())
}

/// Returns whether another description's lock conflicts with this one.
fn is_locked(file: BorrowedFd<'_>, mut lock: libc::flock) -> io::Result<bool> {
    // SAFETY: the command reads and writes one `struct flock`.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(lock.l_type != UNLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_lock_belongs_to_one_description_and_a_test_takes_none() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::create(dir.path().join("lock")).unwrap();
        let (one, other) = (open(), open());
        assert!(!locked_elsewhere(one.as_fd()).unwrap());
        assert!(try_lock(one.as_fd()).unwrap());
        assert!(!locked_elsewhere(one.as_fd()).unwrap());
        assert!(locked_elsewhere(other.as_fd()).unwrap());
        assert!(!try_lock(other.as_fd()).unwrap());
        unlock(one.as_fd()).unwrap();
        assert!(try_lock(other.as_fd()).unwrap());
        drop(other);
        assert!(try_lock(one.as_fd()).unwrap());
    }

    #[test]
    fn shared_bytes_of_a_directory_are_visible_only_to_other_descriptions() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap();
        let (one, other, third) = (open(), open(), open());
        let seen = |file: &File, bytes| bytes_locked_elsewhere(file.as_fd(), bytes).unwrap();
        share_byte(one.as_fd(), 7).unwrap();
        share_byte(other.as_fd(), 7).unwrap();
        assert!(seen(&third, 7..8) && seen(&third, 0..100) && seen(&one, 7..8));
        assert!(!seen(&third, 0..7) && !seen(&third, 8..i64::MAX as u64) && !seen(&third, 7..7));
        unshare_byte(other.as_fd(), 7).unwrap();
        assert!(!seen(&one, 7..8) && seen(&third, 7..8));
        drop(one);
        assert!(!seen(&third, 7..8));
    }
}
