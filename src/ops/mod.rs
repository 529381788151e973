//! The operations behind the command line and the console: what each verb does, without a word about terminals.
//!
//! A verb that changes the table plans first ([`plan`], pure), then sends ([`send`]); a dry run stops between the two.

pub mod adopt;
pub mod apparatus;
pub mod apply;
pub mod attach;
pub mod backup;
pub mod check;
pub mod clear;
pub mod describe;
pub mod directory;
pub mod disk;
pub mod events;
pub mod finding;
pub mod history;
pub mod hold;
pub mod job;
pub mod label;
pub mod metrics;
pub mod moving;
pub mod place;
pub mod plan;
pub mod pool;
pub mod revert;
pub mod room;
pub mod select;
pub mod send;
pub mod status;
#[cfg(test)]
mod testing;
pub mod usage;
pub mod view;
pub mod volume;
pub mod watch;

use crate::error::Result;
use crate::pool::dir::PoolDir;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

/// Opens a pool's store, unless the file system that it is on does not answer: opening it would wait for that without end.
///
/// # Errors
/// `NotFound` when there is no pool; `TimedOut`; the store's.
pub fn open(pool: &PoolDir) -> Result<Box<dyn Store>> {
    directory::fault(pool)?;
    Ok(Box::new(SqliteStore::open(pool)?))
}

/// Opens a pool's store for a rehearsal of a change: refused where the change would be because the database is a copy.
///
/// # Errors
/// `NotFound` when there is no pool; a copy; the store's.
pub fn open_to_rehearse(pool: &PoolDir) -> Result<Box<dyn Store>> {
    let mut store = SqliteStore::open(pool)?;
    store.refuse_copy(pool)?;
    Ok(Box::new(store))
}
