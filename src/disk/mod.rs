//! Disks: labels, how a disk is opened and checked, and the I/O on it. One way of access for everyone: reads from a shared
//! mapping (handed to the kernel, never looked at here) or by `pread`, writes by `pwrite`, all through the page cache.

use crate::error::Result;
use crate::pool::model::DiskRecord;
use crate::units::{DiskId, DiskOffset, ExtentSize};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// An open disk, label checked.
pub struct Disk {
    _private: (),
}

impl Disk {
    /// Opens the disk that the record names and checks its label against it.
    ///
    /// # Errors
    /// Names the disk, what is wrong with it (missing, shorter than recorded, foreign or damaged label, other disk), and the way out.
    pub fn open(_record: &DiskRecord, _pool: Uuid, _extent_size: ExtentSize) -> Result<Self> {
        todo!()
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> DiskId {
        todo!()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        todo!()
    }

    /// The mapping's bytes at `[at, at + len)`, to be handed to a system call and never read here; `None` outside the disk.
    #[must_use]
    pub fn mapped(&self, _at: DiskOffset, _len: usize) -> Option<&[u8]> {
        todo!()
    }

    /// Reads exactly `buf.len()` bytes.
    ///
    /// # Errors
    /// The disk's; `UnexpectedEof` where an image has been truncated.
    pub fn read_at(&self, _buf: &mut [u8], _at: DiskOffset) -> io::Result<()> {
        todo!()
    }

    /// Writes all of `buf`. Never extends the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_at(&self, _buf: &[u8], _at: DiskOffset) -> io::Result<()> {
        todo!()
    }

    /// Makes the range read as zeroes: by a hole where `punch` and the disk allows, else by zeroing, at worst by writing.
    ///
    /// # Errors
    /// The disk's.
    pub fn zero(&self, _at: DiskOffset, _len: u64, _punch: bool) -> io::Result<()> {
        todo!()
    }

    /// Makes everything written through any file descriptor durable.
    ///
    /// # Errors
    /// The disk's.
    pub fn flush(&self) -> io::Result<()> {
        todo!()
    }

    /// Begins to write back dirty pages of the range, without waiting.
    pub fn start_writeback(&self, _at: DiskOffset, _len: u64) {
        todo!()
    }

    /// Begins to read the range into the page cache, without waiting.
    pub fn prefetch(&self, _at: DiskOffset, _len: u64) {
        todo!()
    }

    /// Reads the range into the page cache and waits until it is there.
    ///
    /// # Errors
    /// The disk's.
    pub fn populate(&self, _at: DiskOffset, _len: u64) -> io::Result<()> {
        todo!()
    }

    /// Whether every page of the range is in the page cache.
    #[must_use]
    pub fn resident(&self, _at: DiskOffset, _len: usize) -> bool {
        todo!()
    }

    /// The runs of `[at, at + len)` that hold data, in order and as offsets from the start of the disk; the rest are holes.
    /// All of it where the disk cannot tell.
    ///
    /// # Errors
    /// The disk's.
    pub fn data_runs(&self, _at: DiskOffset, _len: u64) -> io::Result<Vec<Range<u64>>> {
        todo!()
    }

    /// Copies `len` bytes to another disk (or this one), by the storage's own copy where it has one (reflink,
    /// `copy_file_range` within one file system), else through memory. Pages of the source are in the cache or are read.
    ///
    /// # Errors
    /// Which side failed, and how.
    pub fn copy_to(
        &self,
        _at: DiskOffset,
        _to: &Disk,
        _to_at: DiskOffset,
        _len: u64,
    ) -> Result<(), CopyError> {
        todo!()
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// Reading the source.
    Read(io::Error),
    /// Writing the destination.
    Write(io::Error),
}

/// The open disks of an apparatus or controller, by id. Looked up without a lock.
pub struct Disks {
    _private: (),
}

impl Disks {
    /// None open.
    #[must_use]
    pub fn new() -> Self {
        todo!()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, _id: DiskId) -> Option<Arc<Disk>> {
        todo!()
    }

    /// All of them as they are now, for one request: costs no shared write, and must not be kept.
    #[must_use]
    pub fn view(&self) -> View {
        todo!()
    }

    /// Adds or replaces one.
    pub fn insert(&self, _disk: Arc<Disk>) {
        todo!()
    }

    /// Takes one away; requests that have it go on with it.
    pub fn remove(&self, _id: DiskId) {
        todo!()
    }
}

/// The open disks at one moment.
pub struct View {
    _private: (),
}

impl View {
    /// One of them.
    #[must_use]
    pub fn get(&self, _id: DiskId) -> Option<&Arc<Disk>> {
        todo!()
    }
}

impl Default for Disks {
    fn default() -> Self {
        Self::new()
    }
}
