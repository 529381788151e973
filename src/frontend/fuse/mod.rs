//! The FUSE mount of an apparatus. It reads and translates requests and chooses errno values; only this folder imports fuser.

mod answer;
mod attributes;
mod device;
mod errno;
mod filesystem;
mod incoming;
mod locking;
mod mount;
mod mount_point;
mod negotiation;
mod notices;
mod pause;
mod reply;
mod session;
mod uring;
mod wire;

/// Parses bytes as the session loop parses a request.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn parse_request(bytes: &[u8]) {
    if let Ok(incoming) = incoming::Incoming::parse(bytes) {
        let _ = incoming.call();
    }
}

pub use mount_point::{allows_others, device_at, mounts_of, mounts_of_pool, owner_at};

use crate::datapath::Apparatus;
use crate::locks::Locks;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::records::DiskAccess;
use crate::model::units::VolumeId;
use clap::ValueEnum;
use crossbeam_channel::{Receiver, Sender, bounded};
use device::Device;
use filesystem::Volumes;
use pause::Pause;
use serde::Deserialize;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use uring::Rings;
use uuid::Uuid;

/// Setuid helper that mounts and unmounts for ordinary users.
const HELPER: &str = "fusermount3";
/// Longest name of a file in bytes, as `statfs` reports it.
const LONGEST_NAME: u32 = 100;
/// Number of threads beside the readers, for times when all readers block on disks.
const SPARE: usize = 1;

/// Bytes of memory that a thread for requests over io_uring uses at most while none of them waits.
pub const RING_BYTES: u64 = uring::BYTES;

/// Options of a mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Source of the mount, as the mount table shows it: see [`source`].
    pub source: String,
    /// Maximum number of reader threads. Where disks are used through the page cache, at most one more than the number of processors are started.
    pub threads: usize,
    /// How the pool uses its disks.
    pub access: DiskAccess,
    /// Whether users other than the one that mounts have access.
    pub allow_other: bool,
    /// Whether the mount is read-only.
    pub read_only: bool,
    /// Maximum number of background requests of the kernel: read-ahead, asynchronous and loop-device I/O.
    pub max_background: u16,
    /// Inode generation, which tells this pool's NFS handles from another's.
    pub generation: u32,
    /// How long the kernel caches attributes. It gets a notice when they change.
    pub attributes_ttl: Duration,
    /// Whether a supervisor holds the mount beyond this process.
    pub is_kept: bool,
    /// The way of requests and answers.
    pub transport: Transport,
    /// File locks of hosts.
    pub locks: Locks,
}

/// Way on which requests of the kernel come and answers go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Over io_uring where that is possible, otherwise by the device.
    Auto,
    /// By the device.
    #[default]
    Dev,
    /// Over io_uring.
    Uring,
}

impl Transport {
    /// Returns the transport that is to be used where this one is wanted: never `Auto`.
    ///
    /// # Errors
    /// Fails with the reason and the way out where requests are to come over io_uring and cannot.
    pub fn resolve(self) -> Result<Self> {
        match (self, uring::refusal()) {
            (Self::Dev, _) => Ok(Self::Dev),
            (_, Ok(())) => Ok(Self::Uring),
            (Self::Uring, Err(why)) => Err(why),
            (Self::Auto, Err(why)) => {
                log::info!("requests come by the device: {why}");
                Ok(Self::Dev)
            }
        }
    }

    /// Returns its name, as options have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Dev => "dev",
            Self::Uring => "uring",
        }
    }

    /// Returns the number of threads that serve requests beside those that read from the device.
    #[must_use]
    pub fn ring_threads(self) -> usize {
        match self {
            Self::Dev => 0,
            Self::Auto | Self::Uring => uring::threads(),
        }
    }
}

/// Returns the source of an apparatus's mount, as the mount table shows it.
#[must_use]
pub fn source(name: &Name, pool: Uuid) -> String {
    format!("{name}@{pool}")
}

/// Returns the inode of a volume's file, which is the same in every mount.
#[must_use]
pub fn inode_of(volume: VolumeId) -> u64 {
    filesystem::inode(volume)
}

/// Returns whether a mount with this source is on `point`. Does not access the mount itself.
///
/// # Errors
/// Fails where `/proc` is not mounted.
pub fn is_mounted(point: &Path, source: &str) -> Result<bool> {
    mount_point::is_mounted(point, source)
        .map_err(|error| Error::because(format!("mount point {}", point.display()), error))
}

/// Returns the source of the apparatus's mount at `point`, if there is one, and whether it is read-only. Does not access the mount itself.
///
/// # Errors
/// Fails where `/proc` is not mounted.
pub fn mounted_at(point: &Path) -> Result<Option<(String, bool)>> {
    mount_point::mounted_at(point)
        .map_err(|error| Error::because(format!("mount point {}", point.display()), error))
}

/// Detaches the mount at `point`; processes that have files open in it keep them as long as somebody has the device.
///
/// # Errors
/// Fails when it cannot be detached.
pub fn detach(point: &Path) -> Result<()> {
    mount_point::detach(point).map_err(|error| Error::because(format!("unmount {}", point.display()), error))
}

/// A mounted apparatus.
pub struct Mount {
    point: PathBuf,
    ended: Receiver<io::Result<()>>,
    devices: Vec<Arc<Device>>,
    can_resend: bool,
    pause: Arc<Pause>,
    /// Dropped with the mount, which ends the thread that sends notices.
    _notices: Sender<()>,
}

