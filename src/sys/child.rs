//! Probes a disk in a child process, so that this process can end whatever the disk does.
//!
//! A thread that waits for a disk inside the kernel often cannot be killed, and a process does not end before all its threads
//! have. A child that waits is left behind: it holds neither files nor locks nor mappings of this process, because it executes
//! its program anew. A child that only forks would not do: the kernel locks each mapping of a process that forks, so where one of
//! its threads waits for a file system that is frozen, to write to a mapped file, the fork waits too, and meanwhile no thread of
//! it can bring in a page, and nobody on the machine can read its command line. Programs that do not answer
//! [`probe_if_asked`], those of tests, fork all the same.
#![allow(unsafe_code)]

use super::file::cached_pages;
use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::ffi::{CString, OsString};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

/// First argument of a program that is to probe the disk at the path that follows.
const PROBE: &str = "__probe-disk";
/// Whether this program answers [`PROBE`].
static ANSWERS: AtomicBool = AtomicBool::new(false);

/// Alignment of reads that bypass the page cache.
const ALIGNMENT: usize = 4096;
/// Bytes that hold what the kernel reads ahead of a small read at the start of a file, on all usual disks.
const READ_AHEAD: u64 = 1 << 20;

/// Waits until the file or device at this path has completed the operations that an opening, a read from memory, a read from
/// the medium and a write need. The write has no bytes: it waits if the file system is frozen, and changes nothing. The real
/// opening finds out whether all of that succeeds.
///
/// # Errors
/// Fails if no child process can be started.
pub fn ask(path: &Path) -> io::Result<()> {
    if ANSWERS.load(Relaxed) {
        // Without anything that std can only do after a fork, it starts the program in a child that borrows this memory.
        let mut child = Command::new("/proc/self/exe")
            .args([PROBE.as_ref(), path.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        return child.wait().map(drop);
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut head = vec![0_u8; 2 * ALIGNMENT];
    let start = head.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let aligned = &mut head[start..start + ALIGNMENT];
    // SAFETY: between the fork and its end the child only makes system calls, on memory that existed before.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => ask_and_end(&path, aligned),
        child => {
            let child = Pid::from_raw(child).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            waitpid(Some(child), WaitOptions::empty())?;
            Ok(())
        }
    }
}

/// Probes a disk and ends this process, if its arguments ask for that. A program calls this before anything else; from then on [`ask`] executes it.
pub fn probe_if_asked(arguments: &[OsString]) {
    ANSWERS.store(true, Relaxed);
    let [_, word, path] = arguments else { return };
    if word != PROBE {
        return;
    }
    // A failure leaves the name that the kernel gives it.
    let _ = rustix::thread::set_name(c"disk-probe");
    let Ok(path) = CString::new(path.as_bytes()) else {
        return;
    };
    let mut head = vec![0_u8; 2 * ALIGNMENT];
    let start = head.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    ask_and_end(&path, &mut head[start..start + ALIGNMENT])
}

/// Runs `read`, which reads the first bytes of the file through the page cache. Where the cache had nothing of them before, it has nothing of them afterwards.
fn read_leaving_cache(file: libc::c_int, read: impl FnOnce() -> libc::ssize_t) {
    // SAFETY: the descriptor is open, or the calls fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(file.max(0)) };
    let was_empty = cached_pages(borrowed, 0, READ_AHEAD).is_ok_and(|pages| pages == 0);
    read();
    if was_empty {
        // A failure leaves some pages.
        let _ = fadvise(borrowed, 0, NonZeroU64::new(READ_AHEAD), Advice::DontNeed);
    }
}

fn ask_and_end(path: &CString, head: &mut [u8]) -> ! {
    let open = |flags: libc::c_int| {
        // SAFETY: the path ends in a zero byte and outlives the call.
        unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }
    };
    let read = |file: libc::c_int, head: &mut [u8]| {
        // SAFETY: the buffer has that length and is not shared.
        unsafe { libc::pread(file, head.as_mut_ptr().cast(), head.len(), 0) }
    };
    // SAFETY: no file of the parent is used here; the parent's locks must not last as long as this child waits.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    let mut file = open(libc::O_RDWR | libc::O_NOATIME);
    if file < 0 {
        file = open(libc::O_RDWR);
    }
    if file >= 0 {
        // SAFETY: the call reads nothing from the buffer.
        unsafe { libc::pwrite(file, head.as_ptr().cast(), 0, 0) };
    } else {
        file = open(libc::O_RDONLY);
    }
    read_leaving_cache(file, || read(file, head));
    read(open(libc::O_RDONLY | libc::O_DIRECT | libc::O_NOATIME), head);
    // SAFETY: the call ends this process at once.
    unsafe { libc::_exit(0) }
}
