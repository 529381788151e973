//! Implements `mount -o remount,ro` and `rw` of a mounted apparatus, which the kernel alone carries out.

use crate::frontend::fuse;
use crate::model::error::{Error, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use std::path::Path;

/// Returns whether an option is one that a mount of an apparatus has, and that mount(8) repeats.
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

/// Refuses writes on the mount at `point` from now on, or allows them again.
///
/// # Errors
/// Fails when no apparatus is mounted there, files are open for writing, or it is not permitted.
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
