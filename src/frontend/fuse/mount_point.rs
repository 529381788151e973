//! Prepares the mount point: creates a missing one, takes it over from an apparatus that has died, and refuses one that is in use.

use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::sys::proc::{self, Mounted};
use crossbeam_channel::bounded;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;
use uuid::Uuid;

/// File system type of an apparatus's mount in `/proc/self/mountinfo`.
pub(super) const TYPE: &str = "fuse.apparatus";
/// Maximum number of stacked mounts that are removed from a mount point.
const DEEPEST: usize = 16;
/// How long another mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes `point` an empty directory to mount on. Returns its absolute path without links, and whether it was created. `source` is the source of
/// the new mount: a mount that has it already belongs to an earlier process of this apparatus.
///
/// # Errors
/// Fails when `point` is not a directory, not empty, or in use.
pub(super) fn prepare(point: &Path, source: &str) -> Result<(PathBuf, bool)> {
    let what = || format!("mount point {}", point.display());
    let (point, made) = resolve(point).map_err(|error| Error::because(what(), error))?;
    for _ in 0..DEEPEST {
        let Some(mount) = find_mount(&point).map_err(|error| Error::because(what(), error))? else {
            return free_directory(point).map(|point| (point, made));
        };
        if !(mount.kind == TYPE && (mount.source == source || is_dead(&point))) {
            let why = format!("is in use: {} is mounted there", described(&mount));
            return Err(
                Error::failed(what(), why).hint("choose another directory, or unmount that one first")
            );
        }
        log::warn!("{}: removes the dead mount of {}", what(), mount.source);
        detach(&point).map_err(|error| Error::because(what(), error))?;
    }
    Err(Error::failed(what(), "has too many dead mounts on it")
        .hint("run umount -l on it until none is left"))
}

/// Creates the directories of a path, and resolves all its links except a dead last component. Returns whether the last directory was created.
pub(super) fn resolve(point: &Path) -> io::Result<(PathBuf, bool)> {
    let absolute = std::path::absolute(point)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok((absolute, false));
    };
    fs::create_dir_all(parent)?;
    let made = match fs::create_dir(&absolute) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        other => other.map(|()| true)?,
    };
    without_links(&parent.join(name)).map(|path| (path, made))
}

/// Resolves the links of a mount point's path. Access to a dead mount fails, so the last component is resolved only if it is a link.
fn without_links(point: &Path) -> io::Result<PathBuf> {
    let (Some(parent), Some(name)) = (point.parent(), point.file_name()) else {
        return Ok(point.to_owned());
    };
    let path = parent.canonicalize()?.join(name);
    match fs::read_link(&path) {
        Ok(_) => path.canonicalize(),
        Err(_) => Ok(path),
    }
}

/// Describes what is mounted.
fn described(mount: &Mounted) -> String {
    match mount.source.split_once('@') {
        Some((name, _)) if mount.kind == TYPE => format!("apparatus {name}"),
        _ => format!("{} ({})", mount.source, mount.kind),
    }
}

fn free_directory(point: PathBuf) -> Result<PathBuf> {
    let what = || format!("mount point {}", point.display());
    let mut entries = fs::read_dir(&point).map_err(|error| Error::because(what(), error))?;
    if entries.next().is_some() {
        return Err(Error::failed(what(), "is not empty: its files would be hidden")
            .hint("choose an empty directory, or one that does not exist yet"));
    }
    Ok(point)
}

/// Returns whether an apparatus's mount with this source is the uppermost one on `point`.
pub(super) fn is_mounted(point: &Path, source: &str) -> io::Result<bool> {
    let found = find_mount(point)?;
    Ok(found.is_some_and(|mount| mount.kind == TYPE && mount.source == source))
}

/// Returns whether nobody serves the mount on `point` any more. A mount that does not answer in time is another case: its server may be stopped, or be
/// started again by its supervisor.
fn is_dead(point: &Path) -> bool {
    let (sender, looked) = bounded(1);
    let place = point.to_owned();
    let look = move || {
        let error = fs::metadata(place).err();
        // Nobody may wait for it any more.
        let _ = sender.send(error.and_then(|error| error.raw_os_error()));
    };
    let thread = thread::Builder::new().name("mount-point".into()).spawn(look);
    thread.is_ok() && looked.recv_timeout(PATIENCE) == Ok(Some(Errno::NOTCONN.raw_os_error()))
}

/// Detaches the mount; processes that have files open in it keep them.
pub(super) fn detach(point: &Path) -> io::Result<()> {
    match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => ask_helper(&["-u", "-z"], point),
        other => Ok(other?),
    }
}

/// Unmounts a mount in which no process has files open.
pub(super) fn remove(point: &Path) -> io::Result<()> {
    match unmount(point, UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => ask_helper(&["-u"], point),
        other => Ok(other?),
    }
}

fn ask_helper(arguments: &[&str], point: &Path) -> io::Result<()> {
    let mut command = Command::new(super::HELPER);
    let output = command.args(arguments).arg("--").arg(point).output()?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let busy = why.contains("busy");
    let kind = if busy {
        io::ErrorKind::ResourceBusy
    } else {
        io::ErrorKind::Other
    };
    Err(io::Error::new(kind, why))
}

