//! Requests on files and devices: write-back of a range, shared extents, discards, leases; descriptors of the service manager.
#![allow(unsafe_code)]

use super::{done, signed};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Starts writeback of the dirty pages of a range; with `wait` it also waits for it. This is not a flush: it writes neither
/// metadata nor the device's cache. With `wait` it consumes the pending write error of the file descriptor.
///
/// # Errors
/// Fails with the kernel's error.
pub fn sync_file_range(file: &File, at: u64, len: u64, wait: bool) -> io::Result<()> {
    let waits = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let flags = libc::SYNC_FILE_RANGE_WRITE | if wait { waits } else { 0 };
    // SAFETY: takes a descriptor that `file` keeps open, and integers.
    done(unsafe { libc::sync_file_range(file.as_raw_fd(), signed(at)?, signed(len)?, flags) })
}

/// The kernel's `struct file_clone_range`.
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
/// Fails with EOPNOTSUPP, EXDEV or EINVAL if the kernel cannot clone, or with another error of the kernel.
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

/// The kernel's `struct cachestat_range`.
#[repr(C)]
struct CacheStatRange {
    at: u64,
    len: u64,
}

/// `cachestat` has this number on all machines.
const CACHESTAT: libc::c_long = 451;

/// Returns how many pages of the range are in the page cache.
///
/// # Errors
/// Fails with ENOSYS before Linux 6.5, or with another error of the kernel.
pub fn cached_pages(file: impl AsFd, at: u64, len: u64) -> io::Result<u64> {
    let range = CacheStatRange { at, len };
    let mut found = [0_u64; 5];
    // SAFETY: the call reads one `struct cachestat_range`, whose layout `CacheStatRange` has, and writes one `struct cachestat`, which is five 64-bit
    // numbers; both outlive the call.
    done(unsafe {
        let result = libc::syscall(
            CACHESTAT,
            file.as_fd().as_raw_fd(),
            &raw const range,
            found.as_mut_ptr(),
            0_u32,
        );
        i32::try_from(result).unwrap_or(-1)
    })?;
    Ok(found[0])
}

const BLKDISCARD: libc::Ioctl = 0x1277;

/// Discards a range of a block device: the device need not keep its content.
///
/// # Errors
/// Fails with `EOPNOTSUPP` if the device does not support it, or with another error of the kernel.
pub fn discard(device: &File, at: u64, len: u64) -> io::Result<()> {
    let range = [at, len];
    // SAFETY: the request reads two 64-bit numbers, which outlive the call.
    done(unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

/// `FUSE_DEV_IOC_CLONE` of `linux/fuse.h`.
const FUSE_DEVICE_CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;

/// Attaches `device`, a FUSE device that is attached to nothing yet, to the connection of `other`.
///
/// # Errors
/// Fails if one of them is not what it has to be.
pub fn clone_fuse_device(device: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<()> {
    let other = other.as_raw_fd();
    // SAFETY: the request reads one 32-bit integer, which the pointer refers to.
    done(unsafe { libc::ioctl(device.as_raw_fd(), FUSE_DEVICE_CLONE, &raw const other) })
}

/// Takes over the descriptors that the service manager has passed to this process (`LISTEN_FDS`), with their names. A later call returns none.
///
/// # Errors
/// Fails if the environment that announces them makes no sense.
pub fn descriptors_from_manager() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: the manager has opened these descriptors for this process, and nothing else refers to them: they are taken over once.
    Ok(passed
        .map(|(descriptor, name)| (name, unsafe { OwnedFd::from_raw_fd(descriptor) }))
        .collect())
}

/// Command that sets the signal of a lease; Linux numbers it the same on every machine.
const F_SETSIG: libc::c_int = 10;

/// Returns whether somebody has the file open for writing. `file` itself is open for reading only.
///
/// # Errors
/// Fails where the file system has no leases, or the file belongs to another user.
pub fn is_open_for_writing(file: &File) -> io::Result<bool> {
    let command = |command, argument: libc::c_int| {
        // SAFETY: both commands take a descriptor that `file` keeps open, and an integer.
        done(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) })
    };
    // Whoever opens the file for writing during the lease causes this signal, which is ignored by default; the one that is sent otherwise ends
    // the process.
    command(F_SETSIG, libc::SIGURG)?;
    match command(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => command(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::loop_backing;

    #[test]
    fn a_regular_file_is_no_loop_device_and_cannot_clone_an_overlapping_range() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(loop_backing(&file).is_err());
        assert!(clone_range(&file, 0, &file, 4096, 8192).is_err());
        sync_file_range(&file, 0, 1 << 20, true).unwrap();
    }
}