/// Mounts the apparatus. It serves hosts when this returns.
///
/// # Errors
/// Fails when the mount point cannot be used or mounting is not possible. The error names the mount point and the reason.
pub fn mount(apparatus: &Arc<Apparatus>, point: &Path, options: &Options) -> Result<Mount> {
    let (point, made) = mount_point::prepare(point, &options.source)?;
    let device = mount::attach(&point, options).inspect_err(|_| {
        if made {
            let _ = std::fs::remove_dir(&point);
        }
    })?;
    begin(apparatus, &point, options, device).map_err(|error| {
        // Nobody can have a file open there, because the mount is not served.
        let _ = mount_point::detach(&point);
        Error::because(format!("mount on {}", point.display()), error)
    })
}

/// Serves a mount that a process before this one has left, from its devices. It serves hosts when this returns.
///
/// # Errors
/// Fails when there is no memory or no further thread, or when the kernel does not send the requests again that were left.
pub fn go_on(
    apparatus: &Arc<Apparatus>,
    point: &Path,
    options: &Options,
    devices: Vec<OwnedFd>,
) -> Result<Mount> {
    let what = || format!("mount on {}", point.display());
    let (point, _) = mount_point::resolve(point).map_err(|error| Error::because(what(), error))?;
    let devices = devices.into_iter().map(|device| Arc::new(Device::new(device)));
    serve(apparatus, &point, options, devices.collect(), None, true)
        .map_err(|error| Error::because(what(), error))
}

fn begin(apparatus: &Arc<Apparatus>, point: &Path, options: &Options, device: OwnedFd) -> io::Result<Mount> {
    let descriptor = device.try_clone()?;
    let device = Arc::new(Device::new(device));
    // All that can fail is done before the kernel is asked for the transport: its requests wait from then on.
    let rings = match options.transport {
        Transport::Dev => None,
        Transport::Auto | Transport::Uring => Some(Rings::new(&device)?),
    };
    let agreed = negotiation::negotiate(descriptor, options, rings.is_some())?;
    if rings.is_some() && !agreed.over_uring {
        return Err(io::Error::other(
            "the kernel does not offer FUSE over io_uring any more",
        ));
    }
    let mount = match rings {
        Some(rings) => serve(apparatus, point, options, vec![device], Some(rings), false)?,
        None => {
            let devices = session::devices(device, readers(options) + SPARE)?;
            serve(apparatus, point, options, devices, None, false)?
        }
    };
    Ok(Mount {
        can_resend: agreed.can_resend,
        ..mount
    })
}

/// Returns the number of reader threads. More than processors are of use only where each request waits for a disk.
fn readers(options: &Options) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    match options.access {
        DiskAccess::Cached => options.threads.clamp(1, processors + 1),
        DiskAccess::Direct => options.threads.max(1),
    }
}

/// Starts the threads of a mount. `was_served` says that a process before this one has served it.
fn serve(
    apparatus: &Arc<Apparatus>,
    point: &Path,
    options: &Options,
    devices: Vec<Arc<Device>>,
    rings: Option<Rings>,
    was_served: bool,
) -> io::Result<Mount> {
    let options = Options {
        threads: readers(options),
        ..options.clone()
    };
    // Beside rings, one thread reads what still comes by the device.
    let (serving, threads) = match rings {
        Some(_) => (options.transport.ring_threads(), 1),
        None => (options.threads, options.threads + SPARE),
    };
    apparatus.set_readers(serving);
    if let Some(device) = mount_point::device_of(point, &options.source)? {
        apparatus.set_device(device);
    }
    let first = devices.first().cloned();
    let first = first.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let (notices, no_more_notices) = bounded(0);
    // Before any request is served, so that no name is cached yet which would have to be forgotten.
    let names_ttl = notices::keep_names(apparatus, &first);
    notices::start(apparatus, first, was_served, no_more_notices)?;
    let volumes = Volumes::new(apparatus.clone(), options, names_ttl);
    let pause = Arc::default();
    let ended = session::start(volumes, &devices, threads, rings, was_served, &pause)?;
    Ok(Mount {
        pause,
        point: point.to_owned(),
        ended,
        devices,
        can_resend: was_served,
        _notices: notices,
    })
}

impl Mount {
    /// Returns the mount point.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Returns the devices of the mount. It lives as long as one of them is open.
    pub fn devices(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.devices.iter().map(|device| device.descriptor())
    }

    /// Returns whether the kernel sends requests again that this process has read and does not answer.
    #[must_use]
    pub fn can_resend(&self) -> bool {
        self.can_resend
    }

    /// Has the threads serve no request that they have not begun to serve, until [`Mount::resume`]. If this process ends meanwhile, the kernel sends those
    /// requests to the next one, where it can.
    pub fn pause(&self) {
        self.pause.begin();
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.pause.end();
    }

    /// Returns a channel that receives one message when the mount has been removed, by anyone, and all requests are done.
    #[must_use]
    pub fn ended(&self) -> &Receiver<io::Result<()>> {
        &self.ended
    }

    /// Unmounts, and returns true. Returns false when hosts have files open there: the mount is detached then, and ends when they close them.
    ///
    /// # Errors
    /// Fails when the mount can be neither unmounted nor detached.
    pub fn unmount(&self) -> Result<bool> {
        match mount_point::remove(&self.point) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => self.detach().map(|()| false),
            // Another process has unmounted it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(true),
            Err(error) => Err(self.error(error)),
        }
    }

    fn detach(&self) -> Result<()> {
        mount_point::detach(&self.point).map_err(|error| self.error(error))
    }

    fn error(&self, error: io::Error) -> Error {
        Error::because(format!("unmount {}", self.point.display()), error)
    }
}
