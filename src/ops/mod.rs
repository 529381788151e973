//! The operations behind the command line and the console: what each verb does, without a word about terminals.
//!
//! A verb that changes the table plans first ([`plan`], pure), then sends ([`send`]); a dry run stops between the two.

pub mod apparatus;
pub mod apply;
pub mod attach;
pub mod backup;
pub mod check;
pub mod describe;
pub mod directory;
pub mod disk;
pub mod events;
pub mod hold;
pub mod job;
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
