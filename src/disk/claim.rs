//! Locks that tell who has a disk open, released by the kernel when their holder ends.
//!
//! All are locks of bytes that no file has, far behind its end, held through the open file description (`F_OFD_SETLK`). A region of bytes stands
//! for one question, and the byte in it that a process shares for its answer: two processes with the same answer share a byte, two with
//! different answers are told of each other.
//!
//! | locked file | region | byte |
//! |---|---|---|
//! | the disk | 0: whose is it? | the database's instance and directory |
//! | the pool's directory | the disk's number: which file is it? | device and inode of the file, or number of the device |
//! | the disk | byte 0 of region 1: who writes the label? | (exclusive) |
//! | the disk | byte 1 of region 1: who adds it? | (exclusive) |
//!
//! The locks of a file are seen by all who open the same file on this machine, whatever container they are in. Those of a block device lie
//! on its node, not on the device: who opens it by a node of another `/dev` does not see them, and only the label tells the two apart.

use crate::error::{Error, Kind, Result};
use crate::pool::model::Instance;
use crate::sys;
use rustix::io::Errno;
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Where the regions begin: behind the end of what a disk can hold, and below the bytes of the pool's directory that `member/anchor.rs` uses.
const BASE: u64 = 1 << 59;
const REGION: u64 = 1 << 32;
const OWNERS: u64 = 0;
const SINGLE: u64 = 1;
const WRITES_LABEL: u64 = 0;
const ADDS: u64 = 1;

/// Longest wait for another process that writes the label.
const LABEL_PATIENCE: Duration = Duration::from_secs(5);

/// A shared lock on a byte of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    region: u64,
    byte: u32,
}

impl Answer {
    fn start(self) -> u64 {
        BASE + self.region * REGION
    }

    fn at(self) -> u64 {
        self.start() + u64::from(self.byte)
    }

    /// The byte of somebody with another answer.
    fn contrary(self, file: &File) -> io::Result<Option<u64>> {
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

    /// Shares the byte, unless somebody has another answer: then says where in the file.
    fn give(self, file: &File) -> io::Result<Result<(), u64>> {
        // Looked at before as well: a wrong answer must not be in the way of the right one, not even for a moment.
        if let Some(other) = self.contrary(file)? {
            return Ok(Err(other));
        }
        sys::share_byte(file.as_fd(), self.at())?;
        match self.contrary(file)? {
            None => Ok(Ok(())),
            Some(other) => {
                sys::unshare_byte(file.as_fd(), self.at())?;
                Ok(Err(other))
            }
        }
    }
}

/// Some file systems have no locks. What can be known without them still is.
fn without_locks<T>(what: &str, given: io::Result<T>, none: T) -> Result<T> {
    match given {
        Err(why)
            if matches!(
                Errno::from_io_error(&why),
                Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS)
            ) =>
        {
            log::warn!("{what}: its file system has no locks ({why}): a second owner would not be noticed");
            Ok(none)
        }
        other => other.map_err(|why| Error::because(format!("{what}: its lock"), why)),
    }
}

/// The byte of a database: copies of it differ in instance or directory.
fn owner_answer(owner: &Instance) -> Answer {
    let place = fs::metadata(&owner.dir).map_or((0, 0), |dir| (dir.dev(), dir.ino()));
    let parts = [
        &owner.id.as_bytes()[..],
        &place.0.to_le_bytes(),
        &place.1.to_le_bytes(),
    ];
    Answer {
        region: OWNERS,
        byte: crc32c::crc32c(&parts.concat()),
    }
}

/// Says that the disk is used by this database, for as long as `file` is open.
///
/// # Errors
/// `Kind::Busy` when another database uses it.
pub(super) fn own(what: &str, file: &File, owner: &Instance) -> Result<()> {
    let given = without_locks(what, owner_answer(owner).give(file), Ok(()))?;
    given.map_err(|byte| {
        let by = holders(file, byte);
        Error::new(
            Kind::Busy,
            what,
            format!("is in use by another pool, or by a copy of this one{by}"),
        )
        .hint("only one database may use a disk: stop what uses the other one")
    })
}

/// That nobody uses the disk in the name of another database.
///
/// # Errors
/// `Kind::Busy` when somebody does.
pub(super) fn not_owned_by_others(what: &str, file: &File, owner: &Instance) -> Result<()> {
    match without_locks(what, owner_answer(owner).contrary(file), None)? {
        None => Ok(()),
        Some(byte) => Err(in_use(what, file, byte)),
    }
}

/// That nobody uses the disk.
///
/// # Errors
/// `Kind::Busy` when somebody does.
pub(super) fn not_owned(what: &str, file: &File) -> Result<()> {
    let all = Answer {
        region: OWNERS,
        byte: 0,
    };
    let found = sys::locked_within(file.as_fd(), all.start(), REGION);
    match without_locks(what, found, None)? {
        None => Ok(()),
        Some(byte) => Err(in_use(what, file, byte)),
    }
}

