//! An image file or block device, used through the page cache: reads from a shared mapping or by `pread`, writes by `pwrite`. Without a mapping it is the
//! file of a [`DirectDevice`](super::direct::DirectDevice).

use super::apart::Apart;
use super::filled::Filled;
use super::mapping::{Mapping, redirty};
use super::{BlockDevice, Zeroing};
use crate::blockdev::open::{DiskKind, length};
use crate::blockdev::room::keeps_space;
use crate::sys;
use rustix::fs::{Advice, FallocateFlags, SeekFrom, copy_file_range, fadvise, fallocate, fstatfs, seek};
use rustix::io::{Errno, IoSlice, IoSliceMut, ReadWriteFlags, preadv2, pwritev2};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Type of ext2, ext3 and ext4 in `statfs`.
const EXT4: u32 = 0xef53;
/// Bytes of a large write call, less than the kernel's limit for one call.
pub(in crate::blockdev) const LARGE_PIECE: usize = 1 << 30;
/// Bytes of a small write call. Smaller ones would make later small writes another quarter faster, and filling an image a third slower.
const SMALL_PIECE: usize = 64 << 10;
/// Alignment of ranges that a block device zeroes without dropping pages that are only partly in the range.
const DEVICE_ALIGNMENT: u64 = 4096;
/// File systems whose files are memory: tmpfs, ramfs. Their reads and writes wait for no device.
const FILE_SYSTEMS_IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
/// File systems whose servers copy by themselves: NFS, CIFS, SMB2, Ceph. Elsewhere `copy_file_range` is a loop in the kernel, and slower than
/// writing from the mapping.
const COPYING_FILE_SYSTEMS: [u32; 4] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400];

/// Open image file or block device, with its first bytes mapped where it is used through the page cache.
pub struct FileDevice {
    file: File,
    kind: DiskKind,
    map: Option<Mapping>,
    unsupported: Unsupported,
    piece: usize,
    apart: Apart,
    /// Whether reads and writes wait for no device.
    is_in_memory: bool,
    /// Where an image in memory has no holes.
    filled: Option<Filled>,
}

/// Operations that the kernel does not support for this file, so that they are not tried again.
#[derive(Default)]
struct Unsupported {
    punch: AtomicBool,
    zero: AtomicBool,
    clone: AtomicBool,
    allocate: AtomicBool,
    discard: AtomicBool,
    read_now: AtomicBool,
    write_now: AtomicBool,
}

/// Returns whether writes are slow where the page cache has large folios. File systems cache the bytes of one write call, and of one read-ahead, in
/// folios as large as possible, and ext4 walks over all blocks of a folio for each later write into it: after writes of 1 MiB, 4 KiB writes
/// took four times as long as after writes of 64 KiB, and after writes of 256 KiB twice as long (kernel 6.18).
fn suffers_from_large_pieces(file: &File) -> bool {
    file_system(file) == Some(EXT4)
}

fn file_system(file: &File) -> Option<u32> {
    u32::try_from(fstatfs(file).ok()?.f_type).ok()
}

impl FileDevice {
    /// Makes a device of an open file whose first `size` bytes are the disk.
    ///
    /// # Errors
    /// Fails when they cannot be mapped.
    pub(in crate::blockdev) fn new(file: File, kind: DiskKind, size: u64) -> io::Result<Self> {
        let map = Mapping::new(&file, size)?;
        let small = suffers_from_large_pieces(&file);
        if small {
            // This is a hint that affects only speed, so a failure is ignored.
            let _ = map.disable_read_around();
        }
        let device = Self::unmapped(file, kind);
        Ok(Self {
            map: Some(map),
            piece: if small { SMALL_PIECE } else { LARGE_PIECE },
            filled: device.is_in_memory.then(|| Filled::new(size)),
            ..device
        })
    }

    /// Makes a device without a mapping.
    pub(super) fn unmapped(file: File, kind: DiskKind) -> Self {
        Self {
            kind,
            map: None,
            // No holes are punched where the image is to keep its space.
            unsupported: Unsupported {
                punch: AtomicBool::new(keeps_space(&file)),
                ..Unsupported::default()
            },
            piece: LARGE_PIECE,
            apart: Apart::default(),
            is_in_memory: file_system(&file).is_some_and(|kind| FILE_SYSTEMS_IN_MEMORY.contains(&kind)),
            filled: None,
            file,
        }
    }

