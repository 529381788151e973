//! Numbers of the processes that flush disks. A process locks the byte of the member table's file that stands for its number. The kernel releases
//! the lock when the process dies, so other processes can distinguish a slow flush from one whose result will never be known.

use crate::sys;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

/// Maximum number of processes of a pool that flush; each has one bit in a disk's ledger.
pub(super) const FLUSHERS: u32 = 128;

/// Number of this process, once it has one, and access to those of the others.
pub(super) struct Flushers {
    file: File,
    mine: Mutex<Option<u32>>,
}

impl Flushers {
    /// Uses this opening of the member table, which only this process has.
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            mine: Mutex::new(None),
        }
    }

    /// Returns the member table's file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Returns this process's bit. It takes no number of a process that died in the middle of a flush, which is in `taken`, because that bit still has
    /// a meaning.
    ///
    /// # Errors
    /// Fails when the file cannot be locked, or no number is left.
    pub(super) fn mine(&self, taken: impl Fn() -> u128) -> io::Result<u128> {
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = *mine {
            return Ok(1 << number);
        }
        for number in 0..FLUSHERS {
            if taken() & 1 << number != 0 || !sys::try_lock_byte(self.file.as_fd(), number)? {
                continue;
            }
            // The process that had the number may have died between the two checks.
            if taken() & 1 << number == 0 {
                *mine = Some(number);
                return Ok(1 << number);
            }
            sys::unlock_byte(self.file.as_fd(), number)?;
        }
        Err(io::Error::other("too many processes flush disks"))
    }

    /// Returns those of these bits whose processes have ended.
    ///
    /// # Errors
    /// Fails when the file cannot be locked.
    pub(super) fn ended(&self, bits: u128) -> io::Result<u128> {
        let mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ended = 0;
        for number in (0..FLUSHERS).filter(|number| bits & 1 << number != 0 && *mine != Some(*number)) {
            if sys::try_lock_byte(self.file.as_fd(), number)? {
                ended |= 1 << number;
                sys::unlock_byte(self.file.as_fd(), number)?;
            }
        }
        Ok(ended)
    }
}
