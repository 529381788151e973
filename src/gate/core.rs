//! The gate's decisions, pure: which hold covers a request, which requests are parked, and in which order they may go on. There
//! are no threads and no clock: callers pass times. [`super::Gate`] puts it behind a lock that only requests under a hold take;
//! the simulator drives it directly.
//!
//! An arriving request is parked if a hold covers it, and for no other reason. A parked request goes on when no hold covers it
//! any more *and* no request that arrived earlier and conflicts with it (they overlap and one of them writes) is still waiting.
//! It waits only for earlier requests, so its wait is bounded by the holds that were placed before one of those went on.
//!
//! Invariants, which are true between calls and verified by [`Holds::check`]:
//!
//! 1. A queue belongs to one volume, is not empty, and is in order of arrival.
//! 2. Each parked request is covered, or an earlier one in its queue conflicts with it.
//! 3. `parked` and `bytes` are the sums over all queues.
//! 4. Every range of the cover belongs to a hold in place, and ranges are in order of volume and start.

mod cover;
mod ranges;
#[cfg(test)]
mod tests;

pub use cover::Cover;

use super::Access;
use super::note::Note;
use crate::model::change::HoldMode;
use crate::model::records::Span;
use crate::model::units::{ChangeId, VolumeId};
use ranges::RangeSet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Holds in place and parked requests. `T` is the type that is parked.
#[derive(Clone, Debug, Hash)]
pub struct Holds<T> {
    ids: BTreeSet<ChangeId>,
    cover: Arc<Cover>,
    queues: BTreeMap<VolumeId, Vec<WaitingRequest<T>>>,
    arrivals: u64,
    parked: usize,
    bytes: u64,
}

/// Requests that the end of a hold releases, and the cost of the hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released<T> {
    /// The requests in order of arrival; those that overlap must run in this order.
    pub items: Vec<T>,
    /// Number of parked requests that this hold covered, including those that still wait for another one.
    pub parked: u64,
    /// The longest time that one of them had waited, in microseconds.
    pub longest_us: u64,
}

impl<T> Released<T> {
    fn nothing() -> Self {
        Self {
            items: Vec::new(),
            parked: 0,
            longest_us: 0,
        }
    }
}

/// Requests that [`Holds::expire`] removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired<T> {
    /// Requests that waited too long.
    pub late: Vec<T>,
    /// Requests that had waited only for one of these: they may run.
    pub free: Vec<T>,
}

#[derive(Clone, Debug, Hash)]
struct WaitingRequest<T> {
    item: T,
    arrival: u64,
    span: Span,
    access: Access,
    bytes: u64,
    since_us: u64,
}

impl<T> WaitingRequest<T> {
    fn waited(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.since_us)
    }

    fn conflicts(&self, other: &Self) -> bool {
        let one_writes = self.access == Access::Write || other.access == Access::Write;
        one_writes && self.span.overlaps(&other.span)
    }
}

impl<T> Holds<T> {
    /// Returns an open gate without holds.
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

    /// Places a hold. A second one with the same id changes nothing, whatever its ranges.
    pub fn place(&mut self, id: ChangeId, spans: &[Span], mode: HoldMode) {
        if self.ids.insert(id) {
            Arc::make_mut(&mut self.cover).add(id, spans, mode);
        }
    }

    /// Notes from now on which regions of these spans are written. A second note of the same change changes nothing.
    pub fn place_note(&mut self, id: ChangeId, spans: &[Span]) {
        if !self.has_note(id) {
            Arc::make_mut(&mut self.cover).add_note(id, spans);
        }
    }

    /// Marks a write that enters in every note, and in no copy of this structure.
    pub fn note_write(&mut self, span: &Span, access: Access) {
        if self.notes() > 0 {
            Arc::make_mut(&mut self.cover).note_alone(span, access);
        }
    }

    /// Returns whether this change has a note.
    #[must_use]
    pub fn has_note(&self, id: ChangeId) -> bool {
        self.cover.note_of(id).is_some()
    }

    /// Returns the number of notes.
    #[must_use]
    pub fn notes(&self) -> usize {
        self.cover.notes()
    }

    /// Returns what was written since the note of this change was placed; `None` if it has none.
    #[must_use]
    pub fn written(&self, id: ChangeId) -> Option<Vec<Span>> {
        self.cover.note_of(id).map(Note::written)
    }

    /// Removes the note of this change.
    pub fn end_note(&mut self, id: ChangeId) {
        if self.has_note(id) {
            Arc::make_mut(&mut self.cover).remove_note(id);
        }
    }

