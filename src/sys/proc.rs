//! Parsers of `/proc` files about mounts, processes and threads. No other file parses these formats.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A line of `/proc/PID/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The mount point.
    pub point: PathBuf,
    /// The part of the file system that is mounted: `/` for all of it.
    pub root: PathBuf,
    /// The mount's number, which is unique among all namespaces.
    pub id: u32,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// The source as given at mounting.
    pub source: String,
    /// The type of the file system: `ext4`, `fuse.apparatus`.
    pub kind: String,
    /// The options of the file system itself.
    pub options: String,
    /// Whether the mount is read-only.
    pub read_only: bool,
}

impl Mounted {
    /// Returns the number of the file system's device, as `stat` returns it.
    #[must_use]
    pub fn device_number(&self) -> u64 {
        rustix::fs::makedev(self.device.0, self.device.1)
    }
}

/// Returns the mounts that a process (`self`, or its number) sees, in the order in which they were mounted. It accesses none of
/// them. Lines that cannot be parsed are skipped.
///
/// # Errors
/// Fails if the table cannot be read.
pub fn mounts(process: impl Display) -> io::Result<Vec<Mounted>> {
    Ok(mounts_in(&fs::read(format!("/proc/{process}/mountinfo"))?))
}

/// Parses the mounts of a table.
pub(crate) fn mounts_in(table: &[u8]) -> Vec<Mounted> {
    table.split(|&byte| byte == b'\n').filter_map(mounted).collect()
}

/// Parses a line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: the fifth field is the mount point,
/// the sixth the mount options; type, source and the file system's own options follow the dash (proc(5)).
fn mounted(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = numbers(fields.nth(1)?)?;
    let root = PathBuf::from(unescape(fields.next()?));
    let point = PathBuf::from(unescape(fields.next()?));
    let flags = fields.next()?;
    let read_only = flags.split(|&byte| byte == b',').any(|flag| flag == b"ro");
    let mut rest = fields.skip_while(|&field| field != b"-").skip(1);
    let text = |field: &[u8]| unescape(field).to_string_lossy().into_owned();
    Some(Mounted {
        point,
        root,
        id,
        device,
        kind: text(rest.next()?),
        source: text(rest.next()?),
        options: text(rest.next().unwrap_or_default()),
        read_only,
    })
}

/// Parses a device number such as `98:0`.
fn numbers(field: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Replaces the kernel's octal escapes, such as `\040` for a blank.
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

/// Fields of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its state: `R`, `S`, `D` (waits in the kernel), `T` (stopped), `t` (traced), `Z` and `X` (ended).
    pub state: char,
    /// Start time, in clock ticks since boot.
    pub started: u64,
}

/// Returns the state of a process of this PID namespace; `None` if there is none with this number.
///
/// # Errors
/// Fails if `/proc` cannot be read.
pub fn stat(pid: impl Display) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(Some(stat_in(&text).ok_or(io::ErrorKind::InvalidData)?)),
        Err(why) if matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Parses the text: the name in parentheses may contain anything; it is followed by field 3 and on, and the start time is field
/// 22 (proc(5)).
pub(crate) fn stat_in(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        started: fields.nth(18)?.parse().ok()?,
    })
}

/// Returns the processes that can be seen, this one included.
pub fn processes() -> impl Iterator<Item = u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns the name of a process, without its arguments; `None` if it has ended.
#[must_use]
pub fn name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Returns a process for a message: `qemu-system-x86, process 123`.
#[must_use]
pub fn described(pid: u32) -> String {
    format!("{}, process {pid}", name(pid).unwrap_or_default())
}

/// An open descriptor of a process. Its file is never accessed, so a disk or a mount that does not answer delays no one.
#[derive(Clone, Debug)]
pub struct Descriptor {
    link: PathBuf,
    info: PathBuf,
}

impl Descriptor {
    /// Returns the path of the open file as the kernel words it, for example with ` (deleted)` behind it; `None` if it has been closed.
    #[must_use]
    pub fn target(&self) -> Option<PathBuf> {
        fs::read_link(&self.link).ok()
    }

