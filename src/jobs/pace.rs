//! Decides how much is moved at once, how fast, and when it is persisted. Pure: the caller passes the time.

use std::time::{Duration, Instant};

/// Average duration of a hold unless the operator sets another; the longest hold of a move is several times that.
pub(super) const HOLD_TARGET: Duration = Duration::from_millis(1);
/// Data of the first chunk, in bytes.
const FIRST: u64 = 512 << 10;
/// Data of the largest chunk, in bytes: beyond it the cost of a round of messages is negligible.
const LARGEST: u64 = 32 << 20;
/// Copies of fewer bytes than this measure overhead rather than the speed of copying, and are not learnt from.
const MIN_SAMPLE: u64 = 64 << 10;
/// A hold longer than this multiple of its target halves the chunk size.
const TOO_LONG: f64 = 2.0;
/// Each hold in time raises the chunk size by this factor.
const REGAIN: f64 = 1.05;
/// Lower bound of that share of the size that the averages allow: a hold that something else makes long gets no shorter with its chunk.
const LEAST: f64 = 1.0 / 16.0;

/// Learns how much data a chunk may have from the holds of the last chunks: from their average duration, its spread, and
/// whether one was too long.
#[derive(Clone, Debug)]
pub(super) struct ChunkSize {
    target: Duration,
    /// Seconds that copying one byte takes.
    per_byte: Option<Average>,
    /// Seconds of a hold that are not copying.
    fixed: Average,
    /// Share of the size that the averages allow, reduced after holds that were too long.
    share: f64,
}

/// A moving average, and the moving average of the deviation from it.
#[derive(Clone, Copy, Debug, Default)]
struct Average {
    mean: f64,
    spread: f64,
}

impl Average {
    fn of(value: f64) -> Self {
        Self {
            mean: value,
            spread: 0.0,
        }
    }

    /// Moves the average towards `value` by `weight` of the distance.
    fn learn(&mut self, value: f64, weight: f64) {
        self.spread += ((value - self.mean).abs() - self.spread) * weight.min(0.25);
        self.mean += (value - self.mean) * weight;
    }

    /// Returns a value that most samples are below.
    fn high(self) -> f64 {
        self.mean + self.spread
    }
}

impl ChunkSize {
    /// Creates a chunk size for holds of about `target`.
    pub(super) fn new(target: Duration) -> Self {
        Self {
            target,
            per_byte: None,
            fixed: Average::default(),
            share: 1.0,
        }
    }

    /// Sets another target for the following holds.
    pub(super) fn set_target(&mut self, target: Duration) {
        self.target = target;
    }

    /// Returns the bytes of data that the next chunk may have; a chunk has at least one extent even if that is more.
    pub(super) fn bytes(&self) -> u64 {
        let Some(per_byte) = self.per_byte else {
            return FIRST;
        };
        let target = self.target.as_secs_f64();
        // A fifth of the target is kept for moments when everything is a little slower than usual.
        let copying = (target * 0.8 - self.fixed.high()).max(target / 4.0);
        whole(copying * self.share / per_byte.high()).clamp(1, LARGEST)
    }

    /// Learns from a hold that took `hold`, of which copying `bytes` bytes took `copying`.
    pub(super) fn learn(&mut self, bytes: u64, copying: Duration, hold: Duration) {
        let fixed = hold.saturating_sub(copying).as_secs_f64();
        self.fixed.learn(fixed, 0.2);
        if bytes >= MIN_SAMPLE {
            let now = copying.as_secs_f64().max(1e-9) / float(bytes);
            let known = self.per_byte.get_or_insert(Average::of(now));
            // A slower speed is adopted at once, a faster one only after a while: a hold that is too long costs more than one that is too
            // short.
            known.learn(now, if now > known.mean { 0.7 } else { 0.2 });
        }
        let share = if hold.as_secs_f64() > self.target.as_secs_f64() * TOO_LONG {
            self.share / 2.0
        } else {
            self.share * REGAIN
        };
        self.share = share.clamp(LEAST, 1.0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate; `as` saturates"
)]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

/// Keeps the copy below a rate: a chunk that begins uses up time before the next one may begin, so at most one chunk is ahead of the rate.
#[derive(Clone, Debug)]
pub(super) struct Limiter {
    rate: Option<u64>,
    paid_at: Instant,
}

impl Limiter {
    /// Creates a limiter of `rate` bytes per second; `None` is no limit.
    pub(super) fn new(rate: Option<u64>, now: Instant) -> Self {
        Self { rate, paid_at: now }
    }

    /// Sets another rate. A delay that is still due at the old rate is dropped.
    pub(super) fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        if rate != self.rate {
            *self = Self::new(rate, now);
        }
    }

