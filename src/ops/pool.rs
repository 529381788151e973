//! The pool as a whole.

use crate::error::{Error, Result};
use crate::pool::dir::PoolDir;
use crate::store::sqlite::SqliteStore;
use crate::units::ExtentSize;

/// Makes a pool.
///
/// # Errors
/// When there is one already, or the directory cannot be made.
pub fn create(pool: &PoolDir, extent_size: ExtentSize) -> Result<()> {
    SqliteStore::create(pool, extent_size).map(drop)
}

/// That there is no pool yet.
///
/// # Errors
/// When there is one.
pub fn check_absent(pool: &PoolDir) -> Result<()> {
    let what = || format!("pool {}", pool.path().display());
    match pool.database().try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => {
            Err(Error::failed(what(), "there is a pool here already").hint("look at it: vctl pool show"))
        }
        Err(error) => Err(Error::because(what(), error)),
    }
}
