//! Loop devices on volumes: created through an apparatus's mount, and found again by what lies below them, even after a rename.

use super::apparatus::{self, State};
use super::memory;
use super::select;
use super::usage::{self, Census, LoopUse, attached};
use crate::cluster;
use crate::frontend::fuse;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::units::VolumeId;
use crate::store::Store;
use crate::sys::{self, loopdev};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a free loop device is requested: other processes may take one before it is configured.
const ATTEMPTS: usize = 16;

/// Why an ordinary user cannot use loop devices.
const NEEDS_ROOT: &str = "loop devices need root";

/// How long concurrent attach operations are waited for.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// A volume's file in a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFile {
    /// The volume's number.
    pub volume: VolumeId,
    /// The volume's name.
    pub name: Name,
    /// The apparatus whose mount it is.
    pub apparatus: Name,
    /// The volume's file.
    pub file: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The dirty bytes that a loop device may have, where those take the memory of the apparatus.
    pub unwritten: Option<u64>,
}

/// Options of `attach`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether to refuse writes.
    pub read_only: bool,
    /// Whether the kernel scans for partitions.
    pub partitions: bool,
}

/// A loop device on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its path.
    pub path: PathBuf,
    /// The apparatus through whose mount it was made.
    pub apparatus: Option<Name>,
    /// Whether its requests bypass the page cache of the volume's file.
    pub direct_io: bool,
    /// Whether it was created by this call.
    pub is_new: bool,
    /// A warning for its user.
    pub warning: Option<String>,
}

/// Finds a volume's file: in the mount of the named apparatus, or of the first one that serves.
///
/// # Errors
/// Fails when there is no such volume or apparatus, or none serves.
pub fn place(
    pool: &PoolDir,
    store: &mut dyn Store,
    volume: &str,
    through: Option<&str>,
) -> Result<VolumeFile> {
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
    let figures = view.figures.as_ref();
    Ok(VolumeFile {
        unwritten: figures.and_then(|figures| memory::unwritten_on_loop(&figures.memory)),
        volume: record.id,
        name: record.name.clone(),
        apparatus: view.member.name,
        file,
        read_only: record.read_only,
    })
}

fn first_serving(pool: &PoolDir, store: &mut dyn Store, volume: &str) -> Result<apparatus::ApparatusView> {
    let serving = apparatus::list(pool, store)?
        .into_iter()
        .find(|view| view.state == State::Serving);
    serving.ok_or_else(|| {
        Error::failed(format!("volume {volume}"), "no apparatus serves it")
            .hint("start one: vctl apparatus start NAME MOUNTPOINT")
    })
}

/// Creates a loop device on the file, with direct I/O.
fn make(pool: &PoolDir, place: &VolumeFile, options: Options, command: &str) -> Result<Device> {
    let what = || format!("volume file {}", place.file.display());
    let read_only = options.read_only || place.read_only;
    let user = user_of(&place.file).map_err(|error| Error::because(what(), error))?;
    let open_file = || OpenOptions::new().read(true).write(!read_only).open(&place.file);
    let file = as_user(user, open_file);
    let file = file.map_err(|error| with_root_hint(Error::because(what(), error), command))?;
    let control = open("/dev/loop-control".as_ref(), command)?;
    let request = loopdev::LoopOptions {
        read_only,
        partitions: options.partitions,
    };
    for _ in 0..ATTEMPTS {
        let number = loopdev::free(&control).map_err(|error| Error::because("/dev/loop-control", error))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path, command)?;
        // The kernel asks for the size of the file with the permissions of who configures the device.
        match as_user(user, || loopdev::configure(&device, &file, &place.file, request)) {
            Ok(()) => {
                let recorded = as_user(user, || attached::record(pool, &path, place.volume));
                recorded.unwrap_or_else(|why| log::info!("{}: not recorded: {why}", path.display()));
                return Ok(Device {
                    apparatus: Some(place.apparatus.clone()),
                    direct_io: has_direct_io(&path),
                    warning: bound_unwritten(&path, place.unwritten)
                        .err()
                        .map(|why| unbounded(&path, &why)),
                    path,
                    is_new: true,
                });
            }
            // Another process took it in between.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {}
            Err(error) => return Err(Error::because(path.display().to_string(), error)),
        }
    }
    Err(Error::failed("loop devices", "each free one was taken by another process first").hint("try again"))
}

