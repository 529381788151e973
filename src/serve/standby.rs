//! The wait of a server that stands by: it keeps its table up to date, so that its start costs no more for a large table than for a small one.

use super::kept::Kept;
use crate::controller::pool::PoolHandle;
use crate::map::Draft;
use crate::model::error::{Error, Result};
use crate::store::Store;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// How often the table is brought up to date: the store keeps far more changes than one process makes in this time.
const REFRESH: Duration = Duration::from_secs(2);

/// Waits until the server before this one has ended. The table is brought up to date from time to time.
///
/// # Errors
/// Fails when the supervisor has ended, when the database cannot be read, and when another file has been put in its place.
pub(super) fn await_turn(
    pool: &PoolHandle,
    store: &mut dyn Store,
    table: &mut Draft,
    kept: &mut Kept,
) -> Result<()> {
    let opened = identity(pool);
    // The first use of this clock takes a millisecond.
    crate::datapath::calibrate();
    while !kept.await_turn(REFRESH)? {
        refresh(store, table)?;
    }
    if opened.is_none() || identity(pool) != opened {
        let what = format!("pool {}", pool.dir.display());
        return Err(Error::failed(what, "its database is not the one that was opened"));
    }
    Ok(())
}

fn refresh(store: &mut dyn Store, table: &mut Draft) -> Result<()> {
    match store.deltas_since(table.generation())? {
        Some(deltas) => table.bring_forward(&deltas),
        None => {
            *table = Draft::new(&store.snapshot()?)?;
            Ok(())
        }
    }
}

fn identity(pool: &PoolHandle) -> Option<(u64, u64)> {
    let found = std::fs::metadata(pool.dir.database()).ok()?;
    Some((found.dev(), found.ino()))
}
