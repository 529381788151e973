//! The log of a pool whose metadata several machines have: every transaction of the store is one entry, and all entries have one order.
//!
//! Each machine has a whole copy of the metadata, its mirror, which is a prefix of the log. A transaction is computed on the mirror, and its
//! rows are appended as the next entry under the condition that the mirror is complete. Where it is not, the missing entries are applied and
//! the transaction is computed again. So the history of the pool is serial, whichever processes and machines write it.

mod entry;
#[cfg(test)]
pub(crate) mod shared;

pub use entry::{Entry, Position};

use crate::model::error::Result;

/// Result of an attempt to append an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The entry is in the log, and durable.
    Accepted,
    /// The log goes on with another entry: nothing has changed.
    Outdated,
}

/// A key beside the log that an entry sets with it, for those who decide by one key and do not read the log: see [`crate::store::leases`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedKey {
    /// The key, below those of the pool.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What leads a mirror from a position to the end of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// All rows as of a position, where the log no longer has the entries that lead there.
    pub base: Option<(Position, Vec<u8>)>,
    /// The entries that follow, in order.
    pub entries: Vec<Entry>,
}

/// The log, as one handle of the store uses it.
pub trait Journal: Send {
    /// Returns the position of the last entry, at least as new as every append that was accepted before.
    ///
    /// # Errors
    /// Fails with `TimedOut` if the log cannot be reached in time.
    fn head(&mut self) -> Result<Position>;

    /// Returns what follows this position.
    ///
    /// # Errors
    /// Fails with `TimedOut` if the log cannot be reached in time, and if it does not contain the position: it was replaced by an older log.
    fn after(&mut self, position: Position) -> Result<Missing>;

    /// Appends an entry, unless the log has another one at its number. The derived keys are set by the same transaction.
    ///
    /// # Errors
    /// Fails with `TimedOut` if it is unknown whether the entry was appended or will be. It competes with whatever is appended next, so only
    /// one of both is accepted.
    fn append(&mut self, entry: &Entry, derived: &[DerivedKey]) -> Result<Appended>;

    /// Replaces the entries up to a position by the rows that they lead to, if the log has grown enough since the last time. `rows` is called
    /// only then.
    ///
    /// # Errors
    /// Fails if the log cannot be reached or `rows` fails. Nothing is lost then.
    fn trim(&mut self, position: Position, rows: &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<()>;

    /// Removes the log permanently.
    ///
    /// # Errors
    /// Fails if the log cannot be reached.
    fn destroy(&mut self) -> Result<()>;
}
