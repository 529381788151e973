//! Finds the processes that have a life lock on a pool's directory by their open descriptors, where the directory itself cannot be asked: it does
//! not answer, or was deleted.

use super::anchor::{byte_of_life, is_life};
use crate::model::dir::PoolDir;
use crate::model::names::Name;
use crate::sys::proc;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Least byte that is locked on a disk, far beyond those that SQLite and the member table lock.
const LEAST_CLAIM: u64 = 1 << 59;

/// A living process of a pool, found by its life lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process.
    pub pid: u32,
    /// Its name, if its command line shows the one that it has locked.
    pub name: Option<Name>,
    /// Where it mounts, as its command line has it.
    pub mount: Option<PathBuf>,
    /// Whether the directory that it has locked was deleted.
    pub is_deleted: bool,
    /// The files and devices that it has open as disks.
    pub disks: BTreeSet<PathBuf>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "apparatus {name}, process {}", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

/// Returns the processes with a life lock on the directory at this path, or on a deleted one that was there, as far as this user may see them. The
/// directory is not accessed.
#[must_use]
pub fn owners(pool: &PoolDir) -> Vec<Owner> {
    let Some(path) = without_links(pool.named()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for locker in proc::lockers(&path) {
        for (byte, _) in locker.locks.iter().filter(|(byte, _)| is_life(*byte)) {
            let name = proc::option_of(locker.pid, "--name").and_then(|name| name.into_string().ok());
            let name = name.and_then(|name| Name::new("apparatus", &name).ok());
            found.push(Owner {
                pid: locker.pid,
                name: name.filter(|name| byte_of_life(name.as_str()) == *byte),
                mount: proc::option_of(locker.pid, "--mount").map(PathBuf::from),
                is_deleted: locker.is_deleted,
                disks: disks_of(locker.pid),
            });
        }
    }
    found
}

/// Returns the files and devices that a process has open as disks: those on which it has a lock of `blockdev/claim.rs`.
fn disks_of(pid: u32) -> BTreeSet<PathBuf> {
    let is_claim = |(first, _): &(u64, u64)| *first >= LEAST_CLAIM;
    let claimed = proc::descriptors(pid).filter(|open| open.locks().iter().any(is_claim));
    let targets = claimed.filter_map(|open| open.target());
    let is_disk = |path: &PathBuf| !path.is_dir() && !path.to_string_lossy().ends_with(" (deleted)");
    targets.filter(is_disk).collect()
}

/// Resolves the links of a path whose last component need not exist, and is not accessed itself.
fn without_links(path: &Path) -> Option<PathBuf> {
    let resolve = |path: &Path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let found = resolve(path)?;
    match fs::read_link(&found) {
        Ok(target) => resolve(&found.parent()?.join(target)),
        Err(_) => Some(found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lock::LifeLock;
    use super::*;

    #[test]
    fn a_life_lock_shows_its_process_also_when_the_directory_is_deleted() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("pool");
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(&dir, scratch.path().join("link")).unwrap();
        let pool = PoolDir::new(&dir);
        assert_eq!(owners(&pool), []);
        let life = LifeLock::take(&pool, "a").unwrap().unwrap();
        let mut expected = Owner {
            pid: std::process::id(),
            name: None,
            mount: None,
            is_deleted: false,
            disks: BTreeSet::new(),
        };
        assert_eq!(owners(&pool), [expected.clone()]);
        assert_eq!(
            owners(&PoolDir::new(scratch.path().join("link"))),
            [expected.clone()]
        );
        fs::remove_dir_all(&dir).unwrap();
        expected.is_deleted = true;
        assert_eq!(owners(&pool), [expected]);
        drop(life);
        assert_eq!(owners(&pool), []);
    }
}