    /// Returns whether copies to `to` share storage: both are images on one file system that has not refused it yet.
    pub(in crate::blockdev) fn shares_with(&self, to: &Self) -> bool {
        self.is_image() && self.kind == to.kind && !self.unsupported.clone.load(Relaxed)
    }

    /// Copies a range by sharing its storage. Returns false where the file system cannot.
    pub(in crate::blockdev) fn clone_range(&self, at: u64, to: &Self, to_at: u64, len: u64) -> bool {
        let cloned = sys::clone_range(&self.file, at, &to.file, to_at, len).is_ok();
        if !cloned {
            self.unsupported.clone.store(true, Relaxed);
        }
        cloned
    }

    /// Lets the server of both images copy a range. Returns how many bytes it has copied before it stopped.
    pub(in crate::blockdev) fn offload(&self, at: u64, to: &Self, to_at: u64, len: u64) -> u64 {
        let serves = |kind: u32| COPYING_FILE_SYSTEMS.contains(&kind);
        if !self.is_image() || self.kind != to.kind || !file_system(&self.file).is_some_and(serves) {
            return 0;
        }
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

    fn is_image(&self) -> bool {
        matches!(self.kind, DiskKind::Image { .. })
    }

    fn seek(&self, to: SeekFrom) -> Result<u64, Errno> {
        seek(&self.file, to)
    }

    fn fallocate(&self, how: FallocateFlags, range: &Range<u64>) -> Result<(), Errno> {
        let how = how | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, how, range.start, range.end - range.start)
    }

    /// Records that a range may have holes from now on.
    fn has_changed(&self, range: &Range<u64>) {
        if let Some(filled) = &self.filled {
            filled.forget(range);
        }
    }
}

/// Tries an operation that the file system may not support. Records a refusal, and returns false then.
fn try_once(
    unsupported: &AtomicBool,
    refusals: &[Errno],
    call: impl FnOnce() -> Result<(), Errno>,
) -> io::Result<bool> {
    if unsupported.load(Relaxed) {
        return Ok(false);
    }
    match call() {
        Ok(()) => Ok(true),
        Err(why) if refusals.contains(&why) => {
            unsupported.store(true, Relaxed);
            Ok(false)
        }
        Err(why) => Err(why.into()),
    }
}

impl BlockDevice for FileDevice {
    fn handle(&self) -> &File {
        &self.file
    }

    fn length(&self) -> io::Result<u64> {
        length(&self.file, self.kind)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.file.write_at(buf, at)
    }

    /// Asks the kernel not to wait. Where the file system cannot do that, the page cache says whether the read would.
    fn read_now(&self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        if !self.is_in_memory && !self.unsupported.read_now.load(Relaxed) {
            match preadv2(
                &self.file,
                &mut [IoSliceMut::new(buf)],
                at,
                ReadWriteFlags::NOWAIT,
            ) {
                Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.unsupported.read_now.store(true, Relaxed),
                read => return Ok(Some(read?)),
            }
        }
        match self.resident(at, buf.len()) {
            true => self.file.read_at(buf, at).map(Some),
            false => Ok(None),
        }
    }

