//! Checks whether the file system of a pool's directory accepts changes: it may be full, read-only, frozen or hung while the disks are
//! well.

use crate::blockdev::{ask_first, with_timeout};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How long the check may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that a change of the database needs at least.
const PROBE_BYTES: usize = 64 << 10;

/// Returns why the pool's directory accepts no change, or `None` if it does: an unnamed temporary file is created there and written.
///
/// # Errors
/// Fails with `TimedOut` when the directory does not answer in five seconds.
pub fn fault(pool: &PoolDir) -> Result<Option<io::Error>> {
    let (dir, database) = (pool.path().to_owned(), pool.database());
    let tried = with_timeout::ask(pool.path(), PATIENCE, move || {
        // This keeps a program that ends soon from being kept alive by a thread that waits for the file system.
        ask_first(&database);
        try_writing(&dir)
    });
    match tried {
        Ok(Ok(())) => Ok(None),
        Ok(Err(why)) => Ok(Some(why)),
        Err(why) if why.kind() == io::ErrorKind::TimedOut => {
            let what = format!("pool directory {}", pool.display());
            let why = format!("does not answer: a write has waited for {} s", PATIENCE.as_secs());
            Err(Error::new(ErrorKind::TimedOut, what, why).hint(
                "its file system is frozen (fsfreeze -u thaws it) or its disk hangs; volumes are served meanwhile",
            ))
        }
        Err(why) => Ok(Some(why)),
    }
}

/// Refuses a directory that was deleted while this process has it open: nothing can be created in it any more.
///
/// # Errors
/// Fails with the way out.
pub fn refuse_if_deleted(pool: &PoolDir) -> Result<()> {
    match std::fs::metadata(pool.path()) {
        Ok(found) if found.nlink() == 0 => {
            let what = format!("pool directory {}", pool.display());
            let why = "was deleted: volumes are served, and nothing can be changed";
            Err(Error::failed(what, why).hint(
                "stop all apparatuses of the pool, then make it again from its disks: vctl pool import DISK...",
            ))
        }
        _ => Ok(()),
    }
}

/// Returns an error if the directory accepts no change. Waits for the file system without a limit.
pub(super) fn try_writing(dir: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file).write_all(&vec![0; PROBE_BYTES]),
        // Not every file system has unnamed files; a missing permission to write here is reported elsewhere.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::ACCESS | Errno::PERM) => {
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}
