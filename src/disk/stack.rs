//! What a disk rests on, down to the bottom: so that no pool waits for itself.
//!
//! A file rests on the mount that it lies in, a mount on its device or on what its server has open, a partition on its disk, a stacked device on
//! its members, a loop device on its file. Whoever opens a disk may be the one that serves such a mount, so nothing here asks the mount:
//! all is read from the mount table, from `/sys` and from `/proc`. What a server on another machine, or one that is no apparatus, rests on
//! cannot be seen.

use super::identity::{Mounted, devices_below, loop_file, mounts, sys_dir};
use crate::error::{Error, Result};
use crate::pool::FILE_SYSTEM;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use uuid::Uuid;

/// Symbolic links followed in one path, as many as the kernel follows.
const LINKS: usize = 40;

/// Something that stores bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    File(PathBuf),
    Device(u64),
}

/// Refuses a disk that rests on a volume of this pool, directly or through other pools.
///
/// # Errors
/// Names the mount.
pub(super) fn refuse_cycle(what: &str, path: &Path, pool: Uuid) -> Result<()> {
    let table = mounts();
    let ours: Vec<&Mounted> = table.iter().filter(|mount| is_volumes(mount)).collect();
    if ours.is_empty() {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    let mut todo = VecDeque::from([first(path, &table)]);
    while let Some(place) = todo.pop_front() {
        if !seen.insert(place.clone()) {
            continue;
        }
        match place {
            Place::Device(number) => {
                todo.extend(devices_below(number).into_iter().map(Place::Device));
                todo.extend(loop_file(&sys_dir(number)).map(Place::File));
            }
            Place::File(file) => {
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

/// Whether a path leads into a mount of an apparatus.
pub(super) fn is_volume(path: &Path) -> bool {
    mount_of(path, &mounts()).is_some_and(is_volumes)
}

/// A path to a device is that device, wherever the node lies.
fn first(path: &Path, table: &[Mounted]) -> Place {
    let in_volumes = mount_of(path, table).is_some_and(is_volumes);
    match if in_volumes { None } else { fs::metadata(path).ok() } {
        Some(found) if found.file_type().is_block_device() => Place::Device(found.rdev()),
        _ => Place::File(path.to_owned()),
    }
}

/// The mount that a path leads into. Symbolic links are followed, but no look is taken inside a mount of an apparatus.
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

/// The mount that a path without symbolic links lies in: the deepest, of several in one place the last.
fn mounted_at<'a>(path: &Path, table: &'a [Mounted]) -> Option<&'a Mounted> {
    let around = table.iter().filter(|mount| path.starts_with(&mount.at));
    around.max_by_key(|mount| Path::new(&mount.at).components().count())
}

/// What a mount of an apparatus rests on: all that its process has open.
fn below_volumes(what: &str, mount: &Mounted, pool: Uuid) -> Result<Vec<Place>> {
    let at = &mount.at;
    if mount.source.ends_with(&format!("@{pool}")) {
        let why = format!("rests on a volume of this pool, by way of {at}, and would wait for itself");
        return Err(Error::usage(what, why).hint("a pool's disks lie outside of what its own volumes hold"));
    }
    served_from(mount.device).ok_or_else(|| {
        let why =
            format!("rests on a volume of another pool, at {at}, and what that pool rests on cannot be seen");
        Error::usage(what, why)
            .hint("run as root, on the host where that apparatus runs; or use a disk outside of it")
    })
}

fn served_from(device: u64) -> Option<Vec<Place>> {
    let connection = format!("fuse_connection:\t{}", rustix::fs::minor(device));
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let server = processes.map(|process| process.path()).find(|process| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files
            .filter(|file| fs::read_link(file.path()).is_ok_and(|to| to == Path::new("/dev/fuse")))
            .any(|file| {
                let told = fs::read_to_string(process.join("fdinfo").join(file.file_name()));
                told.is_ok_and(|told| told.lines().any(|line| line == connection))
            })
    })?;
    let files = fs::read_dir(server.join("fd")).ok()?.flatten();
    Some(
        files
            .filter_map(|file| opened(&fs::read_link(file.path()).ok()?))
            .collect(),
    )
}

fn opened(path: &Path) -> Option<Place> {
    if path.starts_with("/dev") {
        let found = fs::metadata(path).ok()?;
        return found
            .file_type()
            .is_block_device()
            .then(|| Place::Device(found.rdev()));
    }
    path.is_absolute().then(|| Place::File(path.to_owned()))
}

/// What any other mount rests on, as far as the mount table tells: its device; where that has no number of its own (btrfs), the devices that
/// it names; the directories of an overlay.
fn below_mount(mount: &Mounted) -> Vec<Place> {
    if rustix::fs::major(mount.device) != 0 {
        return vec![Place::Device(mount.device)];
    }
    let mut below: Vec<Place> = opened(Path::new(&mount.source)).into_iter().collect();
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
        below.extend(dirs.map(|dir| Place::File(dir.into())));
    }
    below
}

fn members_of_btrfs(device: &str) -> Vec<Place> {
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
            device: rustix::fs::makedev(0, 40),
            at: at.into(),
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
            "nothing is looked at inside"
        );
    }
}
