//! Time at which an apparatus started, by the monotonic clock and by the calendar.

use super::io::micros;
use std::time::{Instant, SystemTime};

/// Time of the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartTime {
    instant: Instant,
    calendar: SystemTime,
}

impl StartTime {
    /// Returns the present time.
    pub(super) fn now() -> Self {
        Self {
            instant: Instant::now(),
            calendar: SystemTime::now(),
        }
    }

    /// Returns it by the calendar.
    pub(super) fn calendar(&self) -> SystemTime {
        self.calendar
    }

    /// Returns the microseconds since then.
    pub(super) fn elapsed_us(&self) -> u64 {
        micros(self.instant.elapsed())
    }

    /// Converts microseconds since then into microseconds since 1970; 0 stays 0.
    pub(super) fn since_1970(&self, us: u64) -> u64 {
        let began = self.calendar.duration_since(SystemTime::UNIX_EPOCH);
        let began = began.map_or(0, micros);
        if us == 0 { 0 } else { began.saturating_add(us) }
    }
}
