//! How other threads wake the control thread: a counter that `poll` can wait for.

use crate::gate::Signal;
use crate::units::ChangeId;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Rung by reader threads and helpers, heard by the control thread. Ringing never blocks, and costs a system call only
/// when the bell is silent.
#[derive(Debug)]
pub struct Bell {
    counter: OwnedFd,
    ringing: AtomicBool,
    overflowed: Mutex<BTreeSet<ChangeId>>,
}

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            counter,
            ringing: AtomicBool::new(false),
            overflowed: Mutex::default(),
        })
    }

    /// Wakes the control thread: something it looks at may have changed (a lane was left, the fence word was seen set).
    pub fn ring(&self) {
        if !self.ringing.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is full, and then the bell rings already.
            let _ = rustix::io::write(&self.counter, &1u64.to_ne_bytes());
        }
    }

    /// The parked requests do not fit (`gate::Parked::Full`): these holds have to end.
    pub fn overflow(&self, holds: &[ChangeId]) {
        self.overflowed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(holds);
        self.ring();
    }

    /// Silences the bell. What was rung for before this call is seen by whoever looks after it.
    pub(super) fn hear(&self) {
        let _ = rustix::io::read(&self.counter, &mut [0u8; 8]);
        self.ringing.swap(false, Ordering::AcqRel);
    }

    /// The holds that overflowed since the last call.
    pub(super) fn take_overflowed(&self) -> BTreeSet<ChangeId> {
        std::mem::take(&mut *self.overflowed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}

impl Signal for Bell {
    fn lane_left(&self) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn rings(bell: &Bell) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn rings_until_heard_and_again_after() {
        let bell = Bell::new().unwrap();
        assert!(!rings(&bell));
        bell.ring();
        bell.lane_left();
        assert!(rings(&bell));
        bell.hear();
        assert!(!rings(&bell));
        bell.overflow(&[ChangeId(3), ChangeId(3)]);
        assert!(rings(&bell));
        assert_eq!(
            bell.take_overflowed().into_iter().collect::<Vec<_>>(),
            [ChangeId(3)]
        );
        assert!(bell.take_overflowed().is_empty());
    }
}
