//! Copies between disks without a byte being read in user space, where that is possible.

use super::device::FileDevice;
use super::faults::Operation;
use super::{AlignedBytes, Disk};
use crate::cluster::FlushLedger;
use crate::model::units::DiskOffset;
use std::io;
use std::ops::Range;

/// Bytes that a copy reads and writes at once where disks are used directly.
const DIRECT_PIECE: usize = 1 << 20;
/// Bytes of such a piece where a mapping cannot be read.
const PIECE: usize = 64 << 10;

/// Error of a copy, by side.
#[derive(Debug)]
pub enum CopyError {
    /// Reading the source failed.
    Read(io::Error),
    /// Writing the destination failed.
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

/// Returns whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let blocks = bytes.chunks_exact(256);
    let rest = blocks.remainder();
    blocks
        .chain([rest])
        .all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

impl Disk {
    /// Returns whether copies to `to` share storage: both are images on one file system that has not refused it yet.
    #[must_use]
    pub fn shares_with(&self, to: &Disk) -> bool {
        self.files(to).is_some_and(|(from, to)| from.shares_with(to))
    }

    /// Returns both disks as files of the kernel, between which the storage may copy by itself.
    fn files<'a>(&'a self, to: &'a Disk) -> Option<(&'a FileDevice, &'a FileDevice)> {
        Some((self.device.as_file()?, to.device.as_file()?))
    }

    /// Copies `len` bytes to another disk (or elsewhere on this one), by the storage's own copy where it has one (reflink, a server's
    /// `copy_file_range`), and otherwise by writing from the mapping. Missing pages of the source are read into the cache. A disk that is used directly
    /// is read into memory.
    ///
    /// # Errors
    /// Fails with the error of the side that failed.
    pub fn copy_to(&self, at: DiskOffset, to: &Disk, to_at: DiskOffset, len: u64) -> Result<(), CopyError> {
        self.inside(at, len).map_err(CopyError::Read)?;
        to.writable(to_at, len).map_err(CopyError::Write)?;
        let mut offloaded = 0;
        if let Some((from, into)) = self.files(to) {
            if from.shares_with(into) && from.clone_range(at.0, into, to_at.0, len) {
                return Ok(());
            }
            offloaded = from.offload(at.0, into, to_at.0, len);
        }
        self.copy_rest(at, to, to_at, offloaded..len)
    }

    /// Copies `len` bytes to another disk through memory, and makes them durable there. A hold of a move may wait for this, since it waits for no other bytes.
    ///
    /// # Errors
    /// Fails with the error of the side that failed. The ledger, of the other disk, records a failed write.
    pub fn copy_durably_to(
        &self,
        at: DiskOffset,
        to: &Disk,
        to_at: DiskOffset,
        len: u64,
        ledger: &dyn FlushLedger,
    ) -> Result<(), CopyError> {
        let length = |rest: u64| usize::try_from(rest).map_or(DIRECT_PIECE, |rest| rest.min(DIRECT_PIECE));
        let mut memory = AlignedBytes::zeroed(length(len));
        let mut done = 0;
        while done < len {
            let piece = &mut memory[..length(len - done)];
            self.read_at(piece, DiskOffset(at.0 + done))
                .map_err(CopyError::Read)?;
            to.write_durably(piece, DiskOffset(to_at.0 + done), ledger)
                .map_err(CopyError::Write)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    /// Copies the rest by writing from the mapping, where there is one. The kernel reads the source then; where it cannot, the write fails with
    /// EFAULT, and reading the source returns the reason.
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
            let written = match self.mapped(from, part) {
                Some(bytes) => to.device.write_at(bytes.for_system_call(), into.0),
                None => Ok(0),
            };
            done += match written {
                Ok(0) => self.copy_through_memory(from, to, into, part)?,
                Ok(written) => written as u64,
                Err(why) if why.raw_os_error() == Some(libc::EFAULT) => {
                    self.copy_through_memory(from, to, into, part)?
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => 0,
                Err(why) => {
                    to.faults
                        .note(Operation::Write, why.raw_os_error().unwrap_or(libc::EIO));
                    return Err(CopyError::Write(why));
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
        let most = if self.is_direct() { DIRECT_PIECE } else { PIECE };
        let mut scratch = AlignedBytes::zeroed(len.min(most));
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
