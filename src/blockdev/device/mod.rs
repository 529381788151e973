//! The interface of a disk: reads, writes, flushes, and optional capabilities.
//!
//! [`FileDevice`] is an image file or a block device of the kernel, used through the page cache, and `DirectDevice` one that is used past it. Offsets and lengths are in bytes. This folder does
//! not know labels, pools or ledgers: [`Disk`](super::Disk) does, and checks ranges before it calls.

mod apart;
mod direct;
mod faulty;
mod file;
mod filled;
mod mapping;
mod range_locks;

pub(super) use direct::{bypass_cache, check as check_direct};
pub use faulty::{Fault, Faults, Faulty, On, Rule};
pub use file::FileDevice;
pub(super) use file::LARGE_PIECE;
pub use mapping::Mapped;

use super::open::DiskKind;
use crate::model::records::DiskAccess;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Makes a device of an open file whose first `size` bytes are the disk at `path`. For direct access, [`bypass_cache`] has prepared the file.
///
/// # Errors
/// Fails when they cannot be mapped.
pub(super) fn of_file(
    file: File,
    kind: DiskKind,
    size: u64,
    path: &Path,
    access: DiskAccess,
) -> io::Result<Box<dyn BlockDevice>> {
    let device: Box<dyn BlockDevice> = match access {
        DiskAccess::Cached => Box::new(FileDevice::new(file, kind, size)?),
        DiskAccess::Direct => Box::new(direct::DirectDevice::new(file, kind)?),
    };
    #[cfg(debug_assertions)]
    return Ok(faulty::wrap(device, path));
    #[cfg(not(debug_assertions))]
    {
        let _ = path;
        Ok(device)
    }
}

/// Way to make a range read as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// By a hole: the space is freed.
    Punch,
    /// By zeroing: the space is kept.
    Keep,
}

/// Disk, as the operating system or a test provides it. Several threads may call it at once. Methods fail with the device's error.
///
/// A method that returns a `bool` returns `Ok(false)` where the device does not support the operation; nothing has changed then, and the caller uses
/// another way. The device remembers which operations the kernel has refused.
pub trait BlockDevice: Send + Sync {
    /// Returns the open file that carries the locks and identifies the disk.
    fn handle(&self) -> &File;
    /// Returns whether it is used past the page cache: each read and write waits for it.
    fn is_direct(&self) -> bool {
        false
    }
    /// Returns its present length in bytes.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn length(&self) -> io::Result<u64>;
    /// Reads into `buf` and returns the number of bytes. It may read fewer than requested; 0 means the end.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes from `buf` and returns the number of bytes. It may write fewer than requested. `buf` may be bytes of a mapping: the device passes it to
    /// the kernel, which returns EFAULT where a page cannot be read, and does not read it itself.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize>;
    /// Reads into `buf` without waiting for the device, and returns the number of bytes. `None` where that is not possible: the bytes are not in
    /// memory, or the device cannot say so.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn read_now(&self, _buf: &mut [u8], _at: u64) -> io::Result<Option<usize>> {
        Ok(None)
    }
    /// Writes from `buf` without waiting for the device, and returns the number of bytes. `None` where that is not possible.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn write_now(&self, _buf: &[u8], _at: u64) -> io::Result<Option<usize>> {
        Ok(None)
    }
    /// Writes all of `buf`, durably.
    ///
    /// # Errors
    /// Fails with the device's error, which may be that of an earlier write-back.
    fn write_durably(&self, buf: &[u8], at: u64) -> io::Result<()>;
    /// Writes all of `buf`, durably, so that a failure says nothing of any other bytes: it neither takes nor leaves an error of theirs. Offset and length are
    /// multiples of 4096.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn write_apart(&self, buf: &[u8], at: u64) -> io::Result<()>;
    /// Makes all earlier writes durable.
    ///
    /// # Errors
    /// Fails with the device's error, including those of earlier writes, each of which is reported once.
    fn flush(&self) -> io::Result<()>;
    /// Returns where data begins in the range, or `None` where all of it is a hole. Returns the start of the range where the device does not know.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn data_from(&self, range: Range<u64>) -> io::Result<Option<u64>>;
    /// Returns where the data that begins at the start of the range ends, which may be beyond the range. Returns the end of the range where the device
    /// does not know.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn data_until(&self, range: Range<u64>) -> io::Result<u64>;
    /// Makes the range read as zeroes. Returns false where the caller has to write zeroes instead.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn zero(&self, range: Range<u64>, how: Zeroing) -> io::Result<bool>;
    /// Returns the alignment of ranges for [`BlockDevice::zero`].
    fn zeroing_alignment(&self) -> u64 {
        1
    }
    /// Starts reading the range into memory, without waiting. This is a hint.
    fn prefetch(&self, _range: Range<u64>) {}
    /// Allocates the holes of the range, without changing its content.
    ///
    /// # Errors
    /// Fails with the device's error, above all for lack of space.
    fn allocate(&self, _range: Range<u64>) -> io::Result<bool> {
        Ok(false)
    }
    /// Discards the range; its content is undefined afterwards.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn discard(&self, _range: Range<u64>) -> io::Result<bool> {
        Ok(false)
    }
    /// Starts write-back of dirty pages of the range.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn start_writeback(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
    /// Writes back dirty pages of the range, and waits for that. This is not a flush.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn wait_for_writeback(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
    /// Marks the range dirty without changing it, so that the next flush writes it again. Returns false where the device keeps nothing in memory.
    ///
    /// # Errors
    /// Fails with the device's error.
    fn redirty(&self, _range: Range<u64>) -> io::Result<bool> {
        Ok(false)
    }
    /// Returns how many bytes one call should write at most where the range is not in memory.
    fn write_piece(&self) -> usize {
        1 << 30
    }
    /// Returns the mapping of the device, for reads without a copy, if it has one.
    fn memory(&self) -> Option<&mapping::Mapping> {
        None
    }
    /// Returns the mapping, where this range can be read through it without taking space: in a file system in memory, a page fault on a hole takes a page,
    /// and fails where the file system is full.
    fn memory_of(&self, _at: u64, _len: usize) -> Option<&mapping::Mapping> {
        self.memory()
    }
    /// Returns whether reading the range waits for no device. Returns false where that is not known.
    fn resident(&self, at: u64, len: usize) -> bool {
        self.memory().is_some_and(|memory| memory.resident(at, len))
    }
    /// Returns the device as a file of the kernel, if it is one: between two of them the storage can copy by itself.
    fn as_file(&self) -> Option<&FileDevice> {
        None
    }
}

/// Reads exactly `buf.len()` bytes.
///
/// # Errors
/// Fails with the device's error, or with `UnexpectedEof`.
pub(super) fn read_exact_at(device: &dyn BlockDevice, mut buf: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match device.read_at(buf, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buf = buf.get_mut(read..).unwrap_or_default();
                at += read as u64;
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// Writes all of `buf`.
///
/// # Errors
/// Fails with the device's error, or with `WriteZero`.
pub(super) fn write_all_at(device: &dyn BlockDevice, mut buf: &[u8], mut at: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match device.write_at(buf, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                buf = buf.get(written..).unwrap_or_default();
                at += written as u64;
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}
