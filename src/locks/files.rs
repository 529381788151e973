//! Locks between the apparatuses of one machine: for each volume a file in the run directory, for each owner an open file
//! description of it with the owner's locks (`F_OFD_SETLK`). So the kernel splits and joins ranges, decides conflicts, and
//! releases the locks of a process that has ended.

use super::{Arbiter, HeldLock, LeftLocks, LockMode, LockStore, Owner, Range, Through};
use crate::model::dir::PoolDir;
use crate::model::units::VolumeId;
use crate::sys::{self, RangeLock};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Largest number of owners with locks; each has a descriptor.
const OWNERS: usize = 4096;

/// The lock files in a pool's run directory.
pub struct RunFiles {
    pool: PoolDir,
    open: HashMap<(VolumeId, Owner), File>,
    supervisor: Option<Box<dyn LockStore>>,
    left: Vec<LeftLocks>,
}

/// Open file with the locks of one owner, from a process before this one.
#[derive(Debug)]
pub struct KeptLock {
    /// The volume.
    pub volume: VolumeId,
    /// The owner.
    pub owner: Owner,
    /// The handle that it locked through last, if that was recorded.
    pub through: Option<Through>,
    /// The file.
    pub file: File,
}

impl RunFiles {
    /// Returns the lock files in the run directory of this pool.
    #[must_use]
    pub fn new(pool: &PoolDir) -> Self {
        Self {
            pool: pool.clone(),
            open: HashMap::new(),
            supervisor: None,
            left: Vec::new(),
        }
    }

    /// Has `supervisor` keep all locks beyond this process, and goes on with those that it has. A lock without a recorded handle was never
    /// acknowledged, and is released: its request comes again.
    ///
    /// # Errors
    /// Fails if the locks of a file cannot be read.
    pub fn keep(mut self, supervisor: Box<dyn LockStore>, kept: Vec<KeptLock>) -> io::Result<Self> {
        self.supervisor = Some(supervisor);
        for lock in kept {
            let KeptLock {
                volume,
                owner,
                through,
                file,
            } = lock;
            let ranges = locks_of(&file)?;
            self.open.insert((volume, owner), file);
            match through.filter(|_| !ranges.is_empty()) {
                Some(Through { handle, pid }) => self.left.push(LeftLocks {
                    volume,
                    owner,
                    handle,
                    held: ranges.into_iter().map(|held| HeldLock { pid, ..held }).collect(),
                }),
                None => self.forget(volume, owner),
            }
        }
        Ok(self)
    }

    fn file(&mut self, volume: VolumeId, owner: Owner) -> io::Result<&File> {
        if !self.open.contains_key(&(volume, owner)) {
            if self.open.len() >= OWNERS {
                return Err(io::Error::other("too many owners of locks"));
            }
            let file = open(&self.pool.run().join("locks"), volume)?;
            if let Some(supervisor) = &mut self.supervisor {
                supervisor.keep(volume, owner, file.as_fd())?;
            }
            self.open.insert((volume, owner), file);
        }
        self.open
            .get(&(volume, owner))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// Opens the volume's file and checks that its path still leads to it: a lock on a replaced file would exclude no other
/// apparatus.
fn open(dir: &Path, volume: VolumeId) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
        _ => (),
    }
    let path = dir.join(volume.0.to_string());
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let file = options.open(&path)?;
    let (mine, found) = (file.metadata()?, fs::metadata(&path)?);
    match (mine.dev(), mine.ino()) == (found.dev(), found.ino()) {
        true => Ok(file),
        false => Err(io::Error::other(
            "the lock file was replaced; its path leads to another file",
        )),
    }
}

/// Returns the locks that this open file has, as the kernel lists them. The process of each is not known.
fn locks_of(file: &File) -> io::Result<Vec<HeldLock>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "the list of an open file's locks");
    let lines = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    lines
        .map(|line| parse_lock(line).ok_or_else(unreadable))
        .collect()
}

/// Parses `1: OFDLCK ADVISORY WRITE -1 fe:00:1234 10 14`; the end may be `EOF`.
fn parse_lock(line: &str) -> Option<HeldLock> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "OFDLCK", "ADVISORY", mode, _, _, start, end] = *words else {
        return None;
    };
    Some(HeldLock {
        kind: match mode {
            "WRITE" => LockMode::Exclusive,
            "READ" => LockMode::Shared,
            _ => return None,
        },
        range: Range {
            start: start.parse().ok()?,
            end: match end {
                "EOF" => i64::MAX.unsigned_abs(),
                end => end.parse().ok()?,
            },
        },
        pid: 0,
    })
}

fn lock(range: Range, kind: Option<LockMode>) -> RangeLock {
    RangeLock {
        start: range.start,
        end: range.end,
        exclusive: kind.map(|kind| kind == LockMode::Exclusive),
    }
}

