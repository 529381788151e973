//! `mount -o remount,ro` and `rw` of a mounted apparatus: the kernel alone does it.

use crate::error::{Error, Result};
use crate::fuse;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use std::path::Path;

/// Takes what a mount of an apparatus is mounted with, and what mount(8) repeats of it.
pub(super) fn repeats(key: &str) -> bool {
    [
        "remount",
        "fd",
        "rootmode",
        "user_id",
        "group_id",
        "default_permissions",
        "max_read",
        "subtype",
        "fsname",
        "allow_other",
    ]
    .contains(&key)
}

/// Lets nothing be written on the mount at `point` from now on, or lets it again.
///
/// # Errors
/// When no apparatus is mounted there, files are open for writing, or it is not allowed.
pub(super) fn remount(point: &Path, read_only: bool) -> Result<()> {
    let what = || format!("remount of {}", point.display());
    if fuse::mounted_at(point)?.is_none() {
        return Err(Error::failed(what(), "no apparatus is mounted there"));
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, read_only);
    mount_remount(point, flags, "").map_err(|why| {
        let error = Error::because(what(), why);
        match why {
            Errno::BUSY => {
                error.hint("files there are open for writing: close them, and detach loop devices")
            }
            Errno::PERM => error.hint("run as root"),
            _ => error,
        }
    })
}
