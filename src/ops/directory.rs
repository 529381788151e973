//! Whether the file system of a pool's directory takes changes: it may be full, read-only, frozen or hung while the disks are well.

use crate::disk::aside;
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a change of the database needs at least.
const SOME: usize = 64 << 10;

/// Why the pool's directory takes no change, if it does not: a file without a name is made there, written, and gone again.
///
/// # Errors
/// When the directory does not answer in five seconds.
pub fn fault(pool: &PoolDir) -> Result<Option<io::Error>> {
    let dir = pool.path().to_owned();
    let tried = aside::ask(pool.path(), PATIENCE, move || try_writing(&dir));
    match tried {
        Ok(Ok(())) => Ok(None),
        Ok(Err(why)) => Ok(Some(why)),
        Err(why) if why.kind() == io::ErrorKind::TimedOut => {
            let what = format!("pool directory {}", pool.path().display());
            let why = format!("does not answer: a write has waited for {} s", PATIENCE.as_secs());
            Err(Error::new(Kind::TimedOut, what, why).hint(
                "its file system is frozen (fsfreeze -u) or its disk hangs; volumes are served meanwhile",
            ))
        }
        Err(why) => Ok(Some(why)),
    }
}

fn try_writing(dir: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file).write_all(&vec![0; SOME]),
        // Not every file system has files without names; who may not write here is told by others.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::ACCESS | Errno::PERM) => {
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}
