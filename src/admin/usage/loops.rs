//! Loop devices: what they lie on, and what uses them. They are found through `/sys` and by
//! asking each device, with a timeout: one may lie on another file system that does not answer.

use super::process::ProcessHolders;
use crate::blockdev::with_timeout;
use crate::frontend::fuse;
use crate::sys;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long all loop devices together may take to report what they lie on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// A loop device that has a backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loop {
    /// `/dev/loopN`.
    pub(crate) path: PathBuf,
    /// Device number and inode of the backing file; `None` where the device did not answer.
    pub(crate) below: Option<((u32, u32), u64)>,
    /// The path of that file when the device was made, as the kernel now reports it.
    pub(crate) file: PathBuf,
    /// Whether writes are refused.
    pub(crate) read_only: bool,
    /// Whether the kernel scans for partitions.
    pub(crate) partitions: bool,
}

/// Returns all loop devices that have a backing file, by number; all together may take `patience` to answer. Those on files below `silent` are not asked, because no process would
/// answer.
pub(crate) fn all(silent: &[&Path], patience: Duration) -> Vec<Loop> {
    let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let dirs = blocks.map(|block| block.path());
    let until = Instant::now() + patience;
    let mut found: Vec<Loop> = dirs.filter_map(|dir| look(&dir, silent, until)).collect();
    found.sort_by_key(|each| (each.path.as_os_str().len(), each.path.clone()));
    found
}

fn look(dir: &Path, silent: &[&Path], until: Instant) -> Option<Loop> {
    let file = fs::read_to_string(dir.join("loop/backing_file")).ok()?;
    let path = Path::new("/dev").join(dir.file_name()?);
    let is_set = |file: &str| fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim() == "1");
    let file = file.trim_end_matches('\n');
    // So the kernel shows a name that it has looked up again since.
    let file = PathBuf::from(file.strip_suffix(" (deleted)").unwrap_or(file));
    let answers = !silent.iter().any(|place| file.starts_with(place));
    Some(Loop {
        below: if answers { below(&path, &file, until) } else { None },
        path,
        file,
        read_only: is_set("ro"),
        partitions: is_set("loop/partscan"),
    })
}

/// Asks a loop device what it lies on: the file that was at `file` when the device was made.
fn below(path: &Path, file: &Path, until: Instant) -> Option<((u32, u32), u64)> {
    let left = until.saturating_duration_since(Instant::now());
    let (device, mount) = (path.to_owned(), file.parent().map(Path::to_owned));
    let ask = move || {
        let device = File::open(device)?;
        match sys::loop_backing(&device) {
            // The kernel asks the file for that with the permissions of the caller, and the mount of another user lets in only that user.
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
                let owner = mount.as_deref().map(fuse::owner_at).transpose()?.flatten();
                let (user, group) = owner.ok_or(why)?;
                sys::as_user(user, group, || sys::loop_backing(&device))
            }
            other => other,
        }
    };
    let backing = with_timeout::ask(path, left, ask).ok()?.ok()?;
    let number = (
        rustix::fs::major(backing.device),
        rustix::fs::minor(backing.device),
    );
    Some((number, backing.inode))
}

/// Describes what uses a loop device: mounts, swap, devices on top of it, processes.
pub(super) fn users(path: &Path, holders: &ProcessHolders) -> Vec<String> {
    let Some(name) = path.file_name() else {
        return Vec::new();
    };
    let dir = Path::new("/sys/block").join(name);
    let mut dirs = vec![dir.clone()];
    let begin = format!("{}p", name.to_string_lossy());
    let inside = fs::read_dir(&dir).into_iter().flatten().flatten();
    dirs.extend(
        inside
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&begin))
            .map(|entry| entry.path()),
    );
    let mut words = BTreeSet::new();
    for dir in dirs {
        words.extend(users_of_block(&dir, holders));
    }
    words.into_iter().collect()
}

/// Describes what uses one device or partition, given by its directory in `/sys`.
fn users_of_block(dir: &Path, holders: &ProcessHolders) -> Vec<String> {
    let path = Path::new("/dev").join(dir.file_name().unwrap_or_default());
    let number = fs::read_to_string(dir.join("dev")).ok();
    let number = number.as_deref().and_then(number_of);
    let mut words = holders.mounts_on(number, &path);
    let above = fs::read_dir(dir.join("holders")).into_iter().flatten().flatten();
    words.extend(above.map(|holder| format!("held by {}", holder.file_name().to_string_lossy())));
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps
        .lines()
        .any(|line| line.split_whitespace().next() == path.to_str())
    {
        words.push("used as swap".into());
    }
    words.extend(
        holders
            .of_device(&path)
            .map(|process| format!("open in {process}")),
    );
    words
}

/// Parses a device number, as `7:0`.
fn number_of(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
