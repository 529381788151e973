//! Waiting for something to change in a pool's store.

use crate::error::{Error, Result};
use crate::pool::dir::PoolDir;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Looked at no less often than this: not all file systems tell of every change.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Wakes when the store may have changed.
pub struct Watch {
    inotify: OwnedFd,
    pool: String,
}

impl Watch {
    /// Of this pool. What changes from now on is noticed: look at the store after this.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(pool: &PoolDir) -> Result<Self> {
        let name = pool.path().display().to_string();
        let failed = |errno: Errno| Error::because(format!("pool {name}"), errno);
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        inotify::add_watch(&inotify, pool.path(), WatchFlags::MODIFY | WatchFlags::CREATE).map_err(failed)?;
        Ok(Self { inotify, pool: name })
    }

    /// Waits until the store may have changed since the last call, a moment at most. False once `deadline` is past.
    ///
    /// # Errors
    /// The kernel's.
    pub fn changed(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let failed = |errno: Errno| Error::because(format!("pool {}", self.pool), errno);
        let timeout = Timespec::try_from(left.min(AT_LEAST)).map_err(|_| failed(Errno::INVAL))?;
        match poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let mut events = [0; 4096];
        while matches!(rustix::io::read(&self.inotify, &mut events), Ok(read) if read > 0) {}
        Ok(true)
    }
}
