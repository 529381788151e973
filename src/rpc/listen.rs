//! The control socket: creates, replaces and connects to it, also where the pool's path is too long for an address, and checks who may connect.

use crate::cluster::NameClaim;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::fs::DirBuilder;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 128;

/// Listening control socket of an apparatus. Dropping it removes its file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    socket_file: SocketFile,
}

/// Path and file of a control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFile {
    pool: PoolDir,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl SocketFile {
    fn of(pool: &PoolDir, name: &Name) -> std::io::Result<Self> {
        let path = pool.socket(name);
        let file = file_at(&path)?;
        let pool = pool.clone();
        Ok(Self { pool, path, file })
    }

    /// Returns whether the path still leads to this socket.
    ///
    /// # Errors
    /// Fails when the path cannot be examined.
    pub(crate) fn is_present(&self) -> std::io::Result<bool> {
        match file_at(&self.path) {
            Ok(found) => Ok(found == self.file),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(why) => Err(why),
        }
    }
}

fn file_at(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Listener {
    /// Creates the control socket of `name`, with mode 0600 in the run directory with mode 0700. It replaces the socket of an earlier process:
    /// the claim on the name proves that no process serves that one. An apparatus binds before it joins, because controllers connect to all
    /// that have joined.
    ///
    /// # Errors
    /// Fails with an error that names the socket and the reason.
    pub fn bind(pool: &PoolDir, name: &Name, _claim: &dyn NameClaim) -> Result<Self> {
        let path = pool.name_of(&pool.socket(name));
        let failed = |why: std::io::Error| Error::because(format!("control socket {}", path.display()), why);
        let run = open_run(pool)?;
        let socket = bind_in(&run, name).map_err(|errno| failed(errno.into()))?;
        let socket_file = SocketFile::of(pool, name).map_err(failed)?;
        Ok(Self { socket, socket_file })
    }

    /// Returns the path and file of the socket.
    pub(crate) fn socket_file(&self) -> &SocketFile {
        &self.socket_file
    }

    /// Accepts the next queued connection, if there is one, and returns it with the user id of its peer.
    pub(crate) fn accept(&self) -> rustix::io::Result<Option<(OwnedFd, u32)>> {
        match rustix::net::accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => {
                let user = sockopt::socket_peercred(&socket)?.uid.as_raw();
                Ok(Some((socket, user)))
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The name is still claimed, so the file is that of this socket, or of one that has replaced it.
        if self.socket_file.is_present().unwrap_or(false) {
            let _ = std::fs::remove_file(&self.socket_file.path);
        }
    }
}

/// Returns whether a process of `user` may control this apparatus.
pub(crate) fn may_control(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

fn open_run(pool: &PoolDir) -> Result<OwnedFd> {
    let run = &pool.run();
    let failed =
        |why: std::io::Error| Error::because(format!("run directory {}", pool.name_of(run).display()), why);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run)
        .map_err(failed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(run, flags, Mode::empty()).map_err(|why| failed(why.into()))
}

/// Binds under a short name (an address takes 108 bytes, and a pool's path may be longer), and renames the socket then.
fn bind_in(run: &OwnedFd, name: &Name) -> rustix::io::Result<OwnedFd> {
    static BOUND: AtomicU32 = AtomicU32::new(0);
    let short = format!(
        ".{}.{}",
        std::process::id(),
        BOUND.fetch_add(1, Ordering::Relaxed)
    );
    let socket = socket()?;
    match rustix::fs::unlinkat(run, &short, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    rustix::net::bind(
        &socket,
        &SocketAddrUnix::new(format!("{}/{short}", address(run)))?,
    )?;
    rustix::fs::chmodat(run, &short, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    rustix::fs::renameat(run, &short, run, format!("{name}.sock"))?;
    Ok(socket)
}

/// Starts a connection. Fails with `AGAIN` while the backlog of the listener is full; the caller retries soon.
pub(crate) fn connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let socket = socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(address(&file))?)?;
    Ok(socket)
}

fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn address(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
