//! Decides when a reader thread checks whether a read would wait for its disk. The check costs a tenth of what a small read costs, so
//! the thread makes it only where the answer is likely to be yes, or where it is cheap compared with the read.

use crate::model::units::{DiskId, DiskOffset};

/// Reads of at least this many bytes are always checked: the cost of the check does not show in them.
const LARGE: u64 = 512 << 10;
/// A read that took this many microseconds longer than its bytes explain has waited for something.
const SLOW_US: u64 = 100;
/// Bytes that a read copies in a microsecond at least. Any copy from memory is faster.
const BYTES_PER_US: u64 = 1000;
/// Number of reads that are checked after a slow one. It is small, because a slow read may have waited for a processor.
const SUSPICION: u32 = 4;
/// Number of reads that are checked after a cold one.
const ALERT: u32 = 64;

/// Bytes that are prefetched for a host that reads one cold range after the other.
pub(super) const AHEAD: u64 = 1 << 20;
/// A cold read that begins at most this many bytes after the end of the last one continues it: between them lie the bytes that were
/// prefetched, and those that other threads have read.
const REACH: u64 = 2 * AHEAD;

/// Recent reads of one thread, as far as they predict cold ones.
#[derive(Debug, Default)]
pub(super) struct ColdWatch {
    alert: u32,
    /// Disk and offset at which the last cold read ended.
    last_end: Option<(DiskId, DiskOffset)>,
}

impl ColdWatch {
    /// Returns whether a read of `len` bytes is to be checked.
    pub(super) fn is_suspect(&self, len: u64) -> bool {
        self.alert > 0 || len >= LARGE
    }

    /// Records the result of a check.
    pub(super) fn checked(&mut self, cold: bool) {
        self.alert = if cold { ALERT } else { self.alert.saturating_sub(1) };
    }

    /// Records a cold read, and returns whether it continues the last one, so that the bytes after it are to be prefetched.
    pub(super) fn is_sequential(&mut self, disk: DiskId, at: DiskOffset, len: u64) -> bool {
        let end = DiskOffset(at.0.saturating_add(len));
        let before = self.last_end.replace((disk, end));
        let follows = |end: DiskOffset| at >= end && at.0 - end.0 < REACH;
        before.is_some_and(|(last, end)| last == disk && follows(end))
    }

    /// Records how long a read took, in microseconds.
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
    fn a_cold_read_is_sequential_if_it_begins_soon_after_the_last_one() {
        let mut watch = ColdWatch::default();
        let (one, other) = (DiskId(1), DiskId(2));
        let mut read = |disk, at| watch.is_sequential(disk, DiskOffset(at), 4096);
        assert!(!read(one, 8 << 20), "the first");
        assert!(read(one, (8 << 20) + 4096), "right after it");
        assert!(read(one, (9 << 20) + 8192), "after it and what was fetched ahead");
        assert!(!read(one, 20 << 20), "far away");
        assert!(!read(one, 4096), "back");
        assert!(!read(other, 8192), "on another disk");
    }

    #[test]
    fn checks_follow_a_slow_read_and_more_of_them_a_cold_one() {
        let mut watch = ColdWatch::default();
        assert!(!watch.is_suspect(4096) && watch.is_suspect(LARGE));
        watch.took(50, 4096);
        assert!(!watch.is_suspect(4096));
        watch.took(1000, 2 << 20);
        assert!(!watch.is_suspect(4096), "a large copy is not a wait");
        watch.took(1000, 4096);
        for _ in 0..SUSPICION {
            assert!(watch.is_suspect(4096));
            watch.checked(false);
        }
        assert!(!watch.is_suspect(4096));
        watch.checked(true);
        watch.took(1000, 4096);
        for _ in 0..ALERT {
            assert!(watch.is_suspect(4096));
            watch.checked(false);
        }
        assert!(!watch.is_suspect(4096));
    }
}
