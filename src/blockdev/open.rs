//! Opens a disk and checks it against its record.

use super::acceptable::{acceptable, long_enough, not_newer, what};
use super::claim::{self, SameFile};
use super::device::{self, BlockDevice, bypass_cache};
use super::faults::{FaultCounts, Faults};
use super::identity::sys_dir;
use super::label::{Label, LabelFault};
use super::labelled;
use super::metadata::Known;
use super::pending::{Opening, Pending};
use super::stack::refuse_cycle;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::records::{DiskAccess, DiskRecord, PoolHeader};
use crate::model::units::{DiskId, ExtentSize};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Open disk whose label has been checked.
pub struct Disk {
    pub(super) id: DiskId,
    pub(super) name: Name,
    /// Its path on this machine, at which it was opened.
    pub(super) path: PathBuf,
    /// The path in its record then.
    pub(super) recorded_path: PathBuf,
    /// The label as it was last read or written here.
    pub(super) label: Mutex<Label>,
    /// Lock of the thread that writes the label, for as long as the disk takes.
    pub(super) label_turn: Mutex<()>,
    pub(super) extent_size: ExtentSize,
    /// Usable bytes, label included.
    pub(super) size: u64,
    pub(super) kind: DiskKind,
    pub(super) device: Box<dyn BlockDevice>,
    /// Bytes that can be used: reduced when an image is found truncated.
    pub(super) available: AtomicU64,
    /// Time of the last check of an image's length, by the coarse clock.
    pub(super) measured_us: AtomicU64,
    /// Whether a truncated image is to be used again once it has its length.
    pub(super) may_recover: AtomicBool,
    pub(super) faults: Faults,
    /// Lock for one flush at a time. It holds whether another call got a write-back error that the next flush has to return.
    pub(super) pending_error: Mutex<bool>,
    /// Whether this opening has been registered with the ledger of write errors.
    pub(super) registered: AtomicBool,
    /// Instance of the database that it was opened for, as its label names it.
    pub(super) instance: Uuid,
    /// Whether it could be opened only for reading.
    pub(super) read_only: bool,
    /// State of its copy of the metadata, as far as this opening knows it.
    pub(super) copy: Mutex<Option<Known>>,
    /// Lock of the thread that works on that copy.
    pub(super) copy_turn: Mutex<()>,
    /// Lock that prevents other files from being opened as this disk.
    _same: Option<SameFile>,
}

/// Checks of the label that an opening skips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waived {
    /// Whether the disk may belong to a copy of this database.
    pub owner: bool,
    /// Whether it may be an older copy of the disk.
    pub age: bool,
}

/// Kind of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskKind {
    /// A regular file on the file system of this device number.
    Image {
        /// The device number.
        file_system: u64,
    },
    /// A block device.
    Device,
}

impl DiskKind {
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

/// Returns the length of a file or device in bytes.
pub(super) fn length(file: &File, kind: DiskKind) -> io::Result<u64> {
    match kind {
        DiskKind::Image { .. } => Ok(file.metadata()?.len()),
        DiskKind::Device => (&*file).seek(SeekFrom::End(0)),
    }
}

/// Opens a regular file or block device for reading and writing.
pub(super) fn open_file(path: &Path, what: &str) -> Result<(File, DiskKind)> {
    let (file, kind) = recognised(path, what, |path| open_quietly(path, true))?;
    Ok((file, kind))
}

/// Opens a disk of the pool. One that has become read-only is opened for reading, so that the data on it can be read and moved elsewhere. Returns
/// the file, its kind, and whether it is read-only.
pub(super) fn open_for_use(path: &Path, what: &str, header: &PoolHeader) -> Result<(File, DiskKind, bool)> {
    refuse_cycle(what, path, header.uuid)?;
    let mut read_only = is_read_only_device(path);
    let (file, kind) = recognised(path, what, |path| match open_quietly(path, !read_only) {
        Err(why) if is_write_protected(&why) => {
            read_only = true;
            open_quietly(path, false)
        }
        other => other,
    })?;
    if header.access == DiskAccess::Direct {
        bypass_cache(what, &file, kind)?;
    }
    Ok((file, kind, read_only))
}

/// Returns whether opening for writing failed because nobody may write: the file system is read-only, or the file is immutable.
fn is_write_protected(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::ReadOnlyFilesystem || why.raw_os_error() == Some(libc::EPERM)
}

/// Returns whether the path is a read-only block device. The kernel may let it be opened for writing, but does not map it then.
fn is_read_only_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| {
        let flag = || std::fs::read_to_string(sys_dir(meta.rdev()).join("ro"));
        meta.file_type().is_block_device() && flag().is_ok_and(|flag| flag.trim() == "1")
    })
}

fn recognised(
    path: &Path,
    what: &str,
    open: impl FnOnce(&Path) -> io::Result<File>,
) -> Result<(File, DiskKind)> {
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
    DiskKind::of(&std::fs::metadata(path).map_err(failed)?).ok_or_else(refused)?;
    let file = open(path).map_err(failed)?;
    let kind = DiskKind::of(&file.metadata().map_err(failed)?).ok_or_else(refused)?;
    Ok((file, kind))
}

