//! What happened, read from the store in pieces.

use crate::error::Result;
use crate::store::{Event, Store};
use std::collections::VecDeque;

/// Read at a time.
const BATCH: usize = 1000;

/// At most `most` of the latest events after number `after`, oldest first, and the number to go on after.
///
/// # Errors
/// The store's.
pub fn latest(store: &mut dyn Store, after: u64, most: usize) -> Result<(Vec<Event>, u64)> {
    let mut last = after;
    let mut latest = VecDeque::new();
    loop {
        let batch = store.events(last, BATCH)?;
        let Some(end) = batch.last() else { break };
        last = end.seq;
        latest.extend(batch);
        let surplus = latest.len().saturating_sub(most);
        latest.drain(..surplus);
    }
    Ok((latest.into(), last))
}
