//! Rates and latencies: what counters gained between two looks. Pure: times are the apparatuses' own.

use apparatus::ops::apparatus::View;
use apparatus::ops::job;
use apparatus::units::JobId;
use apparatus::wire::message::{Figures, IoFigures, Latency};
use std::collections::{BTreeMap, VecDeque};

/// Looks that a chart goes back.
pub const LOOKS: usize = 240;
/// A job's rate is that of the last so many microseconds.
const WINDOW: u64 = 5_000_000;

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Requests a second.
    pub requests: u64,
    /// Bytes a second, read and written.
    pub bytes: u64,
    /// 99 of 100 reads took less, in microseconds; `None` without reads.
    pub read_p99_us: Option<u64>,
    /// The same of writes.
    pub write_p99_us: Option<u64>,
}

/// One apparatus.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    last: Option<Figures>,
    /// Oldest first; `None` where it did not answer.
    pub points: VecDeque<Option<Point>>,
    /// By volume, since the last look.
    pub volumes: BTreeMap<String, Point>,
}

impl Trace {
    /// The latest.
    pub fn now(&self) -> Option<Point> {
        self.points.back().copied().flatten()
    }

    fn look(&mut self, figures: Option<&Figures>) {
        let gained = match (&self.last, figures) {
            (Some(before), Some(now)) if follows(before, now) => Some(gain(before, now)),
            _ => None,
        };
        let (point, volumes) = gained.unzip();
        self.volumes = volumes.unwrap_or_default();
        self.points.push_back(point);
        if self.points.len() > LOOKS {
            self.points.pop_front();
        }
        self.last = figures.cloned();
    }
}

/// Both tell of one process, the second later.
fn follows(before: &Figures, now: &Figures) -> bool {
    before.pid == now.pid && before.uptime_us < now.uptime_us
}

fn gain(before: &Figures, now: &Figures) -> (Point, BTreeMap<String, Point>) {
    let micros = now.uptime_us - before.uptime_us;
    let none = IoFigures::default();
    let mut all = IoFigures::default();
    let mut volumes = BTreeMap::new();
    for (name, io) in &now.volumes {
        let gained = difference(before.volumes.get(name).unwrap_or(&none), io);
        volumes.insert(name.clone(), point(&gained, micros));
        add(&mut all, &gained);
    }
    (point(&all, micros), volumes)
}

/// What was gained; a counter that went down (a volume of that name was made anew) has gained nothing.
fn difference(before: &IoFigures, now: &IoFigures) -> IoFigures {
    IoFigures {
        reads: now.reads.saturating_sub(before.reads),
        read_bytes: now.read_bytes.saturating_sub(before.read_bytes),
        writes: now.writes.saturating_sub(before.writes),
        written_bytes: now.written_bytes.saturating_sub(before.written_bytes),
        flushes: now.flushes.saturating_sub(before.flushes),
        errors: now.errors.saturating_sub(before.errors),
        read_latency: longer(&before.read_latency, &now.read_latency),
        write_latency: longer(&before.write_latency, &now.write_latency),
        flush_latency: longer(&before.flush_latency, &now.flush_latency),
    }
}

fn longer(before: &Latency, now: &Latency) -> Latency {
    let bucket = |at: usize| before.counts.get(at).copied().unwrap_or(0);
    let counts = now.counts.iter().enumerate();
    Latency {
        sum_us: now.sum_us.saturating_sub(before.sum_us),
        counts: counts
            .map(|(at, count)| count.saturating_sub(bucket(at)))
            .collect(),
    }
}

fn add(all: &mut IoFigures, more: &IoFigures) {
    all.reads += more.reads;
    all.read_bytes += more.read_bytes;
    all.writes += more.writes;
    all.written_bytes += more.written_bytes;
    all.flushes += more.flushes;
    lengthen(&mut all.read_latency, &more.read_latency);
    lengthen(&mut all.write_latency, &more.write_latency);
}

fn lengthen(all: &mut Latency, more: &Latency) {
    all.counts.resize(all.counts.len().max(more.counts.len()), 0);
    for (sum, count) in all.counts.iter_mut().zip(&more.counts) {
        *sum += count;
    }
}

fn point(io: &IoFigures, micros: u64) -> Point {
    Point {
        requests: per_second(io.reads + io.writes + io.flushes, micros),
        bytes: per_second(io.read_bytes.saturating_add(io.written_bytes), micros),
        read_p99_us: p99(&io.read_latency.counts),
        write_p99_us: p99(&io.write_latency.counts),
    }
}

fn per_second(count: u64, micros: u64) -> u64 {
    let rate = (u128::from(count) * 1_000_000).checked_div(u128::from(micros));
    u64::try_from(rate.unwrap_or(0)).unwrap_or(u64::MAX)
}

