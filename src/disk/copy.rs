//! Copying between disks without user space looking at a byte.

use super::Disk;
use super::faults::Operation;
use super::open::Kind;
use crate::sys;
use crate::units::DiskOffset;
use rustix::fs::{copy_file_range, fstatfs};
use rustix::io::{Errno, pwrite};
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// Reading the source.
    Read(io::Error),
    /// Writing the destination.
    Write(io::Error),
}

impl std::fmt::Display for CopyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(why) => write!(f, "reading the source: {why}"),
            Self::Write(why) => write!(f, "writing the destination: {why}"),
        }
    }
}

impl std::error::Error for CopyError {}

/// File systems whose servers copy for themselves: NFS, CIFS, SMB2, Ceph. Elsewhere `copy_file_range` is a loop in the
/// kernel, and slower than writing from the mapping.
const COPYING_FILE_SYSTEMS: [u32; 4] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400];

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let blocks = bytes.chunks_exact(256);
    let rest = blocks.remainder();
    blocks
        .chain([rest])
        .all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

impl Disk {
    /// Whether copies to `to` share storage: both are images on one file system that has not refused it yet.
    #[must_use]
    pub fn shares_with(&self, to: &Disk) -> bool {
        matches!(self.kind, Kind::Image { .. }) && self.kind == to.kind && !self.lacks.clone.load(Relaxed)
    }

    /// Copies `len` bytes to another disk (or elsewhere on this one), by the storage's own copy where it has one (reflink, a
    /// server's `copy_file_range`), else by writing from the mapping. Pages of the source are in the cache or are read.
    ///
    /// # Errors
    /// Which side failed, and how.
    pub fn copy_to(&self, at: DiskOffset, to: &Disk, to_at: DiskOffset, len: u64) -> Result<(), CopyError> {
        self.inside(at, len).map_err(CopyError::Read)?;
        to.writable(to_at, len).map_err(CopyError::Write)?;
        if self.shares_with(to) {
            match sys::clone_range(&self.file, at.0, &to.file, to_at.0, len) {
                Ok(()) => return Ok(()),
                Err(_) => self.lacks.clone.store(true, Relaxed),
            }
        }
        let offloaded = if self.server_copies(to) {
            self.offload(at.0, to, to_at.0, len)
        } else {
            0
        };
        self.copy_rest(at, to, to_at, offloaded..len)
    }

    fn server_copies(&self, to: &Disk) -> bool {
        let serves = |kind: u32| COPYING_FILE_SYSTEMS.contains(&kind);
        let image = matches!(self.kind, Kind::Image { .. }) && self.kind == to.kind;
        image && fstatfs(&self.file).is_ok_and(|fs| u32::try_from(fs.f_type).is_ok_and(serves))
    }

    /// How many bytes the server has copied before it would not go on.
    fn offload(&self, at: u64, to: &Disk, to_at: u64, len: u64) -> u64 {
        let mut done = 0;
        while done < len {
            let (mut from, mut into) = (at + done, to_at + done);
            let part = usize::try_from(len - done).unwrap_or(usize::MAX);
            match copy_file_range(&self.file, Some(&mut from), &to.file, Some(&mut into), part) {
                Ok(copied) if copied > 0 => done += copied as u64,
                _ => break,
            }
        }
        done
    }

    /// Writes from the mapping. The kernel reads the source; where it cannot, it says EFAULT, and reading says why.
    fn copy_rest(
        &self,
        at: DiskOffset,
        to: &Disk,
        to_at: DiskOffset,
        rest: Range<u64>,
    ) -> Result<(), CopyError> {
        let mut done = rest.start;
        let length = |done| usize::try_from(rest.end - done).unwrap_or(usize::MAX);
        let most = to.piece_at(DiskOffset(to_at.0 + done), length(done));
        while done < rest.end {
            let (from, into) = (DiskOffset(at.0 + done), DiskOffset(to_at.0 + done));
            let part = length(done).min(most);
            let Some(bytes) = self.mapped(from, part) else {
                return Err(CopyError::Read(io::ErrorKind::UnexpectedEof.into()));
            };
            done += match pwrite(&to.file, bytes, into.0) {
                Ok(0) | Err(Errno::FAULT) => self.copy_through_memory(from, to, into, part)?,
                Ok(written) => written as u64,
                Err(Errno::INTR) => 0,
                Err(why) => {
                    to.faults.note(Operation::Write, why.raw_os_error());
                    return Err(CopyError::Write(why.into()));
                }
            };
        }
        Ok(())
    }

    fn copy_through_memory(
        &self,
        at: DiskOffset,
        to: &Disk,
        to_at: DiskOffset,
        len: usize,
    ) -> Result<u64, CopyError> {
        let mut scratch = vec![0; len.min(64 << 10)];
        self.read_at(&mut scratch, at).map_err(CopyError::Read)?;
        to.write_at(&scratch, to_at).map_err(CopyError::Write)?;
        Ok(scratch.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_is_not_zero() {
        for len in [0, 1, 255, 256, 257, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)]
                .into_iter()
                .filter(|&at| at < len)
            {
                bytes[at] = 0x10;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