    /// Accounts for a chunk of `bytes` bytes that begins, or for additional bytes of one that has begun.
    pub(super) fn spent(&mut self, bytes: u64, now: Instant) {
        if let Some(rate) = self.rate {
            let cost = float(bytes) / float(rate.max(1));
            // A small delay is made up for; time that passed unused is not saved up.
            let at_least = now.checked_sub(CATCH_UP).unwrap_or(now);
            self.paid_at = self.paid_at.max(at_least)
                + Duration::try_from_secs_f64(cost)
                    .unwrap_or(LONGEST_DELAY)
                    .min(LONGEST_DELAY);
        }
    }

    /// Returns how long to wait before the next chunk.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.paid_at.saturating_duration_since(now)
    }

    /// Returns the most bytes that a chunk may have, so that a slow copy proceeds in small steps.
    pub(super) fn most(&self) -> u64 {
        self.rate.map_or(u64::MAX, |rate| (rate / 10).max(1))
    }
}

/// Delay by waking up and beginning a round that does not make the copy slower than its rate.
const CATCH_UP: Duration = Duration::from_millis(5);
/// Upper bound of the delay for one chunk, however low the rate.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// Decides when moved data is persisted: after an amount of data or time, or a number of changes.
#[derive(Clone, Debug)]
pub(super) struct Cadence {
    most: u64,
    bytes: u64,
    changes: u64,
    since: Option<Instant>,
}

/// Longest time that a committed change of a running job stays unpersisted.
const PERSIST_EVERY: Duration = Duration::from_secs(1);
/// Largest number of committed changes of a running job that stay unpersisted. Each takes some 50 KiB in the log of the database, which can begin
/// anew only afterwards.
const MOST_CHANGES: u64 = 256;

impl Cadence {
    /// Creates a cadence that persists after at most `most` bytes.
    pub(super) fn new(most: u64) -> Self {
        Self {
            most,
            bytes: 0,
            changes: 0,
            since: None,
        }
    }

    /// Accounts for committed changes, which moved `bytes` bytes.
    pub(super) fn committed(&mut self, changes: u64, bytes: u64, now: Instant) {
        self.bytes += bytes;
        self.changes += changes;
        self.since.get_or_insert(now);
    }

    /// Returns whether it is time to persist.
    pub(super) fn due(&self, now: Instant) -> bool {
        self.bytes >= self.most
            || self.changes >= MOST_CHANGES
            || self
                .since
                .is_some_and(|since| now.duration_since(since) >= PERSIST_EVERY)
    }

    /// Returns whether anything is committed and not persisted.
    pub(super) fn pending(&self) -> bool {
        self.since.is_some()
    }

    /// Restarts the interval, because persisting is not possible now.
    pub(super) fn put_off(&mut self, now: Instant) {
        (self.bytes, self.changes, self.since) = (0, 0, Some(now));
    }

    /// Records that everything is persisted.
    pub(super) fn persisted(&mut self) {
        *self = Self::new(self.most);
    }
}

