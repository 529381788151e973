//! The mount point: made if missing, taken over from an apparatus that died on it, refused if it is anything else's.

use crate::error::{Error, Result};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use uuid::Uuid;

/// What `/proc/self/mountinfo` calls a mount of ours.
pub(super) const TYPE: &str = "fuse.apparatus";
/// Mounts on top of each other that are looked through.
const DEEPEST: usize = 16;

/// Makes `point` a free directory to mount on, and answers its absolute path without links, and whether it was made. `source` is what the mount will be known
/// as: a mount that has it already is this apparatus's own, of an earlier life.
///
/// # Errors
/// When it is no directory, not empty, or in use.
pub(super) fn prepare(point: &Path, source: &str) -> Result<(PathBuf, bool)> {
    let what = || format!("mount point {}", point.display());
    let (point, made) = resolve(point).map_err(|error| Error::because(what(), error))?;
    for _ in 0..DEEPEST {
        let Some(mount) = find_mount(&point).map_err(|error| Error::because(what(), error))? else {
            return free_directory(point).map(|point| (point, made));
        };
        if !(mount.kind == TYPE && (mount.source == source || is_dead(&point))) {
            let why = format!("is in use: {} ({}) is mounted there", mount.source, mount.kind);
            return Err(
                Error::failed(what(), why).hint("choose another directory, or unmount that one first")
            );
        }
        log::warn!("{}: takes over from {}, which has died", what(), mount.source);
        detach(&point).map_err(|error| Error::because(what(), error))?;
    }
    Err(Error::failed(what(), "has too many dead mounts on it").hint("umount -l it until none is left"))
}

/// The path with all links but a dead last component resolved; its directories made. Whether the last one was.
fn resolve(point: &Path) -> io::Result<(PathBuf, bool)> {
    let absolute = std::path::absolute(point)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok((absolute, false));
    };
    fs::create_dir_all(parent)?;
    let made = match fs::create_dir(&absolute) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        other => other.map(|()| true)?,
    };
    // Following a link to a dead mount fails just as the mount does, so only a link is followed.
    let place = parent.canonicalize()?.join(name);
    Ok(match fs::read_link(&place) {
        Ok(_) => (place.canonicalize()?, made),
        Err(_) => (place, made),
    })
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

/// Whether our mount of this source is on `point`, uppermost.
pub(super) fn is_mounted(point: &Path, source: &str) -> io::Result<bool> {
    let found = find_mount(point)?;
    Ok(found.is_some_and(|mount| mount.kind == TYPE && mount.source == source))
}

fn is_dead(point: &Path) -> bool {
    fs::metadata(point).is_err_and(|error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()))
}

/// Takes the mount out of sight; who has files open in it keeps them.
pub(super) fn detach(point: &Path) -> io::Result<()> {
    match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => ask_helper(&["-u", "-z"], point),
        other => Ok(other?),
    }
}

/// Unmounts what nobody has files open in.
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

/// A line of `/proc/PID/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The mount's number, which is unique among all namespaces.
    pub id: u32,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// What is mounted, by the name that it was mounted by.
    pub source: String,
    /// The type of the file system.
    pub kind: String,
    /// The options of the file system itself.
    pub options: String,
    /// Nothing can be written through it.
    pub read_only: bool,
}

/// The mounts of a `mountinfo`, each with its place. What cannot be understood is passed over.
pub fn mount_table(text: &[u8]) -> impl Iterator<Item = (PathBuf, Mounted)> {
    text.split(|&byte| byte == b'\n').filter_map(parse)
}

/// The mounts of a pool's apparatuses that are in sight here: the apparatus's name, and where. Touches none of them.
///
/// # Errors
/// When the mount table cannot be read.
pub fn mounts_of_pool(pool: Uuid) -> io::Result<Vec<(String, PathBuf)>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let of = format!("@{pool}");
    let ours = mount_table(&table).filter_map(|(point, mount)| {
        let name = mount.source.strip_suffix(&of).filter(|_| mount.kind == TYPE)?;
        Some((name.to_owned(), point))
    });
    Ok(ours.collect())
}

