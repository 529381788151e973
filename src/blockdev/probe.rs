//! Checks whether a path can become a disk of the pool, and writes and wipes labels, for `disk add` and `disk remove`.

use super::claim::{AddLock, not_locked, not_owned_by_others};
use super::device::check_direct;
use super::identity::{Identity, Store, loops_over, sys_dir};
use super::label::{Label, LabelFault};
use super::open::{DiskKind, length, open_file};
use super::pending::ask_first;
use super::stack::refuse_cycle;
use super::{content, labelled, with_timeout, writers};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::{DiskAccess, DiskRecord, PoolHeader};
use crate::model::units::{ByteCount, ExtentSize};
use crate::sys::proc::{Mounted, mounts};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Timeout for the pool's disks while another one is inspected.
const KNOWN: Duration = Duration::from_secs(1);

/// Path that can become a disk of the pool. Until it is dropped, no other process can mount the device or add the same file.
#[derive(Debug)]
pub struct Candidate {
    path: PathBuf,
    size: ByteCount,
    extent_size: ExtentSize,
    content: Option<&'static str>,
    device: bool,
    file: AddLock,
}

impl Candidate {
    /// Inspects a path. `known` are the pool's disks.
    ///
    /// # Errors
    /// Fails when the path cannot be a disk of this pool: it is missing, neither a file nor a block device, too small, in use or written by another program, another
    /// pool's, or in this pool already, perhaps by another name, through a loop device or as a partition. The error names the path, the reason and the way out.
    pub fn inspect(path: &Path, header: &PoolHeader, known: &[DiskRecord]) -> Result<Self> {
        let extent_size = header.extent_size;
        let what = path.display().to_string();
        refuse_cycle(
            &what,
            &std::path::absolute(path).map_err(|why| missing(&what, why))?,
            header.uuid,
        )?;
        let path = fs::canonicalize(path).map_err(|why| missing(&what, why))?;
        let (own, identity) = recognise(&path, &what)?;
        refuse_known(&identity, &what, known, header)?;
        refuse_stacked(&what, own)?;
        let writer = match own {
            Store::File(..) => writers::refusal(&path, &what),
            // Opening a device exclusively refuses the others.
            Store::Device(_) => None,
        };
        let file = claim(&path, &what, own)?;
        let failed = |why: io::Error| Error::because(what.clone(), why);
        let kind = DiskKind::of(&file.metadata().map_err(failed)?)
            .ok_or_else(|| Error::failed(&what, "changed while it was inspected"))?;
        if header.access == DiskAccess::Direct {
            check_direct(&what, &file, kind)?;
        }
        let size = ByteCount(length(&file, kind).map_err(failed)?);
        if size.0 / extent_size.bytes() < 2 {
            let why = format!(
                "is too small: {size} bytes, and a disk has at least two extents of {} bytes",
                extent_size.bytes()
            );
            return Err(
                Error::usage(what, why).hint("use a larger disk, or make a larger image with --create SIZE")
            );
        }
        let found = labelled::read(&file).map_err(failed)?;
        // The advice for the label of another pool is to clear it: nobody may use the disk then.
        not_owned_by_others(&what, &file, &header.instance)?;
        let judged = judge(found, &what, header, known)?;
        not_locked(&what, &file)?;
        writer.map_or(Ok(()), Err)?;
        let content = match judged {
            Finding::Content(content) => Some(content),
            Finding::Unused => None,
            Finding::NoLabel => content::of(&file, kind, size.0).map_err(failed)?,
        };
        Ok(Self {
            path,
            size,
            extent_size,
            content,
            device: kind == DiskKind::Device,
            file,
        })
    }

    /// Returns the absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its size.
    #[must_use]
    pub fn size(&self) -> ByteCount {
        self.size
    }

    /// Returns the number of whole extents, including extent 0 (the label). The rest at the end is not used.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.size.0 / self.extent_size.bytes()
    }

    /// Returns whether it is a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Returns the content that would be destroyed (`an XFS file system`), for which the caller needs a confirmation, or `None` if there is none.
    #[must_use]
    pub fn content(&self) -> Option<&'static str> {
        self.content
    }

    /// Makes it a disk of the pool, durably: wipes its head and writes its label.
    ///
    /// # Errors
    /// Fails with an error that names the path.
    pub fn write_label(&self, header: &PoolHeader, disk: Uuid) -> Result<Label> {
        let extent_size = self.extent_size;
        let size = ByteCount(self.extents() * extent_size.bytes());
        let label = Label {
            pool: header.uuid,
            disk,
            size,
            extent_size,
            layout: header.layout,
            sequence: 1,
            instance: header.instance.id,
            copy: None,
        };
        labelled::write_first(&self.file, &label)
            .map_err(|why| Error::because(format!("{}: writing the label", self.path.display()), why))?;
        Ok(label)
    }
}

