//! Finds the processes that have files of our mounts open, and the mounts of block devices, in all mount namespaces that
//! can be seen. Only `/proc` is read, and links are read, never followed: a mount that does not answer is not touched.

use crate::sys::proc::{self, Descriptor, Mounted};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The name given to a process that has ended.
pub(super) const ENDED: &str = "ended";

/// A process, by number and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// The open files and mounts found in `/proc`.
#[derive(Default)]
pub(super) struct ProcessHolders {
    /// Processes by device number and inode of an open file.
    files: BTreeMap<((u32, u32), u64), BTreeSet<u32>>,
    /// Processes by the path of an open loop device.
    devices: BTreeMap<PathBuf, BTreeSet<u32>>,
    /// The mounts of each namespace, and a process that is in it.
    spaces: HashMap<OsString, Space>,
    own: OsString,
}

struct Space {
    pid: u32,
    mounts: Vec<Mounted>,
    /// Mount numbers and device numbers of the mounts in question.
    wanted: HashMap<u32, (u32, u32)>,
}

impl ProcessHolders {
    /// Scans all processes for files on these mounts and for loop devices.
    pub(super) fn scan(wanted: &BTreeSet<(u32, u32)>) -> Self {
        let mut holders = Self {
            own: space_of("self"),
            ..Self::default()
        };
        let me = std::process::id();
        for pid in proc::processes().filter(|pid| *pid != me) {
            holders.scan_process(pid, wanted);
        }
        holders
    }

    fn scan_process(&mut self, pid: u32, wanted: &BTreeSet<(u32, u32)>) {
        let space = space_of(&pid.to_string());
        let space = self.spaces.entry(space).or_insert_with(|| Space::of(pid, wanted));
        for open in proc::descriptors(pid) {
            let Some(target) = open.target() else {
                continue;
            };
            if target.to_string_lossy().starts_with("/dev/loop") {
                self.devices.entry(target).or_default().insert(pid);
            } else if !space.wanted.is_empty()
                && target.is_absolute()
                && let Some((mount, inode)) = mount_and_inode(&open)
                && let Some(device) = space.wanted.get(&mount)
            {
                self.files.entry((*device, inode)).or_default().insert(pid);
            }
        }
    }

    /// Returns the processes that have this file open.
    pub(super) fn of_file(&self, device: (u32, u32), inode: u64) -> impl Iterator<Item = Process> {
        named(self.files.get(&(device, inode)))
    }

    /// Returns the processes that have a file on these mounts open.
    pub(super) fn of_all_files(&self) -> impl Iterator<Item = Process> {
        let all: BTreeSet<u32> = self.files.values().flatten().copied().collect();
        all.into_iter().map(|pid| Process {
            pid,
            name: name_of(pid),
        })
    }

    /// Returns the processes that have this block device open.
    pub(super) fn of_device(&self, path: &Path) -> impl Iterator<Item = Process> {
        named(self.devices.get(path))
    }

    /// Describes where a block device is mounted.
    pub(super) fn mounts_on(&self, number: Option<(u32, u32)>, path: &Path) -> Vec<String> {
        let mut words = Vec::new();
        let mut known = HashSet::new();
        let own = self.spaces.iter().filter(|(space, _)| **space == self.own);
        let others = self.spaces.iter().filter(|(space, _)| **space != self.own);
        for (name, space) in own.chain(others) {
            let here = space
                .mounts
                .iter()
                .filter(|mount| Some(mount.device) == number || Path::new(&mount.source) == path);
            for mount in here.filter(|mount| known.insert((mount.point.clone(), mount.device))) {
                let elsewhere = match *name == self.own {
                    true => String::new(),
                    false => format!(" in the mount namespace of process {}", space.pid),
                };
                words.push(format!("mounted at {}{elsewhere}", mount.point.display()));
            }
        }
        words
    }
}

impl Space {
    fn of(pid: u32, wanted: &BTreeSet<(u32, u32)>) -> Self {
        let mounts = proc::mounts(pid).unwrap_or_default();
        let asked = mounts.iter().map(|mount| (mount.id, mount.device));
        Self {
            pid,
            wanted: asked.filter(|(_, device)| wanted.contains(device)).collect(),
            mounts,
        }
    }
}

fn space_of(process: &str) -> OsString {
    fs::read_link(format!("/proc/{process}/ns/mnt"))
        .unwrap_or_default()
        .into_os_string()
}

fn mount_and_inode(open: &Descriptor) -> Option<(u32, u64)> {
    let lines = open.info().ok()?;
    Some((
        lines.value("mnt_id")?.parse().ok()?,
        lines.value("ino")?.parse().ok()?,
    ))
}

fn named(pids: Option<&BTreeSet<u32>>) -> impl Iterator<Item = Process> {
    pids.into_iter().flatten().map(|pid| Process {
        pid: *pid,
        name: name_of(*pid),
    })
}

fn name_of(pid: u32) -> String {
    proc::name(pid).unwrap_or_else(|| ENDED.into())
}

/// Returns the process of a thread; the thread itself where its process cannot be seen any more.
pub(super) fn of_thread(thread: u32) -> Process {
    let group = || proc::status(thread).ok()?.value("Tgid")?.parse().ok();
    let pid = group().unwrap_or(thread);
    Process {
        pid,
        name: name_of(pid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn finds_the_mount_and_inode_of_a_descriptor_without_asking_the_file() {
        let file = File::open("/proc/self/exe").unwrap();
        let program = std::env::current_exe().unwrap();
        let mut open = proc::descriptors(std::process::id());
        let open = open.find(|open| open.target().is_some_and(|target| target == program));
        assert_eq!(
            mount_and_inode(&open.unwrap()).unwrap().1,
            file.metadata().unwrap().ino()
        );
    }

    #[test]
    fn names_the_process_of_a_thread() {
        let me = of_thread(std::process::id());
        assert_eq!(me.pid, std::process::id());
        assert_eq!(of_thread(u32::MAX).name, ENDED);
    }
}
