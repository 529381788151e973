//! A process that was stopped in the middle of a write transaction keeps everybody else from the database: apparatuses could not even
//! cancel the change whose hold has run out. So whoever waits looks who it is, and if it is stopped has it go on until it lets the
//! database go, which takes microseconds, then stops it again.
//!
//! Letting a stopped process go on for a moment is safe at any instant: it may be continued by anybody at any time, and finds out by itself
//! what has become of its hold, its term or its fence. Killing it would be safe too, and its owner might mind.
//!
//! Who holds the write lock is read from `/proc/locks`, without opening the file: closing a descriptor of it would drop this process's own locks. It is
//! a lock of a process, so it names one. A descriptor of that process is taken, and then the lock looked at again: if it is still
//! that number's, the descriptor is its holder's, however fast numbers are used again.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// The byte of SQLite's shared memory file that a writer has locked.
const WRITER: u64 = 120;
/// The kernel gives its list of locks page by page, and goes on by counting: where a lock is released between two pages, another one is not
/// seen. So what was not found is looked for again.
const LOOKS: usize = 3;
/// For a process to end its transaction.
const PATIENCE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_micros(500);

/// Has the process that writes to this database get on with it, if it is stopped. False when it is not, or will not.
pub(super) fn nudge(database: &Path) -> bool {
    let shared = super::files::shared_of(database);
    let Some(holder) = writer(&shared) else {
        return false;
    };
    let Ok(process) = pidfd_open(holder, PidfdFlags::empty()) else {
        return false;
    };
    if !is_stopped(holder) || !has_open(holder, &shared) || writer(&shared) != Some(holder) {
        return false;
    }
    log::warn!(
        "process {holder} is stopped in the middle of a transaction of the pool's database: it goes on until the end of that"
    );
    if pidfd_send_signal(&process, Signal::CONT).is_err() {
        return false;
    }
    let since = Instant::now();
    while writer(&shared) == Some(holder) && since.elapsed() < PATIENCE {
        park_timeout(LOOK);
    }
    // It may have ended meanwhile.
    let _ = pidfd_send_signal(&process, Signal::STOP);
    writer(&shared) != Some(holder)
}

/// Who has the write lock.
fn writer(shared: &Path) -> Option<Pid> {
    let inode = fs::metadata(shared).ok()?.ino();
    (0..LOOKS).find_map(|_| {
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| writer_in(line, inode))
    })
}

/// `12: POSIX  ADVISORY  WRITE 1234 fd:01:5678 120 120`; those that wait have an arrow.
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
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

/// Inodes have one number on each file system: the process is ours only if it has this very file open.
fn has_open(process: Pid, file: &Path) -> bool {
    let links = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    let file = fs::canonicalize(file).ok();
    let open = |link: PathBuf| fs::read_link(link).ok();
    file.is_some_and(|file| {
        links
            .flatten()
            .any(|link| open(link.path()).as_ref() == Some(&file))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_lock_table_is_understood() {
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
        assert!(!nudge(&database));
        connection.execute_batch("ROLLBACK").unwrap();
        assert_eq!(writer(&shared), None);
    }
}
