//! Memory that the kernel allows this process: the limits of its memory cgroup, and a cgroup beside the limited one.

use super::proc::{self, Mounted};
use crate::model::error::{Error, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Extended attributes by which the service manager marks the directory of a cgroup as delegated; it manages all others itself.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// The file that lists the processes of a cgroup. A process that writes 0 to it joins the cgroup.
const MEMBERS: &str = "cgroup.procs";

/// How long a cgroup that is to be removed may still have processes.
const EMPTIED: Duration = Duration::from_secs(2);

/// The version of the cgroup hierarchy that has the memory controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    const fn limit_file(self) -> &'static str {
        match self {
            Self::One => "memory.limit_in_bytes",
            Self::Two => "memory.max",
        }
    }
}

/// The memory cgroup that a process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    version: Version,
    dir: PathBuf,
    /// The top of the hierarchy, as far as it is visible from here.
    top: PathBuf,
}

/// A memory limit, and the cgroup that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In bytes.
    pub bytes: u64,
    cgroup: Cgroup,
}

/// Returns the bytes of memory that the machine has.
#[must_use]
pub fn of_machine() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

/// Returns the bytes that the page tables of this process take.
///
/// # Errors
/// Fails if `/proc` cannot be read.
pub fn of_page_tables() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmPTE:"));
    let kib = value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl Cgroup {
    /// Returns the cgroup of this process; `None` if the kernel has no memory controller, or its hierarchy is not mounted.
    #[must_use]
    pub fn mine() -> Option<Self> {
        let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = proc::mounts("self").ok()?;
        Self::find(&membership, &mounts)
    }

    fn find(membership: &str, mounts: &[Mounted]) -> Option<Self> {
        let (version, path) = membership_of(membership)?;
        let (root, top) = hierarchy(mounts, version)?;
        // Cgroups outside the part that is mounted are not visible: the top of that part is used instead.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let top = top.to_owned();
        Some(Self {
            version,
            dir: top.join(below),
            top,
        })
    }

    /// Returns the lowest limit among those of this cgroup and its ancestors.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        let most = of_machine();
        let above = self.dir.ancestors().take_while(|dir| dir.starts_with(&self.top));
        let limits = above.filter_map(|dir| {
            let bytes = read_limit(&dir.join(self.version.limit_file()))?;
            let cgroup = Self {
                dir: dir.to_owned(),
                ..self.clone()
            };
            (bytes < most).then_some(Limit { bytes, cgroup })
        });
        limits.min_by_key(|limit| limit.bytes)
    }
}

impl Limit {
    /// Returns whether a process in that cgroup that allocates memory waits until the writes of others in it are written back,
    /// as in the first version of cgroups. In the second version it waits for a moment at most and tries again.
    #[must_use]
    pub fn waits_for_writeback(&self) -> bool {
        self.cgroup.version == Version::One
    }

    /// Returns whether this process is the only one in the cgroup that has the limit, and the cgroup has no children.
    #[must_use]
    pub fn is_mine_alone(&self) -> bool {
        let dir = &self.cgroup.dir;
        let me = std::process::id().to_string();
        let members = fs::read_to_string(dir.join(MEMBERS)).unwrap_or_default();
        let below = fs::read_dir(dir).into_iter().flatten().flatten();
        members.lines().eq([me.as_str()]) && !below.into_iter().any(|entry| entry.path().is_dir())
    }

    /// Moves this process into a cgroup of this name beside the one that has the limit, with the same limit, so that other
    /// processes in there cannot use up its memory. Dropping the result moves the process back and removes the cgroup.
    ///
    /// # Errors
    /// Fails if this user is not allowed to, if no cgroup can be made beside it, or if the service manager manages the parent.
    pub fn enter_beside(&self, name: &str) -> Result<OwnCgroup> {
        let what = || format!("memory cgroup beside {}", self.cgroup.dir.display());
        let parent = self
            .cgroup
            .dir
            .parent()
            .filter(|_| self.cgroup.dir != self.cgroup.top);
        let parent = parent.ok_or_else(|| Error::failed(what(), "cannot be seen from here"))?;
        if self.cgroup.version == Version::Two && is_managed(parent) {
            return Err(Error::failed(
                what(),
                "cannot be made: the service manager manages it",
            ));
        }
        let (dir, before) = (parent.join(name), Cgroup::mine());
        let entered = make(&dir, self.cgroup.version, self.bytes);
        entered.map_err(|why| Error::because(what(), why))?;
        Ok(OwnCgroup { dir, before })
    }
}

