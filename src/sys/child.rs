//! Probes a disk in a child process, so that this process can end whatever the disk does.
//!
//! A thread that waits for a disk inside the kernel often cannot be killed, and a process does not end before all its threads
//! have. A child that waits is left behind: it holds neither files nor locks nor mappings of this process, because it executes
//! its program anew. A child that only forks would not do: the kernel locks each mapping of a process that forks, so where one of
//! its threads waits for a file system that is frozen, to write to a mapped file, the fork waits too, and meanwhile no thread of
//! it can bring in a page, and nobody on the machine can read its command line.
#![allow(unsafe_code)]

use super::file::cached_pages;
use rustix::fs::{Advice, Mode, OFlags, fadvise, open};
use rustix::io::{pread, pwrite};
use std::ffi::OsString;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
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
    if !ANSWERS.load(Relaxed) {
        return Err(io::Error::other("this program does not probe disks"));
    }
    // Without anything that std can only do after a fork, it starts the program in a child that borrows this memory.
    let mut child = Command::new("/proc/self/exe")
        .args([PROBE.as_ref(), path.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    child.wait().map(drop)
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
    // SAFETY: this process has opened no file. One that it inherited would last as long as it waits, and with it the parent's locks.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    probe(Path::new(path));
    // SAFETY: the call ends this process at once; it has nothing to write any more.
    unsafe { libc::_exit(0) }
}

/// Carries out what [`ask`] waits for. What fails is found by the real opening.
fn probe(path: &Path) {
    let mut head = vec![0_u8; 2 * ALIGNMENT];
    let start = head.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let head = &mut head[start..start + ALIGNMENT];
    let open = |flags: OFlags| open(path, flags | OFlags::CLOEXEC, Mode::empty());
    let writable = open(OFlags::RDWR | OFlags::NOATIME).or_else(|_| open(OFlags::RDWR));
    if let Ok(file) = &writable {
        let _ = pwrite(file, &[], 0);
    }
    if let Ok(file) = writable.or_else(|_| open(OFlags::RDONLY)) {
        read_leaving_cache(file.as_fd(), head);
    }
    if let Ok(direct) = open(OFlags::RDONLY | OFlags::DIRECT | OFlags::NOATIME) {
        let _ = pread(&direct, &mut *head, 0);
    }
}

/// Reads the first bytes of the file through the page cache. Where the cache had nothing of them before, it has nothing of them afterwards.
fn read_leaving_cache(file: BorrowedFd<'_>, head: &mut [u8]) {
    let was_empty = cached_pages(file, 0, READ_AHEAD).is_ok_and(|pages| pages == 0);
    let _ = pread(file, &mut *head, 0);
    if was_empty {
        // A failure leaves some pages.
        let _ = fadvise(file, 0, NonZeroU64::new(READ_AHEAD), Advice::DontNeed);
    }
}
