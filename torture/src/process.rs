//! Child processes: every wait has a bound, and none outlives its owner.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Interval at which waits look whether the program is to end.
const SLICE: Duration = Duration::from_millis(50);
/// The longest time for a killed process to be gone.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A running child. It is killed on drop.
pub(crate) struct Process {
    child: Child,
    handle: OwnedFd,
}

impl Process {
    /// Starts it in a process group of its own, so that Ctrl-C in a terminal reaches this program alone.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Self { child, handle })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// Sends a signal. A process that has ended gets none.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// Waits for the end; `None` if it has not ended in time or the program is to end.
    pub(crate) fn wait(&mut self, bound: Duration, stop: &AtomicBool) -> Option<ExitStatus> {
        let end = Instant::now() + bound;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.ended(left.min(SLICE)) {
                return self.child.wait().ok();
            }
            if left.is_zero() || stop.load(Ordering::Relaxed) {
                return None;
            }
        }
    }

    /// Kills it and waits until it is gone; returns whether it is.
    pub(crate) fn kill(&mut self) -> bool {
        self.signal(Signal::KILL);
        self.wait(LAST_WAIT, &AtomicBool::new(false)).is_some()
    }

    fn ended(&self, within: Duration) -> bool {
        let limit = Timespec::try_from(within).ok();
        let mut polled = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut polled, limit.as_ref()).is_ok_and(|count| count == 1)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended(Duration::ZERO) {
            self.kill();
        }
    }
}

/// Returns whether a thread of the process waits inside the kernel and cannot be killed.
pub(crate) fn is_stuck(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D'))
    })
}
