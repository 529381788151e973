//! Loop devices on volumes: made through an apparatus's mount, found again by what lies below them, whatever it is called now.

use super::apparatus::{self, State};
use super::select;
use super::usage::{self, Census, OnLoop};
use crate::error::{Error, Kind, Result};
use crate::member::AttachLock;
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::Store;
use crate::sys::loopdev;
use crate::units::VolumeId;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Other processes take loop devices too: so often one that was free may be taken before it is ours.
const ATTEMPTS: usize = 16;

/// How long others who attach something are waited for.
const TURN: Duration = Duration::from_secs(10);

/// A volume's file in a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The volume.
    pub volume: VolumeId,
    /// What it is called.
    pub name: Name,
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
    /// Through the mount of this apparatus.
    pub apparatus: Option<Name>,
    /// Its requests pass the page cache by: what is below is the volume's own business.
    pub direct_io: bool,
    /// It was not there before.
    pub is_new: bool,
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
        volume: record.id,
        name: record.name.clone(),
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
fn make(place: &Place, options: Options) -> Result<Device> {
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
                    apparatus: Some(place.apparatus.clone()),
                    direct_io: has_direct_io(&path),
                    path,
                    is_new: true,
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

fn has_direct_io(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default();
    let told = fs::read_to_string(Path::new("/sys/block").join(name).join("loop/dio"));
    told.is_ok_and(|told| told.trim() == "1")
}

/// The loop device on a volume: the one that is there already, if it is as wished, else a new one. Two who attach at once get the same.
///
/// # Errors
/// `Busy` when there is one that is not as wished; when this user may not, or there is no loop device left.
pub fn attach(
    pool: &PoolDir,
    store: &mut dyn Store,
    place: &Place,
    through: Option<&str>,
    options: Options,
) -> Result<Device> {
    let _alone = AttachLock::take(&pool.run(), TURN)?;
    match present(pool, store, place, through, options)? {
        Some(device) => Ok(device),
        None => make(place, options),
    }
}

/// The loop device that is there already.
///
/// # Errors
/// `Busy` when it is not as wished; the store's.
pub fn present(
    pool: &PoolDir,
    store: &mut dyn Store,
    place: &Place,
    through: Option<&str>,
    options: Options,
) -> Result<Option<Device>> {
    let read_only = options.read_only || place.read_only;
    let found = Census::take(pool, store)?.loops_on(place.volume, &place.name);
    let fits = |found: &&OnLoop| {
        let by_name = found.apparatus.as_ref().map(Name::as_str);
        by_name.is_some_and(|name| through.is_none_or(|wished| wished == name))
            && found.device.read_only == read_only
            && (found.device.partitions || !options.partitions)
    };
    if let Some(found) = found.iter().find(fits) {
        return Ok(Some(Device {
            apparatus: found.apparatus.clone(),
            direct_io: has_direct_io(&found.device.path),
            path: found.device.path.clone(),
            is_new: false,
        }));
    }
    match found.first() {
        Some(other) => Err(attached_otherwise(&place.name, other, options)),
        None => Ok(None),
    }
}

fn attached_otherwise(volume: &Name, found: &OnLoop, options: Options) -> Error {
    let through = match &found.apparatus {
        Some(name) => format!("through apparatus {name}"),
        None => "through a mount that nobody serves any more".into(),
    };
    let mode = if found.device.read_only {
        "read-only"
    } else {
        "for reading and writing"
    };
    let partitions = if options.partitions && !found.device.partitions {
        ", without partitions"
    } else {
        ""
    };
    let why = format!(
        "is attached already as {}, {through}, {mode}{partitions}",
        found.device.path.display()
    );
    Error::new(Kind::Busy, format!("volume {volume}"), why).hint(format!(
        "use that device, or take it away first: vctl volume detach {volume}"
    ))
}

/// The loop devices on a volume, through whatever mount.
///
/// # Errors
/// When there is no such volume, or it has none.
pub fn devices(pool: &PoolDir, store: &mut dyn Store, volume: &str) -> Result<Vec<PathBuf>> {
    let found = attached(pool, store, volume)?;
    if found.is_empty() {
        return Err(
            Error::new(Kind::NotFound, format!("volume {volume}"), "has no loop device")
                .hint(format!("make one: vctl volume attach {volume}")),
        );
    }
    Ok(found)
}

/// The loop devices on a volume; none is as good an answer as some.
fn attached(pool: &PoolDir, store: &mut dyn Store, volume: &str) -> Result<Vec<PathBuf>> {
    let volumes = store.volumes()?;
    let record = select::volume(&volumes, volume)?;
    let found = Census::take(pool, store)?.loops_on(record.id, &record.name);
    Ok(found.into_iter().map(|found| found.device.path).collect())
}

/// Has a volume's loop devices see its new size. Answers what could not be told to one.
///
/// # Errors
/// The store's.
pub fn refresh(pool: &PoolDir, store: &mut dyn Store, volume: &str) -> Result<Vec<Error>> {
    let found = attached(pool, store, volume)?;
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
        alone.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => in_use(what(), path),
            _ => Error::because(what(), error),
        })?;
        loopdev::clear(&device).map_err(|error| Error::because(what(), error))?;
    }
    Ok(())
}

fn in_use(what: String, device: &Path) -> Error {
    let users = usage::users_of_loop(device);
    let why = match users.is_empty() {
        true => "is in use".into(),
        false => format!("is in use: {}", users.join(", ")),
    };
    Error::new(Kind::Busy, what, why).hint("unmount it or stop what uses it, then try again")
}
