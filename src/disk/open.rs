//! Opening a disk: what its record says is held against what is there.

use super::claim::{self, SameFile};
use super::faults::{FaultCounts, Faults};
use super::identity::sys_dir;
use super::io::{piece, suffers_from_large_pieces};
use super::label::{Fault, Label};
use super::labelled;
use super::mapping::Mapping;
use super::pending::{Opening, Pending};
use super::room::keeps_space;
use super::stack::refuse_cycle;
use crate::error::{Error, Result};
use crate::pool::model::{DiskRecord, PoolHeader};
use crate::pool::names::Name;
use crate::units::{DiskId, ExtentSize};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
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
    /// An image that has its length again is to be used again.
    pub(super) forgiven: AtomicBool,
    pub(super) faults: Faults,
    /// One flush at a time: whether an error was taken from the file descriptor that the next flush has to report.
    pub(super) owed: Mutex<bool>,
    pub(super) lacks: Lacks,
    /// Most bytes that one call writes.
    pub(super) piece: usize,
    /// Whether the ledger of write errors has been told of this opening.
    pub(super) known: AtomicBool,
    /// Which of the pool's databases it was opened for: named in its label.
    pub(super) instance: Uuid,
    /// It could only be opened for reading.
    pub(super) read_only: bool,
    /// Keeps other files from being taken for this disk.
    _same: SameFile,
}

/// What a label need not say for the disk to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waived {
    /// That the disk belongs to this database and to no copy of it.
    pub owner: bool,
    /// That it is the newest copy of the disk.
    pub age: bool,
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
    let (file, kind) = recognised(path, what, |path| open_quietly(path, true))?;
    Ok((file, kind))
}

/// The same; what has turned read-only is opened for reading, so that the data on it can be read and moved elsewhere. Answers whether it has.
fn open_for_use(path: &Path, what: &str, pool: Uuid) -> Result<(File, Kind, bool)> {
    refuse_cycle(what, path, pool)?;
    let mut read_only = is_read_only_device(path);
    let (file, kind) = recognised(path, what, |path| match open_quietly(path, !read_only) {
        Err(why) if why.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            read_only = true;
            open_quietly(path, false)
        }
        other => other,
    })?;
    Ok((file, kind, read_only))
}

/// A device that cannot be written may be opened for writing, and then cannot be mapped.
fn is_read_only_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| {
        let flag = || std::fs::read_to_string(sys_dir(meta.rdev()).join("ro"));
        meta.file_type().is_block_device() && flag().is_ok_and(|flag| flag.trim() == "1")
    })
}

fn recognised(path: &Path, what: &str, open: impl FnOnce(&Path) -> io::Result<File>) -> Result<(File, Kind)> {
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
    let file = open(path).map_err(failed)?;
    let kind = Kind::of(&file.metadata().map_err(failed)?).ok_or_else(refused)?;
    Ok((file, kind))
}

/// Without a trace of when it was last read, where the caller may ask for that: leaving one waits for the file system's journal, for ever
/// where its disk does not answer.
fn open_quietly(path: &Path, writable: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(writable);
    match options.clone().custom_flags(libc::O_NOATIME).open(path) {
        // Only the owner may.
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => options.open(path),
        opened => opened,
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        claim::let_go(&self.file);
    }
}

impl Disk {
    /// Opens the disk that the record names, checks its label against it, and keeps other owners and other files out while it is open.
    ///
    /// # Errors
    /// Names the disk, what is wrong with it (missing, shorter than recorded, foreign, damaged or old label, other disk), and the way out;
    /// `Kind::Busy` when another database, or another file as this disk, is in use.
    pub fn open(record: &DiskRecord, header: &PoolHeader) -> Result<Self> {
        Self::open_waiving(Waived::default(), record, header)
    }

