//! Detects who else writes a file that is to become a disk: a virtual machine that runs from the image, for example.
//!
//! Locks of other programs are visible to everybody; qemu takes some on each image. The kernel grants a read lease only while nobody has the file
//! open for writing, whoever that is, also in another container or on a removed path; it grants one to the file's owner and to root. Otherwise
//! the descriptors of processes are searched, as far as they are visible. What this cannot see is a program on another machine that writes the
//! file through a network file system.

use super::claim::has_our_locks;
use crate::model::error::{Error, ErrorKind};
use crate::sys::{self, proc, proc::Lines};
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for a writer that is about to close the file: a child between its fork and its exec, or a loop device that was just detached.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum number of processes, and of descriptors of one, that are searched.
const MOST: usize = 10_000;

/// Returns a refusal if another program has the file open for writing. Where `vctl` or an apparatus uses the file it returns none, because their
/// locks say more.
pub(super) fn refusal(path: &Path, what: &str) -> Option<Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let file = File::open(path).ok()?;
        if has_our_locks(&file) || !is_written(&file, path) {
            return None;
        }
        drop(file);
        if Instant::now() >= until {
            let why = format!("is open for writing{}", named(&writers(path)));
            let hint =
                "end that program first, or take a copy of the file: a disk of a pool has no other writers";
            return Some(Error::new(ErrorKind::Busy, what, why).hint(hint));
        }
        thread::park_timeout(Duration::from_millis(20));
    }
}

fn is_written(file: &File, path: &Path) -> bool {
    sys::is_open_for_writing(file).unwrap_or_else(|_| !writers(path).is_empty())
}

/// Returns the visible processes that have the file open for writing, as `qemu-system-x86, process 123`.
fn writers(path: &Path) -> Vec<String> {
    let writes = |open: proc::Descriptor| {
        // The link is read and not followed: following it would wait for whatever the file lies on.
        open.target().is_some_and(|target| target == path)
            && open.info().is_ok_and(|lines| is_for_writing(&lines))
    };
    let processes = proc::processes().take(MOST);
    let writers = processes.filter(|&pid| proc::descriptors(pid).take(MOST).any(writes));
    let mut names: Vec<String> = writers.map(proc::described).collect();
    names.sort();
    names
}

/// Returns whether a descriptor is open for writing, by its entry of `fdinfo`.
fn is_for_writing(info: &Lines) -> bool {
    let flags = info.value("flags");
    let flags = flags.and_then(|flags| i32::from_str_radix(flags, 8).ok());
    flags.is_some_and(|flags| flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY)
}

fn named(writers: &[String]) -> String {
    match writers {
        [] => " by a program that is not visible".to_owned(),
        _ => format!(" ({})", writers.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_a_descriptor_is_parsed() {
        let is = |flags: &str| is_for_writing(&format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t9\n").into());
        assert!(is("0100002") && is("02100001"));
        assert!(
            !is("0100000") && !is("012000002") && !is("x") && !is_for_writing(&"pos:\t1\n".to_owned().into())
        );
    }
}