    /// Asks the kernel not to wait. Not every file system can do that: ext4 cannot.
    fn write_now(&self, buf: &[u8], at: u64) -> io::Result<Option<usize>> {
        if self.is_in_memory {
            return self.file.write_at(buf, at).map(Some);
        }
        if self.unsupported.write_now.load(Relaxed) {
            return Ok(None);
        }
        match pwritev2(&self.file, &[IoSlice::new(buf)], at, ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.unsupported.write_now.store(true, Relaxed);
                Ok(None)
            }
            written => Ok(Some(written?)),
        }
    }

    /// Writes durably by one call where the file system can, and otherwise by two. An error of the one call is returned: it may report a lost page,
    /// and the kernel would not report that to a second attempt.
    fn write_durably(&self, buf: &[u8], at: u64) -> io::Result<()> {
        match pwritev2(&self.file, &[IoSlice::new(buf)], at, ReadWriteFlags::DSYNC) {
            Ok(written) if written == buf.len() => return Ok(()),
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
        self.file.write_all_at(buf, at)?;
        self.file.sync_data()
    }

    fn write_apart(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.apart.write(&self.file, buf, at)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn data_from(&self, range: Range<u64>) -> io::Result<Option<u64>> {
        if !self.is_image() {
            return Ok(Some(range.start));
        }
        match self.seek(SeekFrom::Data(range.start)) {
            Ok(start) => Ok((start < range.end).then_some(start)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(range.start)),
            Err(why) => Err(why.into()),
        }
    }

    fn data_until(&self, range: Range<u64>) -> io::Result<u64> {
        if !self.is_image() {
            return Ok(range.end);
        }
        match self.seek(SeekFrom::Hole(range.start)) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(range.end),
            found => Ok(found?),
        }
    }

    fn zero(&self, range: Range<u64>, how: Zeroing) -> io::Result<bool> {
        const REFUSALS: [Errno; 3] = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
        let punched = how == Zeroing::Punch
            && try_once(&self.unsupported.punch, &REFUSALS, || {
                self.fallocate(FallocateFlags::PUNCH_HOLE, &range)
            })?;
        let by_zeroing = || self.fallocate(FallocateFlags::ZERO_RANGE, &range);
        let zeroed = punched || try_once(&self.unsupported.zero, &REFUSALS, by_zeroing)?;
        self.has_changed(&range);
        Ok(zeroed)
    }

    fn zeroing_alignment(&self) -> u64 {
        if self.is_image() { 1 } else { DEVICE_ALIGNMENT }
    }

    fn prefetch(&self, range: Range<u64>) {
        // Reading the bytes returns the error.
        let _ = fadvise(
            &self.file,
            range.start,
            NonZeroU64::new(range.end - range.start),
            Advice::WillNeed,
        );
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<bool> {
        if !self.is_image() {
            return Ok(false);
        }
        let refusals = [Errno::OPNOTSUPP, Errno::NOSYS];
        try_once(&self.unsupported.allocate, &refusals, || {
            self.fallocate(FallocateFlags::empty(), &range)
        })
    }

    fn discard(&self, range: Range<u64>) -> io::Result<bool> {
        if self.is_image() && self.unsupported.punch.load(Relaxed) {
            return Ok(false);
        }
        let discard = || {
            if self.is_image() {
                return self.fallocate(FallocateFlags::PUNCH_HOLE, &range);
            }
            sys::discard(&self.file, range.start, range.end - range.start)
                .map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))
        };
        let refusals = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY];
        let discarded = try_once(&self.unsupported.discard, &refusals, discard);
        self.has_changed(&range);
        discarded
    }

    fn start_writeback(&self, range: Range<u64>) -> io::Result<()> {
        sys::sync_file_range(&self.file, range.start, range.end - range.start, false)
    }

    fn wait_for_writeback(&self, range: Range<u64>) -> io::Result<()> {
        sys::sync_file_range(&self.file, range.start, range.end - range.start, true)
    }

    fn redirty(&self, range: Range<u64>) -> io::Result<bool> {
        redirty(&self.file, range.start, range.end - range.start)?;
        Ok(true)
    }

    fn write_piece(&self) -> usize {
        self.piece
    }

    fn memory(&self) -> Option<&Mapping> {
        self.map.as_ref()
    }

    fn memory_of(&self, at: u64, len: usize) -> Option<&Mapping> {
        let map = self.map.as_ref()?;
        let has_pages = |range: Range<u64>| {
            let len = usize::try_from(range.end - range.start);
            len.is_ok_and(|len| map.resident(range.start, len))
        };
        let takes_no_space = |filled: &Filled| filled.has_no_hole(at..at + len as u64, has_pages);
        self.filled.as_ref().is_none_or(takes_no_space).then_some(map)
    }

    fn resident(&self, at: u64, len: usize) -> bool {
        self.is_in_memory || self.map.as_ref().is_some_and(|map| map.resident(at, len))
    }

    fn as_file(&self) -> Option<&FileDevice> {
        Some(self)
    }
}
