//! What an image has of its file system, and what that has left.

use super::{Disk, aside};
use crate::sys;
use crate::units::DiskOffset;
use rustix::fs::{FallocateFlags, XattrFlags, fallocate, fgetxattr, fsetxattr, statvfs};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Marks an image that has all its space and is to keep it: what is zeroed there stays allocated.
const KEEPS: &str = "user.apparatus.preallocated";

/// An image's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The file system's device number.
    pub file_system: u64,
    /// Bytes that the image may still ask of it.
    pub promised: u64,
    /// Bytes that the file system has left for those who are not root.
    pub free: u64,
    /// All bytes of the file system.
    pub size: u64,
}

impl Room {
    /// Of the image at `path`; of one that is `len` bytes long, if that is said, and if there is none yet, of the directory that it will
    /// be in. `None` for a block device. Waits no longer than `patience`.
    ///
    /// # Errors
    /// When it cannot be found out in that time.
    pub fn of(patience: Duration, path: &Path, len: Option<u64>) -> io::Result<Option<Self>> {
        let asked = path.to_owned();
        aside::ask(path, patience, move || look(&asked, len))?
    }
}

/// Without opening it.
fn look(path: &Path, len: Option<u64>) -> io::Result<Option<Room>> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let (place, found) = match path.metadata() {
        Ok(meta) => (path, Some(meta)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => (parent.unwrap_or(Path::new(".")), None),
        Err(why) => return Err(why),
    };
    if found.as_ref().is_some_and(|meta| !meta.is_file()) {
        return Ok(None);
    }
    let (has, allocated) = found.map_or((0, 0), |meta| (meta.len(), meta.blocks().saturating_mul(512)));
    let space = statvfs(place)?;
    Ok(Some(Room {
        file_system: place.metadata()?.dev(),
        promised: len.unwrap_or(0).max(has).saturating_sub(allocated),
        free: space.f_bavail.saturating_mul(space.f_frsize),
        size: space.f_blocks.saturating_mul(space.f_frsize),
    }))
}

/// Gives an image all its space, for good.
///
/// # Errors
/// Above all that the file system has not so much.
pub fn preallocate(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, file.metadata()?.len())?;
    fsetxattr(&file, KEEPS, b"1", XattrFlags::empty())?;
    file.sync_all()
}

/// Whether what is zeroed in this image is to stay allocated.
pub(super) fn keeps_space(file: impl AsFd) -> bool {
    fgetxattr(file, KEEPS, &mut [0_u8; 8]).is_ok()
}

impl Disk {
    /// Tells the disk that nobody needs what is in this range any more. What it holds afterwards is anything. False where the disk cannot, or
    /// is to keep its space.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard(&self, at: DiskOffset, len: u64) -> io::Result<bool> {
        if self.lacks.discard.load(Relaxed) || self.is_image() && self.lacks.punch.load(Relaxed) {
            return Ok(false);
        }
        self.writable(at, len)?;
        let discarded = match self.is_image() {
            true => fallocate(
                &self.file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                at.0,
                len,
            )
            .map_err(io::Error::from),
            false => sys::discard(&self.file, at.0, len),
        };
        match discarded {
            Ok(()) => Ok(true),
            Err(why)
                if matches!(
                    why.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY)
                ) =>
            {
                self.lacks.discard.store(true, Relaxed);
                Ok(false)
            }
            Err(why) => Err(why),
        }
    }

    fn is_image(&self) -> bool {
        !self.is_device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn an_image_is_promised_what_it_does_not_have() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let room = |len| Room::of(PATIENCE, &path, len).unwrap().unwrap();
        assert_eq!(room(Some(1 << 20)).promised, 1 << 20, "before it is there");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        assert_eq!(room(None).promised, 8 << 20);
        assert_eq!(room(Some(16 << 20)).promised, 16 << 20);
        preallocate(&path).unwrap();
        assert_eq!(room(None).promised, 0);
        assert!(keeps_space(&file) && file.metadata().unwrap().blocks() >= (8 << 20) / 512);
        assert_eq!(Room::of(PATIENCE, Path::new("/dev/null"), None).unwrap(), None);
    }
}