/// Opens a file without updates of its access time, where the caller may: such an update waits for the file system's journal, for ever where
/// that disk hangs.
fn open_quietly(path: &Path, writable: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(writable);
    match options.clone().custom_flags(libc::O_NOATIME).open(path) {
        // Only the owner may use `O_NOATIME`.
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => options.open(path),
        opened => opened,
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        claim::unlock_all(self.device.handle());
    }
}

impl Disk {
    /// Opens the disk that the record names, checks its label against the record, and keeps other owners and other files out while it is open.
    ///
    /// # Errors
    /// Fails with an error that names the disk, the reason (missing, shorter than recorded, foreign, damaged or old label, other disk) and the way
    /// out; with `ErrorKind::Busy` when another database uses the disk, or another file is in use as this disk.
    pub fn open(record: &DiskRecord, header: &PoolHeader) -> Result<Self> {
        Self::open_waiving(Waived::default(), record, header)
    }

    /// Opens the disk as [`Disk::open`] does, without the waived checks of the label.
    ///
    /// # Errors
    /// Fails as [`Disk::open`] does.
    pub fn open_waiving(waived: Waived, record: &DiskRecord, header: &PoolHeader) -> Result<Self> {
        Self::open_with(waived, record, header, |device| device)
    }

    /// Opens the disk as [`Disk::open`] does, and does its I/O through the device that `wrap` returns.
    ///
    /// # Errors
    /// Fails as [`Disk::open`] does.
    pub fn open_through(
        record: &DiskRecord,
        header: &PoolHeader,
        wrap: impl FnOnce(Box<dyn BlockDevice>) -> Box<dyn BlockDevice>,
    ) -> Result<Self> {
        Self::open_with(Waived::default(), record, header, wrap)
    }

    fn open_with(
        waived: Waived,
        record: &DiskRecord,
        header: &PoolHeader,
        wrap: impl FnOnce(Box<dyn BlockDevice>) -> Box<dyn BlockDevice>,
    ) -> Result<Self> {
        let extent_size = header.extent_size;
        let (what, path) = (what(record, header), header.path_of(record));
        let (file, kind, read_only) = open_for_use(path, &what, header)?;
        let failed = |why: io::Error| Error::because(what.clone(), why);
        let size = record
            .extents
            .checked_mul(extent_size.bytes())
            .ok_or_else(|| Error::failed(&what, "its record has an impossible size"))?;
        long_enough(&what, &file, kind, record, header)?;
        // The label is checked before the locks too: a process that must not use the disk must not block its owner, not even for a moment.
        acceptable(&what, &file, record, header, waived)?;
        let same = SameFile::claim(
            &what,
            &header.instance,
            record.id.0,
            &file.metadata().map_err(failed)?,
        )?;
        claim::own(&what, &file, &header.instance)?;
        let label = acceptable(&what, &file, record, header, waived)?;
        let device = device::of_file(file, kind, size, path, header.access)
            .map_err(|why| Error::because(format!("{what}: preparing it for reads and writes"), why))?;
        Ok(Self {
            id: record.id,
            name: record.name.clone(),
            path: path.to_owned(),
            recorded_path: record.path.clone(),
            label: Mutex::new(label),
            label_turn: Mutex::new(()),
            extent_size,
            size,
            kind,
            device: wrap(device),
            available: AtomicU64::new(size),
            measured_us: AtomicU64::new(0),
            may_recover: AtomicBool::new(false),
            faults: Faults::default(),
            pending_error: Mutex::new(false),
            registered: AtomicBool::new(false),
            instance: header.instance.id,
            read_only,
            copy: Mutex::new(None),
            copy_turn: Mutex::new(()),
            _same: Some(same),
        })
    }

    /// Makes an open disk of a device that belongs to its caller alone: no other process can open it, so nothing is locked and the label is
    /// taken as the one on the device. It counts as a block device.
    #[must_use]
    pub fn of_device(
        record: &DiskRecord,
        header: &PoolHeader,
        label: Label,
        device: Box<dyn BlockDevice>,
    ) -> Self {
        let size = record.extents.saturating_mul(header.extent_size.bytes());
        Self {
            id: record.id,
            name: record.name.clone(),
            path: record.path.clone(),
            recorded_path: record.path.clone(),
            label: Mutex::new(label),
            label_turn: Mutex::new(()),
            extent_size: header.extent_size,
            size,
            kind: DiskKind::Device,
            device,
            available: AtomicU64::new(size),
            measured_us: AtomicU64::new(0),
            may_recover: AtomicBool::new(false),
            faults: Faults::default(),
            pending_error: Mutex::new(false),
            registered: AtomicBool::new(false),
            instance: header.instance.id,
            read_only: false,
            copy: Mutex::new(None),
            copy_turn: Mutex::new(()),
            _same: None,
        }
    }

