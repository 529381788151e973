//! Labels on files and devices: both copies are read together, and written so that one of them is always whole.

use super::label::{COPIES, COPY, Fault, Label, choose};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, IoSlice, ReadWriteFlags, pwritev2};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that the two copies take.
pub(super) const BOTH: u64 = 2 * COPY as u64;

/// Both copies as they are; zeroes where the file ends before them.
fn read_copies(file: &File) -> io::Result<[[u8; COPY]; 2]> {
    let mut copies = [[0; COPY]; 2];
    for (copy, at) in copies.iter_mut().zip(COPIES) {
        match file.read_exact_at(copy, at) {
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => copy.fill(0),
            other => other?,
        }
    }
    Ok(copies)
}

/// The label that counts.
pub(super) fn read(file: &File) -> io::Result<Result<Label, Fault>> {
    Ok(choose(&read_copies(file)?).map(|(label, _)| label))
}

/// Writes the first label of a disk: extent 0 is zeroed before, so that no trace of former content speaks up later, and durably
/// so, lest a crash leaves one old and one new copy.
pub(super) fn write_first(file: &File, label: &Label) -> io::Result<()> {
    erase(file, label.extent_size.bytes())?;
    write_both(file, label)
}

/// Writes both copies, durably, where there is no label that counts.
pub(super) fn write_both(file: &File, label: &Label) -> io::Result<()> {
    for at in COPIES {
        file.write_all_at(&label.encode(), at)?;
    }
    file.sync_all()
}

/// Zeroes the first `len` bytes for good, by a hole where that is possible.
pub(super) fn erase(file: &File, len: u64) -> io::Result<()> {
    if fallocate(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        0,
        len,
    )
    .is_ok()
    {
        return file.sync_data();
    }
    let zeroes = vec![0; usize::try_from(len.min(1 << 20)).unwrap_or(COPY)];
    let mut at = 0;
    while at < len {
        let part = zeroes
            .len()
            .min(usize::try_from(len - at).unwrap_or(zeroes.len()));
        file.write_all_at(&zeroes[..part], at)?;
        at += part as u64;
    }
    file.sync_data()
}

/// A label that is to be written in the place of the older copy.
pub(super) struct Next {
    label: Label,
    at: u64,
}

/// What `change` makes of the label that counts. Nothing is written yet.
pub(super) fn next(file: &File, change: impl FnOnce(&mut Label)) -> io::Result<Result<Next, Fault>> {
    Ok(choose(&read_copies(file)?).map(|(mut label, copy)| {
        change(&mut label);
        label.sequence += 1;
        Next {
            label,
            at: COPIES[1 - copy],
        }
    }))
}

impl Next {
    /// Writes it durably, and answers it.
    ///
    /// # Errors
    /// Also one of earlier writing, which the kernel reports to this call and to no later one.
    pub(super) fn write(self, file: &File) -> io::Result<Label> {
        write_durably(file, &self.label.encode(), self.at)?;
        Ok(self.label)
    }
}

/// By one call where the file system can, else by two. An error of the one call is passed on: it may be the report of a lost page, which
/// a second attempt would not be given again.
fn write_durably(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    match pwritev2(file, &[IoSlice::new(bytes)], at, ReadWriteFlags::DSYNC) {
        Ok(written) if written == bytes.len() => return Ok(()),
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {}
        Err(why) => return Err(why.into()),
    }
    file.write_all_at(bytes, at)?;
    file.sync_data()
}
