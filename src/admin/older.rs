//! Finds a database that is older than a copy of it in the archive: its log was lost, or an earlier file was put in its place. Such a database may be free of
//! contradictions, and may know no disk whose label would tell.

use crate::controller::archive;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::store::TableStore;

/// Returns what is wrong, if the archive has a copy whose layout number is higher than the database's.
///
/// # Errors
/// Fails when the archive cannot be read; returns the errors of the store.
pub(super) fn find(pool: &PoolDir, store: &mut dyn TableStore) -> Result<Option<Error>> {
    let newest = archive::list(pool)?
        .into_iter()
        .max_by_key(|copy| (copy.layout, copy.taken));
    // It is read after the archive: another process may be making a copy.
    let layout = store.header()?.layout;
    let Some(newest) = newest.filter(|copy| copy.layout > layout) else {
        return Ok(None);
    };
    let why = format!(
        "is older than the copy of it that was made at {}: its layout number is {layout}, and that of the copy {}; pool.db-wal, which has the last changes, \
         was lost, or an older pool.db was put back",
        newest.taken, newest.layout
    );
    let file = pool.name_of(&newest.file);
    let hint = format!("vctl pool restore {}", file.display());
    Ok(Some(Error::failed("database", why).hint(hint)))
}
