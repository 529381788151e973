//! Wakes the control thread from other threads, through an eventfd that `poll` waits for.

use crate::gate::Signal;
use crate::model::units::ChangeId;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Wakes the control thread through an eventfd. Wake-ups coalesce: a call never blocks, and costs a system call only if no wake-up is
/// pending.
#[derive(Debug)]
pub struct Waker {
    counter: OwnedFd,
    pending: AtomicBool,
    overflowed: Mutex<BTreeSet<ChangeId>>,
}

impl Waker {
    /// Makes a waker without a pending wake-up.
    ///
    /// # Errors
    /// Fails when the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            counter,
            pending: AtomicBool::new(false),
            overflowed: Mutex::default(),
        })
    }

    /// Wakes the control thread because a condition that it checks may have changed (a lane was left, or the fence word was seen set).
    pub fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // The write fails only when the counter is full, and then the control thread is awake already.
            let _ = rustix::io::write(&self.counter, &1u64.to_ne_bytes());
        }
    }

    /// Requests the end of these holds, because the parked requests do not fit (`gate::Parked::Full`).
    pub fn overflow(&self, holds: &[ChangeId]) {
        self.overflowed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(holds);
        self.wake();
    }

    /// Returns whether a wake-up is pending.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Clears the pending wake-up. A caller that checks its conditions after this call misses no wake-up from before it.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.counter, &mut [0u8; 8]);
        self.pending.swap(false, Ordering::AcqRel);
    }

    /// Takes the holds that have overflowed since the last call.
    pub(crate) fn take_overflowed(&self) -> BTreeSet<ChangeId> {
        std::mem::take(&mut *self.overflowed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}

impl Signal for Waker {
    fn lane_left(&self) {
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn woken(waker: &Waker) -> bool {
        let mut fds = [PollFd::new(waker, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn a_wake_up_is_pending_until_it_is_cleared() {
        let waker = Waker::new().unwrap();
        assert!(!woken(&waker));
        waker.wake();
        waker.lane_left();
        assert!(woken(&waker));
        waker.clear();
        assert!(!woken(&waker));
        waker.overflow(&[ChangeId(3), ChangeId(3)]);
        assert!(woken(&waker));
        assert_eq!(
            waker.take_overflowed().into_iter().collect::<Vec<_>>(),
            [ChangeId(3)]
        );
        assert!(waker.take_overflowed().is_empty());
    }
}
