//! When a reader thread asks whether a read would wait for its disk. Asking costs a tenth of what a small read costs, so it
//! is asked only where the answer is likely to be yes, or is cheap compared with the read.

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

/// What one thread remembers of its recent reads.
#[derive(Debug, Default)]
pub(super) struct ColdWatch {
    alert: u32,
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
