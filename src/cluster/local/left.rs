//! Marks for left writes to a disk that have not ended.
//!
//! A system call on a hung disk cannot be cancelled: it may still write when the disk answers again. A caller that stops waiting for a write to
//! space without an owner, or to a label, marks the disk first, and the thread that hangs keeps the mark until it has ended. While there is a mark
//! nothing else is placed on the disk, so a late write never hits another owner's data. A mark is a lock on a byte of the pool's directory: it
//! ends with the thread, independent of the rest of its process and of the run directory.

use super::anchor::{Anchor, byte_of_left_write, one};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::DiskRecord;
use crate::model::units::DiskId;
use std::io;

/// Mark for a left write. Dropping it removes it.
pub(super) struct LeftWrite {
    _anchor: Anchor,
}

impl LeftWrite {
    /// Marks a disk.
    ///
    /// # Errors
    /// Fails when the directory cannot be opened or locked; the caller has to wait for the write then.
    pub(super) fn mark(pool: &PoolDir, disk: DiskId) -> Result<Self> {
        let anchor = Anchor::of(pool)?;
        let shared = anchor.share(byte_of_left_write(disk));
        shared.map_err(|why| failed(disk, why))?;
        Ok(Self { _anchor: anchor })
    }

    /// Refuses to place anything on a disk with a mark.
    ///
    /// # Errors
    /// Fails with an error that names the disk, or with that of the pool's directory.
    pub(super) fn refuse(pool: &PoolDir, disk: &DiskRecord) -> Result<()> {
        if !is_marked(pool, disk.id)? {
            return Ok(());
        }
        let why =
            "does not answer: a write to it that was given up has not ended, so nothing is placed on it";
        Err(
            Error::new(ErrorKind::TimedOut, format!("disk {}", disk.name), why)
                .hint("try again when the disk answers; see dmesg --level err,warn"),
        )
    }
}

fn is_marked(pool: &PoolDir, disk: DiskId) -> Result<bool> {
    let marked = Anchor::of(pool)?.shared_elsewhere(one(byte_of_left_write(disk)));
    marked.map_err(|why| failed(disk, why))
}

fn failed(disk: DiskId, why: io::Error) -> Error {
    Error::because(format!("the mark for a left write to disk #{disk}"), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_disk_and_ends_with_its_last_holder() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path());
        let mark = || LeftWrite::mark(&pool, DiskId(1)).unwrap();
        let is_marked = |disk| is_marked(&pool, DiskId(disk)).unwrap();
        let (one, another) = (mark(), mark());
        assert!(is_marked(1) && !is_marked(2));
        drop(one);
        assert!(is_marked(1));
        drop(another);
        assert!(!is_marked(1));
    }
}
