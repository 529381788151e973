//! I/O on an open disk.

use super::device::{LARGE_PIECE, Mapped, Zeroing, read_exact_at, write_all_at};
use super::faults::Operation;
use super::open::DiskKind;
use super::{AlignedBytes, Disk};
use crate::held::may_wait;
use crate::model::error::{Error, Result};
use crate::model::units::{ByteCount, DiskOffset};
use crate::sys;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::Ordering::Relaxed;

/// Zeroes that are written where a disk cannot zero a range itself.
static ZEROES: Zeroes = Zeroes([0; 64 << 10]);

/// Zeroes in memory that is aligned for direct writes.
#[repr(align(4096))]
struct Zeroes([u8; 64 << 10]);

impl Disk {
    /// Returns the mapping's bytes at `[at, at + len)`, which only system calls may read, or `None` outside the disk and where the device cannot be read through
    /// a mapping there. Where the system call fails with EFAULT, [`Disk::read_at`] returns the reason.
    #[must_use]
    pub fn mapped(&self, at: DiskOffset, len: usize) -> Option<Mapped<'_>> {
        self.inside(at, len as u64).ok()?;
        self.device.memory_of(at.0, len)?.bytes(at.0, len)
    }

    /// Frees the page tables of the mapping. The bytes stay in memory.
    ///
    /// # Errors
    /// Fails with the kernel's error.
    pub fn free_page_tables(&self) -> io::Result<()> {
        self.device
            .memory()
            .map_or(Ok(()), |mapping| mapping.free_page_tables())
    }

    /// Reads exactly `buf.len()` bytes.
    ///
    /// # Errors
    /// Fails with the disk's error, or with `UnexpectedEof` where an image has been truncated.
    pub fn read_at(&self, buf: &mut [u8], at: DiskOffset) -> io::Result<()> {
        let read = self
            .inside(at, buf.len() as u64)
            .and_then(|_| read_exact_at(&*self.device, buf, at.0));
        if read.is_err() {
            self.measure();
        }
        self.faults.noted(Operation::Read, read)
    }

    /// Fills `buf` and returns true if that needs no wait for the device. Returns false, with anything in `buf`, where it does or where it fails: a read
    /// that may wait says why.
    pub fn read_now(&self, buf: &mut [u8], at: DiskOffset) -> bool {
        let len = buf.len();
        let read = self
            .inside(at, len as u64)
            .and_then(|_| self.device.read_now(buf, at.0));
        matches!(read, Ok(Some(read)) if read == len)
    }

    /// Writes all of `buf` and returns true if that needs no wait for the device. Returns false, with nothing or some of it written, where it does or where
    /// it fails: a write that may wait says why.
    pub fn write_now(&self, buf: &[u8], at: DiskOffset) -> bool {
        if buf.len() > self.piece_at(at, buf.len()) {
            return false;
        }
        let written = self
            .writable(at, buf.len() as u64)
            .and_then(|()| self.device.write_now(buf, at.0));
        matches!(written, Ok(Some(written)) if written == buf.len())
    }

    /// Writes all of `buf`. Never extends the disk: a truncated image is not written beyond its end. (A write right after the truncation, before the
    /// next check of the length a clock tick later, may be.)
    ///
    /// # Errors
    /// Fails with the disk's error, or with `UnexpectedEof` where an image has been truncated.
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
            write_all_at(&*self.device, piece, at)?;
            (rest, at) = (later, at + piece.len() as u64);
        }
        write_all_at(&*self.device, rest, at)
    }

    /// Returns how many bytes one call is to write at most in this range. Pages that are in the cache keep the size of their pieces, so smaller
    /// calls would only pass the inode's lock to and fro.
    pub(super) fn piece_at(&self, at: DiskOffset, len: usize) -> usize {
        let piece = self.device.write_piece();
        if len > piece && self.resident(at, len) {
            LARGE_PIECE
        } else {
            piece
        }
    }

    /// Makes the range read as zeroes: by a hole where `punch` is set and the disk can, otherwise by zeroing, and as a last resort by writing.
    ///
    /// # Errors
    /// Fails with the disk's error.
    pub fn zero(&self, at: DiskOffset, len: u64, punch: bool) -> io::Result<()> {
        let zeroed = self
            .writable(at, len)
            .and_then(|()| self.zero_range(at.0, len, punch));
        self.faults.noted(Operation::Write, zeroed)
    }

    fn zero_range(&self, at: u64, len: u64, punch: bool) -> io::Result<()> {
        let whole = at..at + len;
        let how = if punch { Zeroing::Punch } else { Zeroing::Keep };
        let alignment = self.device.zeroing_alignment();
        let start = at.next_multiple_of(alignment);
        let middle = start..start.max(whole.end - whole.end % alignment);
        if middle.is_empty() || !self.device.zero(middle.clone(), how)? {
            return self.write_zeroes(whole);
        }
        self.write_zeroes(whole.start..middle.start)?;
        self.write_zeroes(middle.end..whole.end)
    }

    fn write_zeroes(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let part =
                usize::try_from(range.end - at).map_or(ZEROES.0.len(), |rest| rest.min(ZEROES.0.len()));
            write_all_at(&*self.device, &ZEROES.0[..part], at)?;
            at += part as u64;
        }
        Ok(())
    }

    /// Allocates the holes of an image in the range, so that writes there do not wait for allocation. They still read as zeroes. Does nothing for a
    /// device, and where the file system cannot allocate.
    ///
    /// # Errors
    /// Fails with the disk's error, above all when the file system is full.
    pub fn allocate(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        if self.kind == DiskKind::Device {
            return Ok(());
        }
        let allocated = self
            .writable(at, len)
            .and_then(|()| self.device.allocate(at.0..at.0 + len));
        self.faults.noted(Operation::Write, allocated.map(drop))
    }

    /// Marks the data of a range dirty without changing it, so that the next flush writes it again: for when the result of an earlier flush is
    /// unknown. Pages that the page cache has dropped are not written again; a block device drops all of them when its last opening is closed.
    ///
    /// # Errors
    /// Fails with the disk's error.
    pub fn rewrite(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        let runs = self.data_runs(at, len)?;
        let rewritten = runs
            .into_iter()
            .try_for_each(|run| self.device.redirty(run).map(drop));
        self.faults.noted(Operation::Write, rewritten)
    }

    /// Discards the range; its content is undefined afterwards. Returns false where the disk does not support discards, or is to keep its space.
    ///
    /// # Errors
    /// Fails with the disk's error.
    pub fn discard(&self, at: DiskOffset, len: u64) -> io::Result<bool> {
        self.writable(at, len)?;
        self.device.discard(at.0..at.0 + len)
    }

    /// Starts reading the range into the page cache, without waiting.
    pub fn prefetch(&self, at: DiskOffset, len: u64) {
        self.device.prefetch(at.0..at.0 + len);
    }

    /// Reads the range into the page cache and this process's page tables, and waits for it. Does nothing for a disk that is used directly.
    ///
    /// # Errors
    /// Fails with the disk's error.
    pub fn populate(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        if self.is_direct() {
            return self.inside(at, len).map(drop);
        }
        self.check_readable(at, len)
    }

    /// Reads the range, into the page cache where the disk is used through it.
    ///
    /// # Errors
    /// Fails with the disk's error.
    pub fn check_readable(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        may_wait("reading ahead");
        self.prefetch(at, len);
        let length = self.inside(at, len)?;
        let memory = self.device.memory_of(at.0, length);
        match memory.map(|memory| memory.populate(at.0, length)) {
            Some(Ok(())) => Ok(()),
            _ => self.read_through(at, len),
        }
    }

    /// Reads the range into a scratch buffer: either this returns the error behind an EFAULT, or the pages are in the cache afterwards.
    fn read_through(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        let mut scratch = AlignedBytes::zeroed(ZEROES.0.len());
        let mut done = 0;
        while done < len {
            let part = usize::try_from(len - done).map_or(scratch.len(), |rest| rest.min(scratch.len()));
            self.read_at(&mut scratch[..part], DiskOffset(at.0 + done))?;
            done += part as u64;
        }
        Ok(())
    }

    /// Returns whether every page of the range is in memory. Returns false where the device does not know; a read may have to wait then.
    #[must_use]
    pub fn resident(&self, at: DiskOffset, len: usize) -> bool {
        self.inside(at, len as u64).is_ok() && self.device.resident(at.0, len)
    }

    /// Returns the runs of `[at, at + len)` that hold data, in order, as disk offsets; the rest are holes. Returns the whole range where the disk
    /// does not know.
    ///
    /// # Errors
    /// Fails with the disk's error.
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

    /// Returns the first run of data that begins in `[at, at + len)`, in full: it may end beyond. Returns the whole range where the disk does not
    /// know. Some file systems walk over the whole run to find its end (tmpfs: each page, 9 ms for 250 MiB), so this is never called under a hold.
    ///
    /// # Errors
    /// Fails with the disk's error.
    pub fn data_run(&self, at: DiskOffset, len: u64) -> io::Result<Option<Range<u64>>> {
        let Some(start) = self.data_from(at, len)? else {
            return Ok(None);
        };
        let stop = self.device.data_until(start..at.0 + len)?;
        Ok(Some(start..stop))
    }

    /// Returns where data begins in `[at, at + len)`, as a disk offset, or `at` itself where the disk does not know.
    ///
    /// # Errors
    /// Fails with the disk's error.
    pub fn data_from(&self, at: DiskOffset, len: u64) -> io::Result<Option<u64>> {
        self.inside(at, len)?;
        if len == 0 {
            return Ok(None);
        }
        let found = self.device.data_from(at.0..at.0 + len)?;
        // Beyond the end of a truncated image everything looks like a hole, but is lost data.
        self.measure();
        self.inside(at, len).map(|_| found)
    }

    /// Checks whether the disk has become shorter, and returns the bytes that are left if it has. Called regularly, so that a truncation is noticed
    /// without a request.
    pub fn lost(&self) -> Option<ByteCount> {
        self.measure();
        let available = self.available.load(Relaxed);
        (available < self.size).then_some(ByteCount(available))
    }

    /// Reads the label from the medium, bypassing the page cache where the disk supports that: pages in memory do not show whether a disk hangs.
    ///
    /// # Errors
    /// Fails with an error that names the disk.
    pub fn ask_medium(&self) -> Result<()> {
        let flags = OFlags::DIRECT | OFlags::NOATIME;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(&self.path) else {
            return Ok(());
        };
        let mut block = AlignedBytes::zeroed(4096);
        match file.read_exact_at(&mut block, 0) {
            Err(why) if why.raw_os_error() == Some(libc::EIO) => {
                Err(Error::because(format!("{}: reading its label", self.what()), why))
            }
            _ => Ok(()),
        }
    }

    /// Returns how many whole extents the file or device has room for now, whatever it was opened with.
    ///
    /// # Errors
    /// Fails with the disk's error.
    pub fn found_extents(&self) -> io::Result<u64> {
        Ok(self.device.length()? / self.extent_size.bytes())
    }

    pub(super) fn what(&self) -> String {
        format!("disk {} ({})", self.name, self.path.display())
    }

    /// Checks the range and returns its length. Fails where the range is the disk's label, beyond its end, or lost.
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

    /// Checks the range as [`Disk::inside`] does, and before that the length of an image, at most once in a clock tick.
    pub(super) fn writable(&self, at: DiskOffset, len: u64) -> io::Result<()> {
        if self.read_only {
            return Err(Errno::ROFS.into());
        }
        if matches!(self.kind, DiskKind::Image { .. }) {
            let now = sys::coarse_us();
            if self.measured_us.load(Relaxed) != now {
                self.measured_us.store(now, Relaxed);
                self.measure();
            }
        }
        self.inside(at, len).map(drop)
    }

    /// Clears the error counts, and lets an image that was truncated be used again once a check finds that it has its length. Does no I/O.
    pub fn clear(&self) {
        self.faults.clear();
        self.may_recover.store(true, Relaxed);
    }

    /// Records how much of an image is left, until it is closed or [`Disk::clear`] is called.
    fn measure(&self) {
        if matches!(self.kind, DiskKind::Image { .. })
            && let Ok(length) = self.device.length()
        {
            self.available.fetch_min(length, Relaxed);
            if length >= self.size && self.may_recover.swap(false, Relaxed) {
                self.available.store(self.size, Relaxed);
            }
        }
    }
}
