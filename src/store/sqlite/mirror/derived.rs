//! Keys beside the log: what renewals of leases are decided by.

use crate::model::error::Result;
use crate::store::journal::DerivedKey;
use crate::store::leases::{NODES, member_key, member_value};
use rusqlite::Connection;

/// Returns the keys that a transaction with these rows sets: those of all members and nodes, if it has written any of these.
///
/// # Errors
/// Fails if the database cannot be read.
pub(super) fn keys(db: &Connection, rows: &[u8]) -> Result<Vec<DerivedKey>> {
    let concerns = |line: &[u8]| {
        let table = line.split(|&byte| byte == b'\t').nth(1);
        matches!(table, Some(b"members" | b"nodes"))
    };
    if !rows.split(|&byte| byte == b'\n').any(concerns) {
        return Ok(Vec::new());
    }
    let mut keys = members(db)?;
    keys.push(nodes(db)?);
    Ok(keys)
}

fn members(db: &Connection) -> Result<Vec<DerivedKey>> {
    let mut query = db.prepare_cached("SELECT slot, state, incarnation, node FROM members")?;
    let keys = query.query_map([], |row| {
        let (state, node): (String, Option<String>) = (row.get(1)?, row.get(3)?);
        Ok(DerivedKey {
            key: member_key(row.get(0)?),
            value: member_value(&state, row.get(2)?, node.as_deref()),
        })
    })?;
    Ok(keys.collect::<std::result::Result<_, _>>()?)
}

fn nodes(db: &Connection) -> Result<DerivedKey> {
    let mut query = db.prepare_cached("SELECT name FROM nodes ORDER BY name")?;
    let names: Vec<String> = query
        .query_map([], |row| row.get(0))?
        .collect::<std::result::Result<_, _>>()?;
    Ok(DerivedKey {
        key: NODES.to_owned(),
        value: names.join(" "),
    })
}