    /// Returns whether a hold, or the closed gate, covers this request.
    #[must_use]
    pub fn covers(&self, span: &Span, access: Access) -> bool {
        self.cover.covers(span, access)
    }

    /// Returns the current cover, which others may read without this structure.
    #[must_use]
    pub fn cover(&self) -> &Arc<Cover> {
        &self.cover
    }

    /// Parks a covered request; returns it if nothing covers it. `now_us` is the time of any monotonic clock.
    pub fn park(&mut self, item: T, span: Span, access: Access, bytes: u64, now_us: u64) -> Option<T> {
        if !self.covers(&span, access) {
            return Some(item);
        }
        let waiting = WaitingRequest {
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

    /// Removes the hold, and the note of its change, and returns the requests that may go on now.
    pub fn release(&mut self, id: ChangeId, now_us: u64) -> Released<T> {
        self.end_note(id);
        if !self.ids.remove(&id) {
            return Released::nothing();
        }
        let alone = self.cover.only(id);
        let (parked, longest_us) = self.cost(&alone, now_us);
        Arc::make_mut(&mut self.cover).remove(id);
        let items = self.sweep(&alone.volumes());
        Released {
            items,
            parked,
            longest_us,
        }
    }

    /// Covers everything from now on and removes all holds and notes.
    pub fn close(&mut self) {
        self.ids.clear();
        self.cover = Arc::new(Cover::everything());
    }

    /// Ends `close`. Holds placed since then stay in place.
    pub fn open(&mut self, now_us: u64) -> Released<T> {
        match self.cover.closed() {
            true => self.uncover(now_us, Cover::open),
            false => Released::nothing(),
        }
    }

    /// Covers everything from now on, beside the holds and notes, which stay in place.
    pub fn pause(&mut self) {
        Arc::make_mut(&mut self.cover).pause(true);
    }

    /// Ends `pause`, which `close` ends too.
    pub fn resume(&mut self, now_us: u64) -> Released<T> {
        match self.cover.paused() {
            true => self.uncover(now_us, |cover| cover.pause(false)),
            false => Released::nothing(),
        }
    }

    /// Ends what covers everything, and returns the requests that may go on.
    fn uncover(&mut self, now_us: u64, end: impl FnOnce(&mut Cover)) -> Released<T> {
        let (parked, longest_us) = self.cost(&Cover::everything(), now_us);
        end(Arc::make_mut(&mut self.cover));
        let volumes: Vec<_> = self.queues.keys().copied().collect();
        let items = self.sweep(&volumes);
        Released {
            items,
            parked,
            longest_us,
        }
    }

    /// Removes the requests that have waited for `patience_us` or longer, covered or not; the caller answers them with an
    /// error.
    pub fn expire(&mut self, patience_us: u64, now_us: u64) -> Expired<T> {
        let volumes: Vec<_> = self.queues.keys().copied().collect();
        let late = self.take(&volumes, || move |waiting| waiting.waited(now_us) >= patience_us);
        let free = self.sweep(&volumes);
        Expired { late, free }
    }

    /// Returns the number of holds in place.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether this hold is in place.
    #[must_use]
    pub fn has(&self, id: ChangeId) -> bool {
        self.ids.contains(&id)
    }

    /// Returns the number of parked requests.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Returns the number of parked requests by volume; volumes without any may be left out.
    pub fn parked_by_volume(&self) -> impl Iterator<Item = (VolumeId, usize)> {
        self.queues.iter().map(|(volume, queue)| (*volume, queue.len()))
    }

    /// Returns the number of bytes that parked requests keep.
    #[must_use]
    pub fn parked_bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many of the parked requests this cover covers, and the longest time that one of them has waited.
    fn cost(&self, cover: &Cover, now_us: u64) -> (u64, u64) {
        let queues = self.queues.values().flatten();
        queues
            .filter(|waiting| cover.covers(&waiting.span, waiting.access))
            .fold((0, 0), |(n, longest), waiting| {
                (n + 1, longest.max(waiting.waited(now_us)))
            })
    }

    /// Removes the requests that may go on in these volumes, in order of arrival.
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

    /// Removes from each of these queues the requests that a predicate selects. Each queue gets a new predicate, which sees the
    /// requests in order of arrival.
    fn take<P: FnMut(&WaitingRequest<T>) -> bool>(
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

    /// Checks the invariants in time quadratic in the number of parked requests; for tests.
    ///
    /// # Errors
    /// Fails with a description of the first invariant that is violated.
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

    fn check_queue(&self, volume: VolumeId, queue: &[WaitingRequest<T>]) -> Result<(), String> {
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
                return Err(format!(
                    "{:?} waits although nothing covers it and no earlier request conflicts",
                    waiting.span
                ));
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