    /// Reads the lines about the descriptor: position, flags, mount, inode and locks.
    ///
    /// # Errors
    /// Fails as [`Lines::read`] does.
    pub fn info(&self) -> io::Result<Lines> {
        Lines::read(&self.info)
    }

    /// Returns the locks that were taken through the descriptor, as first and last byte; none if it has been closed.
    #[must_use]
    pub fn locks(&self) -> Vec<(u64, u64)> {
        self.info().map(|lines| lines.locks()).unwrap_or_default()
    }
}

/// A process that has locked bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locker {
    /// The process.
    pub pid: u32,
    /// The locked bytes, as first and last byte.
    pub locks: Vec<(u64, u64)>,
    /// Whether the file was deleted.
    pub is_deleted: bool,
}

/// Returns the processes that have locked bytes of the file or directory at this path, or of a deleted one that was there, as far as this user may
/// see them. The file is not accessed, so one that does not answer delays no one. `path` is absolute and without links.
#[must_use]
pub fn lockers(path: &Path) -> Vec<Locker> {
    let mut deleted = path.as_os_str().to_owned();
    deleted.push(" (deleted)");
    let mut found = Vec::new();
    for pid in processes() {
        for open in descriptors(pid) {
            let is_deleted = match open.target() {
                Some(target) if target == path => false,
                Some(target) if target.as_os_str() == deleted => true,
                _ => continue,
            };
            let locks = open.locks();
            if !locks.is_empty() {
                found.push(Locker {
                    pid,
                    locks,
                    is_deleted,
                });
            }
        }
    }
    found
}

/// Returns the value of an option `--name VALUE` or `--name=VALUE` on the command line of a process; `None` if it has none or has ended.
#[must_use]
pub fn option_of(pid: u32, name: &str) -> Option<OsString> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|&byte| byte == 0);
    let value = words.find_map(|word| match word.strip_prefix(name.as_bytes())? {
        [] => Some(None),
        [b'=', value @ ..] => Some(Some(value)),
        _ => None,
    })?;
    let value = value.or_else(|| words.next())?;
    Some(OsStr::from_bytes(value).to_owned())
}

/// Returns the open descriptors of a process; none if it has ended or belongs to another user.
pub fn descriptors(pid: u32) -> impl Iterator<Item = Descriptor> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.map(move |entry| Descriptor {
        link: entry.path(),
        info: process.join("fdinfo").join(entry.file_name()),
    })
}

/// A file of lines `name: value`, such as `/proc/THREAD/status` and `fdinfo`.
#[derive(Clone, Debug)]
pub struct Lines(String);

impl From<String> for Lines {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Lines {
    /// Reads a file.
    ///
    /// # Errors
    /// Fails if it cannot be read: the process, thread or descriptor is gone, or belongs to another user.
    pub fn read(file: &Path) -> io::Result<Self> {
        fs::read_to_string(file).map(Self)
    }

    /// Returns whether a line contains this text.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        self.0.lines().any(|line| line.contains(text))
    }

    /// Returns the locks in lines such as `lock: 1: OFDLCK ADVISORY READ -1 fe:01:12 1 1` (proc(5)), as first and last byte. A last byte of `EOF` is
    /// the largest number.
    #[must_use]
    pub fn locks(&self) -> Vec<(u64, u64)> {
        let lock = |line: &str| {
            let mut fields = line.strip_prefix("lock:")?.split_ascii_whitespace().rev();
            let (last, first) = (fields.next()?, fields.next()?);
            let last = if last == "EOF" {
                Some(u64::MAX)
            } else {
                last.parse().ok()
            };
            Some((first.parse().ok()?, last?))
        };
        self.0.lines().filter_map(lock).collect()
    }

    /// Returns the value behind this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let of = |line: &'_ str| -> Option<usize> {
            line.strip_prefix(name)?
                .starts_with(':')
                .then_some(name.len() + 1)
        };
        self.0
            .lines()
            .find_map(|line| Some(line.get(of(line)?..)?.trim()))
    }
}

