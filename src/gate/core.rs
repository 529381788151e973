//! The decisions of the gate, pure: which hold covers a request, what is parked, who may go on in which order.
//! No threads, no clock: times are given. [`super::Gate`] puts it behind a lock that only requests under a hold take;
//! the simulator drives it directly.
//!
//! A request that arrives is parked when a hold covers it, and for no other reason. A parked request goes on when no
//! hold covers it any more *and* no request that arrived earlier, conflicts with it (they overlap and one of them
//! writes) and still waits. It waits only for earlier ones, so it waits only as long as holds last that were placed before
//! one of those went on.
//!
//! Invariants, held between calls and verified by [`Holds::check`]:
//!
//! 1. A queue is of one volume, is not empty, and is in order of arrival.
//! 2. Each parked request is covered, or an earlier one in its queue conflicts with it.
//! 3. `parked` and `bytes` are the sums over all queues.
//! 4. Every range of the cover belongs to a hold in place, and ranges are in order of volume and start.

mod cover;
mod ranges;
#[cfg(test)]
mod tests;

pub use cover::Cover;

use super::Access;
use crate::pool::model::Span;
use crate::store::HoldMode;
use crate::units::{ChangeId, VolumeId};
use ranges::RangeSet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Holds in place and requests parked. `T` is what is parked.
#[derive(Clone, Debug, Hash)]
pub struct Holds<T> {
    ids: BTreeSet<ChangeId>,
    cover: Arc<Cover>,
    queues: BTreeMap<VolumeId, Vec<Waiting<T>>>,
    arrivals: u64,
    parked: usize,
    bytes: u64,
}

/// Requests let go, and what the hold that ended had cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed<T> {
    /// In order of arrival; those that overlap must run in this order.
    pub items: Vec<T>,
    /// How many parked requests this hold covered, those included that still wait for another.
    pub parked: u64,
    /// The longest that one of them had waited, in microseconds.
    pub longest_us: u64,
}

/// What [`Holds::expire`] took out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired<T> {
    /// Those that waited too long.
    pub late: Vec<T>,
    /// Those that had waited for one of these, and for nothing else: they may run.
    pub free: Vec<T>,
}

#[derive(Clone, Debug, Hash)]
struct Waiting<T> {
    item: T,
    arrival: u64,
    span: Span,
    access: Access,
    bytes: u64,
    since_us: u64,
}

impl<T> Waiting<T> {
    fn waited(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.since_us)
    }

    fn conflicts(&self, other: &Self) -> bool {
        let one_writes = self.access == Access::Write || other.access == Access::Write;
        one_writes && self.span.overlaps(&other.span)
    }
}

