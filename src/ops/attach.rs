//! Loop devices on volumes: made through an apparatus's mount, found again by their backing file.

use super::apparatus::{self, State};
use super::select;
use crate::error::{Error, Result};
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::Store;
use crate::sys::loopdev;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Other processes take loop devices too: so often one that was free may be taken before it is ours.
const ATTEMPTS: usize = 16;

/// A volume's file in a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The apparatus whose mount it is.
    pub apparatus: Name,
    /// The volume's file.
    pub file: PathBuf,
    /// Writes are refused.
    pub read_only: bool,
}

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Refuse writes.
    pub read_only: bool,
    /// Have the kernel look for partitions.
    pub partitions: bool,
}

/// A loop device on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its path.
    pub path: PathBuf,
    /// Its requests pass the page cache by: what is below is the volume's own business.
    pub direct_io: bool,
}

/// Where a volume is to be found: in the mount of the apparatus named, else of the first that serves.
///
/// # Errors
/// When there is no such volume or apparatus, or none serves.
pub fn place(pool: &PoolDir, store: &mut dyn Store, volume: &str, through: Option<&str>) -> Result<Place> {
    let volumes = store.volumes()?;
    let record = select::volume(&volumes, volume)?;
    let view = match through {
        Some(name) => apparatus::show(pool, store, name)?,
        None => first_serving(pool, store, volume)?,
    };
    if view.state != State::Serving {
        let why = view.fault.unwrap_or_else(|| "does not serve".into());
        return Err(Error::failed(format!("apparatus {}", view.member.name), why).hint("vctl apparatus list"));
    }
    let file = view.member.mount.join(record.name.as_str());
    Ok(Place {
        apparatus: view.member.name,
        file,
        read_only: record.read_only,
    })
}

fn first_serving(pool: &PoolDir, store: &mut dyn Store, volume: &str) -> Result<apparatus::View> {
    let serving = apparatus::list(pool, store)?
        .into_iter()
        .find(|view| view.state == State::Serving);
    serving.ok_or_else(|| {
        Error::failed(format!("volume {volume}"), "no apparatus serves it")
            .hint("start one: vctl apparatus start NAME MOUNTPOINT")
    })
}

/// Makes a loop device of the file, with direct I/O.
///
/// # Errors
/// When this user may not, or there is no loop device left.
pub fn attach(place: &Place, options: Options) -> Result<Device> {
    let what = || format!("volume file {}", place.file.display());
    let read_only = options.read_only || place.read_only;
    let file = OpenOptions::new().read(true).write(!read_only).open(&place.file);
    let file = file.map_err(|error| with_root(Error::because(what(), error)))?;
    let control = open("/dev/loop-control".as_ref())?;
    let wish = loopdev::Wish {
        read_only,
        partitions: options.partitions,
    };
    for _ in 0..ATTEMPTS {
        let number = loopdev::free(&control).map_err(|error| Error::because("/dev/loop-control", error))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        match loopdev::configure(&device, &file, &place.file, wish) {
            Ok(()) => {
                return Ok(Device {
                    direct_io: has_direct_io(number),
                    path,
                });
            }
            // Somebody else took it in between.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {}
            Err(error) => return Err(Error::because(path.display().to_string(), error)),
        }
    }
    Err(Error::failed("loop devices", "each free one was taken by somebody else first").hint("try again"))
}

fn open(device: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(device);
    opened.map_err(|error| {
        let refused = error.kind() == io::ErrorKind::PermissionDenied;
        let error = Error::because(device.display().to_string(), error);
        if refused {
            with_root(error)
        } else {
            error.hint("is the kernel's loop module there? modprobe loop")
        }
    })
}

/// Loop devices are root's.
fn with_root(error: Error) -> Error {
    if rustix::process::geteuid().is_root() {
        error
    } else {
        error.hint("loop devices need root: try it with sudo")
    }
}

fn has_direct_io(number: u32) -> bool {
    let told = fs::read_to_string(format!("/sys/block/loop{number}/loop/dio"));
    told.is_ok_and(|told| told.trim() == "1")
}

/// The loop devices on a volume, through whatever mount.
///
/// # Errors
/// When there is no such volume, or it has none.
pub fn devices(store: &mut dyn Store, volume: &str) -> Result<Vec<PathBuf>> {
    let volumes = store.volumes()?;
    let record = select::volume(&volumes, volume)?;
    let found = attached(store, &record.name)?;
    if found.is_empty() {
        return Err(Error::new(
            crate::error::Kind::NotFound,
            format!("volume {volume}"),
            "has no loop device",
        )
        .hint(format!("make one: vctl volume attach {volume}")));
    }
    Ok(found)
}

/// The loop devices on a volume, of those that have not left.
///
/// # Errors
/// The store's.
pub fn attached(store: &mut dyn Store, volume: &Name) -> Result<Vec<PathBuf>> {
    let (_, members) = store.members()?;
    let files: Vec<PathBuf> = members
        .iter()
        .map(|member| member.mount.join(volume.as_str()))
        .collect();
    let Ok(blocks) = fs::read_dir("/sys/block") else {
        return Ok(Vec::new());
    };
    let mut found: Vec<PathBuf> = Vec::new();
    for block in blocks.flatten() {
        let backing = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
        if files
            .iter()
            .any(|file| file.as_os_str() == backing.trim_end_matches('\n'))
        {
            found.push(Path::new("/dev").join(block.file_name()));
        }
    }
    found.sort();
    Ok(found)
}

/// That a volume has no loop device.
///
/// # Errors
/// When it has.
pub fn check_detached(store: &mut dyn Store, volume: &str) -> Result<()> {
    let volumes = store.volumes()?;
    let found = attached(store, &select::volume(&volumes, volume)?.name)?;
    let Some(device) = found.first() else {
        return Ok(());
    };
    let error = Error::failed(
        format!("volume {volume}"),
        format!("lies under the loop device {}", device.display()),
    );
    Err(error.hint(format!("vctl volume detach {volume}")))
}

/// Has a volume's loop devices see its new size. Answers what could not be told to one.
///
/// # Errors
/// The store's.
pub fn refresh(store: &mut dyn Store, volume: &str) -> Result<Vec<Error>> {
    let volumes = store.volumes()?;
    let found = attached(store, &select::volume(&volumes, volume)?.name)?;
    let tell = |path: &PathBuf| {
        let what = || format!("{}: the volume's new size", path.display());
        let told = open(path).and_then(|device| {
            loopdev::set_capacity(&device).map_err(|error| with_root(Error::because(what(), error)))
        });
        told.err()
    };
    Ok(found.iter().filter_map(tell).collect())
}

/// Takes the loop devices away.
///
/// # Errors
/// When one is in use, or this user may not.
pub fn detach(volume: &str, devices: &[PathBuf]) -> Result<()> {
    for path in devices {
        let what = || format!("volume {volume}, {}", path.display());
        let device = open(path)?;
        // The kernel would only remember the wish while it is mounted.
        let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or_default();
        let alone = OpenOptions::new().read(true).custom_flags(exclusive).open(path);
        alone.map_err(|error| {
            Error::because(what(), error).hint("unmount it or stop what uses it, then try again")
        })?;
        loopdev::clear(&device).map_err(|error| Error::because(what(), error))?;
    }
    Ok(())
}
