//! Locks that show which process has a disk open. The kernel releases them when the process ends.
//!
//! All of them lock bytes far beyond the end of a file, through the open file description (`F_OFD_SETLK`). A region of bytes stands for one
//! question, and the byte in it that a process locks shared stands for its answer: two processes with the same answer share a byte, and
//! processes with different answers find each other's locks.
//!
//! | locked file | region | byte |
//! |---|---|---|
//! | the disk | 0: whose is it? | the database's instance and directory; the instance alone where the pool has nodes |
//! | the disk | from 2 on, one for the name of each node: which directory of this node uses it? | the directory |
//! | the pool's directory | the disk's number: which file is it? | device and inode of the file, or number of the device |
//! | the disk | byte 0 of region 1: who writes the label? | (exclusive) |
//! | the disk | byte 1 of region 1: who adds it? | (exclusive) |
//! | the disk | byte 2 of region 1: who writes the pool's metadata to it? | (exclusive) |
//!
//! Every process on this machine that opens the same file sees its locks, also from another container. The locks of a block device lie on its
//! node, not on the device: a process that opens it by a node of another `/dev` does not see them, and only the label distinguishes the two.

use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::Instance;
use crate::sys::{self, proc};
use rustix::io::Errno;
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// First byte of the regions: beyond the end of any disk, and below the bytes of the pool's directory that `cluster/local/anchor.rs` uses.
const BASE: u64 = 1 << 59;
const REGION: u64 = 1 << 32;
const OWNERS: u64 = 0;
const SINGLE: u64 = 1;
/// Regions of nodes, up to the last one below the bytes of the pool's directory.
const NODES: Range<u64> = 2..BASE / REGION;
const WRITES_LABEL: u64 = 0;
const ADDS: u64 = 1;
const WRITES_METADATA: u64 = 2;

/// Longest wait for another process that writes the label.
const LABEL_PATIENCE: Duration = Duration::from_secs(5);

/// A shared lock on a byte of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SharedByte {
    region: u64,
    byte: u32,
}

impl SharedByte {
    fn start(self) -> u64 {
        BASE + self.region * REGION
    }

    fn at(self) -> u64 {
        self.start() + u64::from(self.byte)
    }

