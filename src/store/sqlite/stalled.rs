//! Resumes stopped processes that hold a lock of the database.
//!
//! A process that was stopped in the middle of a write transaction blocks all others: apparatuses could not even cancel the
//! change whose hold has run out. So a process that waits finds out which process has the lock. If that one is stopped, it
//! resumes it until it releases the lock, which takes microseconds, and then stops it again. One that was stopped while it read
//! keeps the log from beginning anew, so that the log grows with each commit; a process that finds the log too long treats it in
//! the same way.
//!
//! Resuming a stopped process for a moment is safe at any time: any process may continue it at any time, and it finds out by
//! itself what has become of its hold, its term or its fence. Killing it would be safe too, but its owner may not want that.
//!
//! The owners of locks are read from `/proc/locks`, without opening the file: closing a descriptor of it would drop this
//! process's own locks. They are locks of processes, so the list names the process. The waiting process opens a pidfd, and then
//! reads the list again: if the lock still belongs to that number, the pidfd refers to its owner, however fast numbers are
//! reused.

use crate::sys;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::HashSet;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// Bytes of SQLite's shared memory file that readers lock, one of them each. The first one is locked by readers that need no log.
const READERS: RangeInclusive<u64> = 124..=127;
/// The byte of that file that a writer locks.
const WRITER: RangeInclusive<u64> = 120..=120;
/// Number of reads of the lock list. The kernel returns the list page by page and continues by count: if a lock is released
/// between two pages, another one is missed. So a lock that was not found is looked up again.
const READS: usize = 3;
/// Time for a process to end its transaction.
const PATIENCE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_micros(500);

/// A lock of the database that processes hold during a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The one of the process that writes.
    Write,
    /// Those of processes that read the log.
    Read,
}

/// Resumes the processes that hold this lock of the database and are stopped. Returns whether there are some, and all of them have released it.
pub(super) fn resume_if_stopped(database: &Path, lock: Held) -> bool {
    let shared = super::files::shared_of(database);
    let owners = owners(&shared, lock);
    let resumed: Vec<bool> = owners
        .iter()
        .filter_map(|owner| resume(&shared, lock, *owner))
        .collect();
    !resumed.is_empty() && resumed.iter().all(|released| *released)
}

/// Resumes this owner of the lock. Returns whether it has released the lock, or `None` if it is not stopped.
fn resume(shared: &Path, lock: Held, stalled: Pid) -> Option<bool> {
    let process = pidfd_open(stalled, PidfdFlags::empty()).ok()?;
    let has_it = || owners(shared, lock).contains(&stalled);
    if !is_stopped(stalled) || !has_open(stalled, shared) || !has_it() {
        return None;
    }
    log::warn!(
        "process {stalled} is stopped in the middle of a transaction on the pool's database: it is resumed until the transaction ends"
    );
    pidfd_send_signal(&process, Signal::CONT).ok()?;
    let since = Instant::now();
    while has_it() && since.elapsed() < PATIENCE {
        park_timeout(POLL);
    }
    // The process may have ended meanwhile.
    let _ = pidfd_send_signal(&process, Signal::STOP);
    Some(!has_it())
}

/// Returns the processes that hold the lock.
fn owners(shared: &Path, lock: Held) -> HashSet<Pid> {
    let Ok(file) = fs::metadata(shared) else {
        return HashSet::new();
    };
    let found = (0..READS).map(|_| {
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let owners = locks.lines().filter_map(|line| owner_in(line, file.ino(), lock));
        owners.collect::<HashSet<Pid>>()
    });
    let mut found = found.skip_while(|owners| owners.is_empty());
    found.next().unwrap_or_default()
}

/// Parses a line such as `12: POSIX  ADVISORY  WRITE 1234 fd:01:5678 120 120`; lines of waiting processes have an arrow.
fn owner_in(line: &str, inode: u64, lock: Held) -> Option<Pid> {
    let (kind, bytes) = match lock {
        Held::Write => ("WRITE", WRITER),
        Held::Read => ("READ", READERS),
    };
    let mut fields = line.split_whitespace().skip(1);
    if (fields.next()?, fields.nth(1)?) != ("POSIX", kind) {
        return None;
    }
    let pid = fields.next()?.parse().ok()?;
    let found: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
    let (from, to) = (fields.next()?.parse::<u64>().ok()?, fields.next()?);
    let to = to.parse().unwrap_or(u64::MAX);
    (found == inode && from <= *bytes.end() && to >= *bytes.start())
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
        let owner = |text, lock| owner_in(text, 5678, lock).map(|pid| pid.as_raw_nonzero().get());
        let line = |text| owner(text, Held::Write);
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
        let reader = |text| owner(text, Held::Read);
        assert_eq!(
            reader("12: POSIX  ADVISORY  READ 1234 fd:01:5678 125 125"),
            Some(1234)
        );
        for other in [
            "12: POSIX  ADVISORY  WRITE 1234 fd:01:5678 125 125",
            "12: POSIX  ADVISORY  READ 1234 fd:01:5678 123 123",
            "12: POSIX  ADVISORY  READ 1234 fd:01:5678 128 128",
        ] {
            assert_eq!(reader(other), None, "{other}");
        }
    }

    #[test]
    fn those_who_write_and_read_a_database_are_found_and_left_alone_while_they_run() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        let connection = rusqlite::Connection::open(&database).unwrap();
        let _: String = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
            .unwrap();
        let shared = super::super::files::shared_of(&database);
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        let me = HashSet::from([rustix::process::getpid()]);
        let writers = || owners(&shared, Held::Write);
        let readers = || owners(&shared, Held::Read);
        assert!(writers().is_empty() && readers().is_empty());
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(
            (writers(), readers()),
            (me.clone(), me.clone()),
            "a writer reads too"
        );
        assert!(has_open(rustix::process::getpid(), &shared));
        assert!(!resume_if_stopped(&database, Held::Write) && !resume_if_stopped(&database, Held::Read));
        connection
            .execute_batch("ROLLBACK; BEGIN; SELECT * FROM t")
            .unwrap();
        assert_eq!((writers(), readers()), (HashSet::new(), me));
        connection.execute_batch("ROLLBACK").unwrap();
        assert!(writers().is_empty() && readers().is_empty());
    }
}