/// A cgroup made for this process; dropping it moves the process back.
#[derive(Debug)]
pub struct OwnCgroup {
    dir: PathBuf,
    before: Option<Cgroup>,
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // If the cgroup cannot be left, the next process of this name finds and enters it.
            if fs::write(before.dir.join(MEMBERS), "0").is_ok() {
                remove_when_empty(&self.dir);
            }
        }
    }
}

/// Removes a cgroup; children of this process may be in it for a moment longer.
fn remove_when_empty(dir: &Path) {
    let end = Instant::now() + EMPTIED;
    while let Err(why) = fs::remove_dir(dir)
        && why.kind() == io::ErrorKind::ResourceBusy
        && Instant::now() < end
    {
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn make(dir: &Path, version: Version, bytes: u64) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    fs::write(dir.join(version.limit_file()), bytes.to_string())
        .and_then(|()| fs::write(dir.join(MEMBERS), "0"))
        .inspect_err(|_| _ = fs::remove_dir(dir))
}

/// Returns whether a service manager runs and has not delegated this cgroup.
fn is_managed(dir: &Path) -> bool {
    let delegated = |dir: &Path| {
        DELEGATED.iter().any(|name| {
            let mut value = [0_u8; 8];
            rustix::fs::getxattr(dir, *name, &mut value).is_ok_and(|len| value[..len] == *b"1")
        })
    };
    Path::new("/run/systemd/system").exists() && !dir.ancestors().any(delegated)
}

/// Returns the entry of `/proc/PID/cgroup` for memory: `4:memory:/a` in the first version, `0::/a` in the second.
fn membership_of(text: &str) -> Option<(Version, &str)> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let first = lines
        .clone()
        .find(|(controllers, _)| controllers.split(',').any(|each| each == "memory"));
    let second = || lines.clone().find(|(controllers, _)| controllers.is_empty());
    first
        .map(|(_, path)| (Version::One, path))
        .or_else(|| second().map(|(_, path)| (Version::Two, path)))
}

/// Returns the part of the hierarchy that is mounted, and its mount point.
fn hierarchy(mounts: &[Mounted], version: Version) -> Option<(&Path, &Path)> {
    let fits = |mount: &&Mounted| match (version, mount.kind.as_str()) {
        (Version::Two, "cgroup2") => true,
        (Version::One, "cgroup") => mount.options.split(',').any(|option| option == "memory"),
        _ => false,
    };
    let mount = mounts.iter().find(fits)?;
    Some((&mount.root, &mount.point))
}

