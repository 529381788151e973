//! Events for the operator.

use super::convert::Word;
use super::table::capped;
use crate::model::error::Result;
use crate::model::event::{Event, Severity};
use crate::model::units::Timestamp;
use rusqlite::{Connection, Row, params};

/// Number of events that are kept.
const KEPT: i64 = 10_000;

fn event_row(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        seq: row.get(0)?,
        at: Timestamp(row.get(1)?),
        severity: row.get::<_, Word<_>>(2)?.0,
        subject: row.get(3)?,
        text: row.get(4)?,
    })
}

pub(super) fn log(db: &Connection, severity: Severity, subject: &str, text: &str) -> Result<()> {
    db.prepare_cached("INSERT INTO events (at, severity, subject, text) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![Timestamp::now().0, Word(severity), subject, text])?;
    db.prepare_cached("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1")?
        .execute([KEPT])?;
    Ok(())
}

pub(super) fn events(db: &Connection, after: u64, most: usize) -> Result<Vec<Event>> {
    let sql = "SELECT seq, at, severity, subject, text FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let mut query = db.prepare_cached(sql)?;
    let rows = query.query_map(
        params![capped(after), i64::try_from(most).unwrap_or(i64::MAX)],
        event_row,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}
