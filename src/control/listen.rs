//! The control socket: made, replaced and reached whatever the length of the pool's path, and who may connect.

use crate::error::{Error, Result};
use crate::member::LifeLock;
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::fs::DirBuilder;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 128;

/// An apparatus's listening control socket; the file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    door: Door,
}

/// Where controllers find a control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl Door {
    fn at(path: PathBuf) -> std::io::Result<Self> {
        let file = std::fs::symlink_metadata(&path).map(|found| (found.dev(), found.ino()))?;
        Ok(Self { path, file })
    }

    /// Whether the socket is still found there.
    ///
    /// # Errors
    /// When it cannot be looked for.
    pub(crate) fn is_there(&self) -> std::io::Result<bool> {
        match Self::at(self.path.clone()) {
            Ok(found) => Ok(found == *self),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(why) => Err(why),
        }
    }
}

impl Listener {
    /// Makes the control socket of `name`, with mode 0600 in the run directory with mode 0700. One left by an earlier life is
    /// replaced: holding the life lock is what shows that nobody serves it. Bind before joining: controllers connect to
    /// whoever has joined.
    ///
    /// # Errors
    /// Names the socket and what is in the way.
    pub fn bind(pool: &PoolDir, name: &Name, life: &LifeLock) -> Result<Self> {
        let failed = |why: std::io::Error| {
            Error::because(format!("control socket {}", pool.socket(name).display()), why)
        };
        let run = open_run(&pool.run())?;
        let socket = bind_in(&run, name).map_err(|errno| failed(errno.into()))?;
        let door = Door::at(life.pool().socket(name)).map_err(failed)?;
        Ok(Self { socket, door })
    }

    /// Where controllers find it.
    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// The next connection that waits, if any, and the user at its other end.
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
        // The life lock is still held, so the file is ours, or that of the socket that came after this one.
        if self.door.is_there().unwrap_or(false) {
            let _ = std::fs::remove_file(&self.door.path);
        }
    }
}

/// Whether a process of `user` may control us.
pub(crate) fn may_control(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

fn open_run(run: &Path) -> Result<OwnedFd> {
    let failed = |why: std::io::Error| Error::because(format!("run directory {}", run.display()), why);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run)
        .map_err(failed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(run, flags, Mode::empty()).map_err(|why| failed(why.into()))
}

/// Binds under a short name (an address takes 108 bytes, a pool's path may be longer), then gives the socket its own.
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

/// Begins a connection; `AGAIN`: too many wait to be accepted there, so try again soon.
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
