//! Makes data durable on a disk of the pool: flushes, label writes, and waiting for write-back. All of them go through this file.
//!
//! The kernel reports a failed write-back once, to the first system call that asks for it through any descriptor opened before, and then forgets
//! it. So each call that may be given such a report goes through the disk's ledger of write errors ([`FlushLedger`]), which remembers it for
//! all processes of the pool. No other part of the program can sync a disk: the functions here ask for the ledger, and the system calls
//! behind them are reachable in this folder alone (`tests/tidy.rs` looks).
//!
//! A [`Candidate`](super::Candidate) has no ledger: it is not a disk of the pool yet, so it holds no data that could be lost.

use super::Disk;
use super::claim::with_label_lock;
use super::faults::Operation;
use super::label::Label;
use super::labelled;
use super::open::{DiskKind, length, open_file};
use crate::cluster::FlushLedger;
use crate::held::may_wait;
use crate::metadata::place::Place;
use crate::model::error::{Error, Result};
use crate::model::records::DiskRecord;
use crate::model::units::{ByteCount, DiskOffset};
use crate::model::words::count;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

impl Disk {
    /// Makes all acknowledged writes durable, unless a flush of any process that covers them has ended.
    ///
    /// # Errors
    /// Fails with the disk's error, which the ledger records.
    pub fn flush(&self, ledger: &dyn FlushLedger) -> io::Result<()> {
        self.register(ledger)?;
        ledger.flush(&mut || self.sync())
    }

    /// Makes all earlier writes durable, whatever other processes have flushed.
    ///
    /// # Errors
    /// Fails with the disk's error, which the ledger records.
    pub fn flush_here(&self, ledger: &dyn FlushLedger) -> io::Result<()> {
        self.register(ledger)?;
        ledger.flush_here(&mut || self.sync())
    }

    /// Returns whether a flush with an unknown result began before this opening: see [`FlushLedger::is_in_doubt`].
    ///
    /// # Errors
    /// Fails when the ledger belongs to another disk.
    pub fn is_in_doubt(&self, ledger: &dyn FlushLedger) -> io::Result<bool> {
        self.register(ledger)?;
        Ok(ledger.is_in_doubt())
    }

    /// Checks that the ledger belongs to this disk. The first call for this opening marks the flushes that other processes are running as doubtful,
    /// because the kernel will not report their errors to this opening.
    fn register(&self, ledger: &dyn FlushLedger) -> io::Result<()> {
        if ledger.disk() != self.id {
            return Err(io::Error::other(
                "the ledger of write errors belongs to another disk",
            ));
        }
        if !self.registered.swap(true, Relaxed) {
            ledger.doubt_others();
        }
        Ok(())
    }

    /// Makes everything durable that was written through any file descriptor. The kernel reports a write-back error once for each descriptor, so
    /// flushes run one at a time, and none of them misses it.
    fn sync(&self) -> io::Result<()> {
        may_wait("a flush");
        let mut pending_error = self.pending_error.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = self.device.flush();
        let earlier = std::mem::take(&mut *pending_error);
        let flushed = if earlier {
            synced.and(Err(Errno::IO.into()))
        } else {
            synced
        };
        self.faults.noted(Operation::Flush, flushed)
    }

    /// Writes all of `buf`, durably. A failure may be that of an earlier write-back.
    ///
    /// # Errors
    /// Fails with the disk's error, which the ledger records; the next flush fails too.
    pub fn write_durably(&self, buf: &[u8], at: DiskOffset, ledger: &dyn FlushLedger) -> io::Result<()> {
        let written = self
            .writable(at, buf.len() as u64)
            .and_then(|()| self.with_ledger(ledger, || self.device.write_durably(buf, at.0)));
        self.faults.noted(Operation::Write, written)
    }

