//! System calls without a safe wrapper elsewhere, and settings that a storage daemon requests from the kernel.

pub mod child;
mod daemon;
mod dir;
mod file;
pub mod guarded;
mod locks;
pub mod loopdev;
pub mod memory;
pub mod proc;
pub(crate) mod text;

pub use daemon::{
    Prepared, allow_many_files, become_storage_daemon, interrupt_nobody, make_present, prefer_latency,
    reclaim_without_io, register_barriers,
};
pub use dir::{hold, without_links};
pub use file::{
    cached_pages, clone_fuse_device, clone_range, descriptors_from_manager, discard, is_open_for_writing,
    sync_file_range,
};
pub use locks::{
    RangeLock, bytes_locked_elsewhere, locked_elsewhere, locked_from, locked_within, range_lock_conflict,
    set_range_lock, share_byte, try_lock, try_lock_at, try_lock_byte, try_lock_from, try_share_byte, unlock,
    unlock_byte, unshare_byte,
};
pub use loopdev::{LoopBacking, loop_backing};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Returns the start time of a process of this PID namespace, in clock ticks since boot: together with its number and the boot
/// it identifies a process uniquely. `None` if there is no such process.
///
/// # Errors
/// Fails if `/proc` cannot be read.
pub fn start_of_process(pid: u32) -> io::Result<Option<u64>> {
    Ok(proc::stat(pid)?.map(|stat| stat.started))
}

/// Returns whether a process with this number and start time has not ended. A process that has ended but was not reaped by its
/// parent counts as ended, although threads of it may still be ending: the result is for display.
///
/// # Errors
/// Fails if `/proc` cannot be read.
pub fn runs_since(pid: u32, started: u64) -> io::Result<bool> {
    let stat = proc::stat(pid)?;
    Ok(stat.is_some_and(|stat| stat.started == started && !matches!(stat.state, 'Z' | 'X')))
}

/// Waits for the end of a process and all its threads, no longer than `within`. Returns whether it has ended.
///
/// # Errors
/// Fails if the process cannot be waited for.
pub fn await_process(process: &OwnedFd, within: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(within).map_err(io::Error::other)?;
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Does something with the permissions of another user and group, for which this process has to be root's. The rest of the process keeps its own.
///
/// # Errors
/// Fails if this process may not, or as `work` does.
pub fn as_user<T: Send>(user: u32, group: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    let as_that_user = || {
        // These calls concern this thread alone, which ends with its work.
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(as_that_user).join();
        thread.unwrap_or_else(|_| Err(io::Error::other("the thread of another user has failed")))
    })
}

/// Returns the inode number of this process's PID namespace.
///
/// # Errors
/// Fails if `/proc` cannot be read.
pub fn pid_namespace() -> io::Result<u64> {
    std::fs::metadata("/proc/self/ns/pid").map(|meta| meta.ino())
}

/// Returns the identity that this machine keeps when it boots anew: `/etc/machine-id`, or its host name where that is missing.
#[must_use]
pub fn machine_id() -> String {
    let text = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    match text.trim() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        id => id.chars().take(64).collect(),
    }
}

/// Returns `CLOCK_MONOTONIC` in microseconds; it is the same for all processes of a machine.
#[must_use]
pub fn monotonic_us() -> u64 {
    micros(ClockId::Monotonic)
}

/// Returns `CLOCK_BOOTTIME` in microseconds: it goes on while the machine is suspended.
#[must_use]
pub fn boottime_us() -> u64 {
    micros(ClockId::Boottime)
}

/// Returns `CLOCK_MONOTONIC` in microseconds, exact to a tick of the kernel, for the cost of two loads.
#[must_use]
pub fn coarse_us() -> u64 {
    micros(ClockId::MonotonicCoarse)
}

fn micros(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000 + part(time.tv_nsec) / 1_000
}

/// Returns an error if a call to the kernel did not return 0.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_run_together() {
        let (coarse, fine) = (coarse_us(), monotonic_us());
        assert!(fine >= coarse && fine - coarse < 1_000_000, "{coarse} {fine}");
    }
}