fn missing(what: &str, why: io::Error) -> Error {
    let absent = why.kind() == io::ErrorKind::NotFound;
    let error = Error::because(what, why);
    if absent {
        error
            .with_kind(ErrorKind::NotFound)
            .hint("add --create SIZE to make an image file there")
    } else {
        error
    }
}

pub(super) fn recognise(path: &Path, what: &str) -> Result<(Store, Identity)> {
    let kind = fs::metadata(path).map_err(|why| missing(what, why))?.file_type();
    if let Some(identity) = Identity::of(path) {
        return Ok((identity.own, identity));
    }
    let is = if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "no file"
    };
    Err(Error::usage(what, format!("is {is}")).hint("a disk is a regular file or a block device"))
}

/// Refuses a disk that the pool has already. A known disk that does not answer is skipped: the inspected one answers, so it is another.
pub(super) fn refuse_known(
    identity: &Identity,
    what: &str,
    known: &[DiskRecord],
    header: &PoolHeader,
) -> Result<()> {
    let begin = |record: &DiskRecord| {
        let path = header.path_of(record).to_owned();
        with_timeout::begin(header.path_of(record), move || {
            ask_first(&path);
            Identity::of(&path)
        })
    };
    let mut pending: Vec<_> = known.iter().map(begin).collect();
    let until = Instant::now() + KNOWN;
    let others = pending.iter_mut().map(|pending| pending.answer(until, KNOWN));
    let shared = |other: &Identity| identity.shares(other);
    let mut same = known.iter().zip(others).filter(|(_, other)| {
        other
            .as_ref()
            .is_ok_and(|other| other.as_ref().is_some_and(shared))
    });
    let Some((record, _)) = same.next() else {
        return Ok(());
    };
    let why = format!(
        "is disk {} of this pool already, as {}",
        record.name,
        header.path_of(record).display()
    );
    Err(Error::usage(what, why).hint("add each disk once, under one path"))
}

/// Refuses a disk below a loop device: the two have separate page caches.
pub(super) fn refuse_stacked(what: &str, own: Store) -> Result<()> {
    let Some(over) = loops_over(own).into_iter().next() else {
        return Ok(());
    };
    let over = over.display();
    Err(Error::usage(what, format!("lies under the loop device {over}"))
        .hint(format!("detach it (losetup -d {over}), or add {over} instead")))
}

/// Opens the path exclusively: a device by the kernel's exclusion, a file by a lock that only adding takes.
fn claim(path: &Path, what: &str, own: Store) -> Result<AddLock> {
    let file = match own {
        Store::File(..) => open_file(path, what)?.0,
        Store::Device(number) => {
            let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or_default();
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(exclusive)
                .open(path);
            opened.map_err(|why| match why.kind() {
                io::ErrorKind::ResourceBusy => Error::usage(what, format!("is in use: {}", user_of(number)))
                    .hint("unmount it or stop what uses it, then add it"),
                io::ErrorKind::PermissionDenied => {
                    Error::because(what, why).hint("run as a user who may write it")
                }
                _ => Error::because(what, why),
            })?
        }
    };
    match AddLock::try_lock(file) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(Error::new(
            ErrorKind::Busy,
            what,
            "is being added by another process",
        )),
        Err(why) => Err(Error::because(what, why)),
    }
}

/// Names the user that has a device open exclusively, as far as it is visible.
fn user_of(device: u64) -> String {
    let dir = sys_dir(device);
    let own = Store::Device(device);
    let mounted = |mount: &Mounted| {
        Identity::from(Store::Device(mount.device_number()))
            .all
            .contains(&own)
    };
    if let Some(mount) = mounts("self").unwrap_or_default().into_iter().find(mounted) {
        return format!("mounted at {}", mount.point.display());
    }
    let holders = fs::read_dir(dir.join("holders")).into_iter().flatten();
    match holders.filter_map(io::Result::ok).next() {
        Some(holder) => format!("used by {}", holder.file_name().to_string_lossy()),
        None => "mounted, or used as swap or by another program".into(),
    }
}

