//! The file by which others find the supervisor of an apparatus: `run/NAME.supervisor` in the pool's directory, which has its process id and is locked
//! as long as it lives.

use crate::model::dir::PoolDir;
use crate::model::names::Name;
use crate::sys;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

/// Extension of the file's name.
const EXTENSION: &str = "supervisor";
/// Longest content of the file, in bytes.
const LONGEST: u64 = 16;

/// The locked file of this process. It is unlocked at the end of the process.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

fn path(pool: &PoolDir, name: &Name) -> PathBuf {
    pool.run().join(format!("{name}.{EXTENSION}"))
}

impl Guard {
    /// Locks the file. Returns `None` when another supervisor has it.
    ///
    /// # Errors
    /// Fails when the run directory cannot be used.
    pub fn acquire(pool: &PoolDir, name: &Name) -> io::Result<Option<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(pool.run())?;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(path(pool, name))?;
        if !sys::try_lock(file.as_fd())? {
            return Ok(None);
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Some(Self { _file: file }))
    }
}

/// Returns the process id of the supervisor of this apparatus, if one lives.
///
/// # Errors
/// Fails when the file cannot be read.
pub fn supervisor_of(pool: &PoolDir, name: &Name) -> io::Result<Option<u32>> {
    let file = match OpenOptions::new().read(true).write(true).open(path(pool, name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !sys::locked_elsewhere(file.as_fd())? {
        return Ok(None);
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text.trim().parse().ok())
}

/// Returns the process id of the supervisor of this apparatus, found by its lock on the file: the pool's directory is not accessed, which may not
/// answer, or was deleted.
#[must_use]
pub fn supervisor_by_lock(pool: &PoolDir, name: &Name) -> Option<u32> {
    let file = pool.named().parent()?.canonicalize().ok()?;
    let file = path(&PoolDir::new(file.join(pool.named().file_name()?)), name);
    sys::proc::lockers(&file).first().map(|locker| locker.pid)
}

/// Returns the apparatuses of a pool whose supervisors live, with the process ids of these, by name.
///
/// # Errors
/// Fails when the run directory cannot be read.
pub fn supervisors(pool: &PoolDir) -> io::Result<Vec<(Name, u32)>> {
    let entries = match fs::read_dir(pool.run()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let file = PathBuf::from(entry?.file_name());
        let is_one = file.extension().is_some_and(|extension| extension == EXTENSION);
        let name = file.file_stem().filter(|_| is_one);
        let name = name.and_then(|name| Name::new("apparatus", &name.to_string_lossy()).ok());
        if let Some(name) = name
            && let Some(supervisor) = supervisor_of(pool, &name)?
        {
            found.push((name, supervisor));
        }
    }
    found.sort();
    Ok(found)
}

/// Sends a signal to the supervisor of this apparatus and waits for its end, no longer than `within`. Returns false when it has not ended by then,
/// and true when it has or there is none.
///
/// # Errors
/// Fails when it may not be signalled.
pub fn stop_supervisor(pool: &PoolDir, name: &Name, signal: Signal, within: Duration) -> io::Result<bool> {
    let Some(process) = find(pool, name)? else {
        return Ok(true);
    };
    pidfd_send_signal(&process, signal)?;
    sys::await_process(&process, within)
}

/// Waits for the end of the supervisor of this apparatus, no longer than `within`. Returns whether there is none any more.
///
/// # Errors
/// Fails when its file cannot be read.
pub fn await_end(pool: &PoolDir, name: &Name, within: Duration) -> io::Result<bool> {
    find(pool, name)?.map_or(Ok(true), |process| sys::await_process(&process, within))
}

/// Returns a descriptor of the supervisor of this apparatus.
fn find(pool: &PoolDir, name: &Name) -> io::Result<Option<OwnedFd>> {
    let Some(supervisor) = supervisor_of(pool, name)? else {
        return Ok(None);
    };
    let pid = i32::try_from(supervisor).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(None),
        other => other?,
    };
    // The number may have become another process's since it was read.
    Ok((supervisor_of(pool, name)? == Some(supervisor)).then_some(process))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_supervisor_and_others_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let (pool, name) = (PoolDir::new(dir.path()), Name::new("apparatus", "a1").unwrap());
        assert_eq!(supervisor_of(&pool, &name).unwrap(), None);
        assert_eq!(supervisors(&pool).unwrap(), []);
        let guard = Guard::acquire(&pool, &name).unwrap().unwrap();
        assert_eq!(supervisor_of(&pool, &name).unwrap(), Some(std::process::id()));
        assert!(Guard::acquire(&pool, &name).unwrap().is_none());
        let second = Name::new("apparatus", "a2").unwrap();
        let other = Guard::acquire(&pool, &second).unwrap().unwrap();
        let me = std::process::id();
        assert_eq!(supervisors(&pool).unwrap(), [(name.clone(), me), (second, me)]);
        drop(other);
        assert_eq!(supervisors(&pool).unwrap(), [(name.clone(), me)]);
        drop(guard);
        assert_eq!(supervisor_of(&pool, &name).unwrap(), None);
        assert!(
            stop_supervisor(&pool, &name, Signal::TERM, Duration::ZERO).unwrap(),
            "there is none"
        );
    }
}
