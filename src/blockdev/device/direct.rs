//! An image file or block device that is read and written past the page cache, with `O_DIRECT`.
//!
//! The kernel takes whole blocks, at multiples of their size, from memory that is aligned. Whatever a caller passes is made so here: bytes at
//! another address go through memory that is aligned, and the ends of a range that are parts of blocks are read, changed and written back. Such a block
//! belongs to one write of this process at a time ([`RangeLocks`]).

use super::range_locks::{RangeLock, RangeLocks, Share};
use super::{BlockDevice, FileDevice, Zeroing, write_all_at};
use crate::blockdev::aligned::AlignedBytes;
use crate::blockdev::open::DiskKind;
use crate::model::error::{Error, Result};
use crate::sys;
use rustix::fs::{
    Advice, AtFlags, OFlags, StatxFlags, fadvise, fcntl_getfl, fcntl_setfl, fstatfs, fstatvfs,
    ioctl_blksszget, statx,
};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Bytes that go through other memory at once.
const PART: usize = 1 << 20;
/// The largest block that a disk may have: labels and the metadata are written in pieces of this size.
const LARGEST_BLOCK: u32 = 4096;
/// Alignment where the kernel does not say which one it needs.
const USUAL: u32 = 4096;
/// `STATX_DIOALIGN` of `linux/stat.h`.
const DIOALIGN: u32 = 0x2000;
/// File systems that keep their files in the page cache, by their type in `statfs`.
const IN_MEMORY: [(u32, &str); 3] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x9584_58f6, "hugetlbfs"),
];

/// What direct reads and writes have to be multiples of, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alignment {
    /// Addresses in memory.
    memory: usize,
    /// Offsets and lengths.
    block: usize,
}

/// Open image file or block device that is used directly.
pub(super) struct DirectDevice {
    file: FileDevice,
    alignment: Alignment,
    /// Alignment of ranges that the file system zeroes without reading parts of blocks into the page cache.
    zeroing: u64,
    locks: RangeLocks,
}

impl DirectDevice {
    /// Makes a device of a file that [`bypass_cache`] has prepared.
    pub(super) fn new(file: File, kind: DiskKind) -> io::Result<Self> {
        let alignment = alignment(&file, kind).map_err(io::Error::other)?;
        let fragment = fstatvfs(&file)?.f_frsize;
        Ok(Self {
            file: FileDevice::unmapped(file, kind),
            alignment,
            zeroing: fragment.max(4096).next_power_of_two(),
            locks: RangeLocks::default(),
        })
    }

    fn is_whole(&self, at: u64, len: usize) -> bool {
        let block = self.alignment.block;
        at.is_multiple_of(block as u64) && len.is_multiple_of(block)
    }

    fn is_aligned(&self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(self.alignment.memory)
    }

    /// Returns the whole blocks that the range touches, or the first of them.
    fn blocks(&self, at: u64, len: usize) -> Range<u64> {
        let block = self.alignment.block as u64;
        let start = at - at % block;
        let end = at.saturating_add(len as u64).next_multiple_of(block);
        start..end.min(start + PART as u64)
    }

    /// Reads the ends of `blocks` that are not overwritten as a whole by the bytes at `written` of them.
    fn read_ends(&self, into: &mut [u8], at: u64, written: &Range<usize>) -> io::Result<()> {
        let (block, last) = (self.alignment.block, into.len() - self.alignment.block);
        let head = written.start > 0 || written.end < block;
        if head {
            self.read_block(into, 0, at)?;
        }
        if written.end < into.len() && (last > 0 || !head) {
            self.read_block(into, last, at)?;
        }
        Ok(())
    }

    /// Reads one block of those that begin at `at` to its place.
    fn read_block(&self, into: &mut [u8], place: usize, at: u64) -> io::Result<()> {
        let Some(block) = into.get_mut(place..place + self.alignment.block) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.file.handle().read_exact_at(block, at + place as u64)
    }

    fn share(&self, range: Range<u64>) -> RangeLock<'_> {
        self.locks.lock(range, Share::Shared)
    }
}

