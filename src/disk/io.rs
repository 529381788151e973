//! The I/O on an open disk.

use super::Disk;
use super::faults::Operation;
use super::mapping::redirty;
use super::open::{Kind, length};
use crate::error::{Error, Result};
use crate::held::may_wait;
use crate::sys;
use crate::units::{ByteCount, DiskOffset};
use rustix::fs::{Advice, FallocateFlags, OFlags, SeekFrom, fadvise, fallocate, fstatfs, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::Ordering::Relaxed;

/// What is written where a disk cannot zero a range itself.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// The number that `statfs` gives for ext2, ext3 and ext4.
const EXT4: u32 = 0xef53;

/// Whether writes are slow where the page cache has large pieces. File systems keep what a call writes, and what the kernel reads ahead, in as
/// large pieces as they can, and ext4 walks over all of a piece's blocks for each later write into it: where 1 MiB had been written
/// at once, 4 KiB writes took four times as long as after 64 KiB, and after 256 KiB twice as long (kernel 6.18).
pub(super) fn suffers_from_large_pieces(file: &File) -> bool {
    let is_ext4 = |kind| u32::try_from(kind).is_ok_and(|kind| kind == EXT4);
    fstatfs(file).is_ok_and(|found| is_ext4(found.f_type))
}

/// What reads past the page cache are aligned to.
const DIRECT: usize = 4096;

/// Less than the kernel writes in one call.
const LARGE_PIECE: usize = 1 << 30;
/// Smaller ones make later small writes a quarter faster still, and filling an image a third slower.
const SMALL_PIECE: usize = 64 << 10;

/// Most bytes that one call writes where the page cache has nothing yet.
pub(super) const fn piece(small: bool) -> usize {
    if small { SMALL_PIECE } else { LARGE_PIECE }
}

/// Devices zero ranges aligned to this without dropping pages that are only half in the range.
const DEVICE_ALIGNMENT: u64 = 4096;

impl Disk {
    /// The mapping's bytes at `[at, at + len)`, to be handed to a system call and never read here; `None` outside the disk.
    /// Where the call answers EFAULT, [`Disk::read_at`] says why.
    #[must_use]
    pub fn mapped(&self, at: DiskOffset, len: usize) -> Option<&[u8]> {
        self.inside(at, len as u64).ok()?;
        self.map.bytes(at.0, len)
    }

    /// Reads exactly `buf.len()` bytes.
    ///
    /// # Errors
    /// The disk's; `UnexpectedEof` where an image has been truncated.
    pub fn read_at(&self, buf: &mut [u8], at: DiskOffset) -> io::Result<()> {
        let read = self
            .inside(at, buf.len() as u64)
            .and_then(|_| self.file.read_exact_at(buf, at.0));
        if read.is_err() {
            self.measure();
        }
        self.faults.noted(Operation::Read, read)
    }

    /// Writes all of `buf`. Never extends the disk: an image that is found truncated is not written beyond its end. (A write
    /// right after the truncation, before the next look at the length a clock tick later, is not told apart.)
    ///
    /// # Errors
    /// The disk's; `UnexpectedEof` where an image has been truncated.
    pub fn write_at(&self, buf: &[u8], at: DiskOffset) -> io::Result<()> {
        let written = self
            .writable(at, buf.len() as u64)
            .and_then(|()| self.write_pieces(buf, at.0));
        self.faults.noted(Operation::Write, written)
    }

    fn write_pieces(&self, mut rest: &[u8], mut at: u64) -> io::Result<()> {
        let most = self.piece_at(DiskOffset(at), rest.len());
        while rest.len() > most {
            let (piece, later) = rest.split_at(most);
            self.file.write_all_at(piece, at)?;
            (rest, at) = (later, at + piece.len() as u64);
        }
        self.file.write_all_at(rest, at)
    }

    /// Most bytes that one call is to write in this range. What is in the page cache keeps the size of its pieces; then more calls than
    /// needed only hand the inode's lock to and fro.
    pub(super) fn piece_at(&self, at: DiskOffset, len: usize) -> usize {
        if len > self.piece && self.resident(at, len) {
            LARGE_PIECE
        } else {
            self.piece
        }
    }

    /// Makes the range read as zeroes: by a hole where `punch` and the disk allows, else by zeroing, at worst by writing.
    ///
    /// # Errors
    /// The disk's.
    pub fn zero(&self, at: DiskOffset, len: u64, punch: bool) -> io::Result<()> {
        let zeroed = self
            .writable(at, len)
            .and_then(|()| self.zero_range(at.0, len, punch));
        self.faults.noted(Operation::Write, zeroed)
    }

    fn zero_range(&self, at: u64, len: u64, punch: bool) -> io::Result<()> {
        let whole = at..at + len;
        let middle = match self.kind {
            Kind::Image { .. } => whole.clone(),
            Kind::Device => {
                let start = at.next_multiple_of(DEVICE_ALIGNMENT);
                start..start.max(whole.end - whole.end % DEVICE_ALIGNMENT)
            }
        };
        if middle.is_empty() || !self.zeroed_by_itself(&middle, punch)? {
            return self.write_zeroes(whole);
        }
        self.write_zeroes(whole.start..middle.start)?;
        self.write_zeroes(middle.end..whole.end)
    }

    /// False where the disk cannot.
    fn zeroed_by_itself(&self, range: &Range<u64>, punch: bool) -> io::Result<bool> {
        let ways = [
            (punch, FallocateFlags::PUNCH_HOLE, &self.lacks.punch),
            (true, FallocateFlags::ZERO_RANGE, &self.lacks.zero),
        ];
        for (wanted, way, lacking) in ways {
            if !wanted || lacking.load(Relaxed) {
                continue;
            }
            let len = range.end - range.start;
            match fallocate(&self.file, way | FallocateFlags::KEEP_SIZE, range.start, len) {
                Ok(()) => return Ok(true),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => lacking.store(true, Relaxed),
                Err(why) => return Err(why.into()),
            }
        }
        Ok(false)
    }

    fn write_zeroes(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let part = usize::try_from(range.end - at).map_or(ZEROES.len(), |rest| rest.min(ZEROES.len()));
            self.file.write_all_at(&ZEROES[..part], at)?;
            at += part as u64;
        }
        Ok(())
    }

    /// Has the file system allocate what an image lacks in the range, so that writing there does not wait for it. What reads as
    /// zeroes still does. Nothing to do for a device, nor where the file system cannot.
    ///
    /// # Errors
    /// The disk's: above all that the file system is full.
    pub fn allocate(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        if self.kind == Kind::Device || self.lacks.allocate.load(Relaxed) {
            return Ok(());
        }
        let allocated = self.writable(at, len).and_then(|()| {
            match fallocate(&self.file, FallocateFlags::KEEP_SIZE, at.0, len) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.lacks.allocate.store(true, Relaxed),
                result => result?,
            }
            Ok(())
        });
        self.faults.noted(Operation::Write, allocated)
    }

    /// Has the data of a range written to the disk again by the next flush, whether or not it has been, without a change of it: for when
    /// nobody knows what became of an earlier flush. What the page cache has dropped is not written again: with its last opening a block device
    /// drops everything.
    ///
    /// # Errors
    /// The disk's.
    pub fn rewrite(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        let runs = self.data_runs(at, len)?;
        let rewritten = runs
            .into_iter()
            .try_for_each(|run| redirty(&self.file, run.start, run.end - run.start));
        self.faults.noted(Operation::Write, rewritten)
    }

    /// Begins to read the range into the page cache, without waiting.
    pub fn prefetch(&self, at: DiskOffset, len: u64) {
        // A hint: an error shows when the bytes are read.
        let _ = fadvise(&self.file, at.0, NonZeroU64::new(len), Advice::WillNeed);
    }

    /// Reads the range into the page cache and this process's page tables, and waits until it is there.
    ///
    /// # Errors
    /// The disk's.
    pub fn populate(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        may_wait("reading ahead");
        self.prefetch(at, len);
        let populated = self.inside(at, len).and_then(|len| self.map.populate(at.0, len));
        match populated {
            Ok(()) => Ok(()),
            Err(_) => self.read_through(at, len),
        }
    }

    /// Reads the range and throws it away: finds the error that a mapping only hints at, or brings the pages in after all.
    fn read_through(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        let mut scratch = vec![0; ZEROES.len()];
        let mut done = 0;
        while done < len {
            let part = usize::try_from(len - done).map_or(scratch.len(), |rest| rest.min(scratch.len()));
            self.read_at(&mut scratch[..part], DiskOffset(at.0 + done))?;
            done += part as u64;
        }
        Ok(())
    }

    /// Whether every page of the range is in the page cache.
    #[must_use]
    pub fn resident(&self, at: DiskOffset, len: usize) -> bool {
        self.inside(at, len as u64).is_ok() && self.map.resident(at.0, len)
    }

    /// The runs of `[at, at + len)` that hold data, in order, as disk offsets; the rest are holes. All of it where the disk
    /// cannot tell.
    ///
    /// # Errors
    /// The disk's.
    pub fn data_runs(&self, at: DiskOffset, len: u64) -> io::Result<Vec<Range<u64>>> {
        self.inside(at, len)?;
        let end = at.0 + len;
        let mut runs = Vec::new();
        let mut from = at.0;
        while let Some(run) = self.data_run(DiskOffset(from), end - from)? {
            from = run.end.min(end);
            runs.push(run.start..from);
        }
        Ok(runs)
    }

    /// The first run of data that begins in `[at, at + len)`, whole: it may end beyond. All of it where the disk cannot tell.
    /// To find its end some file systems walk over all of it (tmpfs: each page, 9 ms for 250 MiB), so never under a hold.
    ///
    /// # Errors
    /// The disk's.
    pub fn data_run(&self, at: DiskOffset, len: u64) -> io::Result<Option<Range<u64>>> {
        let Some(start) = self.data_from(at, len)? else {
            return Ok(None);
        };
        let stop = match self.kind {
            Kind::Device => at.0 + len,
            _ => match seek(&self.file, SeekFrom::Hole(start)) {
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at.0 + len,
                found => found?,
            },
        };
        Ok(Some(start..stop))
    }

    /// Where data begins in `[at, at + len)`, as a disk offset; `at` itself where the disk cannot tell.
    ///
    /// # Errors
    /// The disk's.
    pub fn data_from(&self, at: DiskOffset, len: u64) -> io::Result<Option<u64>> {
        self.inside(at, len)?;
        if len == 0 || self.kind == Kind::Device {
            return Ok((len > 0).then_some(at.0));
        }
        let found = match seek(&self.file, SeekFrom::Data(at.0)) {
            Ok(start) => Some(start).filter(|&start| start < at.0 + len),
            Err(Errno::NXIO) => None,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Some(at.0),
            Err(why) => return Err(why.into()),
        };
        // Beyond the end of a truncated image everything looks like a hole, and is not: it is lost.
        self.measure();
        self.inside(at, len).map(|_| found)
    }

    /// Looks whether the disk is as long as it was: for regular housekeeping, so that a truncation does not wait for a request.
    /// Answers the bytes that are left if some are lost.
    pub fn lost(&self) -> Option<ByteCount> {
        self.measure();
        let available = self.available.load(Relaxed);
        (available < self.size).then_some(ByteCount(available))
    }

    /// Reads the label from the disk itself, past the page cache, where the disk can do that: what is in memory tells nothing of a disk that hangs.
    ///
    /// # Errors
    /// Names the disk.
    pub fn ask_medium(&self) -> Result<()> {
        let flags = OFlags::DIRECT | OFlags::NOATIME;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(&self.path) else {
            return Ok(());
        };
        let mut room = vec![0; 2 * DIRECT];
        let start = room.as_ptr().align_offset(DIRECT);
        let Some(aligned) = room.get_mut(start..start + DIRECT) else {
            return Ok(());
        };
        match file.read_exact_at(aligned, 0) {
            Err(why) if why.raw_os_error() == Some(libc::EIO) => {
                Err(Error::because(format!("{}: reading its label", self.what()), why))
            }
            _ => Ok(()),
        }
    }

    /// Whole extents that the file or device has room for now, whatever it was opened with.
    ///
    /// # Errors
    /// The disk's.
    pub fn found_extents(&self) -> io::Result<u64> {
        Ok(length(&self.file, self.kind)? / self.extent_size.bytes())
    }

    pub(super) fn what(&self) -> String {
        format!("disk {} ({})", self.name, self.path.display())
    }

    /// The length as a `usize`, or why the range is none of the disk's: its label, beyond its end, or lost.
    pub(super) fn inside(&self, at: DiskOffset, len: u64) -> io::Result<usize> {
        let end = at.0.checked_add(len).filter(|&end| end <= self.size);
        let Some(end) = end.filter(|_| at.0 >= self.extent_size.bytes()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if end > self.available.load(Relaxed) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    /// As [`Disk::inside`], after a look at the length of an image if the last is a clock tick ago.
    pub(super) fn writable(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        if self.read_only {
            return Err(Errno::ROFS.into());
        }
        if matches!(self.kind, Kind::Image { .. }) {
            let now = sys::coarse_us();
            if self.looked_us.load(Relaxed) != now {
                self.looked_us.store(now, Relaxed);
                self.measure();
            }
        }
        self.inside(at, len).map(drop)
    }

    /// Forgets what failed, and that an image was shorter, once a look finds that it has its length again. Does no I/O.
    pub fn clear(&self) {
        self.faults.clear();
        self.forgiven.store(true, Relaxed);
    }

    /// Notes how much of an image is left, for good or until [`Disk::clear`].
    fn measure(&self) {
        if matches!(self.kind, Kind::Image { .. })
            && let Ok(meta) = self.file.metadata()
        {
            self.available.fetch_min(meta.len(), Relaxed);
            if meta.len() >= self.size && self.forgiven.swap(false, Relaxed) {
                self.available.store(self.size, Relaxed);
            }
        }
    }
}
