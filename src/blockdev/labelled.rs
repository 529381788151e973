//! Reads and writes labels on files and devices. Both copies are read together, and written so that one of them is always intact.

use super::aligned::AlignedBytes;
use super::device::{BlockDevice, read_exact_at};
use super::label::{COPIES, COPY, Label, LabelFault, choose};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Size of the two copies in bytes.
pub(super) const BOTH: u64 = 2 * COPY as u64;

/// Reads both copies, as zeroes where the file ends before them.
fn read_copies(read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<[[u8; COPY]; 2]> {
    let mut copies = [[0; COPY]; 2];
    // The file may be open for direct reads.
    let mut memory = AlignedBytes::zeroed(COPY);
    for (copy, at) in copies.iter_mut().zip(COPIES) {
        match read(&mut memory, at) {
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => {}
            other => {
                other?;
                copy.copy_from_slice(&memory);
            }
        }
    }
    Ok(copies)
}

/// Reads the valid label.
pub(super) fn read(file: &File) -> io::Result<Result<Label, LabelFault>> {
    Ok(choose(&read_copies(|copy, at| file.read_exact_at(copy, at))?).map(|(label, _)| label))
}

/// Writes the first label of a disk. It zeroes extent 0 before, durably, so that no former content remains and a crash does not leave one old
/// and one new copy.
pub(super) fn write_first(file: &File, label: &Label) -> io::Result<()> {
    erase(file, label.extent_size.bytes())?;
    write_both(file, label)
}

/// Writes both copies, durably, where there is no valid label.
pub(super) fn write_both(file: &File, label: &Label) -> io::Result<()> {
    for at in COPIES {
        file.write_all_at(&label.encode(), at)?;
    }
    file.sync_all()
}

/// Zeroes the first `len` bytes, durably, by a hole where that is possible.
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

/// New label, to be written over the older copy.
pub(super) struct NextLabel {
    label: Label,
    at: u64,
}

/// Applies `change` to the valid label. Writes nothing yet.
pub(super) fn next(
    device: &dyn BlockDevice,
    change: impl FnOnce(&mut Label),
) -> io::Result<Result<NextLabel, LabelFault>> {
    let copies = read_copies(|copy, at| read_exact_at(device, copy, at))?;
    Ok(choose(&copies).map(|(mut label, copy)| {
        change(&mut label);
        label.sequence += 1;
        NextLabel {
            label,
            at: COPIES[1 - copy],
        }
    }))
}

impl NextLabel {
    /// Writes the label durably, and returns it.
    ///
    /// # Errors
    /// Fails with the device's error, which may be that of an earlier write-back; the kernel reports that to no later call.
    pub(super) fn write(self, device: &dyn BlockDevice) -> io::Result<Label> {
        device.write_durably(&AlignedBytes::copy_of(&self.label.encode()), self.at)?;
        Ok(self.label)
    }
}