    /// The same, where the label need not say all.
    ///
    /// # Errors
    /// As above.
    pub fn open_waiving(waived: Waived, record: &DiskRecord, header: &PoolHeader) -> Result<Self> {
        let extent_size = header.extent_size;
        let what = what(record);
        let (file, kind, read_only) = open_for_use(&record.path, &what, header.uuid)?;
        let failed = |why: io::Error| Error::because(what.clone(), why);
        let size = record
            .extents
            .checked_mul(extent_size.bytes())
            .ok_or_else(|| Error::failed(&what, "its record has an impossible size"))?;
        long_enough(&what, &record.path, length(&file, kind).map_err(failed)?, size)?;
        // Looked at before too: who must not have the disk is not to be in the owner's way, not even for a moment.
        acceptable(&what, &file, record, header, waived)?;
        let same = SameFile::claim(
            &what,
            &header.instance,
            record.id.0,
            &file.metadata().map_err(failed)?,
        )?;
        claim::own(&what, &file, &header.instance)?;
        let label = acceptable(&what, &file, record, header, waived)?;
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
            forgiven: AtomicBool::new(false),
            faults: Faults::default(),
            owed: Mutex::new(false),
            known: AtomicBool::new(false),
            instance: header.instance.id,
            read_only,
            _same: same,
        })
    }

    /// Only reads the label, whichever copy of the pool's database the disk belongs to and whoever uses it.
    ///
    /// # Errors
    /// As for [`Disk::open`], but never `Kind::Busy`.
    pub fn read_label(record: &DiskRecord, header: &PoolHeader) -> Result<Label> {
        let what = what(record);
        let (file, _, _) = open_for_use(&record.path, &what, header.uuid)?;
        let waived = Waived {
            owner: true,
            age: true,
        };
        acceptable(&what, &file, record, header, waived)
    }

    /// Whether this database could adopt the disk: its label fits but for the owner, the database is not older than it, and nobody uses it.
    ///
    /// # Errors
    /// As for [`Disk::open`]; `Kind::Busy` when anybody has the disk open.
    pub fn check_adoptable(record: &DiskRecord, header: &PoolHeader) -> Result<()> {
        let what = what(record);
        let (file, _, _) = open_for_use(&record.path, &what, header.uuid)?;
        let waived = Waived {
            owner: true,
            ..Waived::default()
        };
        let label = acceptable(&what, &file, record, header, waived)?;
        not_newer(&record.name, &label, header.layout)?;
        claim::not_owned(&what, &file)
    }

    /// Begins to open it on a helper thread.
    #[must_use]
    pub fn begin_opening(record: &DiskRecord, header: &PoolHeader) -> Opening {
        Self::begin_with(record, header, Self::open)
    }

    /// Opens it as [`Disk::open`] does, and waits no longer than `patience`.
    ///
    /// # Errors
    /// As above, and when it does not answer.
    pub fn open_within(patience: Duration, record: &DiskRecord, header: &PoolHeader) -> Result<Self> {
        Self::begin_opening(record, header).wait(Instant::now() + patience, patience)
    }

    /// Opens all of these at once, and waits no longer than `patience` for all together. Answers in their order.
    pub fn open_all_within(
        patience: Duration,
        records: &[DiskRecord],
        header: &PoolHeader,
    ) -> Vec<Result<Self>> {
        Self::with_all_within(patience, records, header, Self::open)
    }

    /// Does this with all of these disks at once, and waits no longer than `patience` for all together. Answers in their order.
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

    /// Begins an operation on a disk of the pool on a helper thread.
    #[must_use]
    pub fn begin_with<T: Send + 'static>(
        record: &DiskRecord,
        header: &PoolHeader,
        operation: fn(&DiskRecord, &PoolHeader) -> Result<T>,
    ) -> Pending<T> {
        let (wanted, of) = (record.clone(), header.clone());
        Pending::begin_asking(what(record), &record.path, move || operation(&wanted, &of))
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

    /// Which of the pool's databases it was opened for.
    #[must_use]
    pub fn instance(&self) -> Uuid {
        self.instance
    }

    /// Whether it could only be opened for reading: writes to it fail.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
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
        not_newer(&self.name, &self.label(), layout)
    }
}

pub(super) fn long_enough(what: &str, path: &Path, found: u64, recorded: u64) -> Result<()> {
    if found >= recorded {
        return Ok(());
    }
    let why = format!("is {found} bytes long, shorter than the {recorded} recorded");
    Err(Error::failed(what, why).hint(format!(
        "restore it from a backup; or `truncate -s {recorded} {}` to serve what is left, the lost part reading as zeroes",
        path.display()
    )))
}

fn not_newer(name: &Name, label: &Label, layout: u64) -> Result<()> {
    let found = label.layout;
    if found <= layout {
        return Ok(());
    }
    let why = format!("was written by a newer database: its layout is {found}, the database's {layout}");
    Err(Error::failed(format!("disk {name}"), why)
        .hint("the pool's database is an older copy: put back the newest one"))
}

/// A disk in messages.
pub(super) fn what(record: &DiskRecord) -> String {
    format!("disk {} ({})", record.name, record.path.display())
}

/// The label, if the disk may be used as its record says.
fn acceptable(
    what: &str,
    file: &File,
    record: &DiskRecord,
    header: &PoolHeader,
    waived: Waived,
) -> Result<Label> {
    let label = labelled::read(file)
        .map_err(|why| Error::because(what, why))?
        .map_err(|fault| unreadable(what, &record.name, fault))?;
    fits(what, &label, record, header.uuid, header.extent_size)?;
    if !waived.owner {
        claim::belongs(what, label.instance, &header.instance)?;
    }
    if !waived.age {
        newest(what, &label, record)?;
    }
    Ok(label)
}

/// A label is written first and the store told second, so a label that is ahead is the last one written before a crash.
fn newest(what: &str, label: &Label, record: &DiskRecord) -> Result<()> {
    if label.sequence >= record.label {
        return Ok(());
    }
    let why = format!(
        "is an older copy: its label is number {}, and the last one written to this disk is number {}",
        label.sequence, record.label
    );
    Err(Error::failed(what, why).hint(format!(
        "put the newest copy in its place; to go on with this one and lose what was written since: vctl disk label {} --accept-older-data",
        record.name
    )))
}

pub(super) fn unreadable(what: &str, name: &Name, fault: Fault) -> Error {
    let hint = match fault {
        Fault::Version(_) => "use the version of this program that wrote it".to_owned(),
        _ => format!(
            "check that the path leads to the right disk; if its head was overwritten, write the label again: vctl disk label {name}"
        ),
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
