//! Counts reader threads: those that take requests, and those of them that wait for a disk.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// Numbers of reader threads.
#[derive(Default)]
pub(super) struct Readers {
    active: AtomicUsize,
    /// The most that have taken requests at once.
    most: AtomicUsize,
    waiting: AtomicUsize,
}

impl Readers {
    /// Sets how many threads take requests.
    pub(super) fn set(&self, active: usize) {
        self.active.store(active, Relaxed);
        self.most.fetch_max(active, Relaxed);
    }

    /// Returns how many threads take requests.
    pub(super) fn count(&self) -> usize {
        self.active.load(Relaxed)
    }

    /// Returns a permit for the calling reader thread to wait for a disk itself, which is quicker than handing the request to a worker.
    /// There is a permit as long as another reader thread is free for hosts.
    pub(super) fn permit_to_wait(&self) -> Option<BlockedReader<'_>> {
        self.permit_among(self.active.load(Relaxed))
    }

    /// Returns a permit as [`Readers::permit_to_wait`] does, where every request waits for a disk: also for the only thread that takes requests, if there
    /// is another one, which begins to take them when this one makes no progress.
    pub(super) fn permit_to_wait_always(&self) -> Option<BlockedReader<'_>> {
        let least = self.most.load(Relaxed).min(2);
        self.permit_among(self.active.load(Relaxed).max(least))
    }

    fn permit_among(&self, readers: usize) -> Option<BlockedReader<'_>> {
        let waiting = BlockedReader(&self.waiting);
        let others = self.waiting.fetch_add(1, Relaxed);
        (others + 1 < readers).then_some(waiting)
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

    #[test]
    fn the_only_active_reader_waits_itself_where_every_request_does_if_there_is_another() {
        let readers = Readers::default();
        readers.set(2);
        readers.set(1);
        assert!(readers.permit_to_wait().is_none());
        let waits = readers.permit_to_wait_always();
        assert!(waits.is_some());
        assert!(
            readers.permit_to_wait_always().is_none(),
            "the other one stays free"
        );
        let single = Readers::default();
        single.set(1);
        assert!(single.permit_to_wait_always().is_none());
    }
}
