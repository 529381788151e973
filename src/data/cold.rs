//! When a reader thread asks whether a read would wait for its disk. Asking costs a tenth of what a small read costs, so it
//! is asked only where the answer is likely to be yes, or is cheap compared with the read.

use crate::units::{DiskId, DiskOffset};

/// Reads from this size on are always asked about: it costs them nothing that shows.
const LARGE: u64 = 512 << 10;
/// A read that took longer than so many microseconds, and than its bytes explain, has waited for something.
const SLOW_US: u64 = 100;
/// Slower than any copy from memory.
const BYTES_PER_US: u64 = 1000;
/// So many reads are asked about after one that was slow: it may have waited for a processor.
const SUSPICION: u32 = 4;
/// So many reads are asked about after one that was cold.
const ALERT: u32 = 64;

/// So many bytes are fetched ahead of a host that reads one cold range after the other.
pub(super) const AHEAD: u64 = 1 << 20;
/// A cold read that begins so little after the last one's end goes on with it: between them lie what was fetched ahead, and what other threads
/// have taken.
const REACH: u64 = 2 * AHEAD;

/// What one thread remembers of its recent reads.
#[derive(Debug, Default)]
pub(super) struct ColdWatch {
    alert: u32,
    /// Where the last cold read ended.
    ended: Option<(DiskId, DiskOffset)>,
}

impl ColdWatch {
    /// Whether to ask about a read of so many bytes.
    pub(super) fn suspects(&self, len: u64) -> bool {
        self.alert > 0 || len >= LARGE
    }

    /// The answer.
    pub(super) fn looked(&mut self, cold: bool) {
        self.alert = if cold { ALERT } else { self.alert.saturating_sub(1) };
    }

    /// A cold read of so many bytes at this place. Whether it goes on with the last one, so that more is to be fetched.
    pub(super) fn goes_on(&mut self, disk: DiskId, at: DiskOffset, len: u64) -> bool {
        let end = DiskOffset(at.0.saturating_add(len));
        let before = self.ended.replace((disk, end));
        let follows = |end: DiskOffset| at >= end && at.0 - end.0 < REACH;
        before.is_some_and(|(last, end)| last == disk && follows(end))
    }

    /// How long a read took, unasked.
    pub(super) fn took(&mut self, took_us: u64, len: u64) {
        if took_us > SLOW_US + len / BYTES_PER_US {
            self.alert = self.alert.max(SUSPICION);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cold_read_goes_on_with_the_last_one_if_it_begins_soon_after_it() {
        let mut watch = ColdWatch::default();
        let (one, other) = (DiskId(1), DiskId(2));
        let mut read = |disk, at| watch.goes_on(disk, DiskOffset(at), 4096);
        assert!(!read(one, 8 << 20), "the first");
        assert!(read(one, (8 << 20) + 4096), "right after it");
        assert!(read(one, (9 << 20) + 8192), "after it and what was fetched ahead");
        assert!(!read(one, 20 << 20), "far away");
        assert!(!read(one, 4096), "back");
        assert!(!read(other, 8192), "on another disk");
    }

    #[test]
    fn asks_after_a_slow_read_and_longer_after_a_cold_one() {
        let mut watch = ColdWatch::default();
        assert!(!watch.suspects(4096) && watch.suspects(LARGE));
        watch.took(50, 4096);
        assert!(!watch.suspects(4096));
        watch.took(1000, 2 << 20);
        assert!(!watch.suspects(4096), "a large copy is not a wait");
        watch.took(1000, 4096);
        for _ in 0..SUSPICION {
            assert!(watch.suspects(4096));
            watch.looked(false);
        }
        assert!(!watch.suspects(4096));
        watch.looked(true);
        watch.took(1000, 4096);
        for _ in 0..ALERT {
            assert!(watch.suspects(4096));
            watch.looked(false);
        }
        assert!(!watch.suspects(4096));
    }
}
