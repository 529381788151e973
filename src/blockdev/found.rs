//! What disks say of their pool: the copies of its metadata, read without changing anything.

use super::acceptable::what;
use super::label::Label;
use super::labelled;
use super::open::{DiskKind, length, open_for_use};
use super::{AlignedBytes, Disk};
use crate::metadata::copy::{Copy, Unread, read_with};
use crate::metadata::header::{Header, Identity};
use crate::metadata::place::Place;
use crate::metadata::{BLOCK, Fault};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::{DiskRecord, PoolHeader};
use crate::model::units::ExtentSize;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::result::Result as Outcome;

impl Disk {
    /// Returns the latest layout that the disk has seen: as its label has it, or its copy of the metadata. Nothing is changed, whoever uses it.
    ///
    /// # Errors
    /// As for [`Disk::read_label`].
    pub fn read_layout(record: &DiskRecord, header: &PoolHeader) -> Result<u64> {
        let (label, copy) = Self::read_copy(record, header)?;
        let recorded = copy.and_then(Outcome::ok).map_or(0, |copy| copy.position.layout);
        Ok(label.layout.max(recorded))
    }

    /// Reads the label, and what the disk's copy of the metadata says; `None` where the label names none. Nothing is changed, whoever uses the disk.
    ///
    /// # Errors
    /// As for [`Disk::read_label`].
    pub fn read_copy(
        record: &DiskRecord,
        header: &PoolHeader,
    ) -> Result<(Label, Option<Outcome<Copy, Fault>>)> {
        let label = Self::read_label(record, header)?;
        let copy = label
            .copy
            .map(|place| {
                let (file, ..) = open_for_use(header.path_of(record), &what(record, header), header)?;
                read_copy(&file, place).map_err(|why| Error::because(what(record, header), why))
            })
            .transpose()?;
        Ok((
            label,
            copy.map(|copy| copy.and_then(|copy| belongs(copy, &label))),
        ))
    }
}

/// Returns whether what stands at the place that every disk has is this disk's copy.
pub(super) fn is_copy_of(file: &File, record: &DiskRecord, extent_size: ExtentSize) -> bool {
    // The first slot always has a header. Where something was written over it, the rest is no proof.
    let [first, _] = Place::behind_the_label(extent_size).slots();
    let block = up_to(file, first.start, BLOCK).unwrap_or_default();
    let header = block.first_chunk().and_then(|block| Header::decode(block).ok());
    header.is_some_and(|header| header.identity.disk == record.uuid)
}

/// What lies at a path that may be a disk of some pool.
#[derive(Debug)]
pub struct Found {
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    /// Its label.
    pub label: Label,
    /// Its length in bytes.
    pub size: u64,
    /// What its copy of the metadata says; `None` where the label names none.
    pub copy: Option<Outcome<Copy, Fault>>,
}

/// Reads label and metadata of what lies at a path, and changes nothing.
///
/// # Errors
/// Names the path: it cannot be read, is no disk of a pool, or is in use.
pub fn look_at(path: &Path) -> Result<Found> {
    let what = path.display().to_string();
    let path = std::fs::canonicalize(path).map_err(|why| {
        let absent = why.kind() == io::ErrorKind::NotFound;
        let error = Error::because(&what, why);
        if absent {
            error.with_kind(ErrorKind::NotFound)
        } else {
            error
        }
    })?;
    super::pending::ask_first(&path);
    let failed = |why: io::Error| Error::because(&what, why);
    let meta = std::fs::metadata(&path).map_err(failed)?;
    let kind = DiskKind::of(&meta)
        .ok_or_else(|| Error::usage(&what, "is neither a regular file nor a block device"))?;
    let file = File::open(&path).map_err(failed)?;
    let label = labelled::read(&file)
        .map_err(failed)?
        .map_err(|fault| Error::failed(&what, fault.to_string()).hint("name disks of the pool alone"))?;
    super::claim::not_owned(&what, &file)?;
    let size = length(&file, kind).map_err(failed)?;
    let copy = label
        .copy
        .map(|place| read_copy(&file, place))
        .transpose()
        .map_err(failed)?;
    let copy = copy.map(|copy| copy.and_then(|copy| belongs(copy, &label)));
    Ok(Found {
        path,
        label,
        size,
        copy,
    })
}

fn belongs(copy: Copy, label: &Label) -> Outcome<Copy, Fault> {
    let Identity { pool, disk, .. } = copy.header.identity;
    if (pool, disk) == (label.pool, label.disk) {
        Ok(copy)
    } else {
        Err(Fault::Field("it is another disk's"))
    }
}

/// Reads the copy at this place.
fn read_copy(file: &File, place: Place) -> io::Result<Outcome<Copy, Fault>> {
    let slots = place.slots();
    let read = read_with(place.slot, &mut |slot, at, len| {
        let start = slots.get(slot).map_or(0, |slot| slot.start);
        up_to(file, start + at, len)
    });
    match read {
        Ok(copy) => Ok(Ok(copy)),
        Err(Unread::Fault(fault)) => Ok(Err(fault)),
        Err(Unread::Bytes(why)) => Err(why),
    }
}

/// Reads so many bytes from a multiple of 4096 on, or as many as the file has. It reads whole blocks, because the file may be open for direct reads.
fn up_to(file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = AlignedBytes::zeroed(len.next_multiple_of(BLOCK));
    let mut done = 0;
    while done < len {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(bytes[..done.min(len)].to_vec())
}
