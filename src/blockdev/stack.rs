//! Finds all that a disk rests on, so that no pool rests on a volume of its own.
//!
//! A file rests on the mount that it lies in, a mount on its device or on the files that its server has open, a partition on its disk, a stacked
//! device on its members, a loop device on its file. The process that opens a disk may be the one that serves such a mount, so no function here
//! accesses the mount: all facts come from the mount table, `/sys` and `/proc`. What a server on another machine, or one that is not an
//! apparatus, rests on is not visible.

use super::identity::{devices_below, loop_file, sys_dir};
use crate::model::FILE_SYSTEM;
use crate::model::error::{Error, Result};
use crate::sys::proc::{Mounted, mounts};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use uuid::Uuid;

/// Maximum number of symbolic links in one path, as in the kernel.
const LINKS: usize = 40;

/// File or block device that a disk rests on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Backing {
    File(PathBuf),
    Device(u64),
}

/// Refuses a disk that rests on a volume of this pool, directly or through other pools.
///
/// # Errors
/// Fails with an error that names the mount.
pub(super) fn refuse_cycle(what: &str, path: &Path, pool: Uuid) -> Result<()> {
    let table = mounts("self").unwrap_or_default();
    let ours: Vec<&Mounted> = table.iter().filter(|mount| is_volumes(mount)).collect();
    if ours.is_empty() {
        return Ok(());
    }
    let mut visited = BTreeSet::new();
    let mut todo = VecDeque::from([first(path, &table)]);
    while let Some(backing) = todo.pop_front() {
        if !visited.insert(backing.clone()) {
            continue;
        }
        match backing {
            Backing::Device(number) => {
                todo.extend(devices_below(number).into_iter().map(Backing::Device));
                todo.extend(loop_file(&sys_dir(number)).map(Backing::File));
            }
            Backing::File(file) => {
                let Some(mount) = mount_of(&file, &table) else {
                    continue;
                };
                if is_volumes(mount) && file == path {
                    return Err(Error::usage(what, "is a volume that an apparatus serves")
                        .hint("a pool's disks lie outside of mounts of apparatuses"));
                }
                if is_volumes(mount) {
                    todo.extend(below_volumes(what, mount, pool)?);
                } else {
                    todo.extend(below_mount(mount));
                }
            }
        }
    }
    Ok(())
}

fn is_volumes(mount: &Mounted) -> bool {
    mount.kind.strip_prefix("fuse.") == Some(FILE_SYSTEM)
}

/// Returns whether a path leads into a mount of an apparatus.
pub(super) fn is_volume(path: &Path) -> bool {
    mount_of(path, &mounts("self").unwrap_or_default()).is_some_and(is_volumes)
}

/// Returns what a path refers to: for a device node the device, wherever the node lies.
fn first(path: &Path, table: &[Mounted]) -> Backing {
    let in_volumes = mount_of(path, table).is_some_and(is_volumes);
    match if in_volumes { None } else { fs::metadata(path).ok() } {
        Some(found) if found.file_type().is_block_device() => Backing::Device(found.rdev()),
        _ => Backing::File(path.to_owned()),
    }
}

/// Returns the mount that a path leads into. Follows symbolic links, but accesses nothing inside a mount of an apparatus.
fn mount_of<'a>(path: &Path, table: &'a [Mounted]) -> Option<&'a Mounted> {
    let mut done = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        if let Some(mount) = mounted_at(&next, table).filter(|mount| is_volumes(mount)) {
            return Some(mount);
        }
        match fs::read_link(&next) {
            Ok(target) if links < LINKS => {
                links += 1;
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    rest.push_front(part);
                }
            }
            _ => done = next,
        }
    }
    mounted_at(&done, table)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Returns the mount that a path without symbolic links lies in: the deepest one, and of several at one mount point the last.
fn mounted_at<'a>(path: &Path, table: &'a [Mounted]) -> Option<&'a Mounted> {
    let around = table.iter().filter(|mount| path.starts_with(&mount.point));
    around.max_by_key(|mount| mount.point.components().count())
}

