//! System calls that have no safe wrapper elsewhere, and what a storage daemon asks of the kernel.
#![allow(unsafe_code)]

pub mod child;
pub mod loopdev;

use crate::error::{Error, Result};
use crate::units::BootId;
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use uuid::Uuid;

/// The running boot.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn boot_id() -> Result<BootId> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|why| {
        Error::because(path, why).hint("mount /proc: it is how a crash is told from a power loss")
    })?;
    let id = Uuid::parse_str(text.trim()).map_err(|why| Error::because(path, why))?;
    Ok(BootId(id))
}

/// When a process of this PID namespace started, in clock ticks since the boot: with its number and the boot it names a process for good.
/// `None` when there is no such process.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn start_of_process(pid: u32) -> io::Result<Option<u64>> {
    Ok(state_of_process(pid)?.map(|(_, start)| start))
}

/// Whether a process of this number, which started then, has not ended. One that has ended and whose parent has not noticed yet counts as
/// ended, though threads of it may be about to end: this is for telling people.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn runs_since(pid: u32, started: u64) -> io::Result<bool> {
    let state = state_of_process(pid)?;
    Ok(state.is_some_and(|(state, start)| start == started && state != "Z" && state != "X"))
}

/// Its state, a letter, and when it started.
fn state_of_process(pid: u32) -> io::Result<Option<(String, u64)>> {
    let text = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(why) if matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(why) => return Err(why),
    };
    // The name in parentheses may hold anything; what follows is field 3 and on, and the start is field 22.
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next().map(str::to_owned);
    let start = fields.nth(18).and_then(|word| word.parse().ok());
    state
        .zip(start)
        .map(Some)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The PID namespace of this process: its inode number.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn pid_namespace() -> io::Result<u64> {
    std::fs::metadata("/proc/self/ns/pid").map(|meta| meta.ino())
}

/// `CLOCK_MONOTONIC`, in microseconds: the same for all processes of a machine.
#[must_use]
pub fn monotonic_us() -> u64 {
    micros(ClockId::Monotonic)
}

/// The same to within a tick of the kernel, in microseconds, for the price of two loads.
#[must_use]
pub fn coarse_us() -> u64 {
    micros(ClockId::MonotonicCoarse)
}

fn micros(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000 + part(time.tv_nsec) / 1_000
}

/// Makes this process one that others' I/O depends on: memory that it needs is not reclaimed through its own disks, writeback
/// does not throttle it, and it is the last to be killed for memory. Before threads start; each part only where allowed.
/// Answers what was not.
#[must_use]
pub fn become_storage_daemon() -> Vec<String> {
    let flusher = reclaim_without_io().err();
    let flusher = flusher.map(|why| format!("PR_SET_IO_FLUSHER: {why}"));
    let score = std::fs::write("/proc/self/oom_score_adj", "-900")
        .err()
        .map(|why| format!("oom_score_adj: {why}"));
    flusher.into_iter().chain(score).collect()
}

/// Lets this process have as many files open as it may: each owner of file locks takes one.
///
/// # Errors
/// The kernel's.
pub fn allow_many_files() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, most)?)
}

/// Memory for the calling thread, and for threads that it starts later, is not reclaimed by I/O that may wait for them.
///
/// # Errors
/// Where it is not allowed: it takes `CAP_SYS_RESOURCE`.
pub fn reclaim_without_io() -> io::Result<()> {
    Ok(rustix::process::configure_io_flusher_behavior(true)?)
}

/// Has the scheduler run the calling thread soon after it is woken even where every processor is busy: in short pieces, and, where the
/// process may ask for it, before others. For threads that hosts wait for while a hold is in place. Not handed on to threads started later.
///
/// # Errors
/// Where the kernel cannot (before Linux 6.12 it ignores the wish for short pieces).
pub fn prefer_latency() -> io::Result<()> {
    /// Ten steps above the usual are ten times the weight of a usual thread: with that, four loaded apparatuses on two processors hold a range for less
    /// than half as long.
    const NICE: i32 = -10;
    let nice = rustix::process::getpriority_process(None)?;
    schedule(nice.min(NICE)).or_else(|_| schedule(nice))
}

