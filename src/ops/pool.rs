//! The pool as a whole.

use crate::change::driver::Controller;
use crate::change::space;
use crate::error::{Error, Result};
use crate::pool::alloc::Policy;
use crate::pool::dir::PoolDir;
use crate::pool::options::{Options, Thresholds};
use crate::store::sqlite::SqliteStore;
use crate::units::ExtentSize;

/// Makes a pool.
///
/// # Errors
/// When there is one already, or the directory cannot be made.
pub fn create(pool: &PoolDir, extent_size: ExtentSize) -> Result<()> {
    check_absent(pool)?;
    SqliteStore::create(pool, extent_size).map(drop)
}

/// That there is no pool yet.
///
/// # Errors
/// When there is one, or apparatuses serve by one that was deleted.
pub fn check_absent(pool: &PoolDir) -> Result<()> {
    let what = || format!("pool {}", pool.path().display());
    match pool.database().try_exists() {
        Ok(false) => super::backup::check_nobody_lives(pool, "by a database that was deleted").map_err(|error| {
            error.hint("save its map first: vctl pool backup FILE; then vctl apparatus stop NAME, vctl pool restore FILE")
        }),
        Ok(true) => {
            Err(Error::failed(what(), "there is a pool here already").hint("look at it: vctl pool show"))
        }
        Err(error) => Err(Error::because(what(), error)),
    }
}

/// What the pool's options shall be; `None` leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionsChange {
    /// Which disk is taken first, where nothing else is said.
    pub policy: Option<Policy>,
    /// From so many per cent in use on the pool is nearly full.
    pub nearfull: Option<u8>,
    /// From so many per cent in use on the pool is full.
    pub full: Option<u8>,
}

impl OptionsChange {
    /// What it makes of the old ones.
    ///
    /// # Errors
    /// `Usage` when the thresholds are not in order.
    pub fn from(self, old: Options) -> Result<Options> {
        let nearfull = self.nearfull.unwrap_or(old.thresholds.nearfull());
        let full = self.full.unwrap_or(old.thresholds.full());
        Ok(Options {
            policy: self.policy.unwrap_or(old.policy),
            thresholds: Thresholds::new(nearfull, full)?,
        })
    }
}

/// The pool's options change, and how full it is is looked at anew. False when they are so already.
///
/// # Errors
/// The store's; when the thresholds are not in order.
pub fn set_options(controller: &mut Controller, change: OptionsChange) -> Result<bool> {
    let store = controller.store();
    let old = store.options()?;
    let new = change.from(old)?;
    if new == old {
        return Ok(false);
    }
    store.set_options(&new)?;
    space::watch(store);
    Ok(true)
}