impl BlockDevice for DirectDevice {
    fn handle(&self) -> &File {
        self.file.handle()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn is_direct(&self) -> bool {
        true
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if self.is_whole(at, buf.len()) && self.is_aligned(buf) {
            return self.file.read_at(buf, at);
        }
        let blocks = self.blocks(at, buf.len());
        let mut memory = AlignedBytes::zeroed(length(&blocks)?);
        let read = self.file.read_at(&mut memory, blocks.start)?;
        let skipped = length(&(blocks.start..at))?;
        let found = memory.get(skipped..read).unwrap_or_default();
        let len = found.len().min(buf.len());
        buf[..len].copy_from_slice(&found[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        let is_whole = self.is_whole(at, buf.len());
        if is_whole && self.is_aligned(buf) {
            let _lock = self.share(at..at.saturating_add(buf.len() as u64));
            return self.file.write_at(buf, at);
        }
        let blocks = self.blocks(at, buf.len());
        let mut memory = AlignedBytes::zeroed(length(&blocks)?);
        let start = length(&(blocks.start..at))?;
        let written = start..memory.len().min(start + buf.len());
        let share = if is_whole { Share::Shared } else { Share::Exclusive };
        let _lock = self.locks.lock(blocks.clone(), share);
        if !is_whole {
            self.read_ends(&mut memory, blocks.start, &written)?;
        }
        memory[written.clone()].copy_from_slice(&buf[..written.len()]);
        let done = self.file.write_at(&memory, blocks.start)?;
        Ok(done.saturating_sub(start).min(written.len()))
    }

    fn write_durably(&self, buf: &[u8], at: u64) -> io::Result<()> {
        if self.is_whole(at, buf.len()) && self.is_aligned(buf) {
            let _lock = self.share(at..at.saturating_add(buf.len() as u64));
            return self.file.write_durably(buf, at);
        }
        write_all_at(self, buf, at)?;
        self.flush()
    }

    fn write_apart(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.file.write_apart(buf, at)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn data_from(&self, range: Range<u64>) -> io::Result<Option<u64>> {
        self.file.data_from(range)
    }

    fn data_until(&self, range: Range<u64>) -> io::Result<u64> {
        self.file.data_until(range)
    }

    fn zero(&self, range: Range<u64>, how: Zeroing) -> io::Result<bool> {
        let _lock = self.share(range.clone());
        self.file.zero(range, how)
    }

    fn zeroing_alignment(&self) -> u64 {
        self.zeroing
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<bool> {
        self.file.allocate(range)
    }

    fn discard(&self, range: Range<u64>) -> io::Result<bool> {
        self.file.discard(range)
    }

    fn as_file(&self) -> Option<&FileDevice> {
        Some(&self.file)
    }
}

fn length(range: &Range<u64>) -> io::Result<usize> {
    usize::try_from(range.end - range.start).map_err(io::Error::other)
}

/// Makes all reads and writes of this opening go past the page cache, and drops what the cache has of the file. A page that somebody has written and the
/// kernel has not written back yet stays until it has; direct reads wait for it.
///
/// # Errors
/// Fails with the reason why the file cannot be used directly, and the way out.
pub(in crate::blockdev) fn bypass_cache(what: &str, file: &File, kind: DiskKind) -> Result<()> {
    alignment(file, kind).map_err(|why| refused(what, why))?;
    let switched = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | OFlags::DIRECT));
    switched.map_err(|why| refused(what, not_direct(&why.into())))?;
    drop_cache(file);
    Ok(())
}

/// Drops what the page cache has of the file, as far as it has been written back. This is a hint, so a failure is ignored.
fn drop_cache(file: &File) {
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Checks that a file or device can be used directly, without changing anything: by what the kernel says, and by reading its first block.
///
/// # Errors
/// Fails with the reason, and the way out.
pub(in crate::blockdev) fn check(what: &str, file: &File, kind: DiskKind) -> Result<()> {
    alignment(file, kind).map_err(|why| refused(what, why))?;
    let caches = reads_through_cache(file).map_err(|why| refused(what, not_direct(&why)))?;
    if caches && kind != DiskKind::Device && reported_alignment(file).is_none() {
        return Err(refused(
            what,
            "its file system reads through the page cache all the same".to_owned(),
        ));
    }
    Ok(())
}

/// Returns whether a direct read of the first block leaves it in the page cache. The first read has what is dirty written back.
fn reads_through_cache(file: &File) -> io::Result<bool> {
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default())
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let mut block = AlignedBytes::zeroed(LARGEST_BLOCK as usize);
    direct.read_exact_at(&mut block, 0)?;
    drop_cache(&direct);
    direct.read_exact_at(&mut block, 0)?;
    // An older kernel does not count pages; it is taken at its word.
    Ok(sys::cached_pages(&direct, 0, LARGEST_BLOCK.into()).unwrap_or(0) > 0)
}

fn not_direct(why: &io::Error) -> String {
    if why.kind() == io::ErrorKind::InvalidInput {
        "its file system has no direct reads and writes (O_DIRECT)".to_owned()
    } else {
        why.to_string()
    }
}

fn refused(what: &str, why: String) -> Error {
    Error::failed(what, format!("cannot be a disk of a direct pool: {why}"))
        .hint("use a block device or an image on another file system; or make the pool without --direct")
}

/// Asks the kernel for the alignment of direct reads and writes.
fn alignment(file: &File, kind: DiskKind) -> Result<Alignment, String> {
    let failed = |why: rustix::io::Errno| why.to_string();
    if kind != DiskKind::Device {
        let kind = u32::try_from(fstatfs(file).map_err(failed)?.f_type).ok();
        if let Some((_, name)) = IN_MEMORY.iter().find(|(number, _)| Some(*number) == kind) {
            return Err(format!("{name} keeps its files in the page cache"));
        }
    }
    let (memory, block) = match reported_alignment(file) {
        Some(reported) => reported,
        None if kind == DiskKind::Device => ioctl_blksszget(file).map_or((USUAL, USUAL), |size| (size, size)),
        None => (USUAL, USUAL),
    };
    accepted(memory, block)
}

/// Returns the alignment in memory and in the file that the file system reports (Linux 6.1), both 0 where it has no direct reads and writes.
fn reported_alignment(file: &File) -> Option<(u32, u32)> {
    let flags = StatxFlags::from_bits_retain(DIOALIGN);
    let found = statx(file, c"", AtFlags::EMPTY_PATH, flags).ok()?;
    let is_reported = found.stx_mask & DIOALIGN != 0;
    is_reported.then_some((found.stx_dio_mem_align, found.stx_dio_offset_align))
}

fn accepted(memory: u32, block: u32) -> Result<Alignment, String> {
    if memory == 0 || block == 0 {
        return Err("its file system has no direct reads and writes (O_DIRECT)".to_owned());
    }
    if block > LARGEST_BLOCK {
        return Err(format!(
            "its blocks of {block} bytes are larger than {LARGEST_BLOCK}"
        ));
    }
    if memory > USUAL || !memory.is_power_of_two() || !block.is_power_of_two() {
        return Err(format!(
            "it needs memory at multiples of {memory} bytes and blocks of {block}"
        ));
    }
    Ok(Alignment {
        memory: memory as usize,
        block: block as usize,
    })
}

#[cfg(test)]
mod tests;