/// Short pieces for the calling thread, with this priority.
fn schedule(nice: i32) -> io::Result<()> {
    /// The shortest that the kernel takes.
    const PIECE_NS: u64 = 100_000;
    let attributes = SchedulerAttributes {
        size: u32::try_from(size_of::<SchedulerAttributes>()).unwrap_or(u32::MAX),
        policy: 0,
        flags: 1,
        nice,
        priority: 0,
        runtime_ns: PIECE_NS,
        deadline_ns: 0,
        period_ns: 0,
    };
    // SAFETY: the call reads one `struct sched_attr` of the size that it states, whose layout `SchedulerAttributes` has.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    done(libc::c_int::from(answer != 0))
}

/// `struct sched_attr` of the kernel, in its first version. Policy 0 is the usual one, flag 1 takes all of it back in threads started later.
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// Whether a call to the kernel answered 0.
fn done(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Begins to write the dirty pages of a range; with `wait` also waits for them. Not a flush: neither metadata nor the device's
/// cache is written. With `wait` the file descriptor's pending write error is consumed.
///
/// # Errors
/// The kernel's.
pub fn sync_file_range(file: &File, at: u64, len: u64, wait: bool) -> io::Result<()> {
    let waits = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let flags = libc::SYNC_FILE_RANGE_WRITE | if wait { waits } else { 0 };
    // SAFETY: takes a descriptor that `file` keeps open, and integers.
    done(unsafe { libc::sync_file_range(file.as_raw_fd(), signed(at)?, signed(len)?, flags) })
}

/// `struct file_clone_range` of the kernel.
#[repr(C)]
struct CloneRange {
    from: i64,
    from_at: u64,
    len: u64,
    to_at: u64,
}

// _IOW(0x94, 13, struct file_clone_range)
const FICLONERANGE: libc::Ioctl = 0x4020_940d;

/// Makes a range of `to` share the storage of a range of `from`.
///
/// # Errors
/// The kernel's: EOPNOTSUPP, EXDEV or EINVAL where it cannot.
pub fn clone_range(from: &File, from_at: u64, to: &File, to_at: u64, len: u64) -> io::Result<()> {
    let range = CloneRange {
        from: from.as_raw_fd().into(),
        from_at,
        len,
        to_at,
    };
    // SAFETY: the request reads one `struct file_clone_range`, whose layout `CloneRange` has; both descriptors are open.
    done(unsafe { libc::ioctl(to.as_raw_fd(), FICLONERANGE, &raw const range) })
}

/// Takes the exclusive lock of the byte at `at`.
///
/// # Errors
/// Where the file system has no locks, or the descriptor is not writable.
pub fn try_lock_at(file: BorrowedFd<'_>, at: u64) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    (lock.l_start, lock.l_len) = (signed(at)?, 1);
    set_lock(file, &lock)
}

/// Where in a range another open file description has a lock, of either kind. Takes nothing.
///
/// # Errors
/// The kernel's.
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
/// Where the file system has no locks, or the descriptor is not writable.
pub fn try_lock_byte(file: BorrowedFd<'_>, byte: u32) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    (lock.l_start, lock.l_len) = (byte.into(), 1);
    set_lock(file, &lock)
}

/// Gives the lock of a byte back.
///
/// # Errors
/// The kernel's.
pub fn unlock_byte(file: BorrowedFd<'_>, byte: u32) -> io::Result<()> {
    let mut lock = whole_file_lock();
    (lock.l_type, lock.l_start, lock.l_len) = (UNLOCK, byte.into(), 1);
    set_lock(file, &lock).map(drop)
}

/// Shares one byte of a file, which need not exist: as many descriptions as like may share it, nobody can have it alone meanwhile. Takes a
/// descriptor that can be read, so that of a directory will do.
///
/// # Errors
/// Where the file system has no locks.
pub fn share_byte(file: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    let mut lock = whole_file_lock();
    (lock.l_type, lock.l_start, lock.l_len) = (SHARED_LOCK, signed(byte)?, 1);
    set_lock(file, &lock).map(drop)
}

/// Shares it no longer.
///
/// # Errors
/// The kernel's.
pub fn unshare_byte(file: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    let mut lock = whole_file_lock();
    (lock.l_type, lock.l_start, lock.l_len) = (UNLOCK, signed(byte)?, 1);
    set_lock(file, &lock).map(drop)
}

/// Whether another open file description has a lock of any kind within these bytes. Takes nothing.
///
/// # Errors
/// The kernel's.
pub fn bytes_locked_elsewhere(file: BorrowedFd<'_>, bytes: std::ops::Range<u64>) -> io::Result<bool> {
    if bytes.is_empty() {
        return Ok(false);
    }
    let mut lock = whole_file_lock();
    (lock.l_start, lock.l_len) = (signed(bytes.start)?, signed(bytes.end - bytes.start)?);
    is_locked(file, lock)
}

/// False when another description is in the way.
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
    // SAFETY: a structure of integers, for which zero is a value: from byte 0 to the end, whatever the length.
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

/// A lock on a range of a file, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// Exclusive or shared; none is no lock.
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
        // To the end of all files is written as no length.
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

/// Changes what an open file description has locked of a range. False when another description is in the way; nothing has changed then.
///
/// # Errors
/// The kernel's.
pub fn set_range_lock(file: BorrowedFd<'_>, lock: RangeLock) -> io::Result<bool> {
    set_lock(file, &lock.as_flock()?)
}

/// A lock of another open file description that is in the way of this one.
///
/// # Errors
/// The kernel's.
pub fn range_lock_in_the_way(file: BorrowedFd<'_>, lock: RangeLock) -> io::Result<Option<RangeLock>> {
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

/// Takes the exclusive lock of an open file description. False when another description has it.
///
/// # Errors
/// Where the file system has no locks, or the descriptor is not writable.
pub fn try_lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    set_lock(file, &whole_file_lock())
}

/// Gives the lock back.
///
/// # Errors
/// The kernel's.
pub fn unlock(file: BorrowedFd<'_>) -> io::Result<()> {
    let mut lock = whole_file_lock();
    lock.l_type = UNLOCK;
    set_lock(file, &lock).map(drop)
}

/// Whether another open file description has the lock. Takes nothing, so it is in nobody's way.
///
/// # Errors
/// The kernel's.
pub fn locked_elsewhere(file: BorrowedFd<'_>) -> io::Result<bool> {
    is_locked(file, whole_file_lock())
}

/// Whether another description's lock is in the way of this one.
fn is_locked(file: BorrowedFd<'_>, mut lock: libc::flock) -> io::Result<bool> {
    // SAFETY: the command reads and writes one `struct flock`.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(lock.l_type != UNLOCK)
}

const BLKDISCARD: libc::Ioctl = 0x1277;

/// Tells a block device that it need not keep what is in this range.
///
/// # Errors
/// The kernel's; `EOPNOTSUPP` where the device cannot.
pub fn discard(device: &File, at: u64, len: u64) -> io::Result<()> {
    let range = [at, len];
    // SAFETY: the request reads two 64-bit numbers, which outlive the call.
    done(unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

/// `struct loop_info64` of the kernel, of which the first fields matter.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    raw_device: u64,
    rest: [u64; 26],
}
const _: () = assert!(size_of::<LoopInfo>() == 232);

const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;

/// What a loop device lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopBacking {
    /// The file system of the backing file.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// The backing block device, if it is one; else 0.
    pub raw_device: u64,
}

/// Asks a loop device what it lies on.
///
/// # Errors
/// ENXIO when it lies on nothing, ENOTTY when it is no loop device.
pub fn loop_backing(device: &File) -> io::Result<LoopBacking> {
    let mut info = LoopInfo {
        device: 0,
        inode: 0,
        raw_device: 0,
        rest: [0; 26],
    };
    // SAFETY: the request writes one `struct loop_info64`, which is 232 bytes long like `LoopInfo`.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) })?;
    Ok(LoopBacking {
        device: info.device,
        inode: info.inode,
        raw_device: info.raw_device,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_boot_has_an_identity_and_the_clocks_run_together() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        let (coarse, fine) = (coarse_us(), monotonic_us());
        assert!(fine >= coarse && fine - coarse < 1_000_000, "{coarse} {fine}");
    }

    #[test]
    fn a_lock_is_of_one_description_and_asking_takes_nothing() {
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
    fn bytes_of_a_directory_are_shared_and_seen_from_elsewhere_only() {
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

    #[test]
    fn an_ordinary_file_is_no_loop_device_and_cannot_clone_to_itself_overlapping() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(loop_backing(&file).is_err());
        assert!(clone_range(&file, 0, &file, 4096, 8192).is_err());
        sync_file_range(&file, 0, 1 << 20, true).unwrap();
    }
}
