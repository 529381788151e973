//! Whether the pool's records fit together.

use crate::error::Result;
use crate::units::BootId;
use rusqlite::Connection;

pub(super) fn problems(db: &Connection, _boot: BootId) -> Result<Vec<String>> {
    let mut query = db.prepare("PRAGMA integrity_check")?;
    let rows = query.query_map([], |row| row.get::<_, String>(0))?;
    let mut found: Vec<String> = rows.collect::<Result<_, _>>()?;
    found.retain(|line| line != "ok");
    Ok(found)
}
