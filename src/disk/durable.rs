//! The one door to making things durable on a disk of the pool: flushes, label writes, write-back that is waited for.
//!
//! The kernel reports a failed write-back once, to the first system call that asks for it through any descriptor opened before, and then forgets
//! it. So each call that may be given such a report goes through the disk's ledger of write errors ([`DiskMarks`]), which remembers it for
//! all processes of the pool. No other part of the program can sync a disk: the functions here ask for the ledger, and the system calls
//! behind them are reachable in this folder alone (`tests/tidy.rs` looks).
//!
//! A [`Candidate`](super::Candidate) has no ledger: it is not a disk of the pool yet, so that nothing that could be lost is on it.

use super::Disk;
use super::claim::alone_at_label;
use super::faults::Operation;
use super::label::Label;
use super::labelled;
use super::open::{Kind, length, open_file};
use crate::error::{Error, Result};
use crate::held::may_wait;
use crate::member::DiskMarks;
use crate::pool::model::DiskRecord;
use crate::sys;
use crate::units::{ByteCount, DiskOffset};
use rustix::io::Errno;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

impl Disk {
    /// Makes durable what was acknowledged before, unless a flush that covers it has ended, by whatever process.
    ///
    /// # Errors
    /// The disk's, which the ledger remembers.
    pub fn flush(&self, ledger: &DiskMarks) -> io::Result<()> {
        self.meet(ledger)?;
        ledger.flush(|| self.sync())
    }

    /// Makes durable what was written before, whatever others have flushed.
    ///
    /// # Errors
    /// The disk's, which the ledger remembers.
    pub fn flush_here(&self, ledger: &DiskMarks) -> io::Result<()> {
        self.meet(ledger)?;
        ledger.flush_here(|| self.sync())
    }

    /// Whether a flush of which nobody knows how it ended began before this opening: see [`DiskMarks::is_in_doubt`].
    ///
    /// # Errors
    /// When the ledger is another disk's.
    pub fn is_in_doubt(&self, ledger: &DiskMarks) -> io::Result<bool> {
        self.meet(ledger)?;
        Ok(ledger.is_in_doubt())
    }

    /// Refuses another disk's ledger. The first time for this opening, what others are flushing is put in doubt: this opening will not be told of it.
    fn meet(&self, ledger: &DiskMarks) -> io::Result<()> {
        if ledger.disk() != self.id {
            return Err(io::Error::other("the ledger of write errors is another disk's"));
        }
        if !self.known.swap(true, Relaxed) {
            ledger.doubt_others();
        }
        Ok(())
    }

    /// Makes everything written through any file descriptor durable. The kernel reports an error of earlier writing once for
    /// each descriptor: flushes run one at a time, so that it is not lost between two.
    fn sync(&self) -> io::Result<()> {
        may_wait("a flush");
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = self.file.sync_data();
        let earlier = std::mem::take(&mut *owed);
        let flushed = if earlier {
            synced.and(Err(Errno::IO.into()))
        } else {
            synced
        };
        self.faults.noted(Operation::Flush, flushed)
    }

    /// Runs a call other than a flush that may be given a report of earlier writing. The ledger remembers its failure, and the next flush of this opening
    /// reports it again.
    fn watched<T>(&self, ledger: &DiskMarks, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.meet(ledger)?;
        let done = ledger.watch(call);
        if done.is_err() {
            *self.owed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        done
    }

    /// Begins to write back dirty pages of the range, without waiting. A failure shows in the next flush, and where it shows at once the ledger
    /// remembers it.
    pub fn start_writeback(&self, at: DiskOffset, len: u64, ledger: &DiskMarks) {
        if sys::sync_file_range(&self.file, at.0, len, false).is_err() {
            ledger.note_failure();
        }
    }

    /// Writes back the dirty pages of the range and waits for them. Not a flush: durable only after one. What is copied by
    /// sharing storage has to be settled, so settle it before the hold in which it is copied.
    ///
    /// # Errors
    /// The disk's, which the ledger remembers; the next flush reports it again.
    pub fn settle(&self, at: DiskOffset, len: u64, ledger: &DiskMarks) -> io::Result<()> {
        may_wait("writing back");
        self.watched(ledger, || sys::sync_file_range(&self.file, at.0, len, true))
    }

    /// Writes the pool's layout number to the label, durably, unless the label has a later one: a write that was given up may come late. Outside holds;
    /// only the holder of the arbitration.
    ///
    /// # Errors
    /// Names the disk. The ledger remembers a failure.
    pub fn set_layout(&self, layout: u64, ledger: &DiskMarks) -> Result<Label> {
        self.relabel(ledger, |label| label.layout = label.layout.max(layout))
    }

    /// Writes a new size to the label, durably: before the record when a disk grows, after it is hardened when it shrinks.
    /// This opening goes on with the size that it was opened with.
    ///
    /// # Errors
    /// Names the disk, also when it is not that long. The ledger remembers a failure.
    pub fn set_extents(&self, extents: u64, ledger: &DiskMarks) -> Result<Label> {
        if extents < 2
            || extents
                > self
                    .found_extents()
                    .map_err(|why| Error::because(self.what(), why))?
        {
            return Err(Error::usage(
                self.what(),
                format!("has no room for {extents} extents"),
            ));
        }
        self.relabel(ledger, |label| {
            label.size = ByteCount(extents * label.extent_size.bytes())
        })
    }

    /// Writes the label anew, as that of this database's disk, with a sequence number above `sequence`, durably.
    ///
    /// # Errors
    /// Names the disk. The ledger remembers a failure.
    pub fn take_over(&self, sequence: u64, ledger: &DiskMarks) -> Result<Label> {
        self.relabel(ledger, |label| label.sequence = label.sequence.max(sequence))
    }

    fn relabel(&self, ledger: &DiskMarks, change: impl FnOnce(&mut Label)) -> Result<Label> {
        may_wait("a label");
        if self.read_only {
            return Err(Error::failed(
                self.what(),
                "is read-only, so its label cannot be written",
            ));
        }
        let failed = |why: io::Error| Error::because(format!("{}: its label", self.what()), why);
        let mut known = self.label.lock().unwrap_or_else(PoisonError::into_inner);
        let change = |label: &mut Label| {
            change(label);
            label.instance = self.instance;
        };
        let written = alone_at_label(&self.file, || match labelled::next(&self.file, change)? {
            Ok(next) => self.watched(ledger, || next.write(&self.file)).map(Ok),
            Err(fault) => Ok(Err(fault)),
        });
        let written = written.map_err(failed)?;
        *known = written.map_err(|fault| Error::failed(self.what(), fault.to_string()))?;
        Ok(*known)
    }
}

/// Makes a disk's image file longer, for good. One that is long enough stays as it is.
///
/// # Errors
/// Names the disk: a device, or a size that the file system cannot have. The ledger remembers a failed sync.
pub fn grow_image(record: &DiskRecord, size: ByteCount, ledger: &DiskMarks) -> Result<()> {
    let what = record.path.display().to_string();
    let (file, kind) = open_file(&record.path, &what)?;
    let failed = |why: io::Error| Error::because(format!("{what}: making it {size} bytes long"), why);
    if length(&file, kind).map_err(failed)? >= size.0 {
        return Ok(());
    }
    if kind == Kind::Device {
        return Err(Error::usage(
            &what,
            "is a block device: only its own tools can make it larger",
        ));
    }
    file.set_len(size.0)
        .and_then(|()| ledger.watch(|| file.sync_all()))
        .map_err(failed)
}