/// The bound of the bucket that the 99th of 100 requests falls into.
fn p99(buckets: &[u64]) -> Option<u64> {
    let all: u64 = buckets.iter().sum();
    let wanted = all - all / 100;
    let mut below = 0;
    for (bucket, count) in buckets.iter().enumerate() {
        below += count;
        if all > 0 && below >= wanted {
            return 1_u64.checked_shl(u32::try_from(bucket).ok()?);
        }
    }
    None
}

/// All apparatuses, by name, and all volumes through all of them.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// By name.
    pub apparatuses: BTreeMap<String, Trace>,
}

impl Traces {
    /// Takes a look in; those that have gone are forgotten.
    pub fn look(&mut self, views: &[View]) {
        let names: Vec<&str> = views.iter().map(|view| view.member.name.as_str()).collect();
        self.apparatuses.retain(|name, _| names.contains(&name.as_str()));
        for view in views {
            self.apparatuses
                .entry(view.member.name.to_string())
                .or_default()
                .look(view.figures.as_ref());
        }
    }

    /// What goes on with a volume, through all apparatuses.
    pub fn volume(&self, name: &str) -> Point {
        let points = self.apparatuses.values();
        let points = points.filter_map(|trace| trace.volumes.get(name));
        points.fold(Point::default(), |sum, each| Point {
            requests: sum.requests + each.requests,
            bytes: sum.bytes.saturating_add(each.bytes),
            read_p99_us: sum.read_p99_us.max(each.read_p99_us),
            write_p99_us: sum.write_p99_us.max(each.write_p99_us),
        })
    }
}

/// How fast jobs go.
#[derive(Clone, Debug, Default)]
pub struct Paces {
    jobs: BTreeMap<JobId, VecDeque<(u64, u64)>>,
}

impl Paces {
    /// Takes a look at `at_us` in.
    pub fn look<'a>(&mut self, at_us: u64, jobs: impl Iterator<Item = &'a job::View> + Clone) {
        let working = jobs.filter(|view| job::wants_work(view.record.state));
        self.jobs
            .retain(|id, _| working.clone().any(|view| view.record.id == *id));
        for view in working {
            let seen = self.jobs.entry(view.record.id).or_default();
            // The way back has a progress table of its own.
            if seen.back().is_some_and(|(_, done)| *done > view.done.0) {
                seen.clear();
            }
            seen.push_back((at_us, view.done.0));
            while seen.len() > 2 && seen.get(1).is_some_and(|(at, _)| at_us - at >= WINDOW) {
                seen.pop_front();
            }
        }
    }

    /// Bytes a second; `None` while that is not known.
    pub fn rate(&self, id: JobId) -> Option<u64> {
        let seen = self.jobs.get(&id)?;
        let ((from, before), (to, now)) = (seen.front()?, seen.back()?);
        (from < to).then(|| per_second(now - before, to - from))
    }

    /// Microseconds until all is done, at this pace.
    pub fn left_us(&self, view: &job::View) -> Option<u64> {
        let rate = self.rate(view.record.id).filter(|rate| *rate > 0)?;
        let left = u128::from(view.total.0.saturating_sub(view.done.0));
        u64::try_from(left * 1_000_000 / u128::from(rate)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(uptime_us: u64, reads: u64, took: &[u64]) -> Figures {
        let io = IoFigures {
            reads,
            read_bytes: reads * 4096,
            read_latency: Latency {
                sum_us: 0,
                counts: took.to_vec(),
            },
            ..IoFigures::default()
        };
        Figures {
            pid: 1,
            uptime_us,
            volumes: [("v".to_owned(), io)].into(),
            ..Figures::default()
        }
    }

    #[test]
    fn a_rate_is_what_was_gained_in_the_apparatuss_own_time() {
        let mut trace = Trace::default();
        trace.look(Some(&figures(1_000_000, 100, &[0, 100])));
        assert_eq!(trace.now(), None, "nothing to compare with");
        trace.look(Some(&figures(1_500_000, 200, &[0, 100, 100])));
        let expected = Point {
            requests: 200,
            bytes: 200 * 4096,
            read_p99_us: Some(4),
            write_p99_us: None,
        };
        assert_eq!(trace.now(), Some(expected));
        assert_eq!(trace.volumes["v"], expected);
    }

    #[test]
    fn another_process_begins_anew_and_silence_is_a_gap() {
        let mut trace = Trace::default();
        trace.look(Some(&figures(5_000_000, 100, &[100])));
        trace.look(Some(&figures(1_000_000, 3, &[3])));
        assert_eq!(trace.now(), None);
        trace.look(None);
        trace.look(Some(&figures(2_000_000, 4, &[4])));
        assert_eq!(trace.points.iter().flatten().count(), 0);
    }

    #[test]
    fn the_99th_of_100_counts() {
        assert_eq!(p99(&[]), None);
        assert_eq!(p99(&[0, 0]), None);
        assert_eq!(p99(&[1]), Some(1));
        assert_eq!(p99(&[99, 0, 0, 1]), Some(1));
        assert_eq!(p99(&[98, 0, 0, 2]), Some(8));
    }
}