    /// Reads the label without opening the disk, whichever copy of the pool's database the disk belongs to and whether or not it is in use.
    ///
    /// # Errors
    /// Fails as [`Disk::open`] does, but never with `ErrorKind::Busy`.
    pub fn read_label(record: &DiskRecord, header: &PoolHeader) -> Result<Label> {
        let what = what(record, header);
        let (file, _, _) = open_for_use(header.path_of(record), &what, header)?;
        let waived = Waived {
            owner: true,
            age: true,
        };
        acceptable(&what, &file, record, header, waived)
    }

    /// Reads the label of the file that the record names, whatever file that is.
    ///
    /// # Errors
    /// Fails when the file cannot be opened or read.
    pub(super) fn label_at(record: &DiskRecord, header: &PoolHeader) -> Result<Result<Label, LabelFault>> {
        let what = what(record, header);
        let (file, _, _) = open_for_use(header.path_of(record), &what, header)?;
        labelled::read(&file).map_err(|why| Error::because(what, why))
    }

    /// Checks that this database can adopt the disk: the label fits except for the owner, the database is not older than the disk, and no process
    /// uses it.
    ///
    /// # Errors
    /// Fails as [`Disk::open`] does, and with `ErrorKind::Busy` when any process has the disk open.
    pub fn check_adoptable(record: &DiskRecord, header: &PoolHeader) -> Result<()> {
        let what = what(record, header);
        let (file, _, _) = open_for_use(header.path_of(record), &what, header)?;
        let waived = Waived {
            owner: true,
            ..Waived::default()
        };
        let label = acceptable(&what, &file, record, header, waived)?;
        not_newer(&record.name, &label, header.layout)?;
        claim::not_owned(&what, &file)
    }

    /// Starts opening the disk on a helper thread.
    #[must_use]
    pub fn begin_opening(record: &DiskRecord, header: &PoolHeader) -> Opening {
        Self::begin_with(record, header, Self::open)
    }

    /// Opens the disk as [`Disk::open`] does, and waits for at most `patience`.
    ///
    /// # Errors
    /// Fails as [`Disk::open`] does, and with `ErrorKind::TimedOut` when the disk does not answer.
    pub fn open_within(patience: Duration, record: &DiskRecord, header: &PoolHeader) -> Result<Self> {
        Self::begin_opening(record, header).wait(Instant::now() + patience, patience)
    }

    /// Opens all these disks at once, and waits for at most `patience` in all. Returns the results in the order of `records`.
    pub fn open_all_within(
        patience: Duration,
        records: &[DiskRecord],
        header: &PoolHeader,
    ) -> Vec<Result<Self>> {
        Self::with_all_within(patience, records, header, Self::open)
    }

    /// Runs the operation on all these disks at once, and waits for at most `patience` in all. Returns the results in the order of `records`.
    pub fn with_all_within<T: Send + 'static>(
        patience: Duration,
        records: &[DiskRecord],
        header: &PoolHeader,
        operation: fn(&DiskRecord, &PoolHeader) -> Result<T>,
    ) -> Vec<Result<T>> {
        let begin = |record| Self::begin_with(record, header, operation);
        let mut begun: Vec<Pending<T>> = records.iter().map(begin).collect();
        let until = Instant::now() + patience;
        begun.iter_mut().map(|each| each.wait(until, patience)).collect()
    }

    /// Starts an operation on a disk of the pool on a helper thread.
    #[must_use]
    pub fn begin_with<T: Send + 'static>(
        record: &DiskRecord,
        header: &PoolHeader,
        operation: fn(&DiskRecord, &PoolHeader) -> Result<T>,
    ) -> Pending<T> {
        let (wanted, of) = (record.clone(), header.clone());
        Pending::begin_asking(what(record, header), header.path_of(record), move || {
            operation(&wanted, &of)
        })
    }

    /// Returns its number.
    #[must_use]
    pub fn id(&self) -> DiskId {
        self.id
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns the path that it was opened at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path in its record when it was opened, which on this machine may be another one than [`Disk::path`].
    #[must_use]
    pub fn recorded_path(&self) -> &Path {
        &self.recorded_path
    }

    /// Returns its label, as it was when the disk was opened or when this opening last wrote it.
    #[must_use]
    pub fn label(&self) -> Label {
        *self.label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of extents that it was opened with, including extent 0 (the label).
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.size / self.extent_size.bytes()
    }

    /// Returns the instance of the database that it was opened for.
    #[must_use]
    pub fn instance(&self) -> Uuid {
        self.instance
    }

    /// Returns whether it could be opened only for reading; writes to it fail then.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Returns whether it is used past the page cache: each read and write waits for it.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.device.is_direct()
    }

    /// Returns whether it is a block device, not an image file.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.kind == DiskKind::Device
    }

    /// Returns the counts of its failures since it was opened or they were cleared.
    #[must_use]
    pub fn faults(&self) -> FaultCounts {
        self.faults.counts()
    }

    /// Checks that the database is not older than this disk: the layout number of the label is at most `layout`, the database's.
    ///
    /// # Errors
    /// Fails with an error that names the disk and the way out.
    pub fn check_layout(&self, layout: u64) -> Result<()> {
        not_newer(&self.name, &self.label(), layout)
    }
}
