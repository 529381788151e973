//! Locks on the pool's directory itself. The files of the run directory can be deleted under whoever has locked them; the directory that the
//! database is found in cannot, without the database. So what must not be missed is locked here: who lives, who acts, and which member table is in use.
//!
//! The locks are of the open file description (`F_OFD_SETLK`) and shared, because a directory cannot be opened for writing:
//!
//! ```text
//! byte 1                    the arbitration
//! 2^59 to 2^60              which file is in use as which disk: `disk/claim.rs`
//! 2^60 + number of a disk   freed extents of this disk are being discarded
//! 2^60 + 2^32 + the same    a write to this disk was given up and has not ended
//! 2^61 + hash of a file     a member table that some process has mapped
//! 2^62 + hash of a name     an apparatus of this name lives
//! ```
//!
//! A shared lock keeps nobody out. Who has to be alone ([`Anchor::claim`]) shares the byte first and looks for others after that, so of two who do it
//! at the same time at least one sees the other and withdraws.

use crate::error::{Error, Result};
use crate::pool::dir::PoolDir;
use crate::sys;
use crate::units::DiskId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// The holder of the arbitration shares this byte.
pub(super) const ARBITRATION: u64 = 1;
const DISCARDS: u64 = 1 << 60;
const LEFT_WRITES: u64 = DISCARDS + (1 << 32);
const TABLES: Range<u64> = 1 << 61..1 << 62;
const LIVES: Range<u64> = 1 << 62..i64::MAX as u64;

/// How often somebody who waits to be alone looks again.
const LOOK: Duration = Duration::from_millis(2);

/// A file or directory, whatever it is called: device and inode.
pub(super) type Identity = (u64, u64);

/// An opening of the pool's directory. Its locks last as long as it does.
pub(super) struct Anchor {
    dir: File,
}

impl Anchor {
    /// # Errors
    /// When the directory is not there or may not be read.
    pub(super) fn of(pool: &PoolDir) -> Result<Self> {
        let dir = File::open(pool.path())
            .map_err(|why| Error::because(format!("pool directory {}", pool.path().display()), why))?;
        Ok(Self { dir })
    }

    /// `None` when there is no such directory, so nobody has locked anything in it.
    pub(super) fn of_existing(pool: &PoolDir) -> io::Result<Option<Self>> {
        match File::open(pool.path()) {
            Ok(dir) => Ok(Some(Self { dir })),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    pub(super) fn share(&self, byte: u64) -> io::Result<()> {
        sys::share_byte(self.dir.as_fd(), byte)
    }

    /// Whether another opening shares one of these.
    pub(super) fn shared_elsewhere(&self, bytes: Range<u64>) -> io::Result<bool> {
        sys::bytes_locked_elsewhere(self.dir.as_fd(), bytes)
    }

    /// Shares the byte if nobody else does.
    pub(super) fn claim(&self, byte: u64) -> io::Result<bool> {
        self.share(byte)?;
        if self.shared_elsewhere(one(byte))? {
            sys::unshare_byte(self.dir.as_fd(), byte)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether anybody uses a member table other than this one, or any, when there is none.
    pub(super) fn uses_another(&self, table: Option<Identity>) -> io::Result<bool> {
        let Some(table) = table.map(byte_of_table) else {
            return self.shared_elsewhere(TABLES);
        };
        Ok(self.shared_elsewhere(TABLES.start..table)? || self.shared_elsewhere(table + 1..TABLES.end)?)
    }

    /// Keeps all others out who ask for the same, while the guard lives. `None` when somebody else is inside for so long.
    pub(super) fn alone(&self, within: Duration) -> io::Result<Option<Alone<'_>>> {
        let deadline = Instant::now() + within;
        loop {
            match flock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Alone(self))),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::park_timeout(LOOK);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The directory by a path that stays, as long as this does, whatever it is called by now.
    pub(super) fn pool(&self) -> PoolDir {
        PoolDir::new(format!("/proc/self/fd/{}", self.dir.as_raw_fd()))
    }

    /// When the directory was made, in nanoseconds; 0 where the file system does not know.
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

/// Inside [`Anchor::alone`].
pub(super) struct Alone<'a>(&'a Anchor);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // If it fails, the close of the directory releases it.
        let _ = flock(&self.0.dir, FlockOperation::Unlock);
    }
}

pub(super) fn identity(meta: &fs::Metadata) -> Identity {
    (meta.dev(), meta.ino())
}

/// The byte of an apparatus.
pub(super) fn byte_of_life(name: &str) -> u64 {
    within(&LIVES, hash(name.as_bytes()))
}

/// The byte of a disk.
pub(super) fn byte_of_discard(disk: DiskId) -> u64 {
    DISCARDS + u64::from(disk.0)
}

/// The byte of a disk that a write has been left behind on.
pub(super) fn byte_of_left_write(disk: DiskId) -> u64 {
    LEFT_WRITES + u64::from(disk.0)
}

/// The byte of a member table.
pub(super) fn byte_of_table((device, inode): Identity) -> u64 {
    let mut bytes = device.to_le_bytes().to_vec();
    bytes.extend(inode.to_le_bytes());
    within(&TABLES, hash(&bytes))
}

/// Whether anybody has a life lock in this pool.
pub(super) fn anybody_lives(pool: &PoolDir) -> io::Result<bool> {
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

/// FNV-1a: the same in every version of the program.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