fn in_use(what: &str, file: &File, byte: u64) -> Error {
    let why = format!("is in use{}", holders(file, byte));
    Error::new(Kind::Busy, what, why).hint("stop what uses it first")
}

/// The lock on the pool's directory that says which file a disk is. Held as long as it lives.
#[derive(Debug)]
pub(super) struct SameFile {
    dir: Option<File>,
}

/// Gives up all locks of an opening. Its close does that too, but only once no child of another thread has a copy of the descriptor, and
/// each has one between its fork and its exec.
pub(super) fn let_go(file: &File) {
    // If it fails, the close releases them.
    let _ = sys::unlock(file.as_fd());
}

impl Drop for SameFile {
    fn drop(&mut self) {
        self.dir.iter().for_each(let_go);
    }
}

impl SameFile {
    /// Says that this is the file that the disk is.
    ///
    /// # Errors
    /// `Kind::Busy` when somebody of the pool has another file open as this disk.
    pub(super) fn claim(what: &str, owner: &Instance, disk: u32, found: &Metadata) -> Result<Self> {
        if owner.dir.as_os_str().is_empty() {
            return Ok(Self { dir: None });
        }
        let dir = File::open(&owner.dir)
            .map_err(|why| Error::because(format!("pool {}", owner.dir.display()), why))?;
        let (device, number) = if found.file_type().is_block_device() {
            (0, found.rdev())
        } else {
            (found.dev(), found.ino())
        };
        let answer = Answer {
            region: u64::from(disk) % (BASE / REGION),
            byte: crc32c::crc32c(&[device.to_le_bytes(), number.to_le_bytes()].concat()),
        };
        match without_locks(what, answer.give(&dir), Ok(()))? {
            Ok(()) => Ok(Self { dir: Some(dir) }),
            Err(byte) => {
                let by = holders(&dir, byte);
                let why =
                    format!("the path leads to another file than the one that is in use as this disk{by}");
                Err(Error::new(Kind::Busy, what, why).hint(
                    "put the file that is in use back in its place; or stop what uses it, and start again with the file that is there now",
                ))
            }
        }
    }
}

/// Lets one process after the other write the label.
///
/// # Errors
/// `TimedOut` when another one takes too long.
pub(super) fn alone_at_label<T>(file: &File, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let at = BASE + SINGLE * REGION + WRITES_LABEL;
    let end = Instant::now() + LABEL_PATIENCE;
    loop {
        match sys::try_lock_at(file.as_fd(), at) {
            Ok(true) => break,
            Ok(false) if Instant::now() > end => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process writes it",
                ));
            }
            Ok(false) => std::thread::park_timeout(Duration::from_millis(1)),
            // No locks there.
            Err(_) => return write(),
        }
    }
    let written = write();
    let _ = sys::unshare_byte(file.as_fd(), at);
    written
}

/// A file that one process adds as a disk, as long as this lives.
#[derive(Debug)]
pub(super) struct Adding(File);

impl Adding {
    /// `None` when another process adds it.
    pub(super) fn alone(file: File) -> io::Result<Option<Self>> {
        let alone = sys::try_lock_at(file.as_fd(), BASE + SINGLE * REGION + ADDS)?;
        Ok(alone.then_some(Self(file)))
    }
}

impl Deref for Adding {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Adding {
    fn drop(&mut self) {
        let_go(&self.0);
    }
}

/// Who has a lock on this byte of the file, as far as it can be seen: ` (apparatus, process 123)`.
fn holders(file: &File, byte: u64) -> String {
    let Ok(inode) = file.metadata().map(|found| found.ino()) else {
        return String::new();
    };
    let lock = format!(":{inode} {byte} {byte}");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut names: Vec<String> = processes
        .filter_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let mut files = fs::read_dir(process.path().join("fdinfo")).ok()?.flatten();
            let holds = files.any(|file| {
                fs::read_to_string(file.path())
                    .is_ok_and(|text| text.lines().any(|line| line.ends_with(&lock)))
            });
            let name = || fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holds.then(|| format!("{}, process {pid}", name().trim()))
        })
        .collect();
    names.sort();
    if names.is_empty() {
        String::new()
    } else {
        format!(" ({})", names.join("; "))
    }
}

/// Whether a label may be used by this database.
pub(super) fn belongs(what: &str, instance: Uuid, owner: &Instance) -> Result<()> {
    if owner.has(instance) {
        return Ok(());
    }
    let why =
        format!("belongs to another copy of this pool's database ({instance}): that one has adopted it");
    Err(Error::failed(what, why).hint(
        "use the directory of that database with --pool; if it is gone or shall not be used again: vctl pool adopt",
    ))
}
