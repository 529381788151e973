//! Space of an image file, and of its file system.

use super::with_timeout;
use rustix::fs::{FallocateFlags, XattrFlags, fallocate, fgetxattr, fsetxattr, statvfs};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Attribute of an image that is preallocated and is to stay so: zeroed ranges keep their space.
const KEEPS: &str = "user.apparatus.preallocated";

/// Space of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSpace {
    /// Device number of the file system.
    pub file_system: u64,
    /// Bytes that the image may still allocate.
    pub promised: u64,
    /// Free bytes of the file system for users other than root.
    pub free: u64,
    /// Size of the file system in bytes.
    pub size: u64,
}

impl ImageSpace {
    /// Returns the space of the image at `path`, with `len` bytes if that is given. If the image does not exist yet, its directory determines the
    /// file system. Returns `None` for a block device. Waits for at most `patience`.
    ///
    /// # Errors
    /// Fails when the space cannot be determined in that time.
    pub fn of(patience: Duration, path: &Path, len: Option<u64>) -> io::Result<Option<Self>> {
        let asked = path.to_owned();
        with_timeout::ask(path, patience, move || look(&asked, len))?
    }
}

/// Determines the space without opening the image.
fn look(path: &Path, len: Option<u64>) -> io::Result<Option<ImageSpace>> {
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
    Ok(Some(ImageSpace {
        file_system: place.metadata()?.dev(),
        promised: len.unwrap_or(0).max(has).saturating_sub(allocated),
        free: space.f_bavail.saturating_mul(space.f_frsize),
        size: space.f_blocks.saturating_mul(space.f_frsize),
    }))
}

/// Allocates all space of an image, durably, and marks it preallocated.
///
/// # Errors
/// Fails above all when the file system has not enough space.
pub fn preallocate(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, file.metadata()?.len())?;
    fsetxattr(&file, KEEPS, b"1", XattrFlags::empty())?;
    file.sync_all()
}

/// Returns whether zeroed ranges of this image are to stay allocated.
pub(super) fn keeps_space(file: impl AsFd) -> bool {
    fgetxattr(file, KEEPS, &mut [0_u8; 8]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn an_image_may_allocate_what_it_does_not_have() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let room = |len| ImageSpace::of(PATIENCE, &path, len).unwrap().unwrap();
        assert_eq!(room(Some(1 << 20)).promised, 1 << 20, "before it exists");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        assert_eq!(room(None).promised, 8 << 20);
        assert_eq!(room(Some(16 << 20)).promised, 16 << 20);
        preallocate(&path).unwrap();
        assert_eq!(room(None).promised, 0);
        assert!(keeps_space(&file) && file.metadata().unwrap().blocks() >= (8 << 20) / 512);
        assert_eq!(
            ImageSpace::of(PATIENCE, Path::new("/dev/null"), None).unwrap(),
            None
        );
    }
}
