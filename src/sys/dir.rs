//! Access to the pool's directory through a descriptor.

use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Resolves the links of a path whose last component need not exist, and is not accessed itself. Returns `None` when its directory does not exist.
#[must_use]
pub fn without_links(path: &Path) -> Option<PathBuf> {
    let resolve = |path: &Path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let found = resolve(path)?;
    match fs::read_link(&found) {
        Ok(target) => resolve(&found.parent()?.join(target)),
        Err(_) => Some(found),
    }
}
