//! The FUSE mount of an apparatus: translates, and decides nothing but errno. The only part that knows fuser.

mod errno;
mod filesystem;
mod governor;
mod locking;
mod mount;
mod notices;
mod place;
mod reply;
mod turns;
mod witness;

pub use place::{Mounted, allows_others, mount_table, mounts_of, mounts_of_pool};
pub use witness::set_logger;

use crate::data::Apparatus;
use crate::error::{Error, Result};
use crate::locks::Locks;
use crate::pool::names::Name;
use crate::units::VolumeId;
use crossbeam_channel::{Receiver, Sender, bounded};
use filesystem::Volumes;
use fuser::{Config, Session, SessionACL};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use uuid::Uuid;

/// Mounts and unmounts for those who may not.
const HELPER: &str = "fusermount3";
/// `statfs` says so.
const LONGEST_NAME: u32 = 100;
/// Threads beside the readers, for the time when disks keep all of them.
const SPARE: usize = 1;

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the mount is known as: [`source`].
    pub source: String,
    /// Reader threads at most. More than one above the number of processors are not started.
    pub threads: usize,
    /// Users other than the one that mounts may look in.
    pub allow_other: bool,
    /// Nothing can be written.
    pub read_only: bool,
    /// Requests that the kernel sends ahead of those who wait for them: read-ahead, asynchronous and loop-device I/O.
    pub max_background: u16,
    /// What tells this pool's file handles from another's.
    pub generation: u32,
    /// How long the kernel believes attributes unasked. It is told when they change.
    pub attributes_ttl: Duration,
    /// The file locks of hosts.
    pub locks: Locks,
}

/// What the mount of an apparatus is known as.
#[must_use]
pub fn source(name: &Name, pool: Uuid) -> String {
    format!("{name}@{pool}")
}

/// The inode of a volume's file, in every mount.
#[must_use]
pub fn inode_of(volume: VolumeId) -> u64 {
    filesystem::inode(volume).0
}

/// Whether a mount known as `source` is on `point`. Found without touching it.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn is_mounted(point: &Path, source: &str) -> Result<bool> {
    place::is_mounted(point, source)
        .map_err(|error| Error::because(format!("mount point {}", point.display()), error))
}

/// What the apparatus mounted at `point`, if one is, is known as, and whether nothing can be written there. Found without touching it.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn mounted_at(point: &Path) -> Result<Option<(String, bool)>> {
    place::mounted_at(point)
        .map_err(|error| Error::because(format!("mount point {}", point.display()), error))
}

/// A mounted apparatus.
pub struct Mount {
    point: PathBuf,
    ended: Receiver<io::Result<()>>,
    /// Dropped with the mount, which ends the thread that passes notices on.
    _notices: Sender<()>,
}

/// Mounts the apparatus. Hosts are served when this returns.
///
/// # Errors
/// Names the mount point and what is wrong with it, or what is missing to mount.
pub fn mount(apparatus: &Arc<Apparatus>, point: &Path, options: &Options) -> Result<Mount> {
    let (point, made) = place::prepare(point, &options.source)?;
    let device = mount::attach(&point, options).inspect_err(|_| {
        if made {
            let _ = std::fs::remove_dir(&point);
        }
    })?;
    begin(apparatus, &point, options, device).map_err(|error| {
        // Nothing serves it, so nobody has it open.
        let _ = place::detach(&point);
        Error::because(format!("mount on {}", point.display()), error)
    })
}

fn begin(
    apparatus: &Arc<Apparatus>,
    point: &Path,
    options: &Options,
    device: std::os::fd::OwnedFd,
) -> io::Result<Mount> {
    let acl = match options.allow_other {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        threads: options.threads.clamp(1, processors + 1),
        ..options.clone()
    };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(options.threads + SPARE);
    config.clone_fd = mount::can_clone_device();
    apparatus.set_readers(options.threads);
    if let Some(device) = place::device_of(point, &options.source)? {
        apparatus.set_device(device);
    }
    let volumes = Volumes::new(apparatus.clone(), options);
    let session = Session::from_fd(volumes, device, acl, config)?;
    let (notices, no_more_notices) = bounded(0);
    notices::start(apparatus, session.notifier(), no_more_notices)?;
    let (tell, ended) = bounded(1);
    let run = move || drop(tell.send(session.run()));
    thread::Builder::new().name("fuse".into()).spawn(run)?;
    Ok(Mount {
        point: point.to_owned(),
        ended,
        _notices: notices,
    })
}

impl Mount {
    /// Where it is.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Says once that the mount is gone, by whomever it was unmounted, and all requests are done.
    #[must_use]
    pub fn ended(&self) -> &Receiver<io::Result<()>> {
        &self.ended
    }

    /// Unmounts. False when hosts have files open there: it is out of sight then, and ends when they close them.
    ///
    /// # Errors
    /// When it can be neither unmounted nor detached.
    pub fn unmount(&self) -> Result<bool> {
        match place::remove(&self.point) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => self.detach().map(|()| false),
            // Unmounted by somebody else.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(true),
            Err(error) => Err(self.error(error)),
        }
    }

    fn detach(&self) -> Result<()> {
        place::detach(&self.point).map_err(|error| self.error(error))
    }

    fn error(&self, error: io::Error) -> Error {
        Error::because(format!("unmount {}", self.point.display()), error)
    }
}