/// Returns the user and group as whom root uses a volume's file; `None` where this process uses it as it is. The mount of another user lets in only that
/// user. And whoever has written the database of another user's pool may have written any path into it, so root follows it only to a mount of an apparatus.
fn user_of(file: &Path) -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match file.parent().map(fuse::owner_at).transpose()?.flatten() {
        Some((0, _)) => Ok(None),
        None => Err(io::Error::other("no apparatus is mounted there")),
        user => Ok(user),
    }
}

/// Does something as this user, or as it is.
fn as_user<T: Send>(user: Option<(u32, u32)>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match user {
        Some((user, group)) => sys::as_user(user, group, work),
        None => work(),
    }
}

fn open(device: &Path, command: &str) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(device);
    opened.map_err(|error| {
        let refused = error.kind() == io::ErrorKind::PermissionDenied;
        let error = Error::because(device.display().to_string(), error);
        if refused {
            with_root_hint(error, command)
        } else {
            error.hint("load the kernel's loop module: modprobe loop")
        }
    })
}

/// Adds the hint that loop devices need root, with the command for it.
fn with_root_hint(error: Error, command: &str) -> Error {
    if rustix::process::geteuid().is_root() {
        error
    } else {
        error.hint(format!("{NEEDS_ROOT}: {command}"))
    }
}

/// Returns the directory of `/sys` with the limits of a device's dirty pages.
fn bounds_of(device: &Path) -> PathBuf {
    Path::new("/sys/block")
        .join(device.file_name().unwrap_or_default())
        .join("bdi")
}

/// Limits the dirty bytes of a loop device, so that hosts wait when it is reached; with `None`
/// the kernel's usual limits apply. An earlier user of the device may have left a limit.
fn bound_unwritten(device: &Path, bytes: Option<u64>) -> io::Result<()> {
    let bounds = bounds_of(device);
    let strict = bounds.join("strict_limit");
    match bytes {
        Some(bytes) => {
            fs::write(&strict, "1")?;
            fs::write(bounds.join("max_bytes"), bytes.to_string())
        }
        None if fs::read_to_string(&strict).is_ok_and(|is| is.trim() == "1") => {
            fs::write(bounds.join("max_ratio"), "100")?;
            fs::write(&strict, "0")
        }
        None => Ok(()),
    }
}

fn unbounded(device: &Path, why: &io::Error) -> String {
    format!(
        "{}: its dirty data may fill the memory of its apparatus, which then hangs; it cannot be limited: {why}",
        device.display()
    )
}

fn has_direct_io(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default();
    let text = fs::read_to_string(Path::new("/sys/block").join(name).join("loop/dio"));
    text.is_ok_and(|text| text.trim() == "1")
}

/// Returns the loop device on a volume: the existing one if it fits the options, else a new one. Two concurrent calls return the same
/// device.
///
/// # Errors
/// Fails with `Busy` when there is one that does not fit the options, when this user lacks the permission, and when there is no loop
/// device left.
pub fn attach(
    pool: &PoolDir,
    store: &mut dyn Store,
    place: &VolumeFile,
    through: Option<&str>,
    options: Options,
) -> Result<Device> {
    let _alone = cluster::open(pool)?.claim_attaching(LOCK_WAIT)?;
    match present(pool, store, place, through, options)? {
        Some(device) => Ok(device),
        None => {
            let command = format!("sudo vctl --pool {} volume attach {}", pool.display(), place.name);
            make(pool, place, options, &command)
        }
    }
}

