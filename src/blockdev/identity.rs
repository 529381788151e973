//! Identity of a file or device with all that it lies on, so that the pool does not use one disk as two.

use super::stack;
use super::with_timeout::{self, PendingOperation};
use crate::sys;
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// File or block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Store {
    /// A file: device number of its file system, and inode.
    File(u64, u64),
    /// A block device: its device number.
    Device(u64),
}

/// A file or block device and all that it lies on: the disk of a partition, the file below a loop device, the members of a device-mapper or
/// RAID device.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// The file or device itself.
    pub(super) own: Store,
    /// The file or device and everything below it.
    pub(super) all: BTreeSet<Store>,
}

impl Identity {
    /// Returns the identity of a path, or `None` if it does not exist or is neither a file nor a block device.
    pub(super) fn of(path: &Path) -> Option<Self> {
        Some(Self::from(store(&fs::metadata(path).ok()?)?))
    }

    /// Returns whether one of the two is, or lies on, the other. Two partitions of one disk do not.
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

/// Returns the directory of a block device in `/sys`.
pub(super) fn sys_dir(device: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

fn directly_below(device: u64) -> Vec<Store> {
    let devices = devices_below(device).into_iter().map(Store::Device);
    devices.chain(below_loop(&sys_dir(device))).collect()
}

/// Returns the devices that a device lies on: the members of a stacked one, the disk of a partition.
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

/// Returns the path of the file below a loop device, as the kernel shows it, without access to the file. `dir` is the device's in `/sys`.
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

/// Returns what a loop device lies on: queried from the device where it may be opened, and otherwise found by the path that the kernel shows. The
/// query accesses the file, which hangs where an apparatus's mount hangs, so a loop device on a volume is not queried.
fn below_loop(dir: &Path) -> Option<Store> {
    let shown = loop_file(dir)?;
    if stack::is_volume(&shown) {
        return None;
    }
    let name = fs::canonicalize(dir).ok()?;
    let device = Path::new("/dev").join(name.file_name()?);
    let backing = File::open(device).and_then(|device| sys::loop_backing(&device));
    match backing {
        Ok(backing) if backing.raw_device != 0 => Some(Store::Device(backing.raw_device)),
        Ok(backing) => Some(Store::File(backing.device, backing.inode)),
        Err(_) => store(&fs::metadata(shown).ok()?),
    }
}

/// Timeout for querying all loop devices.
const LOOPS: Duration = Duration::from_secs(1);

/// Returns the paths of the loop devices that lie on `below`. One that does not answer lies on something that hangs, so not on `below`.
pub(super) fn loops_over(below: Store) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten();
    let query = |device: PathBuf| {
        let dir = device.clone();
        let pending = with_timeout::begin(&device, move || below_loop(&dir));
        (device, pending)
    };
    let mut pending: Vec<_> = devices
        .filter_map(|device| Some(device.ok()?.path()))
        .filter(|device| loop_file(device).is_some())
        .map(query)
        .collect();
    let until = Instant::now() + LOOPS;
    let lies_on_it = |(device, pending): &mut (PathBuf, PendingOperation<Option<Store>>)| {
        let answer = pending.answer(until, LOOPS);
        let found =
            answer.inspect_err(|why| log::warn!("{}: {why}: cannot find what it lies on", device.display()));
        (found.ok()?? == below).then(|| Path::new("/dev").join(device.file_name().unwrap_or_default()))
    };
    pending.iter_mut().filter_map(lies_on_it).collect()
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
}
