//! The decisions of the gate, pure: which hold covers a request, what is parked, who may go on in which order.
//! No threads, no clock: times are given. [`super::Gate`] puts it behind a lock that only requests under a hold take;
//! the simulator drives it directly.

use super::Access;
use crate::pool::model::Span;
use crate::store::HoldMode;
use crate::units::ChangeId;

/// Holds in place and requests parked. `T` is what is parked.
pub struct Holds<T> {
    _items: Vec<T>,
}

impl<T> Holds<T> {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self { _items: Vec::new() }
    }

    /// Places a hold; idempotent by id.
    pub fn place(&mut self, _id: ChangeId, _spans: &[Span], _mode: HoldMode) {
        todo!()
    }

    /// Whether a hold, or the closed gate, covers this request.
    #[must_use]
    pub fn covers(&self, _span: &Span, _access: Access) -> bool {
        todo!()
    }

    /// Parks a covered request; gives it back when nothing covers it. `now_us` is any monotonic clock.
    pub fn park(&mut self, _item: T, _span: Span, _access: Access, _bytes: u64, _now_us: u64) -> Option<T> {
        todo!()
    }

    /// Takes the hold away and answers those that nothing covers any more, in order of arrival, with the number that
    /// this hold had parked and the longest wait in microseconds.
    pub fn release(&mut self, _id: ChangeId, _now_us: u64) -> (Vec<T>, u64, u64) {
        todo!()
    }

    /// Everything is covered from now on; holds are gone.
    pub fn close(&mut self) {
        todo!()
    }

    /// The end of `close`.
    pub fn open(&mut self, _now_us: u64) -> (Vec<T>, u64, u64) {
        todo!()
    }
}

impl<T> Default for Holds<T> {
    fn default() -> Self {
        Self::new()
    }
}
