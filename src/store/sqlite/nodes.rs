//! Nodes of a pool that spans machines.

use super::convert::Word;
use super::members;
use crate::model::error::Result;
use crate::model::names::Name;
use crate::model::node::Node;
use crate::model::units::{CacheEpoch, Timestamp};
use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Row, params};
use std::collections::HashSet;

fn node_row(row: &Row<'_>) -> rusqlite::Result<Node> {
    let address: Option<String> = row.get(4)?;
    let parsed = address.map(|text| text.parse()).transpose();
    Ok(Node {
        name: row.get::<_, Word<_>>(0)?.0,
        machine: row.get(1)?,
        epoch: row.get::<_, Word<_>>(2)?.0,
        certificate: row.get(3)?,
        address: parsed.map_err(FromSqlError::other)?,
        program: row.get(5)?,
        since: Timestamp(row.get(6)?),
    })
}

pub(super) fn nodes(db: &Connection) -> Result<Vec<Node>> {
    let sql = "SELECT name, machine, boot, certificate, address, program, since FROM nodes ORDER BY name";
    let mut query = db.prepare_cached(sql)?;
    let rows = query.query_map([], node_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns the epochs of all nodes, as they are recorded.
pub(super) fn epochs(db: &Connection) -> Result<HashSet<CacheEpoch>> {
    Ok(nodes(db)?.into_iter().map(|node| node.epoch).collect())
}

pub(super) fn set(db: &Connection, node: &Node) -> Result<()> {
    let recorded = nodes(db)?.into_iter().find(|one| one.name == node.name);
    if let Some(recorded) = recorded {
        node.refuse_other(&recorded)?;
        if node.is_as(&recorded) {
            return Ok(());
        }
    }
    let sql = "INSERT OR REPLACE INTO nodes (name, machine, boot, certificate, address, program, since)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let Node {
        name,
        machine,
        epoch,
        certificate,
        address,
        program,
        since,
    } = node;
    let address = address.map(|address| address.to_string());
    let values = params![
        name.as_str(),
        machine,
        Word(*epoch),
        certificate,
        address,
        program,
        since.0
    ];
    db.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

pub(super) fn remove(db: &Connection, name: &Name) -> Result<bool> {
    Node::refuse_used(name, &members::members(db)?.1)?;
    let removed = db
        .prepare_cached("DELETE FROM nodes WHERE name = ?1")?
        .execute([name.as_str()])?;
    Ok(removed > 0)
}
