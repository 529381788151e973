//! Who flushes: each process that does has a number, which is a byte of the member table's file that it has locked. The kernel gives the
//! byte back when the process dies, so that the others can tell a flush that lasts from one whose end nobody will tell.

use crate::sys;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

/// Processes of a pool that flush at the same time, at most; one bit each in a disk's mark.
pub(super) const FLUSHERS: u32 = 128;

/// This process's number, once it has one, and a look at the others'.
pub(super) struct Flushers {
    file: File,
    mine: Mutex<Option<u32>>,
}

impl Flushers {
    /// By this opening of the member table, which belongs to this process alone.
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            mine: Mutex::new(None),
        }
    }

    /// This process's bit. A number that died in the middle of a flush, which is in `taken`, is left alone: its bit still says something.
    ///
    /// # Errors
    /// When the file cannot be locked, or there is no number left.
    pub(super) fn mine(&self, taken: impl Fn() -> u128) -> io::Result<u128> {
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = *mine {
            return Ok(1 << number);
        }
        for number in 0..FLUSHERS {
            if taken() & 1 << number != 0 || !sys::try_lock_byte(self.file.as_fd(), number)? {
                continue;
            }
            // Whoever had it may have died between the two looks.
            if taken() & 1 << number == 0 {
                *mine = Some(number);
                return Ok(1 << number);
            }
            sys::unlock_byte(self.file.as_fd(), number)?;
        }
        Err(io::Error::other("too many processes flush disks"))
    }

    /// Those of these bits whose process has ended.
    ///
    /// # Errors
    /// When the file cannot be locked.
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
