//! What a store remembers of volumes that were removed.

use crate::model::error::Result;
use crate::model::records::Area;
use crate::model::removed::RemovedVolume;
use crate::model::units::{ChangeId, Timestamp};

/// Remembers removed volumes. A store that does not remember any is valid: then no removed volume can be had back.
///
/// A commit that removes a whole, visible volume of at most [`MOST_SEGMENTS`](crate::model::removed::MOST_SEGMENTS) segments, none of
/// which a change that is not persisted has placed, remembers it. A commit that adds a volume of the same number has brought it back.
/// What another owner gets of its extents is lost to it from that transaction on.
pub trait RemovedStore {
    /// Returns the removed volumes, the oldest first.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn removed(&mut self) -> Result<Vec<RemovedVolume>> {
        Ok(Vec::new())
    }
    /// Records that these extents will be overwritten, though they have no owner yet. It is durable when this returns: no removed
    /// volume is brought back with bytes that are not its own.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn give_away(&mut self, _areas: &[Area]) -> Result<()> {
        Ok(())
    }
    /// Forgets the volumes that these changes removed, as far as these are persisted. What is left of them goes into quarantine, and is
    /// discarded and freed with the rest of that. It is durable when this returns.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn forget_removed(&mut self, _changes: &[ChangeId]) -> Result<()> {
        Ok(())
    }
    /// Forgets, in the same way, all but the newest `most` volumes, and those that were removed before `since`.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn forget_oldest_removed(&mut self, _most: usize, _since: Timestamp) -> Result<()> {
        Ok(())
    }
}
