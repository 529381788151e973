//! Waits for changes of a pool's store.

use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Longest time between two checks: not all file systems report every change.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Wakes when the store may have changed.
pub struct Watch {
    inotify: OwnedFd,
    pool: String,
}

impl Watch {
    /// Watches a pool. Changes from now on are noticed: read the store after this call.
    ///
    /// # Errors
    /// Returns the errors of the kernel.
    pub fn new(pool: &PoolDir) -> Result<Self> {
        let name = pool.display().to_string();
        let failed = |errno: Errno| Error::because(format!("pool {name}"), errno);
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        inotify::add_watch(&inotify, pool.path(), WatchFlags::MODIFY | WatchFlags::CREATE).map_err(failed)?;
        Ok(Self { inotify, pool: name })
    }

    /// Waits until the store may have changed since the last call, at most a second. Returns false once `deadline` is past.
    ///
    /// # Errors
    /// Returns the errors of the kernel.
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
