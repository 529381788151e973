//! Locks on the pool's directory itself. The files of the run directory can be deleted while they are locked; the directory of the database
//! cannot, without the database. So the locks that must not be lost are taken here: life locks, the controller lock, and member tables in use.
//!
//! The locks are of the open file description (`F_OFD_SETLK`) and shared, because a directory cannot be opened for writing:
//!
//! ```text
//! byte 1                    the controller lock
//! 2^57 to 2^58              tickets for the controller lock: `leadership.rs`
//! 2^58 + number of a job    this job is running
//! 2^59 to 2^60              files in use as disks: `blockdev/claim.rs`
//! 2^60 + number of a disk   freed extents of this disk are being discarded
//! 2^60 + 2^32 + the same    a left write to this disk has not ended
//! 2^61 + hash of a file     this member table is mapped
//! 2^62 + hash of a name     an apparatus of this name lives
//! ```
//!
//! A shared lock excludes nobody. [`Anchor::claim`], which is exclusive, locks the byte first and checks for other locks then, so of two processes
//! that do this at the same time at least one sees the other and withdraws.

use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::units::{DiskId, JobId};
use crate::sys;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Byte that the holder of the controller lock locks.
pub(super) const LEADERSHIP: u64 = 1;
/// Bytes of the tickets of commands that wait for the controller lock.
pub(super) const COMMANDS_WAIT: Range<u64> = 1 << 57..(1 << 57) + (1 << 56);
/// Bytes of the tickets of jobs that wait for the controller lock.
pub(super) const JOBS_WAIT: Range<u64> = COMMANDS_WAIT.end..1 << 58;
/// Bytes of running jobs.
pub(super) const JOBS: Range<u64> = 1 << 58..1 << 59;
const DISCARDS: u64 = 1 << 60;
const LEFT_WRITES: u64 = DISCARDS + (1 << 32);
const TABLES: Range<u64> = 1 << 61..1 << 62;
const LIVES: Range<u64> = 1 << 62..i64::MAX as u64;

/// Interval between attempts at an exclusive lock.
const LOOK: Duration = Duration::from_millis(2);

/// Identity of a file or directory, independent of its name: device and inode.
pub(super) type Identity = (u64, u64);

/// Opening of the pool's directory. Dropping it releases its locks.
pub(super) struct Anchor {
    dir: File,
}

impl Anchor {
    /// Opens the pool's directory.
    ///
    /// # Errors
    /// Fails when the directory does not exist or may not be read.
    pub(super) fn of(pool: &PoolDir) -> Result<Self> {
        let dir = File::open(pool.path())
            .map_err(|why| Error::because(format!("pool directory {}", pool.display()), why))?;
        Ok(Self { dir })
    }

    /// Opens the pool's directory. Returns `None` if it does not exist, so that it has no locks.
    pub(super) fn of_existing(pool: &PoolDir) -> io::Result<Option<Self>> {
        match File::open(pool.path()) {
            Ok(dir) => Ok(Some(Self { dir })),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Locks the byte shared.
    pub(super) fn share(&self, byte: u64) -> io::Result<()> {
        sys::share_byte(self.dir.as_fd(), byte)
    }

    /// Unlocks the byte.
    pub(super) fn unshare(&self, byte: u64) -> io::Result<()> {
        sys::unshare_byte(self.dir.as_fd(), byte)
    }

    /// Returns whether another opening has locked one of these bytes.
    pub(super) fn shared_elsewhere(&self, bytes: Range<u64>) -> io::Result<bool> {
        sys::bytes_locked_elsewhere(self.dir.as_fd(), bytes)
    }

    /// Locks the byte unless another opening has locked it. Returns whether it did.
    pub(super) fn claim(&self, byte: u64) -> io::Result<bool> {
        self.share(byte)?;
        if self.shared_elsewhere(one(byte))? {
            self.unshare(byte)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Returns whether a process uses another member table than this one, or any table if `table` is `None`.
    pub(super) fn uses_another(&self, table: Option<Identity>) -> io::Result<bool> {
        let Some(table) = table.map(byte_of_table) else {
            return self.shared_elsewhere(TABLES);
        };
        Ok(self.shared_elsewhere(TABLES.start..table)? || self.shared_elsewhere(table + 1..TABLES.end)?)
    }

    /// Takes the exclusive lock on the directory. Returns `None` if another process holds it for longer than `within`.
    pub(super) fn alone(&self, within: Duration) -> io::Result<Option<Exclusive<'_>>> {
        let deadline = Instant::now() + within;
        loop {
            match flock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Exclusive(self))),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::park_timeout(LOOK);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Returns when the directory was created, in nanoseconds since 1970, or 0 where the file system does not know.
    pub(super) fn born(&self) -> u128 {
        let born = self.dir.metadata().and_then(|meta| meta.created()).ok();
        let since = born.and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_nanos())
    }

    pub(super) fn identity(&self) -> io::Result<Identity> {
        self.dir.metadata().map(|meta| identity(&meta))
    }
}

impl AsFd for Anchor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Exclusive lock of [`Anchor::alone`].
pub(super) struct Exclusive<'a>(&'a Anchor);

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        // If this fails, the close of the directory releases the lock.
        let _ = flock(&self.0.dir, FlockOperation::Unlock);
    }
}

pub(super) fn identity(meta: &fs::Metadata) -> Identity {
    (meta.dev(), meta.ino())
}

/// Returns the byte of an apparatus's life lock.
pub(super) fn byte_of_life(name: &str) -> u64 {
    within(&LIVES, hash(name.as_bytes()))
}

/// Returns whether this is the byte of a life lock.
pub(super) fn is_life(byte: u64) -> bool {
    LIVES.contains(&byte)
}

/// Returns the byte for discards on a disk.
pub(super) fn byte_of_discard(disk: DiskId) -> u64 {
    DISCARDS + u64::from(disk.0)
}

/// Returns the byte for left writes to a disk.
pub(super) fn byte_of_left_write(disk: DiskId) -> u64 {
    LEFT_WRITES + u64::from(disk.0)
}

/// Returns the byte of a job.
pub(super) fn byte_of_job(job: JobId) -> u64 {
    within(&JOBS, job.0)
}

/// Returns the byte of a member table.
pub(super) fn byte_of_table((device, inode): Identity) -> u64 {
    let mut bytes = device.to_le_bytes().to_vec();
    bytes.extend(inode.to_le_bytes());
    within(&TABLES, hash(&bytes))
}

/// Returns whether a process has a life lock in this pool.
pub(super) fn any_process_lives(pool: &PoolDir) -> io::Result<bool> {
    match Anchor::of_existing(pool)? {
        Some(anchor) => anchor.shared_elsewhere(LIVES),
        None => Ok(false),
    }
}

pub(super) fn one(byte: u64) -> Range<u64> {
    byte..byte + 1
}

fn within(range: &Range<u64>, hash: u64) -> u64 {
    range.start + hash % (range.end - range.start)
}

/// Returns the FNV-1a hash, which is the same in every version of the program.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
