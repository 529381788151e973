//! Finds the number of active reader threads of a direct pool, where each reader waits for the disk of its request: twice as many as served requests at once
//! lately. More would take turns, each with a buffer of its own that has left the processor's cache meanwhile. Pure: numbers of busy threads go in, a number of
//! active threads comes out.

/// Number of windows over which the largest number of busy threads counts.
const WINDOWS: usize = 8;
/// Least number of active threads, so that one can take the next request while the other waits.
const LEAST: usize = 2;

/// Decides on the number of active threads, from the number that were busy at once.
#[derive(Debug)]
pub(super) struct Concurrency {
    most: usize,
    peaks: [usize; WINDOWS],
    next: usize,
}

impl Concurrency {
    /// Makes a rule for at most `most` threads.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            peaks: [0; WINDOWS],
            next: 0,
        }
    }

    /// Records the largest number of threads that were busy at once in a window. Returns how many are to be active now.
    pub(super) fn window(&mut self, peak: usize) -> usize {
        self.peaks[self.next] = peak;
        self.next = (self.next + 1) % WINDOWS;
        let peak = self.peaks.iter().copied().max().unwrap_or_default();
        (2 * peak).max(LEAST).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_grows_has_all_threads_after_a_few_windows_and_a_single_request_two() {
        let mut rule = Concurrency::new(16);
        assert_eq!(rule.window(1), 2);
        let mut active = 2;
        for expected in [4, 8, 16, 16] {
            active = rule.window(active);
            assert_eq!(active, expected);
        }
        for _ in 1..WINDOWS {
            assert_eq!(
                rule.window(1),
                16,
                "a load that pauses keeps its threads for a moment"
            );
        }
        assert_eq!(rule.window(1), 2);
        assert_eq!(Concurrency::new(1).window(1), 1);
    }
}