    /// Runs a call other than a flush that may get the error of an earlier write-back. The ledger records a failure, and the next flush of this
    /// opening fails too.
    pub(super) fn with_ledger<T>(
        &self,
        ledger: &dyn FlushLedger,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.register(ledger)?;
        let done = ledger.watch_for(call);
        if done.is_err() {
            *self.pending_error.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        done
    }

    /// Starts write-back of dirty pages of the range, without waiting. The next flush returns a failure; the ledger records one that shows at once.
    pub fn start_writeback(&self, at: DiskOffset, len: u64, ledger: &dyn FlushLedger) {
        if self.device.start_writeback(at.0..at.0 + len).is_err() {
            ledger.note_failure();
        }
    }

    /// Writes back the dirty pages of the range and waits for them. They are durable only after a flush. A copy that shares storage needs them
    /// written back, so this is called before the hold in which the range is copied.
    ///
    /// # Errors
    /// Fails with the disk's error, which the ledger records; the next flush fails too.
    pub fn settle(&self, at: DiskOffset, len: u64, ledger: &dyn FlushLedger) -> io::Result<()> {
        may_wait("writing back");
        self.with_ledger(ledger, || self.device.wait_for_writeback(at.0..at.0 + len))
    }

    /// Writes the pool's layout number to the label, durably, unless the label has a later one: a write that its caller has given up may come late.
    /// Only the holder of the controller lock calls it, outside holds.
    ///
    /// # Errors
    /// Fails with an error that names the disk. The ledger records it.
    pub fn set_layout(&self, layout: u64, ledger: &dyn FlushLedger) -> Result<Label> {
        self.relabel(ledger, |label| label.layout = label.layout.max(layout))
    }

    /// Writes a new size in extents to the label, durably: before the record changes when a disk grows, and after the record is persisted when it
    /// shrinks. This opening keeps the size that it was opened with.
    ///
    /// # Errors
    /// Fails with an error that names the disk, also when it is not that long. The ledger records a failure of the disk.
    pub fn set_extents(&self, extents: u64, ledger: &dyn FlushLedger) -> Result<Label> {
        if extents < 2
            || extents
                > self
                    .found_extents()
                    .map_err(|why| Error::because(self.what(), why))?
        {
            return Err(Error::usage(
                self.what(),
                format!("is too small for {}", count(extents, "extent")),
            ));
        }
        self.relabel(ledger, |label| {
            label.size = ByteCount(extents * label.extent_size.bytes())
        })
    }

    /// Writes the label again, as that of a disk of this database, with a sequence number above `sequence`, durably.
    ///
    /// # Errors
    /// Fails with an error that names the disk. The ledger records it.
    pub fn take_over(&self, sequence: u64, ledger: &dyn FlushLedger) -> Result<Label> {
        self.relabel(ledger, |label| label.sequence = label.sequence.max(sequence))
    }

    /// Writes part of the disk's copy of the pool's metadata, durably. No ledger is asked for: a failure is the copy's alone, and takes no report of a lost page from
    /// the flushes that have to receive it ([`BlockDevice::write_apart`](super::device::BlockDevice::write_apart)).
    ///
    /// # Errors
    /// Fails with the device's error.
    pub(super) fn write_metadata(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        may_wait("metadata");
        self.device.write_apart(bytes, at)
    }

    /// Makes the label name a place for the disk's copy of the pool's metadata, or none, durably.
    ///
    /// # Errors
    /// Fails with an error that names the disk. The ledger records a failure.
    pub(super) fn set_copy(&self, place: Option<Place>, ledger: &dyn FlushLedger) -> Result<Label> {
        self.relabel(ledger, |label| label.copy = place)
    }

    fn relabel(&self, ledger: &dyn FlushLedger, change: impl FnOnce(&mut Label)) -> Result<Label> {
        may_wait("a label");
        if self.read_only {
            return Err(Error::failed(
                self.what(),
                "is read-only, so its label cannot be written",
            ));
        }
        let failed = |why: io::Error| Error::because(format!("{}: its label", self.what()), why);
        // The disk may hang in here, so nobody who only asks for the label waits for this lock.
        let _turn = self.label_turn.lock().unwrap_or_else(PoisonError::into_inner);
        let change = |label: &mut Label| {
            change(label);
            label.instance = self.instance;
            label.copy = label.copy.filter(|place| place.fits(label.size));
        };
        let written = with_label_lock(self.device.handle(), || {
            match labelled::next(&*self.device, change)? {
                Ok(next) => self.with_ledger(ledger, || next.write(&*self.device)).map(Ok),
                Err(fault) => Ok(Err(fault)),
            }
        });
        let written = written.map_err(failed)?;
        let label = written.map_err(|fault| Error::failed(self.what(), fault.to_string()))?;
        *self.label.lock().unwrap_or_else(PoisonError::into_inner) = label;
        Ok(label)
    }
}

/// An image file that has been extended, and whose new part nothing uses yet.
pub struct GrownImage {
    file: File,
    before: u64,
}

impl GrownImage {
    /// Gives the file the length that it had.
    pub fn undo(self) {
        if let Err(why) = self.file.set_len(self.before) {
            log::warn!("an image file stays longer than its disk: {why}");
        }
    }
}

/// Extends a disk's image file, durably. Returns `None` for a file that is long enough, which stays as it is.
///
/// # Errors
/// Fails when the disk is a device, or when the file system does not support the size; the error names the disk, and the file keeps its length. The
/// ledger records a failed sync.
pub fn grow_image(
    record: &DiskRecord,
    size: ByteCount,
    ledger: &dyn FlushLedger,
) -> Result<Option<GrownImage>> {
    let what = record.path.display().to_string();
    let (file, kind) = open_file(&record.path, &what)?;
    let failed = |why: io::Error| Error::because(format!("{what}: making it {size} bytes long"), why);
    let before = length(&file, kind).map_err(failed)?;
    if before >= size.0 {
        return Ok(None);
    }
    if kind == DiskKind::Device {
        return Err(Error::usage(
            &what,
            "is a block device, which only its own tools can extend",
        ));
    }
    file.set_len(size.0).map_err(failed)?;
    let grown = GrownImage { file, before };
    match ledger.watch(&mut || grown.file.sync_all()) {
        Ok(()) => Ok(Some(grown)),
        Err(why) => {
            grown.undo();
            Err(failed(why))
        }
    }
}