/// Returns the existing loop device on a volume, if there is one.
///
/// # Errors
/// Fails with `Busy` when it does not fit the options; returns the errors of the store.
pub fn present(
    pool: &PoolDir,
    store: &mut dyn Store,
    place: &VolumeFile,
    through: Option<&str>,
    options: Options,
) -> Result<Option<Device>> {
    let read_only = options.read_only || place.read_only;
    let found = Census::take(pool, store)?.loops_on(place.volume, &place.name);
    let fits = |found: &&LoopUse| {
        let by_name = found.apparatus.as_ref().map(Name::as_str);
        by_name.is_some_and(|name| through.is_none_or(|wanted| wanted == name))
            && found.device.read_only == read_only
            && (found.device.partitions || !options.partitions)
    };
    if let Some(found) = found.iter().find(fits) {
        return Ok(Some(Device {
            apparatus: found.apparatus.clone(),
            direct_io: has_direct_io(&found.device.path),
            path: found.device.path.clone(),
            is_new: false,
            warning: None,
        }));
    }
    match found.first() {
        Some(other) => Err(attached_otherwise(&place.name, other, options)),
        None => Ok(None),
    }
}

fn attached_otherwise(volume: &Name, found: &LoopUse, options: Options) -> Error {
    let through = match &found.apparatus {
        Some(name) => format!("through apparatus {name}"),
        None => "through a mount that no apparatus serves any more".into(),
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
    Error::new(ErrorKind::Busy, format!("volume {volume}"), why).hint(format!(
        "use that device, or detach it first: vctl volume detach {volume}"
    ))
}

/// Returns the loop devices on a volume, through any mount.
///
/// # Errors
/// Fails when there is no such volume, or it has no loop device.
pub fn devices(pool: &PoolDir, store: &mut dyn Store, volume: &str) -> Result<Vec<PathBuf>> {
    let found = attached(pool, store, volume)?;
    if found.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("volume {volume}"),
            "has no loop device",
        )
        .hint(format!("make one: vctl volume attach {volume}")));
    }
    Ok(found)
}

/// Returns the loop devices on a volume; there may be none.
fn attached(pool: &PoolDir, store: &mut dyn Store, volume: &str) -> Result<Vec<PathBuf>> {
    let volumes = store.volumes()?;
    let record = select::volume(&volumes, volume)?;
    let found = Census::take(pool, store)?.loops_on(record.id, &record.name);
    Ok(found.into_iter().map(|found| found.device.path).collect())
}

/// Has the kernel read the new size of a volume's loop devices. Returns an error for each device for which that failed.
///
/// # Errors
/// Returns the errors of the store.
pub fn refresh(pool: &PoolDir, store: &mut dyn Store, volume: &str) -> Result<Vec<Error>> {
    let found = attached(pool, store, volume)?;
    let refresh_one = |path: &PathBuf| {
        let what = || format!("{}: the volume's new size", path.display());
        let command = format!("sudo losetup -c {}", path.display());
        let refreshed = open(path, &command).and_then(|device| {
            loopdev::set_capacity(&device)
                .map_err(|error| with_root_hint(Error::because(what(), error), &command))
        });
        refreshed.err()
    };
    Ok(found.iter().filter_map(refresh_one).collect())
}

/// Detaches the loop devices.
///
/// # Errors
/// Fails when one is in use, or this user lacks the permission.
pub fn detach(volume: &str, devices: &[PathBuf]) -> Result<()> {
    for path in devices {
        let what = || format!("volume {volume}, {}", path.display());
        let device = open(path, &format!("sudo losetup -d {}", path.display()))?;
        // A mounted device is refused here; the kernel would only remember the request.
        let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or_default();
        let alone = OpenOptions::new().read(true).custom_flags(exclusive).open(path);
        alone.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => in_use(what(), path),
            _ => Error::because(what(), error),
        })?;
        // The next user of the device must not find a limit.
        let _ = bound_unwritten(path, None);
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
    Error::new(ErrorKind::Busy, what, why).hint("unmount it or stop what uses it, then try again")
}
