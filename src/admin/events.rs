//! Reads the events of a pool from the store, in batches.

use crate::model::error::Result;
use crate::model::event::Event;
use crate::model::units::Timestamp;
use crate::store::EventStore;
use std::collections::VecDeque;

/// Events read at a time.
const BATCH: usize = 1000;

/// Returns at most `most` of the latest events after number `after` that are not older than `since`, oldest first, and the number to continue
/// from.
///
/// # Errors
/// Returns the errors of the store.
pub fn latest(
    store: &mut dyn EventStore,
    after: u64,
    since: Option<Timestamp>,
    most: usize,
) -> Result<(Vec<Event>, u64)> {
    let mut last = after;
    let mut latest = VecDeque::new();
    loop {
        let batch = store.events(last, BATCH)?;
        let Some(end) = batch.last() else { break };
        last = end.seq;
        latest.extend(
            batch
                .into_iter()
                .filter(|event| since.is_none_or(|since| event.at >= since)),
        );
        let surplus = latest.len().saturating_sub(most);
        latest.drain(..surplus);
    }
    Ok((latest.into(), last))
}