/// Returns the limit in a file; `None` for no limit.
fn read_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
24 1 0:22 / /proc rw - proc proc rw
31 24 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    fn find(membership: &str, mounts: &str) -> Option<Cgroup> {
        Cgroup::find(membership, &proc::mounts_in(mounts.as_bytes()))
    }

    #[test]
    fn the_version_that_has_the_memory_controller_is_found() {
        let first = "5:cpu,memory:/a/b\n0::/elsewhere\n";
        let found = find(first, MOUNTS).unwrap();
        assert_eq!(found.version, Version::One);
        assert_eq!(found.dir, Path::new("/sys/fs/cgroup/memory/a/b"));
        let found = find("0::/a\n", MOUNTS).unwrap();
        assert_eq!(found.version, Version::Two);
        assert_eq!(found.dir, Path::new("/sys/fs/cgroup/unified/a"));
        assert_eq!(find("", MOUNTS), None);
        assert_eq!(find("0::/a\n", ""), None);
    }

    #[test]
    fn in_a_container_only_the_mounted_part_is_visible() {
        let mounts = MOUNTS.replace("0:28 / ", "0:28 /docker/1 ");
        let inside = find("0::/docker/1/x\n", &mounts).unwrap();
        assert_eq!(inside.dir, Path::new("/sys/fs/cgroup/unified/x"));
        let elsewhere = find("0::/other\n", &mounts).unwrap();
        assert_eq!(elsewhere.dir, Path::new("/sys/fs/cgroup/unified"));
    }

    /// Returns a cgroup in a directory that looks like a hierarchy of cgroups.
    fn hierarchy_in(dir: &Path, below: &str) -> Cgroup {
        fs::create_dir_all(dir.join(below)).unwrap();
        Cgroup {
            version: Version::Two,
            dir: dir.join(below),
            top: dir.to_owned(),
        }
    }

    #[test]
    fn the_lowest_limit_among_the_ancestors_counts() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = hierarchy_in(dir.path(), "a/b");
        assert_eq!(cgroup.limit(), None);
        fs::write(dir.path().join("a/b/memory.max"), "max\n").unwrap();
        fs::write(dir.path().join("a/memory.max"), "9223372036854771712\n").unwrap();
        assert_eq!(cgroup.limit(), None, "no limit, in the notation of both versions");
        fs::write(dir.path().join("a/memory.max"), "4194304\n").unwrap();
        fs::write(dir.path().join("a/b/memory.max"), "8388608\n").unwrap();
        let limit = cgroup.limit().unwrap();
        assert_eq!(limit.bytes, 4 << 20);
        assert_eq!(limit.cgroup.dir, dir.path().join("a"));
    }

    #[test]
    fn no_cgroup_can_be_made_beside_the_top() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = hierarchy_in(dir.path(), "");
        fs::write(dir.path().join("memory.max"), "4194304").unwrap();
        let refused = cgroup.limit().unwrap().enter_beside("own").unwrap_err();
        assert!(
            refused.to_string().contains("cannot be seen from here"),
            "{refused}"
        );
    }

    #[test]
    fn the_cgroup_beside_has_the_same_limit_and_this_process() {
        if Path::new("/run/systemd/system").exists() {
            return println!("skipped: a service manager manages the cgroups here");
        }
        let dir = tempfile::tempdir().unwrap();
        let cgroup = hierarchy_in(dir.path(), "limited");
        fs::write(dir.path().join("limited/memory.max"), "4194304").unwrap();
        let own = cgroup.limit().unwrap().enter_beside("own").unwrap();
        let written = |file: &str| fs::read_to_string(dir.path().join("own").join(file)).unwrap();
        assert_eq!(
            (written("memory.max"), written(MEMBERS)),
            ("4194304".into(), "0".into())
        );
        // The next process of this name enters the cgroup that is there.
        cgroup.limit().unwrap().enter_beside("own").unwrap();
        assert!(own.dir.ends_with("own"));
    }

    /// A real hierarchy of the second version. Where the memory controller belongs to the first, no limit can be set in it.
    #[test]
    fn a_hierarchy_without_the_memory_controller_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path();
        let mounted =
            rustix::mount::mount("none", point, "cgroup2", rustix::mount::MountFlags::empty(), None);
        if let Err(why) = mounted {
            return println!("skipped: cgroups of the second version cannot be mounted: {why}");
        }
        let controllers = fs::read_to_string(point.join("cgroup.controllers")).unwrap();
        let limit = Limit {
            bytes: 4 << 20,
            cgroup: Cgroup {
                version: Version::Two,
                dir: point.join("limited"),
                top: point.to_owned(),
            },
        };
        let name = format!("apparatus-test-{}", std::process::id());
        let refused = (!controllers.contains("memory")).then(|| limit.enter_beside(&name).map(drop));
        let left = point.join(&name).exists();
        let before = fs::read_to_string("/proc/self/cgroup").unwrap();
        rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).unwrap();
        match refused {
            None => println!("skipped: the memory controller is in the second version"),
            Some(refused) => {
                assert!(refused.is_err() && !left, "{refused:?}, {left}");
                assert!(!before.contains(&name), "{before}");
            }
        }
    }
}