/// Reads the status of a thread or process.
///
/// # Errors
/// Fails as [`Lines::read`] does.
pub fn status(thread: impl Display) -> io::Result<Lines> {
    Lines::read(Path::new(&format!("/proc/{thread}/status")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table_is_parsed() {
        let line =
            br"36 35 98:1 /sub /mnt/a\040b rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue";
        let found = mounted(line).unwrap();
        assert_eq!(
            (found.point.as_path(), found.kind.as_str()),
            (Path::new("/mnt/a b"), "ext3")
        );
        assert_eq!(
            (found.source.as_str(), found.options.as_str()),
            ("/dev/root", "rw,errors=continue")
        );
        assert_eq!(
            (found.device, found.root.as_path(), found.read_only),
            ((98, 1), Path::new("/sub"), false)
        );
        assert_eq!(found.device_number(), rustix::fs::makedev(98, 1));
        assert_eq!(mounted(b""), None);
        assert_eq!(unescape(br"a\134x\0"), OsString::from(r"a\x\0"));
        assert!(
            mounts("self")
                .unwrap()
                .iter()
                .any(|mount| mount.point == Path::new("/"))
        );
    }

    #[test]
    fn the_state_of_a_process_is_parsed_whatever_its_name() {
        let text = "7 (a) S b) T 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(
            stat_in(text),
            Some(Stat {
                state: 'T',
                started: 4711
            })
        );
        assert_eq!(stat_in("7 (a) T"), None);
        assert!(
            stat(std::process::id())
                .unwrap()
                .is_some_and(|stat| stat.started > 0)
        );
        assert_eq!(stat(u32::MAX).unwrap(), None);
    }

    #[test]
    fn this_process_is_found_with_its_name_and_its_descriptors() {
        let me = std::process::id();
        assert!(processes().any(|pid| pid == me));
        assert_eq!(name(me), Some(name_of_this_program()));
        assert_eq!(name(u32::MAX), None);
        let file = fs::File::open("/proc/version").unwrap();
        let open = descriptors(me).find(|open| open.target().as_deref() == Some(Path::new("/proc/version")));
        assert!(open.unwrap().info().unwrap().value("flags").is_some());
        drop(file);
        assert_eq!(descriptors(u32::MAX).count(), 0);
    }

    /// The kernel keeps the first 15 bytes of a name.
    fn name_of_this_program() -> String {
        let program = std::env::current_exe().unwrap();
        program
            .file_name()
            .unwrap()
            .to_string_lossy()
            .chars()
            .take(15)
            .collect()
    }

    #[test]
    fn who_has_locked_a_file_is_found_though_the_file_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("file");
        let file = fs::File::create(&path).unwrap();
        assert_eq!(lockers(&path), [], "nothing is locked");
        crate::sys::share_byte(std::os::fd::AsFd::as_fd(&fs::File::open(&path).unwrap()), 5).unwrap();
        assert_eq!(lockers(&path), [], "that descriptor is closed");
        let open = fs::File::open(&path).unwrap();
        crate::sys::share_byte(std::os::fd::AsFd::as_fd(&open), 5).unwrap();
        crate::sys::share_byte(std::os::fd::AsFd::as_fd(&open), 9).unwrap();
        let mut locker = Locker {
            pid: std::process::id(),
            locks: vec![(5, 5), (9, 9)],
            is_deleted: false,
        };
        assert_eq!(lockers(&path), [locker.clone()]);
        fs::remove_file(&path).unwrap();
        locker.is_deleted = true;
        assert_eq!(lockers(&path), [locker]);
        drop(file);
    }

    #[test]
    fn locks_are_parsed() {
        let text = "pos:\t0\nlock:\t1: OFDLCK ADVISORY  READ -1 fe:01:12 7 8\nlock:\t2: POSIX  ADVISORY  WRITE 9 fe:01:12 0 EOF\nlock:\tx\n";
        assert_eq!(Lines(text.into()).locks(), [(7, 8), (0, u64::MAX)]);
    }

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let lines = Lines("SigPnd:\t0\nSigPndX:\t1\nTgid:\t42\n".into());
        assert_eq!(
            (lines.value("Tgid"), lines.value("SigPnd")),
            (Some("42"), Some("0"))
        );
        assert_eq!(lines.value("Sig"), None);
    }
}
