//! Labels on files and devices: both copies are read together, and written so that one of them is always whole.

use super::label::{COPIES, COPY, Fault, Label, choose};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{IoSlice, ReadWriteFlags, pwritev2};
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

/// Writes what `change` makes of the label that counts, over the other copy, durably. Answers the new label.
pub(super) fn rewrite(file: &File, change: impl FnOnce(&mut Label)) -> io::Result<Result<Label, Fault>> {
    let (mut label, copy) = match choose(&read_copies(file)?) {
        Ok(found) => found,
        Err(fault) => return Ok(Err(fault)),
    };
    change(&mut label);
    label.sequence += 1;
    write_durably(file, &label.encode(), COPIES[1 - copy])?;
    Ok(Ok(label))
}

fn write_durably(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let written = pwritev2(file, &[IoSlice::new(bytes)], at, ReadWriteFlags::DSYNC);
    if written == Ok(bytes.len()) {
        return Ok(());
    }
    file.write_all_at(bytes, at)?;
    file.sync_data()
}