/// Returns what a mount of an apparatus rests on: all files and devices that its process has open.
fn below_volumes(what: &str, mount: &Mounted, pool: Uuid) -> Result<Vec<Backing>> {
    let at = mount.point.display();
    if mount.source.ends_with(&format!("@{pool}")) {
        let why = format!("rests on a volume of this pool, by way of {at}, and would wait for itself");
        return Err(Error::usage(what, why).hint("a pool's disks lie outside of what its own volumes hold"));
    }
    served_from(mount.device_number()).ok_or_else(|| {
        let why =
            format!("rests on a volume of another pool, at {at}, and what that pool rests on cannot be seen");
        Error::usage(what, why)
            .hint("run as root, on the host where that apparatus runs; or use a disk outside of it")
    })
}

fn served_from(device: u64) -> Option<Vec<Backing>> {
    let connection = format!("fuse_connection:\t{}", rustix::fs::minor(device));
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let server = processes.map(|process| process.path()).find(|process| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files
            .filter(|file| fs::read_link(file.path()).is_ok_and(|to| to == Path::new("/dev/fuse")))
            .any(|file| {
                let info = fs::read_to_string(process.join("fdinfo").join(file.file_name()));
                info.is_ok_and(|info| info.lines().any(|line| line == connection))
            })
    })?;
    let files = fs::read_dir(server.join("fd")).ok()?.flatten();
    Some(
        files
            .filter_map(|file| opened(&fs::read_link(file.path()).ok()?))
            .collect(),
    )
}

fn opened(path: &Path) -> Option<Backing> {
    if path.starts_with("/dev") {
        let found = fs::metadata(path).ok()?;
        return found
            .file_type()
            .is_block_device()
            .then(|| Backing::Device(found.rdev()));
    }
    path.is_absolute().then(|| Backing::File(path.to_owned()))
}

/// Returns what any other mount rests on, as far as the mount table shows it: its device; the devices that it names where it has no device number
/// of its own (btrfs); the directories of an overlay.
fn below_mount(mount: &Mounted) -> Vec<Backing> {
    if mount.device.0 != 0 {
        return vec![Backing::Device(mount.device_number())];
    }
    let mut below: Vec<Backing> = opened(Path::new(&mount.source)).into_iter().collect();
    if mount.kind == "btrfs"
        && let Some(name) = Path::new(&mount.source).file_name()
    {
        below.extend(members_of_btrfs(&name.to_string_lossy()));
    }
    if mount.kind == "overlay" {
        let dirs = mount.options.split(',').filter_map(|option| {
            let (key, value) = option.split_once('=')?;
            ["lowerdir", "upperdir"].contains(&key).then_some(value)
        });
        let dirs = dirs
            .flat_map(|dirs| dirs.split(':'))
            .filter(|dir| dir.starts_with('/'));
        below.extend(dirs.map(|dir| Backing::File(dir.into())));
    }
    below
}

fn members_of_btrfs(device: &str) -> Vec<Backing> {
    let systems = fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let all = systems.map(|system| system.path().join("devices"));
    let Some(devices) = all.into_iter().find(|devices| devices.join(device).exists()) else {
        return Vec::new();
    };
    let names = fs::read_dir(devices).into_iter().flatten().flatten();
    names
        .filter_map(|name| opened(&Path::new("/dev").join(name.file_name())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(at: &str, kind: &str) -> Mounted {
        Mounted {
            point: at.into(),
            root: "/".into(),
            id: 1,
            device: (0, 40),
            read_only: false,
            kind: kind.into(),
            source: "a1@x".into(),
            options: String::new(),
        }
    }

    #[test]
    fn the_deepest_and_last_mount_around_a_path_is_found_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink("inner/../volumes", dir.join("link")).unwrap();
        fs::create_dir_all(dir.join("inner")).unwrap();
        let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let table = [
            mounted("/", "ext4"),
            mounted(&at("inner"), "xfs"),
            mounted(&at("inner"), "btrfs"),
            mounted(&at("volumes"), "fuse.apparatus"),
        ];
        let kind = |name: &str| mount_of(&dir.join(name), &table).unwrap().kind.clone();
        assert_eq!(kind("x"), "ext4");
        assert_eq!(kind("inner/x"), "btrfs");
        assert_eq!(kind("inner-not/x"), "ext4");
        assert_eq!(kind("link/v"), "fuse.apparatus");
        assert_eq!(
            kind("link/v/../../x"),
            "fuse.apparatus",
            "nothing inside is accessed"
        );
    }
}