    /// Returns a byte that a process with another answer has locked.
    fn conflict(self, file: &File) -> io::Result<Option<u64>> {
        let (start, at) = (self.start(), self.at());
        let sides = [(start, at - start), (at + 1, start + REGION - at - 1)];
        for (from, len) in sides {
            if len > 0
                && let Some(other) = sys::locked_within(file.as_fd(), from, len)?
            {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Locks the byte shared, unless a process has another answer; returns that one's byte then.
    fn share(self, file: &File) -> io::Result<Result<(), u64>> {
        // The check comes before the lock too: a wrong answer must not block the right one, not even for a moment.
        if let Some(other) = self.conflict(file)? {
            return Ok(Err(other));
        }
        sys::share_byte(file.as_fd(), self.at())?;
        match self.conflict(file)? {
            None => Ok(Ok(())),
            Some(other) => {
                sys::unshare_byte(file.as_fd(), self.at())?;
                Ok(Err(other))
            }
        }
    }
}

/// Returns `none`, with a warning, where the file system has no locks.
fn without_locks<T>(what: &str, given: io::Result<T>, none: T) -> Result<T> {
    match given {
        Err(why)
            if matches!(
                Errno::from_io_error(&why),
                Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS)
            ) =>
        {
            log::warn!("{what}: its file system has no locks ({why}), so a second owner is not detected");
            Ok(none)
        }
        other => other.map_err(|why| Error::because(format!("{what}: its lock"), why)),
    }
}

/// Returns device and inode of the directory of a database.
fn directory(owner: &Instance) -> [[u8; 8]; 2] {
    let (device, inode) = fs::metadata(owner.dir.path()).map_or((0, 0), |dir| (dir.dev(), dir.ino()));
    [device.to_le_bytes(), inode.to_le_bytes()]
}

/// Returns the byte of a database: copies of it differ in instance or directory. The nodes of a pool have one instance in several directories.
fn owner_byte(owner: &Instance) -> SharedByte {
    let directory = match owner.node {
        Some(_) => [[0; 8]; 2],
        None => directory(owner),
    };
    SharedByte {
        region: OWNERS,
        byte: crc32c::crc32c(&[&owner.id.as_bytes()[..], &directory.concat()].concat()),
    }
}

/// Returns the byte for the directory of a node; `None` where the pool has no nodes. Each node has a region of its own, so that two of them on one
/// kernel share the disk, and a copy of a node's directory does not.
fn node_byte(owner: &Instance) -> Option<SharedByte> {
    let node = owner.node.as_ref()?;
    Some(SharedByte {
        region: NODES.start + u64::from(crc32c::crc32c(node.as_str().as_bytes())) % (NODES.end - NODES.start),
        byte: crc32c::crc32c(&directory(owner).concat()),
    })
}

/// Claims the disk for this database, as long as `file` is open.
///
/// # Errors
/// Fails with `ErrorKind::Busy` when another database uses it.
pub(super) fn own(what: &str, file: &File, owner: &Instance) -> Result<()> {
    let given = without_locks(what, owner_byte(owner).share(file), Ok(()))?;
    given.map_err(|byte| {
        let by = named(&holders(file, byte));
        Error::new(
            ErrorKind::Busy,
            what,
            format!("is in use by another pool, or by a copy of this one{by}"),
        )
        .hint("only one database may use a disk: stop the processes that use the other one")
    })?;
    let Some(answer) = node_byte(owner) else {
        return Ok(());
    };
    let given = without_locks(what, answer.share(file), Ok(()))?;
    given.map_err(|byte| {
        let why = format!(
            "is in use by this node from another directory of the pool{}",
            named(&holders(file, byte))
        );
        Error::new(ErrorKind::Busy, what, why)
            .hint("a node has one directory: stop the processes that use the other one")
    })
}

/// Checks that no process uses the disk for another database.
///
/// # Errors
/// Fails with `ErrorKind::Busy` when one does.
pub(super) fn not_owned_by_others(what: &str, file: &File, owner: &Instance) -> Result<()> {
    match without_locks(what, owner_byte(owner).conflict(file), None)? {
        None => Ok(()),
        Some(byte) => Err(in_use(what, file, byte)),
    }
}

/// Checks that no process uses the disk.
///
/// # Errors
/// Fails with `ErrorKind::Busy` when one does.
pub(super) fn not_owned(what: &str, file: &File) -> Result<()> {
    let all = SharedByte {
        region: OWNERS,
        byte: 0,
    };
    let found = sys::locked_within(file.as_fd(), all.start(), REGION);
    match without_locks(what, found, None)? {
        None => Ok(()),
        Some(byte) => Err(in_use(what, file, byte)),
    }
}

/// Checks that neither qemu nor another foreign program has a lock on the file.
///
/// # Errors
/// Fails with `ErrorKind::Busy` when one does.
pub(super) fn not_locked(what: &str, file: &File) -> Result<()> {
    match without_locks(what, sys::locked_within(file.as_fd(), 0, BASE), None)? {
        None => Ok(()),
        Some(byte) => {
            let why = format!("is locked by another program{}", named(&holders(file, byte)));
            Err(Error::new(ErrorKind::Busy, what, why).hint(
                "end that program first, or take a copy of the file: a disk of a pool has no other users",
            ))
        }
    }
}

/// Returns whether `vctl` or an apparatus has a lock on the file.
pub(super) fn has_our_locks(file: &File) -> bool {
    sys::locked_within(file.as_fd(), BASE, 2 * REGION).is_ok_and(|found| found.is_some())
}

fn in_use(what: &str, file: &File, byte: u64) -> Error {
    let why = format!("is in use{}", named(&holders(file, byte)));
    Error::new(ErrorKind::Busy, what, why).hint("stop the processes that use it first")
}

/// Lock on the pool's directory that binds a disk to a file, until it is dropped.
#[derive(Debug)]
pub(super) struct SameFile {
    dir: Option<File>,
}

/// Releases all locks of an open file. Its close does that too, but only once no child of another thread has a copy of the descriptor, and
/// each child has one between its fork and its exec.
pub(super) fn unlock_all(file: &File) {
    // If this fails, the close releases them.
    let _ = sys::unlock(file.as_fd());
}

impl Drop for SameFile {
    fn drop(&mut self) {
        self.dir.iter().for_each(unlock_all);
    }
}

impl SameFile {
    /// Binds the disk to this file.
    ///
    /// # Errors
    /// Fails with `ErrorKind::Busy` when a process of the pool has another file open as this disk.
    pub(super) fn claim(what: &str, owner: &Instance, disk: u32, found: &Metadata) -> Result<Self> {
        let Some((dir, answer)) = Self::question(owner, disk, found)? else {
            return Ok(Self { dir: None });
        };
        match without_locks(what, answer.share(&dir), Ok(()))? {
            Ok(()) => Ok(Self { dir: Some(dir) }),
            Err(byte) => Err(another_file(what, &dir, byte)),
        }
    }

    /// Checks that no process of the pool has another file open as this disk, and claims nothing.
    ///
    /// # Errors
    /// Fails with `ErrorKind::Busy` when one has.
    pub(super) fn check(what: &str, owner: &Instance, disk: u32, found: &Metadata) -> Result<()> {
        let Some((dir, answer)) = Self::question(owner, disk, found)? else {
            return Ok(());
        };
        match without_locks(what, answer.conflict(&dir), None)? {
            None => Ok(()),
            Some(byte) => Err(another_file(what, &dir, byte)),
        }
    }

    /// Returns the processes that have another file open as this disk, as ` (apparatus, process 123)`, or `None` if none has, or this one alone.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    pub(super) fn user_of_another(owner: &Instance, disk: u32, found: &Metadata) -> Result<Option<String>> {
        let Some((dir, answer)) = Self::question(owner, disk, found)? else {
            return Ok(None);
        };
        let byte = without_locks("the pool's directory", answer.conflict(&dir), None)?;
        let found = byte.map(|byte| holders(&dir, byte));
        let others = found.filter(|found| !matches!(found, Holders::OnlyMe));
        Ok(others.map(|others| named(&others)))
    }

    /// Opens the pool's directory and computes the byte in it that stands for the file; `None` where the pool has no directory.
    fn question(owner: &Instance, disk: u32, found: &Metadata) -> Result<Option<(File, SharedByte)>> {
        if owner.dir.path().as_os_str().is_empty() {
            return Ok(None);
        }
        let dir = File::open(owner.dir.path())
            .map_err(|why| Error::because(format!("pool {}", owner.dir.display()), why))?;
        let (device, number) = if found.file_type().is_block_device() {
            (0, found.rdev())
        } else {
            (found.dev(), found.ino())
        };
        let answer = SharedByte {
            region: u64::from(disk) % (BASE / REGION),
            byte: crc32c::crc32c(&[device.to_le_bytes(), number.to_le_bytes()].concat()),
        };
        Ok(Some((dir, answer)))
    }
}

fn another_file(what: &str, dir: &File, byte: u64) -> Error {
    let by = holders(dir, byte);
    let why = format!(
        "the path leads to another file than the one that is in use as this disk{}",
        named(&by)
    );
    let hint = match &by {
        Holders::OnlyMe => {
            "the disk's recorded path leads to the other one: move away the file that is not to be used any more"
        }
        Holders::Named(_) | Holders::Unseen => {
            "put the file that is in use back at this path; or stop the processes that use it, and start again with the present file"
        }
    };
    Error::new(ErrorKind::Busy, what, why).hint(hint)
}

/// Runs `write` under the lock that lets one process at a time write the label.
///
/// # Errors
/// Fails with `TimedOut` when another process holds the lock for more than [`LABEL_PATIENCE`].
pub(super) fn with_label_lock<T>(file: &File, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    with_lock(file, WRITES_LABEL, write)
}

/// Runs `write` under the lock that lets one process at a time write the pool's metadata to the disk.
///
/// # Errors
/// Fails with `TimedOut` when another process holds the lock for more than [`LABEL_PATIENCE`].
pub(super) fn with_metadata_lock<T>(file: &File, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    with_lock(file, WRITES_METADATA, write)
}

fn with_lock<T>(file: &File, byte: u64, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let at = BASE + SINGLE * REGION + byte;
    let end = Instant::now() + LABEL_PATIENCE;
    loop {
        match sys::try_lock_at(file.as_fd(), at) {
            Ok(true) => break,
            Ok(false) if Instant::now() > end => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process is writing it",
                ));
            }
            Ok(false) => std::thread::park_timeout(Duration::from_millis(1)),
            // The file system has no locks.
            Err(_) => return write(),
        }
    }
    let written = write();
    let _ = sys::unshare_byte(file.as_fd(), at);
    written
}