/// Whether users other than the one who mounted may look into the apparatus's mount at `point`. Does not touch the mount itself.
///
/// # Errors
/// When the mount table cannot be read.
pub fn allows_others(point: &Path) -> io::Result<bool> {
    let mount = find_mount(point)?;
    Ok(mount.is_some_and(|mount| {
        mount.kind == TYPE && mount.options.split(',').any(|option| option == "allow_other")
    }))
}

/// What the apparatus mounted at `point` is known as, and whether nothing can be written there. Does not touch the mount itself.
pub(super) fn mounted_at(point: &Path) -> io::Result<Option<(String, bool)>> {
    let mount = find_mount(point)?.filter(|mount| mount.kind == TYPE);
    Ok(mount.map(|mount| (mount.source, mount.read_only)))
}

/// What is mounted exactly there, uppermost.
fn find_mount(point: &Path) -> io::Result<Option<Mounted>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let found = mount_table(&table).filter(|(place, _)| place == point);
    Ok(found.map(|(_, mount)| mount).last())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: the fifth field is the place, the sixth how it is mounted; type, source and the file system's own options follow the dash.
fn parse(line: &[u8]) -> Option<(PathBuf, Mounted)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = numbers(fields.nth(1)?)?;
    let place = PathBuf::from(unescape(fields.nth(1)?));
    let flags = fields.next()?;
    let read_only = flags.split(|&byte| byte == b',').any(|flag| flag == b"ro");
    let mut rest = fields.skip_while(|&field| field != b"-").skip(1);
    let text = |field: &[u8]| unescape(field).to_string_lossy().into_owned();
    let kind = text(rest.next()?);
    let source = text(rest.next()?);
    let options = text(rest.next().unwrap_or_default());
    Some((
        place,
        Mounted {
            id,
            device,
            source,
            kind,
            options,
            read_only,
        },
    ))
}

/// `98:0`.
fn numbers(field: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The device number of our mount of this source on `point`.
pub(super) fn device_of(point: &Path, source: &str) -> io::Result<Option<(u32, u32)>> {
    let found = find_mount(point)?.filter(|mount| mount.kind == TYPE && mount.source == source);
    Ok(found.map(|mount| mount.device))
}

/// The device numbers of all mounts known as `source` in this mount namespace, those that have died included. Found without touching them.
///
/// # Errors
/// When the mount table cannot be read.
pub fn mounts_of(source: &str) -> io::Result<Vec<(u32, u32)>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let ours = mount_table(&table).filter(|(_, mount)| mount.kind == TYPE && mount.source == source);
    Ok(ours.map(|(_, mount)| mount.device).collect())
}

/// Blanks and the like are written as `\040`.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|digits| u8::from_str_radix(OsStr::from_bytes(digits).to_str()?, 8).ok());
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let line = br"36 35 0:50 / /mnt/a\040b rw,nosuid shared:3 - fuse.apparatus a@1-2 rw,user_id=0";
        let (place, mount) = parse(line).unwrap();
        assert_eq!(place, Path::new("/mnt/a b"));
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), (TYPE, "a@1-2"));
        assert_eq!(mount.device, (0, 50));
        assert!(!mount.read_only);
        assert_eq!(parse(b""), None);
        assert_eq!(unescape(br"a\134x\0"), OsString::from(r"a\x\0"));
        assert!(find_mount(Path::new("/proc")).unwrap().is_some());
        assert!(find_mount(Path::new("/proc/self")).unwrap().is_none());
    }

    #[test]
    fn makes_what_is_missing_and_refuses_what_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("x/y");
        let (ready, made) = prepare(&point, "a@1").unwrap();
        assert!(ready.is_dir() && made);
        assert_eq!(
            prepare(&point, "a@1").unwrap(),
            (ready, false),
            "as often as wanted"
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
