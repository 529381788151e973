//! Parts of an image in memory that had no hole a moment ago, so that not every read asks the kernel.

use rustix::time::{ClockId, clock_gettime};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Bytes of a part.
const PART: u64 = 1 << 20;

/// For each part of an image the second in which the kernel was last asked and had all of its pages; 0 for never. Other processes punch holes too, so the
/// answer counts in that second alone.
pub(super) struct Filled {
    size: u64,
    parts: Box<[AtomicU32]>,
}

impl Filled {
    /// Makes the record of an image of this many bytes.
    pub(super) fn new(size: u64) -> Self {
        let parts = (0..size.div_ceil(PART)).map(|_| AtomicU32::new(0));
        Self {
            size,
            parts: parts.collect(),
        }
    }

    /// Returns whether the range has no hole, by the record or by `has_pages`, which asks the kernel.
    pub(super) fn has_no_hole(&self, range: Range<u64>, has_pages: impl Fn(Range<u64>) -> bool) -> bool {
        let now = second();
        let numbers = range.start / PART..range.end.div_ceil(PART);
        numbers.into_iter().all(|number| {
            let at = usize::try_from(number).ok();
            let Some(part) = at.and_then(|at| self.parts.get(at)) else {
                return false;
            };
            if part.load(Relaxed) == now {
                return true;
            }
            let whole = number * PART..self.size.min((number + 1) * PART);
            if has_pages(whole.clone()) {
                part.store(now, Relaxed);
                return true;
            }
            has_pages(range.start.max(whole.start)..range.end.min(whole.end))
        })
    }

    /// Forgets what is known of the range: it is about to get holes.
    pub(super) fn forget(&self, range: &Range<u64>) {
        for number in range.start / PART..range.end.div_ceil(PART) {
            let at = usize::try_from(number).ok();
            if let Some(part) = at.and_then(|at| self.parts.get(at)) {
                part.store(0, Relaxed);
            }
        }
    }
}

/// Returns the second of a clock that is cheap to read.
fn second() -> u32 {
    let now = clock_gettime(ClockId::MonotonicCoarse).tv_sec;
    u32::try_from(now).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn the_kernel_is_asked_for_whole_parts_and_for_the_range_where_a_part_has_holes() {
        let size = 2 * PART + 4096;
        let filled = Filled::new(size);
        let asked = RefCell::new(Vec::new());
        let hole = PART + 8192..PART + 12288;
        let has_pages = |range: Range<u64>| {
            asked.borrow_mut().push(range.clone());
            range.end <= hole.start || range.start >= hole.end
        };
        // In the first part and the last, nothing but the end of a second makes it ask again.
        for range in [0..4096, PART - 4096..PART, 2 * PART..size] {
            assert!(filled.has_no_hole(range, has_pages));
        }
        assert!(
            asked
                .borrow()
                .iter()
                .all(|range| *range == (0..PART) || *range == (2 * PART..size))
        );
        assert!(filled.has_no_hole(PART - 4096..PART + 4096, has_pages));
        assert_eq!(
            asked.borrow().last(),
            Some(&(PART..PART + 4096)),
            "the range alone"
        );
        assert!(!filled.has_no_hole(PART + 4096..PART + 12288, has_pages));
        assert!(!filled.has_no_hole(size..size + PART, has_pages), "outside");
        filled.forget(&(4096..8192));
        asked.borrow_mut().clear();
        assert!(filled.has_no_hole(0..4096, has_pages));
        assert_eq!(asked.borrow().last(), Some(&(0..PART)), "asked again");
        assert_eq!(asked.borrow().len(), 1);
    }
}
