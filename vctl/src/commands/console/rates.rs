//! Rates and latencies: the gain of counters between two polls. Pure: the times are those of the apparatuses.

mod gain;
mod paces;

pub use paces::Paces;

use apparatus::admin::apparatus::ApparatusView;
use apparatus::rpc::message::ApparatusMetrics;
use gain::Sum;
use std::collections::{BTreeMap, VecDeque};

/// Number of polls that a chart shows.
pub const LOOKS: usize = 240;
/// Limit of charts of one kind; objects without activity need none.
const CHARTED: usize = 1000;

/// The activity between two polls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Requests per second.
    pub requests: u64,
    /// Bytes read per second.
    pub read: u64,
    /// Bytes written per second.
    pub written: u64,
    /// 99 % of reads took less than this, in microseconds; `None` without reads.
    pub read_p99_us: Option<u64>,
    /// The same for writes.
    pub write_p99_us: Option<u64>,
    /// How much was in use: bytes of a disk, handles of a volume, held requests of an apparatus.
    pub level: Option<u64>,
}

impl Point {
    /// Returns bytes per second, read and written.
    pub fn bytes(&self) -> u64 {
        self.read.saturating_add(self.written)
    }
}

/// The history of one object.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Oldest first; `None` where no apparatus answered.
    pub points: VecDeque<Option<Point>>,
}

impl Trace {
    /// Returns the latest point.
    pub fn now(&self) -> Option<Point> {
        self.points.back().copied().flatten()
    }

    fn push(&mut self, point: Option<Point>) {
        self.points.push_back(point);
        if self.points.len() > LOOKS {
            self.points.pop_front();
        }
    }

    /// Returns whether there was no activity in the whole history.
    fn is_flat(&self) -> bool {
        let idle = |point: &Point| point.requests == 0 && point.level.unwrap_or(0) == 0;
        self.points.iter().flatten().all(idle)
    }
}

/// The histories of all objects of one kind, by name.
#[derive(Clone, Debug, Default)]
pub struct TracesByName(BTreeMap<String, Trace>);

impl TracesByName {
    /// Returns the history of one object.
    pub fn trace(&self, name: &str) -> Option<&Trace> {
        self.0.get(name)
    }

    /// Returns the latest point of one object.
    pub fn now(&self, name: &str) -> Option<Point> {
        self.trace(name)?.now()
    }

    /// Appends a point for each existing object; objects that have gone are removed.
    fn look(&mut self, now: BTreeMap<String, Option<Point>>, keep_flat: bool) {
        self.0.retain(|name, _| now.contains_key(name));
        for (name, point) in now {
            if let Some(trace) = self.0.get_mut(&name) {
                trace.push(point);
            } else if self.0.len() < CHARTED {
                self.0.entry(name).or_default().push(point);
            }
        }
        if !keep_flat {
            self.0.retain(|_, trace| !trace.is_flat());
        }
    }
}

/// All histories.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    last: BTreeMap<String, ApparatusMetrics>,
    /// The sum of all apparatuses.
    pub pool: Trace,
    /// By name.
    pub apparatuses: TracesByName,
    /// Summed over all apparatuses, by name; volumes without activity are absent.
    pub volumes: TracesByName,
    /// Summed over all apparatuses, by name.
    pub disks: TracesByName,
}

/// Names, and how much of each object is in use.
pub type Levels = BTreeMap<String, Option<u64>>;

impl Traces {
    /// Appends a poll of these apparatuses, volumes and disks.
    pub fn look(&mut self, views: &[ApparatusView], volumes: Levels, disks: Levels) {
        let (mut all, mut own) = (Sum::default(), BTreeMap::new());
        let (mut of_volumes, mut of_disks) = (BTreeMap::new(), BTreeMap::new());
        for view in views {
            let name = view.member.name.to_string();
            let level = view.figures.as_ref().map(|figures| figures.parked);
            let gained = view.figures.as_ref().and_then(|now| {
                let before = self.last.get(&name)?;
                gain::of(before, now)
            });
            let mut sum = Sum::default();
            if let Some(gained) = &gained {
                gained.add_to(&mut sum, &mut of_volumes, &mut of_disks);
                all.and(&sum);
            }
            let point = gained.map(|_| sum.point(level));
            own.insert(name, point);
        }
        let answered = all.has_answer();
        let figures = views.iter().filter_map(|view| view.figures.as_ref());
        let held = figures.map(|figures| figures.parked).sum();
        self.pool.push(answered.then(|| all.point(Some(held))));
        self.apparatuses.look(own, true);
        self.volumes.look(points(volumes, of_volumes, answered), false);
        self.disks.look(points(disks, of_disks, answered), true);
        let figures = views.iter().filter_map(|view| {
            let figures = view.figures.clone()?;
            Some((view.member.name.to_string(), figures))
        });
        self.last = figures.collect();
    }
}

/// Returns a point for each object, also for those without activity; `None` if no apparatus answered.
fn points(
    levels: Levels,
    mut sums: BTreeMap<String, Sum>,
    answered: bool,
) -> BTreeMap<String, Option<Point>> {
    let point = |(name, level): (String, Option<u64>)| {
        let sum = sums.remove(&name).unwrap_or_default();
        (name, (answered || level.is_some()).then(|| sum.point(level)))
    };
    levels.into_iter().map(point).collect()
}

#[cfg(test)]
mod tests;