impl Arbiter for RunFiles {
    fn set(
        &mut self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: Option<LockMode>,
    ) -> io::Result<bool> {
        if kind.is_none() && !self.open.contains_key(&(volume, owner)) {
            return Ok(true);
        }
        sys::set_range_lock(self.file(volume, owner)?.as_fd(), lock(range, kind))
    }

    fn conflict(
        &mut self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: LockMode,
    ) -> io::Result<Option<HeldLock>> {
        let is_new = !self.open.contains_key(&(volume, owner));
        let found = sys::range_lock_conflict(self.file(volume, owner)?.as_fd(), lock(range, Some(kind)));
        if is_new {
            self.forget(volume, owner);
        }
        Ok(found?.map(|found| HeldLock {
            kind: match found.exclusive {
                Some(true) => LockMode::Exclusive,
                _ => LockMode::Shared,
            },
            range: Range {
                start: found.start,
                end: found.end,
            },
            pid: 0,
        }))
    }

    fn forget(&mut self, volume: VolumeId, owner: Owner) {
        // Where nobody keeps the file, this closes its last descriptor, so the kernel releases its locks.
        let Some(file) = self.open.remove(&(volume, owner)) else {
            return;
        };
        if let Some(supervisor) = &mut self.supervisor {
            if let Err(why) = sys::unlock(file.as_fd()) {
                log::error!("locks of volume {volume}: {why}");
            }
            supervisor.release(volume, owner);
        }
    }

    fn record(&mut self, volume: VolumeId, owner: Owner, through: Through) -> io::Result<()> {
        match &mut self.supervisor {
            Some(supervisor) => supervisor.record(volume, owner, through),
            None => Ok(()),
        }
    }

    fn left(&mut self) -> Vec<LeftLocks> {
        std::mem::take(&mut self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Owners = HashMap<(VolumeId, Owner), (File, Option<Through>)>;

    #[derive(Clone, Default)]
    struct Keeping(Arc<Mutex<Owners>>);

    impl LockStore for Keeping {
        fn keep(
            &mut self,
            volume: VolumeId,
            owner: Owner,
            file: std::os::fd::BorrowedFd<'_>,
        ) -> io::Result<()> {
            let file = File::from(file.try_clone_to_owned()?);
            self.0.lock().unwrap().insert((volume, owner), (file, None));
            Ok(())
        }

        fn record(&mut self, volume: VolumeId, owner: Owner, through: Through) -> io::Result<()> {
            self.0.lock().unwrap().get_mut(&(volume, owner)).unwrap().1 = Some(through);
            Ok(())
        }

        fn release(&mut self, volume: VolumeId, owner: Owner) {
            self.0.lock().unwrap().remove(&(volume, owner));
        }
    }

    impl Keeping {
        fn kept(&self) -> Vec<KeptLock> {
            let kept = self.0.lock().unwrap();
            let each = kept.iter().map(|(key, (file, through))| KeptLock {
                volume: key.0,
                owner: key.1,
                through: *through,
                file: file.try_clone().unwrap(),
            });
            each.collect()
        }
    }

    #[test]
    fn locks_go_on_in_the_next_process_and_one_that_was_not_acknowledged_does_not() {
        const V: VolumeId = VolumeId(3);
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path());
        fs::create_dir_all(pool.run()).unwrap();
        let keeping = Keeping::default();
        let through = Through { handle: 7, pid: 9 };
        let range = |start, end| Range { start, end };
        let exclusive = Some(LockMode::Exclusive);
        let mut first = RunFiles::new(&pool)
            .keep(Box::new(keeping.clone()), Vec::new())
            .unwrap();
        assert!(first.set(V, Owner(1), range(0, 9), exclusive).unwrap());
        assert!(
            first
                .set(V, Owner(1), range(20, i64::MAX as u64), Some(LockMode::Shared))
                .unwrap()
        );
        first.record(V, Owner(1), through).unwrap();
        assert!(first.set(V, Owner(2), range(12, 14), exclusive).unwrap());
        drop(first);
        let mut other = RunFiles::new(&pool);
        assert!(!other.set(V, Owner(1), range(5, 5), exclusive).unwrap());
        let mut next = RunFiles::new(&pool)
            .keep(Box::new(keeping.clone()), keeping.kept())
            .unwrap();
        let left = next.left();
        assert_eq!((left.len(), left[0].handle, left[0].held.len()), (1, 7, 2));
        assert_eq!(
            left[0].held[0],
            HeldLock {
                kind: LockMode::Exclusive,
                range: range(0, 9),
                pid: 9
            }
        );
        assert_eq!(left[0].held[1].range, range(20, i64::MAX as u64));
        assert!(
            other.set(V, Owner(1), range(12, 14), exclusive).unwrap(),
            "not acknowledged"
        );
        assert!(!other.set(V, Owner(1), range(5, 5), exclusive).unwrap(), "kept");
        next.forget(V, Owner(1));
        assert!(
            other.set(V, Owner(1), range(5, 5), exclusive).unwrap(),
            "released at once"
        );
        assert!(keeping.kept().is_empty());
    }
}
