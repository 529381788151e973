//! Opening a disk: what its record says is held against what is there.

use super::aside;
use super::faults::{FaultCounts, Faults};
use super::io::{piece, suffers_from_large_pieces};
use super::label::{Fault, Label};
use super::labelled;
use super::mapping::Mapping;
use super::room::keeps_space;
use crate::error::{Error, Result};
use crate::pool::model::DiskRecord;
use crate::pool::names::Name;
use crate::units::{DiskId, ExtentSize};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// An open disk, label checked.
pub struct Disk {
    pub(super) id: DiskId,
    pub(super) name: Name,
    pub(super) path: PathBuf,
    /// As it was last read or written here.
    pub(super) label: Mutex<Label>,
    pub(super) extent_size: ExtentSize,
    /// Usable bytes, label included.
    pub(super) size: u64,
    pub(super) kind: Kind,
    pub(super) file: File,
    pub(super) map: Mapping,
    /// Bytes that are still there: lowered for good when an image is found truncated.
    pub(super) available: AtomicU64,
    /// When the length of an image was last looked at, by the coarse clock.
    pub(super) looked_us: AtomicU64,
    pub(super) faults: Faults,
    /// One flush at a time: whether an error was taken from the file descriptor that the next flush has to report.
    pub(super) owed: Mutex<bool>,
    pub(super) lacks: Lacks,
    /// Most bytes that one call writes.
    pub(super) piece: usize,
    /// Whether the ledger of write errors has been told of this opening.
    pub(super) known: AtomicBool,
}

/// What a disk is, and with what its I/O has to be aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file on the file system of this device number.
    Image {
        /// The device number.
        file_system: u64,
    },
    /// A block device.
    Device,
}

/// What the disk has been found not to be able to do.
#[derive(Default)]
pub(super) struct Lacks {
    pub(super) punch: AtomicBool,
    pub(super) zero: AtomicBool,
    pub(super) clone: AtomicBool,
    pub(super) allocate: AtomicBool,
    pub(super) discard: AtomicBool,
}

impl Lacks {
    /// Nothing is known to be lacking yet, but that holes are not wanted where the image is to keep its space.
    fn of(file: &File) -> Self {
        Self {
            punch: AtomicBool::new(keeps_space(file)),
            ..Self::default()
        }
    }
}

impl Kind {
    pub(super) fn of(meta: &Metadata) -> Option<Self> {
        let kind = meta.file_type();
        if kind.is_file() {
            Some(Self::Image {
                file_system: meta.dev(),
            })
        } else {
            kind.is_block_device().then_some(Self::Device)
        }
    }
}

/// The length of a file or device.
pub(super) fn length(file: &File, kind: Kind) -> io::Result<u64> {
    match kind {
        Kind::Image { .. } => Ok(file.metadata()?.len()),
        Kind::Device => (&*file).seek(SeekFrom::End(0)),
    }
}

/// Opens for reading and writing what is a regular file or block device.
pub(super) fn open_file(path: &Path, what: &str) -> Result<(File, Kind)> {
    let failed = |why: io::Error| {
        let hint = match why.kind() {
            io::ErrorKind::NotFound => Some("attach the disk, or correct the path if it has moved"),
            io::ErrorKind::PermissionDenied => Some("run as a user who may read and write it"),
            _ => None,
        };
        let error = Error::because(what, why);
        if let Some(hint) = hint {
            error.hint(hint)
        } else {
            error
        }
    };
    let refused = || {
        Error::failed(what, "is neither a regular file nor a block device")
            .hint("attach the disk, or correct the path if it has moved")
    };
    Kind::of(&std::fs::metadata(path).map_err(failed)?).ok_or_else(refused)?;
    let file = open_quietly(path).map_err(failed)?;
    let kind = Kind::of(&file.metadata().map_err(failed)?).ok_or_else(refused)?;
    Ok((file, kind))
}

/// Without a trace of when it was last read, where the caller may ask for that: leaving one waits for the file system's journal, for ever
/// where its disk does not answer.
fn open_quietly(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().custom_flags(libc::O_NOATIME).open(path) {
        // Only the owner may.
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => options.open(path),
        opened => opened,
    }
}