/// The waits between attempts at an operation that failed: short at first, then longer.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Returns the wait before the next attempt: 10 ms at first, then doubled, at most 2 s.
    pub(super) fn next(&mut self) -> Duration {
        let wait = Duration::from_millis(10) * 2u32.saturating_pow(self.attempts.min(8));
        self.attempts = self.attempts.saturating_add(1);
        wait.min(Duration::from_secs(2))
    }

    /// Returns the number of attempts since the last success.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Records a success.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn chunks_grow_until_the_hold_is_near_its_target() {
        let mut size = ChunkSize::new(Duration::from_millis(2));
        assert_eq!(size.bytes(), FIRST);
        for _ in 0..50 {
            // 4 GB/s and 100 us of messages.
            let copying = Duration::from_nanos(size.bytes() / 4);
            size.learn(size.bytes(), copying, copying + Duration::from_micros(100));
        }
        let hold = Duration::from_nanos(size.bytes() / 4) + Duration::from_micros(100);
        assert!(
            hold > Duration::from_micros(1400) && hold < Duration::from_millis(2),
            "{hold:?}"
        );
    }

    #[test]
    fn one_slow_chunk_makes_the_next_ones_smaller() {
        let mut size = ChunkSize::new(Duration::from_millis(2));
        let quick = Duration::from_micros(250);
        (0..20).for_each(|_| size.learn(MIB, quick, quick));
        let before = size.bytes();
        size.learn(MIB, quick * 8, quick * 8);
        assert!(size.bytes() < before / 4);
        (0..50).for_each(|_| size.learn(MIB, quick, quick));
        assert!(size.bytes() > before / 2);
    }

    #[test]
    fn a_hold_that_was_too_long_halves_the_next_chunks_and_those_in_time_bring_them_back() {
        let mut size = ChunkSize::new(Duration::from_millis(2));
        let quick = Duration::from_micros(250);
        (0..50).for_each(|_| size.learn(MIB, quick, quick));
        let before = size.bytes();
        // The copying was fast: something else delayed the hold, and may do so again.
        size.learn(MIB, quick, Duration::from_millis(9));
        let after = size.bytes();
        assert!(after <= before / 2 && after >= before / 16, "{before} to {after}");
        (0..60).for_each(|_| size.learn(MIB, quick, quick));
        assert!(size.bytes() > before * 9 / 10, "{before} to {}", size.bytes());
    }

    #[test]
    fn where_copying_is_now_quick_now_slow_chunks_are_smaller_than_its_average_allows() {
        let (mut even, mut uneven) = (
            ChunkSize::new(Duration::from_millis(2)),
            ChunkSize::new(Duration::from_millis(2)),
        );
        let us = Duration::from_micros;
        for round in 0..200 {
            even.learn(MIB, us(400), us(500));
            let copying = if round % 2 == 0 { us(100) } else { us(700) };
            uneven.learn(MIB, copying, copying + us(100));
        }
        assert!(
            uneven.bytes() < even.bytes() * 3 / 4,
            "{} {}",
            uneven.bytes(),
            even.bytes()
        );
    }

    #[test]
    fn long_drains_do_not_make_chunks_vanish() {
        let mut size = ChunkSize::new(Duration::from_millis(2));
        let quick = Duration::from_micros(250);
        (0..50).for_each(|_| size.learn(MIB, quick, Duration::from_millis(50)));
        assert!(size.bytes() >= MIB / 8);
        size.learn(0, quick, quick);
        assert!(size.bytes() <= LARGEST);
    }

    #[test]
    fn the_rate_is_kept_on_average() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Some(10 * MIB), start);
        let mut now = start;
        for _ in 0..100 {
            now += limiter.wait(now);
            limiter.spent(MIB, now);
        }
        now += limiter.wait(now);
        let took = now.duration_since(start).as_secs_f64();
        assert!((took - 10.0).abs() < 0.01, "{took}");
        assert_eq!(limiter.most(), MIB);
    }

    #[test]
    fn being_late_costs_nothing_and_idling_saves_nothing_up() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Some(10 * MIB), start);
        let mut now = start;
        for _ in 0..100 {
            now += limiter.wait(now) + CATCH_UP;
            limiter.spent(MIB, now);
        }
        let took = now.duration_since(start).as_secs_f64();
        assert!((took - 9.9).abs() < 0.01, "{took}");
        now += Duration::from_secs(3600);
        limiter.spent(MIB, now);
        assert_eq!(limiter.wait(now), Duration::from_millis(100) - CATCH_UP);
    }

    #[test]
    fn a_new_rate_counts_at_once() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Some(1), start);
        limiter.spent(u64::MAX, start);
        assert_eq!(limiter.wait(start), LONGEST_DELAY);
        limiter.set_rate(Some(1), start);
        assert_eq!(
            limiter.wait(start),
            LONGEST_DELAY,
            "the same rate forgives nothing"
        );
        limiter.set_rate(None, start);
        assert_eq!(limiter.wait(start), Duration::ZERO);
        limiter.spent(u64::MAX, start);
        assert_eq!(limiter.wait(start), Duration::ZERO);
        assert_eq!(limiter.most(), u64::MAX);
    }

    #[test]
    fn persisting_is_due_after_data_or_time_or_many_changes() {
        let start = Instant::now();
        let mut cadence = Cadence::new(4 * MIB);
        assert!(!cadence.due(start + PERSIST_EVERY * 10) && !cadence.pending());
        cadence.committed(1, MIB, start);
        assert!(cadence.pending() && !cadence.due(start));
        assert!(cadence.due(start + PERSIST_EVERY));
        cadence.committed(1, 3 * MIB, start);
        assert!(cadence.due(start));
        cadence.persisted();
        assert!(!cadence.pending() && !cadence.due(start + PERSIST_EVERY * 2));
        cadence.committed(MOST_CHANGES - 1, 0, start);
        assert!(!cadence.due(start));
        cadence.committed(1, 0, start);
        assert!(cadence.due(start));
        cadence.put_off(start);
        assert!(!cadence.due(start));
    }

    #[test]
    fn attempts_become_rarer_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(
            (waits[0], waits[19]),
            (Duration::from_millis(10), Duration::from_secs(2))
        );
        assert_eq!(backoff.attempts(), 20);
        backoff.reset();
        assert_eq!(backoff.next(), Duration::from_millis(10));
    }
}