impl<T> Holds<T> {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ids: BTreeSet::new(),
            cover: Arc::default(),
            queues: BTreeMap::new(),
            arrivals: 0,
            parked: 0,
            bytes: 0,
        }
    }

    /// Places a hold; a second one with the same id changes nothing, whatever its ranges.
    pub fn place(&mut self, id: ChangeId, spans: &[Span], mode: HoldMode) {
        if self.ids.insert(id) {
            Arc::make_mut(&mut self.cover).add(id, spans, mode);
        }
    }

    /// Whether a hold, or the closed gate, covers this request.
    #[must_use]
    pub fn covers(&self, span: &Span, access: Access) -> bool {
        self.cover.covers(span, access)
    }

    /// What is covered now, to be looked at by others without this structure.
    #[must_use]
    pub fn cover(&self) -> &Arc<Cover> {
        &self.cover
    }

    /// Parks a covered request; gives it back when nothing covers it. `now_us` is any monotonic clock.
    pub fn park(&mut self, item: T, span: Span, access: Access, bytes: u64, now_us: u64) -> Option<T> {
        if !self.covers(&span, access) {
            return Some(item);
        }
        let waiting = Waiting {
            item,
            arrival: self.arrivals,
            span,
            access,
            bytes,
            since_us: now_us,
        };
        self.queues.entry(span.volume).or_default().push(waiting);
        self.arrivals += 1;
        self.parked += 1;
        self.bytes += bytes;
        None
    }

    /// Takes the hold away and answers those that may go on now. Nothing happens if there is no such hold.
    pub fn release(&mut self, id: ChangeId, now_us: u64) -> Freed<T> {
        if !self.ids.remove(&id) {
            return Freed {
                items: Vec::new(),
                parked: 0,
                longest_us: 0,
            };
        }
        let alone = self.cover.only(id);
        let (parked, longest_us) = self.cost(&alone, now_us);
        Arc::make_mut(&mut self.cover).remove(id);
        let items = self.sweep(&alone.volumes());
        Freed {
            items,
            parked,
            longest_us,
        }
    }

    /// Everything is covered from now on; holds are gone.
    pub fn close(&mut self) {
        self.ids.clear();
        self.cover = Arc::new(Cover::everything());
    }

    /// The end of `close`. Holds placed since stay in place.
    pub fn open(&mut self, now_us: u64) -> Freed<T> {
        if !self.cover.closed() {
            return Freed {
                items: Vec::new(),
                parked: 0,
                longest_us: 0,
            };
        }
        let (parked, longest_us) = self.cost(&Cover::everything(), now_us);
        Arc::make_mut(&mut self.cover).open();
        let volumes: Vec<_> = self.queues.keys().copied().collect();
        let items = self.sweep(&volumes);
        Freed {
            items,
            parked,
            longest_us,
        }
    }

    /// Takes out those that have waited for `patience_us` or longer, covered or not: to be answered with an error.
    pub fn expire(&mut self, patience_us: u64, now_us: u64) -> Expired<T> {
        let volumes: Vec<_> = self.queues.keys().copied().collect();
        let late = self.take(&volumes, || move |waiting| waiting.waited(now_us) >= patience_us);
        let free = self.sweep(&volumes);
        Expired { late, free }
    }

    /// Holds in place.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.ids.len()
    }

    /// Whether this hold is in place.
    #[must_use]
    pub fn has(&self, id: ChangeId) -> bool {
        self.ids.contains(&id)
    }

    /// Requests parked.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Requests parked, by volume; those without any may be left out.
    pub fn parked_by_volume(&self) -> impl Iterator<Item = (VolumeId, usize)> {
        self.queues.iter().map(|(volume, queue)| (*volume, queue.len()))
    }

    /// Bytes of the requests parked.
    #[must_use]
    pub fn parked_bytes(&self) -> u64 {
        self.bytes
    }

    /// How many of the parked requests this cover covers, and the longest that one of them has waited.
    fn cost(&self, cover: &Cover, now_us: u64) -> (u64, u64) {
        let queues = self.queues.values().flatten();
        queues
            .filter(|waiting| cover.covers(&waiting.span, waiting.access))
            .fold((0, 0), |(n, longest), waiting| {
                (n + 1, longest.max(waiting.waited(now_us)))
            })
    }

    /// Takes out whoever may go on in these volumes, in order of arrival.
    fn sweep(&mut self, volumes: &[VolumeId]) -> Vec<T> {
        let cover = Arc::clone(&self.cover);
        self.take(volumes, || {
            let (mut any_ahead, mut writes_ahead) = (RangeSet::default(), RangeSet::default());
            let cover = Arc::clone(&cover);
            move |waiting| {
                let (start, end) = (waiting.span.start.0, waiting.span.end.0);
                let writes = waiting.access == Access::Write;
                let ahead = if writes { &any_ahead } else { &writes_ahead };
                if !cover.covers(&waiting.span, waiting.access) && !ahead.touches(start, end) {
                    return true;
                }
                any_ahead.add(start, end);
                if writes {
                    writes_ahead.add(start, end);
                }
                false
            }
        })
    }

    /// Takes out of each of these queues what a predicate, made anew for each queue, selects while it looks at the
    /// requests in order of arrival.
    fn take<P: FnMut(&Waiting<T>) -> bool>(
        &mut self,
        volumes: &[VolumeId],
        select: impl Fn() -> P,
    ) -> Vec<T> {
        let mut taken = Vec::new();
        for volume in volumes {
            let Some(queue) = self.queues.get_mut(volume) else {
                continue;
            };
            let mut select = select();
            taken.extend(queue.extract_if(.., |waiting| select(waiting)));
            if queue.is_empty() {
                self.queues.remove(volume);
            }
        }
        taken.sort_by_key(|waiting| waiting.arrival);
        self.parked -= taken.len();
        self.bytes -= taken.iter().map(|waiting| waiting.bytes).sum::<u64>();
        taken.into_iter().map(|waiting| waiting.item).collect()
    }

    /// The first invariant that does not hold, in words. In time quadratic in what is parked: for tests.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        self.cover.check(&self.ids)?;
        for (volume, queue) in &self.queues {
            self.check_queue(*volume, queue)
                .map_err(|what| format!("volume {volume}: {what}"))?;
        }
        let all = || self.queues.values().flatten();
        if all().count() != self.parked || all().map(|waiting| waiting.bytes).sum::<u64>() != self.bytes {
            return Err("the sums over the queues are wrong".into());
        }
        Ok(())
    }

    fn check_queue(&self, volume: VolumeId, queue: &[Waiting<T>]) -> Result<(), String> {
        if queue.is_empty() {
            return Err("an empty queue is kept".into());
        }
        if !queue.is_sorted_by(|a, b| a.arrival < b.arrival) {
            return Err("the queue is not in order of arrival".into());
        }
        for (i, waiting) in queue.iter().enumerate() {
            if waiting.span.volume != volume {
                return Err(format!(
                    "a request of volume {} is in this queue",
                    waiting.span.volume
                ));
            }
            let behind = queue[..i].iter().any(|earlier| earlier.conflicts(waiting));
            if !behind && !self.covers(&waiting.span, waiting.access) {
                return Err(format!("{:?} waits for nothing", waiting.span));
            }
        }
        Ok(())
    }
}

impl<T> Default for Holds<T> {
    fn default() -> Self {
        Self::new()
    }
}