impl Disk {
    /// Opens the disk that the record names and checks its label against it.
    ///
    /// # Errors
    /// Names the disk, what is wrong with it (missing, shorter than recorded, foreign or damaged label, other disk), and the way out.
    pub fn open(record: &DiskRecord, pool: Uuid, extent_size: ExtentSize) -> Result<Self> {
        let what = format!("disk {} ({})", record.name, record.path.display());
        let (file, kind) = open_file(&record.path, &what)?;
        let failed = |why: io::Error| Error::because(what.clone(), why);
        let size = record
            .extents
            .checked_mul(extent_size.bytes())
            .ok_or_else(|| Error::failed(&what, "its record has an impossible size"))?;
        long_enough(&what, &record.path, length(&file, kind).map_err(failed)?, size)?;
        let label = labelled::read(&file)
            .map_err(failed)?
            .map_err(|fault| unreadable(&what, fault))?;
        fits(&what, &label, record, pool, extent_size)?;
        let map = Mapping::new(&file, size)
            .map_err(|why| Error::because(format!("{what}: mapping it into memory"), why))?;
        let small = suffers_from_large_pieces(&file);
        if small {
            // A hint, and only about speed.
            let _ = map.read_no_more_than_is_touched();
        }
        Ok(Self {
            id: record.id,
            name: record.name.clone(),
            path: record.path.clone(),
            label: Mutex::new(label),
            extent_size,
            size,
            kind,
            piece: piece(small),
            lacks: Lacks::of(&file),
            file,
            map,
            available: AtomicU64::new(size),
            looked_us: AtomicU64::new(0),
            faults: Faults::default(),
            owed: Mutex::new(false),
            known: AtomicBool::new(false),
        })
    }

    /// The same for somebody who can do without it, and waits no longer than `patience`.
    ///
    /// # Errors
    /// As above, and when it does not answer.
    pub fn open_within(
        patience: Duration,
        record: &DiskRecord,
        pool: Uuid,
        extent_size: ExtentSize,
    ) -> Result<Self> {
        let asked = record.clone();
        aside::ask(&record.path, patience, move || {
            Self::open(&asked, pool, extent_size)
        })
        .unwrap_or_else(|why| {
            let what = format!("disk {} ({})", record.name, record.path.display());
            Err(Error::because(what, why)
                .hint("see whether it is connected, and what the kernel tells: dmesg --level err,warn"))
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> DiskId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its label, as it was when the disk was opened or last written through this opening.
    #[must_use]
    pub fn label(&self) -> Label {
        *self.label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The extents that it was opened with, extent 0 (the label) included.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.size / self.extent_size.bytes()
    }

    /// Whether it is a block device, not an image file.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.kind == Kind::Device
    }

    /// What went wrong on it since it was opened.
    #[must_use]
    pub fn faults(&self) -> FaultCounts {
        self.faults.counts()
    }

    /// Refuses a database that is older than this disk: its label knows a layout that `layout`, the database's, does not.
    ///
    /// # Errors
    /// Names the disk and the way out.
    pub fn check_layout(&self, layout: u64) -> Result<()> {
        let found = self.label().layout;
        if found <= layout {
            return Ok(());
        }
        let why = format!("was written by a newer database: its layout is {found}, the database's {layout}");
        Err(Error::failed(format!("disk {}", self.name), why)
            .hint("the pool's database is an older copy: put back the newest one"))
    }
}

fn long_enough(what: &str, path: &Path, found: u64, recorded: u64) -> Result<()> {
    if found >= recorded {
        return Ok(());
    }
    let why = format!("is {found} bytes long, shorter than the {recorded} recorded");
    Err(Error::failed(what, why).hint(format!(
        "restore it from a backup; or `truncate -s {recorded} {}` to serve what is left, the lost part reading as zeroes",
        path.display()
    )))
}

fn unreadable(what: &str, fault: Fault) -> Error {
    let hint = match fault {
        Fault::Version(_) => "use the version of this program that wrote it",
        _ => {
            "check that the path leads to the right disk; if its head was overwritten, restore that from a backup"
        }
    };
    Error::failed(what, fault.to_string()).hint(hint)
}

/// A disk grows by its label first and its record second, and shrinks the other way round: so a label is never smaller.
fn fits(what: &str, label: &Label, record: &DiskRecord, pool: Uuid, extent_size: ExtentSize) -> Result<()> {
    let refused = |why: String, hint: &str| Err(Error::failed(what, why).hint(hint));
    if label.pool != pool {
        refused(
            format!("belongs to pool {}, not to this one ({pool})", label.pool),
            "name the other pool with --pool, or correct the path if the disk has moved",
        )
    } else if label.disk != record.uuid {
        refused(
            format!("is disk {} of this pool, not {}", label.disk, record.uuid),
            "the paths of two disks may have been swapped: correct them",
        )
    } else if label.extent_size != extent_size {
        refused(
            format!(
                "is labelled with extents of {} bytes, the pool has {}",
                label.extent_size.bytes(),
                extent_size.bytes()
            ),
            "the database is not the one that wrote this label: put back the right one",
        )
    } else if label.extents() < record.extents {
        refused(
            format!(
                "is labelled with {} extents, the database has {}",
                label.extents(),
                record.extents
            ),
            "the database is not the one that wrote this label: put back the right one",
        )
    } else {
        Ok(())
    }
}
