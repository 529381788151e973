//! Resumes a stopped process that holds the database's write lock.
//!
//! A process that was stopped in the middle of a write transaction blocks all others: apparatuses could not even cancel the
//! change whose hold has run out. So a process that waits finds out which process has the lock. If that one is stopped, it
//! resumes it until it releases the lock, which takes microseconds, and then stops it again.
//!
//! Resuming a stopped process for a moment is safe at any time: any process may continue it at any time, and it finds out by
//! itself what has become of its hold, its term or its fence. Killing it would be safe too, but its owner may not want that.
//!
//! The owner of the write lock is read from `/proc/locks`, without opening the file: closing a descriptor of it would drop this
//! process's own locks. It is a lock of a process, so the list names the process. The waiting process opens a pidfd, and then
//! reads the list again: if the lock still belongs to that number, the pidfd refers to its owner, however fast numbers are
//! reused.

use crate::sys;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// The byte of SQLite's shared memory file that a writer locks.
const WRITER: u64 = 120;
/// Number of reads of the lock list. The kernel returns the list page by page and continues by count: if a lock is released
/// between two pages, another one is missed. So a lock that was not found is looked up again.
const READS: usize = 3;
/// Time for a process to end its transaction.
const PATIENCE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_micros(500);

/// Resumes the process that writes to this database if it is stopped. Returns false if it is not, or does not release the lock.
pub(super) fn resume_if_stopped(database: &Path) -> bool {
    let shared = super::files::shared_of(database);
    let Some(stalled) = writer(&shared) else {
        return false;
    };
    let Ok(process) = pidfd_open(stalled, PidfdFlags::empty()) else {
        return false;
    };
    if !is_stopped(stalled) || !has_open(stalled, &shared) || writer(&shared) != Some(stalled) {
        return false;
    }
    log::warn!(
        "process {stalled} is stopped in the middle of a transaction on the pool's database: it is resumed until the transaction ends"
    );
    if pidfd_send_signal(&process, Signal::CONT).is_err() {
        return false;
    }
    let since = Instant::now();
    while writer(&shared) == Some(stalled) && since.elapsed() < PATIENCE {
        park_timeout(POLL);
    }
    // The process may have ended meanwhile.
    let _ = pidfd_send_signal(&process, Signal::STOP);
    writer(&shared) != Some(stalled)
}

/// Returns the process that has the write lock.
fn writer(shared: &Path) -> Option<Pid> {
    let inode = fs::metadata(shared).ok()?.ino();
    (0..READS).find_map(|_| {
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| writer_in(line, inode))
    })
}

/// Parses a line such as `12: POSIX  ADVISORY  WRITE 1234 fd:01:5678 120 120`; lines of waiting processes have an arrow.
fn writer_in(line: &str, inode: u64) -> Option<Pid> {
    let mut fields = line.split_whitespace().skip(1);
    if (fields.next()?, fields.nth(1)?) != ("POSIX", "WRITE") {
        return None;
    }
    let pid = fields.next()?.parse().ok()?;
    let found: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
    let (from, to) = (fields.next()?.parse::<u64>().ok()?, fields.next()?);
    let to = to.parse().unwrap_or(u64::MAX);
    (found == inode && (from..=to).contains(&WRITER))
        .then(|| Pid::from_raw(pid))
        .flatten()
}

fn is_stopped(process: Pid) -> bool {
    let stat = sys::proc::stat(process).ok().flatten();
    stat.is_some_and(|stat| stat.state == 'T')
}

/// Returns whether the process has this very file open: inode numbers are unique only within a file system.
fn has_open(process: Pid, file: &Path) -> bool {
    let file = fs::canonicalize(file).ok();
    let pid = process.as_raw_nonzero().get().unsigned_abs();
    file.is_some_and(|file| sys::proc::descriptors(pid).any(|open| open.target().as_ref() == Some(&file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_lock_table_is_parsed() {
        let line = |text| writer_in(text, 5678).map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(
            line("12: POSIX  ADVISORY  WRITE 1234 fd:01:5678 120 120"),
            Some(1234)
        );
        assert_eq!(
            line("12: POSIX  ADVISORY  WRITE 1234 fd:01:5678 100 EOF"),
            Some(1234)
        );
        for other in [
            "12: -> POSIX  ADVISORY  WRITE 1234 fd:01:5678 120 120",
            "12: POSIX  ADVISORY  READ 1234 fd:01:5678 120 120",
            "12: OFDLCK ADVISORY  WRITE -1 fd:01:5678 120 120",
            "12: POSIX  ADVISORY  WRITE 1234 fd:01:5679 120 120",
            "12: POSIX  ADVISORY  WRITE 1234 fd:01:5678 121 127",
            "12: POSIX  ADVISORY  WRITE 0 fd:01:5678 120 120",
            "12:",
            "",
        ] {
            assert_eq!(line(other), None, "{other}");
        }
    }

    #[test]
    fn the_writer_of_a_database_is_found_and_one_that_runs_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        let connection = rusqlite::Connection::open(&database).unwrap();
        let _: String = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
            .unwrap();
        let shared = super::super::files::shared_of(&database);
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        assert_eq!(writer(&shared), None);
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(writer(&shared), Some(rustix::process::getpid()));
        assert!(has_open(rustix::process::getpid(), &shared));
        assert!(!resume_if_stopped(&database));
        connection.execute_batch("ROLLBACK").unwrap();
        assert_eq!(writer(&shared), None);
    }
}
