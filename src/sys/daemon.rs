//! Settings that a storage daemon requests from the kernel and from its allocator.
#![allow(unsafe_code)]

use super::done;
use rustix::mm::MlockAllFlags;
use rustix::thread::{MembarrierCommand, membarrier};
use std::io;

/// Result of [`become_storage_daemon`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Why the kernel may make this process wait for its own disks while it reclaims memory for it; `None` if it does not.
    pub waits: Option<String>,
    /// Other settings that were not allowed.
    pub refused: Vec<String>,
}

/// Makes this process one that others' I/O may depend on: the kernel does not reclaim memory for it through its own disks,
/// writeback does not throttle it, its program stays in memory, and the OOM killer takes it last. Call it before threads start
/// and disks are opened, because only mappings that exist by then stay in memory. A setting that is not allowed is skipped and
/// reported.
#[must_use]
pub fn become_storage_daemon() -> Prepared {
    let failure = |what: &str, done: io::Result<()>| done.err().map(|why| format!("{what}: {why}"));
    let locked = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT);
    let refused = [
        failure("mlockall", locked.map_err(io::Error::from)),
        failure("PR_SET_THP_DISABLE", small_pages()),
        failure(
            "oom_score_adj",
            std::fs::write("/proc/self/oom_score_adj", "-900"),
        ),
    ];
    trim_allocator();
    Prepared {
        waits: failure("PR_SET_IO_FLUSHER", reclaim_without_io()),
        refused: refused.into_iter().flatten().collect(),
    }
}

/// Disables huge pages: where memory is short, it is hard to find one at once, and the kernel thread that assembles them waits
/// for writeback while it does.
fn small_pages() -> io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}

/// Returns large allocations to the kernel as soon as they are freed. Otherwise the allocator would keep, for each of its
/// arenas, as much memory as was ever parked at once.
fn trim_allocator() {
    /// The allocator's initial threshold, before it adapts to the allocations that it sees.
    #[cfg(target_env = "gnu")]
    const LARGE: libc::c_int = 128 << 10;
    // SAFETY: the call sets a number of the allocator, under its own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Registers this process for the barriers that the gate and the fences use. In a process with several threads the kernel takes some twenty milliseconds for that,
/// so a process that is to serve calls this while it has one. Whoever uses a barrier registers again, which costs nothing then.
pub fn register_barriers() {
    for kind in [
        MembarrierCommand::RegisterPrivateExpedited,
        MembarrierCommand::RegisterGlobalExpedited,
    ] {
        // Who needs it finds out, and has another way.
        let _ = membarrier(kind);
    }
}

/// Raises the limit of open files to the maximum: each owner of file locks takes one.
///
/// # Errors
/// Fails with the kernel's error.
pub fn allow_many_files() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, most)?)
}

/// Requests that memory for the calling thread, and for threads that it starts later, is not reclaimed by I/O that may wait for
/// them.
///
/// # Errors
/// Fails if it is not allowed: it needs `CAP_SYS_RESOURCE`.
pub fn reclaim_without_io() -> io::Result<()> {
    Ok(rustix::process::configure_io_flusher_behavior(true)?)
}

/// Requests that the scheduler runs the calling thread soon after it is woken, even if every processor is busy: in short slices
/// and, if the process may request it, before others. It is for threads that hosts wait for during a hold. Threads started
/// later do not inherit it.
///
/// # Errors
/// Fails if the kernel does not support it (before Linux 6.12 it ignores the request for short slices).
pub fn prefer_latency() -> io::Result<()> {
    /// Ten steps above the default give ten times the weight of a default thread: with that, four loaded apparatuses on two
    /// processors hold a range for less than half as long.
    const NICE: i32 = -10;
    let nice = rustix::process::getpriority_process(None)?;
    set_scheduling(Policy::Normal, nice.min(NICE)).or_else(|_| set_scheduling(Policy::Normal, nice))
}

/// Requests that the calling thread, when it is woken, does not interrupt the one that runs on its processor: what wakes it may have more for it. Threads
/// started later do not inherit it.
///
/// # Errors
/// Fails with the kernel's error.
pub fn interrupt_nobody() -> io::Result<()> {
    set_scheduling(Policy::Batch, rustix::process::getpriority_process(None)?)
}

/// Policy of the kernel's scheduler, as `sched_attr` numbers them.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Policy {
    Normal = 0,
    Batch = 3,
}

/// Sets this policy, short slices and this nice value for the calling thread.
fn set_scheduling(policy: Policy, nice: i32) -> io::Result<()> {
    /// The shortest slice that the kernel accepts.
    const SLICE_NS: u64 = 100_000;
    let attributes = SchedulerAttributes {
        size: u32::try_from(size_of::<SchedulerAttributes>()).unwrap_or(u32::MAX),
        policy: policy as u32,
        flags: 1,
        nice,
        priority: 0,
        runtime_ns: SLICE_NS,
        deadline_ns: 0,
        period_ns: 0,
    };
    // SAFETY: the call reads one `struct sched_attr` of the size that it states, whose layout `SchedulerAttributes` has.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    done(libc::c_int::from(answer != 0))
}

/// The kernel's `struct sched_attr` in its first version. Flag 1 resets all of it in threads
/// started later.
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

/// Has the kernel bring the pages of these bytes into memory and into the page tables of this process. Bytes that cannot be read stay absent.
pub fn make_present(bytes: &[u8]) {
    const PAGE: usize = 4096;
    let before = bytes.as_ptr().addr() % PAGE;
    let start = bytes.as_ptr().wrapping_sub(before).cast_mut().cast();
    // SAFETY: the call reads the pages of an existing slice; it changes no byte and no mapping.
    unsafe { libc::madvise(start, before + bytes.len(), libc::MADV_POPULATE_READ) };
}
