//! The operator's settings of the pool, and its last known fullness.

use super::convert::{Word, damaged};
use crate::model::error::Result;
use crate::model::options::{Fullness, Options, Thresholds};
use rusqlite::{Connection, params};

pub(super) fn read(db: &Connection) -> Result<Options> {
    let sql = "SELECT policy, nearfull, full FROM pool";
    let (policy, nearfull, full) = db.prepare_cached(sql)?.query_row([], |row| {
        Ok((row.get::<_, Word<_>>(0)?.0, row.get(1)?, row.get(2)?))
    })?;
    let thresholds = Thresholds::new(nearfull, full).map_err(|error| damaged(&error.to_string()))?;
    Ok(Options { policy, thresholds })
}

pub(super) fn write(db: &Connection, options: &Options) -> Result<()> {
    let Options { policy, thresholds } = *options;
    db.prepare_cached("UPDATE pool SET policy = ?1, nearfull = ?2, full = ?3")?
        .execute(params![Word(policy), thresholds.nearfull(), thresholds.full()])?;
    Ok(())
}

pub(super) fn fullness(db: &Connection) -> Result<Fullness> {
    let mut query = db.prepare_cached("SELECT fullness FROM pool")?;
    Ok(query.query_row([], |row| row.get::<_, Word<_>>(0))?.0)
}

pub(super) fn set_fullness(db: &Connection, fullness: Fullness) -> Result<()> {
    db.prepare_cached("UPDATE pool SET fullness = ?1")?
        .execute([Word(fullness)])?;
    Ok(())
}
