//! Answers that come from other threads than the ring's, which alone may commit them.

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The entries of a ring that were answered late, and the event that wakes its thread.
pub(super) struct Late {
    entries: (Sender<u32>, Receiver<u32>),
    event: OwnedFd,
    is_signalled: AtomicBool,
    is_over: AtomicBool,
    has_room: AtomicBool,
}

impl Late {
    /// Makes an empty list for a ring of at most `most` entries.
    pub(super) fn new(most: usize) -> io::Result<Self> {
        Ok(Self {
            entries: bounded(most),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_signalled: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            has_room: AtomicBool::new(true),
        })
    }

    /// Adds an entry, and wakes the ring's thread.
    pub(super) fn add(&self, entry: u32) {
        // There is room: each entry is on the list once.
        let _ = self.entries.0.try_send(entry);
        self.wake();
    }

    /// Has the ring's thread end.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Returns whether the ring's thread is to end.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        if !self.is_signalled.swap(true, Ordering::AcqRel) {
            // It fails only where the counter is full, which wakes the thread as well.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Returns the descriptor that becomes readable when there is something.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes the event unreadable. What is added from now on makes it readable again, so the caller takes all entries afterwards.
    pub(super) fn rest(&self) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        self.is_signalled.swap(false, Ordering::AcqRel);
    }

    /// Returns the next entry.
    pub(super) fn take(&self) -> Option<u32> {
        self.entries.1.try_recv().ok()
    }

    /// Says whether requests may wait for other requests of hosts.
    pub(super) fn set_room(&self, has_room: bool) {
        self.has_room.store(has_room, Ordering::Relaxed);
    }

    /// Returns whether requests may wait for other requests of hosts.
    pub(super) fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(late: &Late) -> bool {
        let event = late.event();
        let mut one = [PollFd::new(&event, PollFlags::IN)];
        poll(&mut one, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn an_answer_wakes_the_thread_and_one_after_it_has_rested_wakes_it_again() {
        let late = Late::new(8).unwrap();
        assert!(!is_readable(&late) && late.take().is_none());
        late.add(3);
        late.add(4);
        assert!(is_readable(&late));
        late.rest();
        assert!(!is_readable(&late));
        assert_eq!([late.take(), late.take(), late.take()], [Some(3), Some(4), None]);
        late.add(3);
        assert!(is_readable(&late) && !late.is_over());
        late.rest();
        late.end();
        assert!(is_readable(&late) && late.is_over());
    }
}
