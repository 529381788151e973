//! The audit log.

use super::convert::{Ron, to_ron};
use super::table::capped;
use crate::model::audit::{End, Entry, KEPT, Recorded};
use crate::model::error::Result;
use crate::model::units::Timestamp;
use rusqlite::{Connection, Row, params};

/// Writes an entry, or the end of an existing one. An entry that has its end already stays unchanged: the command that began it
/// may report late.
pub(super) fn record(db: &Connection, entry: &Entry) -> Result<()> {
    let id = entry.id.to_string();
    let mark: i64 = db
        .prepare_cached("SELECT coalesce(max(mark), 0) + 1 FROM audit")?
        .query_row([], |row| row.get(0))?;
    let end = entry.end.as_ref();
    let (at, status, why) = (
        end.map(|end| end.at.0),
        end.map(|end| end.status),
        end.map(|end| &end.why),
    );
    let there = "SELECT EXISTS (SELECT 1 FROM audit WHERE id = ?1)";
    if db.prepare_cached(there)?.query_row([&id], |row| row.get(0))? {
        let ended = "UPDATE audit SET mark = ?2, ended = ?3, status = ?4, why = ?5
                     WHERE id = ?1 AND ended IS NULL AND ?3 IS NOT NULL";
        db.prepare_cached(ended)?
            .execute(params![id, mark, at, status, why])?;
        return Ok(());
    }
    let begun = Entry {
        end: None,
        ..entry.clone()
    };
    let new =
        "INSERT INTO audit (id, mark, who, began, ended, status, why) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    db.prepare_cached(new)?
        .execute(params![id, mark, to_ron(&begun)?, entry.began.0, at, status, why])?;
    db.prepare_cached("DELETE FROM audit WHERE seq <= (SELECT max(seq) FROM audit) - ?1")?
        .execute([capped(KEPT)])?;
    Ok(())
}

fn row(row: &Row<'_>) -> rusqlite::Result<Recorded> {
    let entry: Entry = row.get::<_, Ron<_>>(2)?.0;
    let end = match row.get::<_, Option<i64>>(3)? {
        None => None,
        Some(at) => Some(End {
            at: Timestamp(at),
            status: row.get(4)?,
            why: row.get(5)?,
        }),
    };
    Ok(Recorded {
        seq: row.get(0)?,
        mark: row.get(1)?,
        entry: Entry { end, ..entry },
    })
}

pub(super) fn recorded(db: &Connection, after: u64, most: usize) -> Result<Vec<Recorded>> {
    let sql = "SELECT seq, mark, who, ended, status, why FROM audit WHERE mark > ?1 ORDER BY mark LIMIT ?2";
    let mut query = db.prepare_cached(sql)?;
    let rows = query.query_map(
        params![capped(after), i64::try_from(most).unwrap_or(i64::MAX)],
        row,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}