/// Lock on a file that this process adds as a disk, until it is dropped.
#[derive(Debug)]
pub(super) struct AddLock(File);

impl AddLock {
    /// Takes the lock. Returns `None` when another process adds the file.
    pub(super) fn try_lock(file: File) -> io::Result<Option<Self>> {
        let locked = sys::try_lock_at(file.as_fd(), BASE + SINGLE * REGION + ADDS)?;
        Ok(locked.then_some(Self(file)))
    }
}

impl Deref for AddLock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for AddLock {
    fn drop(&mut self) {
        unlock_all(&self.0);
    }
}

/// The processes that have a lock on a byte, as far as they are visible. The process that asks is no answer to its question.
enum Holders {
    /// Others: `apparatus, process 123`.
    Named(Vec<String>),
    /// No other is visible, and this process has the lock.
    OnlyMe,
    /// None is visible.
    Unseen,
}

/// Returns words for a message: ` (apparatus, process 123)`, or nothing.
fn named(holders: &Holders) -> String {
    match holders {
        Holders::Named(names) => format!(" ({})", names.join("; ")),
        Holders::OnlyMe | Holders::Unseen => String::new(),
    }
}

/// Finds the processes that have a lock on the file that begins at this byte.
fn holders(file: &File, byte: u64) -> Holders {
    let Ok(inode) = file.metadata().map(|found| found.ino()) else {
        return Holders::Unseen;
    };
    let lock = format!(":{inode} {byte} ");
    let has_lock = |open: proc::Descriptor| open.info().is_ok_and(|lines| lines.contains(&lock));
    let holding = proc::processes().filter(|&pid| proc::descriptors(pid).any(has_lock));
    let (mine, others): (Vec<_>, Vec<_>) = holding.partition(|&pid| pid == std::process::id());
    let mut names: Vec<String> = others.into_iter().map(proc::described).collect();
    names.sort();
    match (names.is_empty(), mine.is_empty()) {
        (false, _) => Holders::Named(names),
        (true, false) => Holders::OnlyMe,
        (true, true) => Holders::Unseen,
    }
}

/// Checks that this database may use a disk whose label names `instance`.
pub(super) fn belongs(what: &str, instance: Uuid, owner: &Instance) -> Result<()> {
    if owner.has(instance) {
        return Ok(());
    }
    let why =
        format!("belongs to another copy of this pool's database ({instance}): that one has adopted it");
    Err(Error::failed(what, why).hint(
        "use the directory of that database with --pool; if it no longer exists or is not to be used again, run vctl pool adopt",
    ))
}
