//! Access to the pool's directory through a descriptor.

use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

/// Opens the pool's directory, so that it may be renamed later. A directory that does not exist stays a path.
///
/// # Errors
/// Fails if the directory may not be opened.
pub fn hold(pool: &PoolDir) -> Result<PoolDir> {
    if pool.is_held() {
        return Ok(pool.clone());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match open(pool.path(), flags, Mode::empty()) {
        Ok(directory) => Ok(PoolDir::held(directory, pool.path())),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(pool.clone()),
        Err(errno) => Err(Error::because(format!("pool {}", pool.display()), errno)),
    }
}
