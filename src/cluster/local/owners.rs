//! Finds the processes that have a life lock on a pool's directory by their open descriptors, where the directory itself cannot be asked: it does
//! not answer, or was deleted.

use super::anchor::{byte_of_life, is_life};
use crate::model::dir::PoolDir;
use crate::model::names::Name;
use crate::sys::{self, proc};
use std::ffi::OsStr;
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Bytes that the owner of a disk locks on its file: `blockdev/claim.rs`. On the pool's directory no byte of these is locked, because no disk has the
/// number 0.
const OWNED: Range<u64> = 1 << 59..(1 << 59) + (1 << 32);

/// A file or device that a process has open as a disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenDisk {
    /// Its path now, or the last one that it had.
    pub path: PathBuf,
    /// Its inode.
    pub inode: u64,
    /// Whether it was deleted.
    pub is_deleted: bool,
}

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
    pub disks: Vec<OpenDisk>,
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
    let Some(path) = sys::without_links(pool.named()) else {
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
                disks: open_disks(locker.pid),
            });
        }
    }
    found
}

/// Returns the files and devices that a process has open as disks, as far as this user may see them: those on which it has the lock of the owner of
/// `blockdev/claim.rs`. The files are not accessed.
#[must_use]
pub fn open_disks(pid: u32) -> Vec<OpenDisk> {
    let mut found: Vec<OpenDisk> = proc::descriptors(pid)
        .filter_map(|open| open_disk(&open))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn open_disk(open: &proc::Descriptor) -> Option<OpenDisk> {
    let lines = open.info().ok()?;
    let is_claim = |(first, _): &(u64, u64)| OWNED.contains(first);
    lines.locks().iter().find(|lock| is_claim(lock))?;
    let target = open.target()?;
    let deleted = target.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    // The node of a device that is gone is no copy of its data.
    let is_node = target.starts_with("/dev") && !target.starts_with("/dev/shm");
    Some(OpenDisk {
        is_deleted: deleted.is_some() && !is_node,
        inode: lines
            .value("ino")
            .and_then(|inode| inode.parse().ok())
            .unwrap_or(0),
        path: deleted.map_or_else(|| target.clone(), |path| PathBuf::from(OsStr::from_bytes(path))),
    })
}

#[cfg(test)]
mod tests {
    use super::super::lock::LifeLock;
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_that_is_open_as_a_disk_is_found_after_it_was_renamed_or_deleted() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().canonicalize().unwrap();
        let (image, moved) = (dir.join("d.img"), dir.join("moved.img"));
        fs::write(&image, "").unwrap();
        let file = fs::File::open(&image).unwrap();
        let found = || {
            let all = open_disks(std::process::id()).into_iter();
            all.filter(|open| open.path.starts_with(&dir)).collect::<Vec<_>>()
        };
        assert_eq!(found(), []);
        sys::share_byte(file.as_fd(), OWNED.end).unwrap();
        assert_eq!(found(), [], "that byte says nothing of its owner");
        drop(file);
        let file = fs::File::open(&image).unwrap();
        sys::share_byte(file.as_fd(), OWNED.start + 7).unwrap();
        let mut expected = OpenDisk {
            path: image.clone(),
            inode: file.metadata().unwrap().ino(),
            is_deleted: false,
        };
        assert_eq!(found(), [expected.clone()]);
        fs::rename(&image, &moved).unwrap();
        expected.path.clone_from(&moved);
        assert_eq!(found(), [expected.clone()]);
        fs::remove_file(&moved).unwrap();
        expected.is_deleted = true;
        assert_eq!(found(), [expected]);
    }

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
            disks: Vec::new(),
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
