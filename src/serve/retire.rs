//! The end of a server that another one replaces.

use super::Serving;
use crate::sys;
use rustix::process::{Signal, getpid, kill_process};
use std::time::Duration;

/// How long background jobs may take to stop at the end of a chunk. Hosts are served meanwhile.
const JOBS: Duration = Duration::from_secs(10);
/// How long requests in flight may take to end. No other request is served meanwhile.
const IN_FLIGHT: Duration = Duration::from_millis(500);

impl Serving<'_> {
    /// Stops the background jobs, then serves no further request, and waits for those in flight. Returns false when they do not end in their time: this
    /// server goes on then. A request that was read and not begun, one that is parked and one that waits for a worker is handed back: it is not
    /// answered, so the kernel sends it to the next server.
    pub(super) fn retire(&self) -> bool {
        let Some(kept) = self.kept else {
            return false;
        };
        if !self.server.pause_jobs(JOBS) {
            self.server.resume_jobs();
            kept.stays("a job does not end its chunk");
            return false;
        }
        let since_us = sys::monotonic_us();
        self.mount.pause();
        if !self.apparatus.drain(IN_FLIGHT) {
            self.mount.resume();
            self.server.resume_jobs();
            kept.stays("requests of hosts wait for a disk or for the database: vctl status says for which");
            return false;
        }
        kept.retired(since_us);
        true
    }
}

/// Ends the process at once. Nothing is left to other threads: what they answer from now on would be answered twice.
pub(super) fn end() -> ! {
    log::info!("this server ends, because another one goes on");
    log::logger().flush();
    // No destructor runs: that of an answer would send it.
    if let Err(error) = kill_process(getpid(), Signal::KILL) {
        log::error!("this process cannot end: {error}");
    }
    loop {
        std::thread::park();
    }
}