/// Returns the mounts of a pool's apparatuses in this mount namespace: the apparatus's name and the mount point. Does not access the mounts.
///
/// # Errors
/// Fails when the mount table cannot be read.
pub fn mounts_of_pool(pool: Uuid) -> io::Result<Vec<(String, PathBuf)>> {
    let of = format!("@{pool}");
    let ours = proc::mounts("self")?.into_iter().filter_map(|mount| {
        let name = mount.source.strip_suffix(&of).filter(|_| mount.kind == TYPE)?;
        Some((name.to_owned(), mount.point))
    });
    Ok(ours.collect())
}

/// Returns whether users other than the one who mounted have access to the apparatus's mount at `point`. Does not access the mount itself.
///
/// # Errors
/// Fails when the mount table cannot be read.
pub fn allows_others(point: &Path) -> io::Result<bool> {
    let mount = find_mount(point)?;
    Ok(mount.is_some_and(|mount| {
        mount.kind == TYPE && mount.options.split(',').any(|option| option == "allow_other")
    }))
}

/// Returns the user and group that mounted the apparatus's mount at `point`. Does not access the mount itself.
///
/// # Errors
/// Fails when the mount table cannot be read.
pub fn owner_at(point: &Path) -> io::Result<Option<(u32, u32)>> {
    let mount = find_mount(&without_links(point)?)?.filter(|mount| mount.kind == TYPE);
    Ok(mount.and_then(|mount| owner_in(&mount.options)))
}

/// Parses options such as `rw,user_id=1000,group_id=1000`.
fn owner_in(options: &str) -> Option<(u32, u32)> {
    let value = |name: &str| {
        let mut options = options.split(',');
        options.find_map(|option| option.strip_prefix(name)?.parse().ok())
    };
    Some((value("user_id=")?, value("group_id=")?))
}

/// Returns the source of the apparatus's mount at `point`, if there is one, and whether it is read-only. Does not access the mount itself.
pub(super) fn mounted_at(point: &Path) -> io::Result<Option<(String, bool)>> {
    let mount = find_mount(point)?.filter(|mount| mount.kind == TYPE);
    Ok(mount.map(|mount| (mount.source, mount.read_only)))
}

/// Returns the uppermost mount on exactly this path.
fn find_mount(point: &Path) -> io::Result<Option<Mounted>> {
    Ok(proc::mounts("self")?
        .into_iter()
        .rfind(|mount| mount.point == point))
}

/// Returns the device number of the apparatus's mount with this source on `point`.
pub(super) fn device_of(point: &Path, source: &str) -> io::Result<Option<(u32, u32)>> {
    let found = find_mount(point)?.filter(|mount| mount.kind == TYPE && mount.source == source);
    Ok(found.map(|mount| mount.device))
}

/// Returns the device number of this apparatus's mount at `point`, of whichever pool. Does not access the mount.
///
/// # Errors
/// Fails when the mount table cannot be read.
pub fn device_at(point: &Path, apparatus: &Name) -> io::Result<Option<(u32, u32)>> {
    let begin = format!("{apparatus}@");
    let point = without_links(point)?;
    let found = find_mount(&point)?.filter(|mount| mount.kind == TYPE && mount.source.starts_with(&begin));
    Ok(found.map(|mount| mount.device))
}

/// Returns the device numbers of all mounts with this source in this mount namespace, including dead ones. Does not access the mounts.
///
/// # Errors
/// Fails when the mount table cannot be read.
pub fn mounts_of(source: &str) -> io::Result<Vec<(u32, u32)>> {
    let ours = proc::mounts("self")?
        .into_iter()
        .filter(|mount| mount.kind == TYPE && mount.source == source);
    Ok(ours.map(|mount| mount.device).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_on_exactly_this_path() {
        assert!(find_mount(Path::new("/proc")).unwrap().is_some());
        assert!(find_mount(Path::new("/proc/self")).unwrap().is_none());
    }

    #[test]
    fn the_user_who_mounted_is_found_in_the_options() {
        assert_eq!(
            owner_in("rw,user_id=1000,group_id=7,max_read=131072"),
            Some((1000, 7))
        );
        assert_eq!(owner_in("rw,user_id=1000"), None);
    }

    #[test]
    fn creates_a_missing_directory_and_refuses_one_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("x/y");
        let (ready, made) = prepare(&point, "a@1").unwrap();
        assert!(ready.is_dir() && made);
        assert_eq!(
            prepare(&point, "a@1").unwrap(),
            (ready, false),
            "any number of times"
        );
        fs::write(point.join("file"), "").unwrap();
        assert!(prepare(&point, "a@1").unwrap_err().why().contains("not empty"));
        let error = prepare(&point.join("file"), "a@1").unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
        assert!(
            prepare(Path::new("/proc"), "a@1")
                .unwrap_err()
                .why()
                .contains("in use")
        );
    }
}
