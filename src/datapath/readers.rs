//! Counts reader threads: those that take requests, and those of them that wait for a disk.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// Numbers of reader threads.
#[derive(Default)]
pub(super) struct Readers {
    active: AtomicUsize,
    waiting: AtomicUsize,
}

impl Readers {
    /// Sets how many threads take requests.
    pub(super) fn set(&self, active: usize) {
        self.active.store(active, Relaxed);
    }

    /// Returns how many threads take requests.
    pub(super) fn count(&self) -> usize {
        self.active.load(Relaxed)
    }

    /// Returns a permit for the calling reader thread to wait for a disk itself, which is quicker than handing the request to a worker.
    /// There is a permit as long as another reader thread is free for hosts.
    pub(super) fn permit_to_wait(&self) -> Option<BlockedReader<'_>> {
        let waiting = BlockedReader(&self.waiting);
        let others = self.waiting.fetch_add(1, Relaxed);
        (others + 1 < self.active.load(Relaxed)).then_some(waiting)
    }
}

/// Counts a reader thread that waits for a disk, until it is dropped.
pub(super) struct BlockedReader<'a>(&'a AtomicUsize);

impl Drop for BlockedReader<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reader_stays_free_for_hosts() {
        let readers = Readers::default();
        readers.set(2);
        let waits = readers.permit_to_wait();
        assert!(waits.is_some());
        assert!(readers.permit_to_wait().is_none(), "it would be the last one");
        drop(waits);
        assert!(readers.permit_to_wait().is_some());
    }
}
