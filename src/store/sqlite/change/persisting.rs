//! Marks changes as persisted, and counts the layouts that labels get.

use super::{finish, prune};
use crate::model::error::{Error, Result};
use crate::model::units::{ChangeId, Generation};
use crate::store::sqlite::convert::StoredState;
use rusqlite::{Connection, OptionalExtension};

/// Does the first half of persisting: once this is durable, another epoch counts these changes as persisted. Returns the latest
/// generation among them, or `None` if none is left to persist.
pub(in crate::store::sqlite) fn begin_persisting(
    db: &Connection,
    ids: &[ChangeId],
) -> Result<Option<Generation>> {
    let mut latest = None;
    let mark = "UPDATE changes SET state = 'hardening' WHERE id = ?1 AND state = 'committed'";
    let look = "SELECT generation FROM changes WHERE id = ?1 AND state = 'hardening'";
    for id in ids {
        db.prepare_cached(mark)?.execute([id.0])?;
        let generation = db
            .prepare_cached(look)?
            .query_row([id.0], |row| row.get(0))
            .optional()?;
        latest = latest.max(generation.map(Generation));
    }
    let Some(latest) = latest else {
        return Ok(None);
    };
    let earlier =
        "SELECT id FROM changes WHERE state = 'committed' AND generation < ?1 ORDER BY generation LIMIT 1";
    let left_out = db
        .prepare_cached(earlier)?
        .query_row([latest.0], |row| row.get::<_, u64>(0))
        .optional()?;
    match left_out {
        None => Ok(Some(latest)),
        Some(id) => Err(Error::failed(
            format!("change {id}"),
            "precedes a change that is to be persisted, but is not in the list: a later change cannot outlive an earlier one",
        )),
    }
}

/// Does the second half of persisting: everything up to `latest` was marked before the log was synced.
pub(in crate::store::sqlite) fn end_persisting(db: &Connection, latest: Generation) -> Result<()> {
    let marked = "SELECT id FROM changes WHERE state = 'hardening' AND generation <= ?1";
    let ids: Vec<u64> = db
        .prepare_cached(marked)?
        .query_map([latest.0], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in &ids {
        finish(db, ChangeId(*id), StoredState::Persisted)?;
    }
    raise_layout(db, ids.len())?;
    prune(db)
}

pub(in crate::store::sqlite) fn raise_layout(db: &Connection, by: usize) -> Result<()> {
    if by > 0 {
        db.prepare_cached("UPDATE pool SET layout = layout + ?1")?
            .execute([by])?;
    }
    Ok(())
}
