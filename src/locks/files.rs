//! Locks between the apparatuses of one machine: for each volume a file in the run directory, for each owner an open file description of it with the
//! owner's locks (`F_OFD_SETLK`). So the kernel splits and joins ranges, decides, and gives back what a process had that has ended.

use super::{Arbiter, Held, Kind, Owner, Range};
use crate::sys::{self, RangeLock};
use crate::units::VolumeId;
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Owners with locks at once: each has a descriptor.
const OWNERS: usize = 4096;

/// The files of a pool's run directory.
pub struct RunFiles {
    dir: PathBuf,
    open: HashMap<(VolumeId, Owner), File>,
}

impl RunFiles {
    /// In this run directory.
    #[must_use]
    pub fn new(run: &Path) -> Self {
        Self {
            dir: run.join("locks"),
            open: HashMap::new(),
        }
    }

    fn file(&mut self, volume: VolumeId, owner: Owner) -> io::Result<&File> {
        if !self.open.contains_key(&(volume, owner)) {
            if self.open.len() >= OWNERS {
                return Err(io::Error::other("too many owners of locks"));
            }
            let file = open(&self.dir, volume)?;
            self.open.insert((volume, owner), file);
        }
        self.open
            .get(&(volume, owner))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// Opens the volume's file as it is found by its path: with another one, nobody would be locked out.
fn open(dir: &Path, volume: VolumeId) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
        _ => (),
    }
    let path = dir.join(volume.0.to_string());
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let file = options.open(&path)?;
    let (mine, found) = (file.metadata()?, fs::metadata(&path)?);
    match (mine.dev(), mine.ino()) == (found.dev(), found.ino()) {
        true => Ok(file),
        false => Err(io::Error::other("the file of locks was replaced")),
    }
}

fn lock(range: Range, kind: Option<Kind>) -> RangeLock {
    RangeLock {
        start: range.start,
        end: range.end,
        exclusive: kind.map(|kind| kind == Kind::Exclusive),
    }
}

impl Arbiter for RunFiles {
    fn set(&mut self, volume: VolumeId, owner: Owner, range: Range, kind: Option<Kind>) -> io::Result<bool> {
        if kind.is_none() && !self.open.contains_key(&(volume, owner)) {
            return Ok(true);
        }
        sys::set_range_lock(self.file(volume, owner)?.as_fd(), lock(range, kind))
    }

    fn in_the_way(
        &mut self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: Kind,
    ) -> io::Result<Option<Held>> {
        let is_new = !self.open.contains_key(&(volume, owner));
        let found = sys::range_lock_in_the_way(self.file(volume, owner)?.as_fd(), lock(range, Some(kind)));
        if is_new {
            self.forget(volume, owner);
        }
        Ok(found?.map(|found| Held {
            kind: match found.exclusive {
                Some(true) => Kind::Exclusive,
                _ => Kind::Shared,
            },
            range: Range {
                start: found.start,
                end: found.end,
            },
            pid: 0,
        }))
    }

    fn forget(&mut self, volume: VolumeId, owner: Owner) {
        // Its last descriptor is closed, so the kernel gives its locks back.
        self.open.remove(&(volume, owner));
    }
}