/// Result of the search for a label.
enum Finding {
    NoLabel,
    /// The path holds this content.
    Content(&'static str),
    /// This pool was about to add the disk, or has never placed anything on it: a label is written again once something has been placed there.
    Unused,
}

/// Decides what a label means for adding the path.
fn judge(
    found: Result<Label, LabelFault>,
    what: &str,
    header: &PoolHeader,
    known: &[DiskRecord],
) -> Result<Finding> {
    let clear = format!(
        "if that pool is gone, clear the label: dd if=/dev/zero of={what} bs=8K count=1 conv=notrunc"
    );
    match found {
        Ok(label) if label.pool != header.uuid => {
            let why = format!("belongs to another pool, {}, as disk {}", label.pool, label.disk);
            Err(Error::usage(what, why).hint(format!("remove it from that pool first; {clear}")))
        }
        Ok(label) => match known.iter().find(|record| record.uuid == label.disk) {
            Some(record) => {
                let why = format!(
                    "carries the label of disk {} of this pool, which is {}",
                    record.name,
                    header.path_of(record).display()
                );
                Err(Error::usage(what, why).hint("a copy of a disk is no second disk: add an empty one"))
            }
            None if !header.instance.has(label.instance) => Ok(Finding::Content(
                "a disk that another copy of this pool's database has added",
            )),
            None if label.sequence == 1 => Ok(Finding::Unused),
            None => Ok(Finding::Content(
                "a disk of this pool that its database does not know",
            )),
        },
        Err(LabelFault::Absent) => Ok(Finding::NoLabel),
        Err(fault @ LabelFault::Version(_)) => {
            Err(Error::usage(what, fault.to_string()).hint(format!("use the newer program; {clear}")))
        }
        Err(LabelFault::Checksum | LabelFault::Field(_) | LabelFault::Disagree) => {
            Ok(Finding::Content("a disk of a pool, its label damaged"))
        }
    }
}

/// Creates a sparse image file, durably, which only its owner may use.
///
/// # Errors
/// Fails when the path exists, its directory does not, or the file system or a disk does not support the size. The error names the path.
pub fn create_image(path: &Path, size: ByteCount, extent_size: ExtentSize) -> Result<()> {
    let what = path.display().to_string();
    if size.0 / extent_size.bytes() < 2 {
        let why = format!(
            "{size} bytes are too few: a disk has at least two extents of {} bytes",
            extent_size.bytes()
        );
        return Err(Error::usage(what, why).hint("give --create a larger size"));
    }
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let file = opened.map_err(|why| match why.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::usage(&what, "exists already").hint("omit --create to add it as it is")
        }
        io::ErrorKind::NotFound => Error::because(&what, why)
            .with_kind(ErrorKind::NotFound)
            .hint("make the directory first"),
        _ => Error::because(&what, why),
    })?;
    let made = file
        .set_len(size.0)
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_parent(path));
    made.map_err(|why| {
        // The file was created here and is still empty.
        let _ = fs::remove_file(path);
        Error::because(format!("{what}: making it {size} bytes long"), why)
            .hint("choose a smaller size or another file system")
    })
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Removes the pool's label from a disk that has left the pool, durably. Returns false when there is no label any more. A label of another disk is
/// not touched.
///
/// # Errors
/// Fails with an error that names the disk.
pub fn wipe_label(record: &DiskRecord, pool: Uuid) -> Result<bool> {
    let what = format!("disk {} ({})", record.name, record.path.display());
    let (file, _) = open_file(&record.path, &what)?;
    let failed = |why: io::Error| Error::because(what.clone(), why);
    let extent = match labelled::read(&file).map_err(failed)? {
        Ok(label) if (label.pool, label.disk) == (pool, record.uuid) => label.extent_size.bytes(),
        Ok(label) => {
            let why = format!(
                "carries the label of another disk, {} of pool {}: left as it is",
                label.disk, label.pool
            );
            return Err(Error::failed(what, why));
        }
        Err(LabelFault::Absent) => return Ok(false),
        Err(fault) => return Err(Error::failed(what, format!("{fault}: left as it is"))),
    };
    // Its copy of the metadata lies behind the label.
    labelled::erase(&file, extent).map_err(failed)?;
    Ok(true)
}
