//! What a path is made of, down to the bottom: so that one disk is not taken for two.

use super::stack;
use crate::sys;
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Something that stores bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Store {
    /// A file: its file system's device number, its inode.
    File(u64, u64),
    /// A block device: its number.
    Device(u64),
}

/// A file or block device and all that it lies on: the disk of a partition, the file below a loop device, the members of a
/// device-mapper or RAID device.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Itself.
    pub(super) own: Store,
    /// Itself and everything below it.
    pub(super) all: BTreeSet<Store>,
}

impl Identity {
    /// `None` for what is neither a file nor a block device, or is not there.
    pub(super) fn of(path: &Path) -> Option<Self> {
        Some(Self::from(store(&fs::metadata(path).ok()?)?))
    }

    /// Whether one of the two is, or lies on, the other. Two partitions of one disk do not.
    pub(super) fn shares(&self, other: &Self) -> bool {
        self.all.contains(&other.own) || other.all.contains(&self.own)
    }
}

impl From<Store> for Identity {
    fn from(own: Store) -> Self {
        let mut all = BTreeSet::new();
        let mut below = vec![own];
        while let Some(store) = below.pop() {
            if all.insert(store)
                && let Store::Device(number) = store
            {
                below.extend(directly_below(number));
            }
        }
        Self { own, all }
    }
}

fn store(meta: &Metadata) -> Option<Store> {
    if meta.is_file() {
        Some(Store::File(meta.dev(), meta.ino()))
    } else {
        meta.file_type()
            .is_block_device()
            .then(|| Store::Device(meta.rdev()))
    }
}

/// The kernel's directory about a block device.
pub(super) fn sys_dir(device: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

fn directly_below(device: u64) -> Vec<Store> {
    let devices = devices_below(device).into_iter().map(Store::Device);
    devices.chain(below_loop(&sys_dir(device))).collect()
}

/// The devices that a device lies on: the members of a stacked one, the disk of a partition.
pub(super) fn devices_below(device: u64) -> Vec<u64> {
    let dir = sys_dir(device);
    let slaves = fs::read_dir(dir.join("slaves")).into_iter().flatten();
    let mut below: Vec<_> = slaves
        .filter_map(|slave| number_in(&slave.ok()?.path().join("dev")))
        .collect();
    if dir.join("partition").exists() {
        // The link leads to the partition's directory, inside that of its disk.
        let disk = fs::canonicalize(&dir).ok();
        let disk = disk.as_deref().and_then(Path::parent);
        below.extend(disk.and_then(|disk| number_in(&disk.join("dev"))));
    }
    below
}

/// The path of the file below a loop device, as the kernel shows it: the file itself is not looked at. `dir` is the device's in `/sys`.
pub(super) fn loop_file(dir: &Path) -> Option<PathBuf> {
    let shown = fs::read_to_string(dir.join("loop/backing_file")).ok()?;
    let shown = shown.trim_end_matches('\n');
    Some(shown.strip_suffix(" (deleted)").unwrap_or(shown).into())
}

/// Reads `MAJOR:MINOR`.
fn number_in(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// What a loop device lies on: asked of the device where it may be opened, else looked up by the path that the kernel shows. To ask is
/// to have the file looked at, which a mount of an apparatus may not answer: what lies on a volume is not asked about.
fn below_loop(dir: &Path) -> Option<Store> {
    let shown = loop_file(dir)?;
    if stack::is_volume(&shown) {
        return None;
    }
    let name = fs::canonicalize(dir).ok()?;
    let device = Path::new("/dev").join(name.file_name()?);
    let asked = File::open(device).and_then(|device| sys::loop_backing(&device));
    match asked {
        Ok(backing) if backing.raw_device != 0 => Some(Store::Device(backing.raw_device)),
        Ok(backing) => Some(Store::File(backing.device, backing.inode)),
        Err(_) => store(&fs::metadata(shown).ok()?),
    }
}

/// The loop devices that lie on this, by path.
pub(super) fn loops_over(below: Store) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten();
    devices
        .filter_map(|device| {
            let device = device.ok()?.path();
            (below_loop(&device)? == below)
                .then(|| Path::new("/dev").join(device.file_name().unwrap_or_default()))
        })
        .collect()
}

/// A mounted file system, as `/proc/self/mountinfo` shows it.
pub(super) struct Mounted {
    /// Its device number.
    pub(super) device: u64,
    /// Where it is mounted.
    pub(super) at: String,
    /// Its type: `ext4`, `fuse.apparatus`.
    pub(super) kind: String,
    /// What it is mounted from: `/dev/sda1`, or whatever its server says.
    pub(super) source: String,
    /// Options of the file system.
    pub(super) options: String,
}

/// All mounted file systems that this process sees.
pub(super) fn mounts() -> Vec<Mounted> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(mounted).collect()
}

/// `36 35 98:0 /root /where options - ext4 /dev/x options`
fn mounted(line: &str) -> Option<Mounted> {
    let (place, kind) = line.split_once(" - ")?;
    let mut fields = place.split(' ');
    let (major, minor) = fields.nth(2)?.split_once(':')?;
    let mut system = kind.split(' ');
    Some(Mounted {
        device: rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?),
        at: plain(fields.nth(1)?),
        kind: system.next()?.to_owned(),
        source: plain(system.next()?),
        options: plain(system.next().unwrap_or_default()),
    })
}

/// The kernel writes blanks and the like as `\040`.
fn plain(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"]
        .iter()
        .fold(text.to_owned(), |text, escape| {
            let (written, meant) = escape.split_at(4);
            text.replace(written, meant)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_same_file_and_copies_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), b"x").unwrap();
        fs::copy(at("a"), at("copy")).unwrap();
        fs::hard_link(at("a"), at("hard")).unwrap();
        std::os::unix::fs::symlink(at("a"), at("soft")).unwrap();
        let of = |name: &str| Identity::of(&at(name)).unwrap();
        assert!(of("a").shares(&of("hard")) && of("soft").shares(&of("a")));
        assert!(!of("a").shares(&of("copy")));
        assert!(Identity::of(dir.path()).is_none() && Identity::of(Path::new("/dev/null")).is_none());
    }

    #[test]
    fn a_line_of_the_mount_table_is_understood() {
        let line =
            "36 35 98:1 /sub /mnt/a\\040b rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue";
        let found = mounted(line).unwrap();
        assert_eq!((found.at.as_str(), found.kind.as_str()), ("/mnt/a b", "ext3"));
        assert_eq!(
            (found.source.as_str(), found.options.as_str()),
            ("/dev/root", "rw,errors=continue")
        );
        assert_eq!(found.device, rustix::fs::makedev(98, 1));
        assert!(mounts().iter().any(|mount| mount.at == "/"));
    }
}
