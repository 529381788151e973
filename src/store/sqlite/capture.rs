//! The rows that a transaction writes, as lines of text that another copy of the database can apply.
//!
//! Temporary triggers of a connection record each row. A line has fields separated by tabs, and values as JSON arrays in the order of
//! [`Table::columns`]: `i TABLE NEW` for an inserted row, `u TABLE KEY NEW` for a changed one, `d TABLE KEY` for a deleted one. SQLite writes and
//! reads the arrays itself; a tab or a line break in a value is escaped there. All columns are integers, text or NULL, so nothing is rounded.

use super::convert::damaged;
use crate::model::error::Result;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Columns that describe this copy of the database and the machine that it is on, with their values in a new copy.
const OF_THIS_COPY: [(&str, &str, &str); 4] = [
    ("pool", "home", "''"),
    ("pool", "home_device", "''"),
    ("pool", "home_inode", "''"),
    ("pool", "checkpoints", "0"),
];
/// The table of a mirror's position, which is not a part of the metadata.
pub(super) const POSITION: &str = "mirror";
/// The temporary table with the lines of the running transaction.
const LINES: &str = "temp.captured";

/// A table of the database.
#[derive(Clone, Debug)]
struct Table {
    /// The columns that all copies share, in the order of the table.
    columns: Vec<String>,
    /// Positions in `columns` of the primary key.
    key: Vec<usize>,
    /// SQL that applies each kind of line.
    insert: String,
    update: String,
    delete: String,
}

/// Records the rows of transactions on one connection, and applies recorded ones.
pub(super) struct Capture {
    tables: BTreeMap<String, Table>,
}

impl Capture {
    /// Begins to record the rows that this connection writes.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(super) fn of(db: &Connection) -> Result<Self> {
        // Rows that a statement replaces are recorded as deleted.
        db.pragma_update(None, "recursive_triggers", true)?;
        db.execute_batch("CREATE TEMP TABLE captured (seq INTEGER PRIMARY KEY, line TEXT NOT NULL)")?;
        let sql = "SELECT name FROM main.sqlite_schema
                   WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> ?1";
        let mut query = db.prepare(sql)?;
        let names: Vec<String> = query
            .query_map([POSITION], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut tables = BTreeMap::new();
        for name in names {
            let table = Table::of(db, &name)?;
            db.execute_batch(&table.triggers(&name))?;
            tables.insert(name, table);
        }
        Ok(Self { tables })
    }

    /// Forgets what was recorded: a transaction begins.
    pub(super) fn begin(db: &Connection) -> Result<()> {
        db.prepare_cached(&format!("DELETE FROM {LINES}"))?.execute([])?;
        Ok(())
    }

    /// Returns the rows that were written since [`Self::begin`].
    pub(super) fn rows(db: &Connection) -> Result<Vec<u8>> {
        let mut query = db.prepare_cached(&format!("SELECT line FROM {LINES} ORDER BY seq"))?;
        let mut found = query.query([])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            rows.extend_from_slice(
                row.get_ref(0)?
                    .as_bytes()
                    .map_err(|error| damaged(&error.to_string()))?,
            );
            rows.push(b'\n');
        }
        Ok(rows)
    }

    /// Returns all rows of the database, as if they had just been inserted.
    pub(super) fn all(&self, db: &Connection) -> Result<Vec<u8>> {
        let mut rows = Vec::new();
        for (name, table) in &self.tables {
            let columns: Vec<String> = table.columns.iter().map(|column| quoted(column)).collect();
            let sql = format!(
                "SELECT json_array({}) FROM main.{}",
                columns.join(", "),
                quoted(name)
            );
            let mut query = db.prepare(&sql)?;
            let mut found = query.query([])?;
            while let Some(row) = found.next()? {
                let values = row
                    .get_ref(0)?
                    .as_str()
                    .map_err(|error| damaged(&error.to_string()))?;
                rows.extend_from_slice(format!("i\t{name}\t{values}\n").as_bytes());
            }
        }
        Ok(rows)
    }

    /// Applies recorded rows in their order. What is applied is recorded too; [`Self::begin`] forgets it.
    ///
    /// # Errors
    /// Fails if they do not fit this copy of the database, or are damaged.
    pub(super) fn apply(&self, db: &Connection, rows: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(rows).map_err(|_| damaged("a row of the log is not text"))?;
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let table = |name: &str| {
                self.tables
                    .get(name)
                    .ok_or_else(|| damaged("the log has rows of an unknown table"))
            };
            let changed = match fields[..] {
                ["i", name, new] => db.prepare_cached(&table(name)?.insert)?.execute(params![new])?,
                ["u", name, key, new] => db
                    .prepare_cached(&table(name)?.update)?
                    .execute(params![new, key])?,
                ["d", name, key] => db.prepare_cached(&table(name)?.delete)?.execute(params![key])?,
                _ => return Err(damaged("a row of the log cannot be parsed")),
            };
            if changed != 1 {
                return Err(damaged("a row of the log does not fit this copy"));
            }
        }
        Ok(())
    }

    /// Replaces all rows of the database. The values of this copy stay.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub(super) fn replace(&self, db: &Connection, rows: &[u8]) -> Result<()> {
        let of_this_copy = Self::of_this_copy(db)?;
        for name in self.tables.keys() {
            db.execute(&format!("DELETE FROM main.{}", quoted(name)), [])?;
        }
        self.apply(db, rows)?;
        for (table, column, value) in of_this_copy {
            db.execute(
                &format!("UPDATE main.{} SET {} = ?1", quoted(table), quoted(column)),
                [value],
            )?;
        }
        Ok(())
    }

    fn of_this_copy(db: &Connection) -> Result<Vec<(&'static str, &'static str, Value)>> {
        let mut found = Vec::new();
        for (table, column, _) in OF_THIS_COPY {
            let sql = format!("SELECT {} FROM main.{}", quoted(column), quoted(table));
            let value = db.query_row(&sql, [], |row| row.get(0)).optional()?;
            found.extend(value.map(|value| (table, column, value)));
        }
        Ok(found)
    }
}

impl Table {
    fn of(db: &Connection, name: &str) -> Result<Self> {
        let mut query = db.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid")?;
        let found: Vec<(String, usize)> = query
            .query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let shared: Vec<(String, usize)> = found
            .into_iter()
            .filter(|(column, _)| !OF_THIS_COPY.iter().any(|own| (own.0, own.1) == (name, column)))
            .collect();
        let own = OF_THIS_COPY.iter().filter(|own| own.0 == name);
        let (own, defaults): (String, String) = own
            .map(|(_, column, default)| (format!(", {}", quoted(column)), format!(", {default}")))
            .unzip();
        let key: Vec<usize> = (0..shared.len()).filter(|&at| shared[at].1 > 0).collect();
        let columns: Vec<String> = shared.into_iter().map(|(column, _)| column).collect();
        let (table, new) = (quoted(name), values("?1", columns.len()));
        let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let list = list.join(", ");
        let matches = |parameter: &str| {
            let pairs: Vec<String> = (0..key.len())
                .map(|at| format!("{} = {}", quoted(&columns[key[at]]), value(parameter, at)))
                .collect();
            pairs.join(" AND ")
        };
        Ok(Self {
            insert: format!("INSERT INTO main.{table} ({list}{own}) SELECT {new}{defaults}"),
            update: format!(
                "UPDATE main.{table} SET ({list}) = (SELECT {new}) WHERE {}",
                matches("?2")
            ),
            delete: format!("DELETE FROM main.{table} WHERE {}", matches("?1")),
            columns,
            key,
        })
    }

    /// Returns the triggers that record this table's rows.
    fn triggers(&self, name: &str) -> String {
        let row = |of: &str, which: &mut dyn Iterator<Item = &String>| {
            let columns: Vec<String> = which.map(|column| format!("{of}.{}", quoted(column))).collect();
            format!("json_array({})", columns.join(", "))
        };
        let new = row("new", &mut self.columns.iter());
        let old_key = row("old", &mut self.key.iter().map(|&at| &self.columns[at]));
        let shared: Vec<String> = self.columns.iter().map(|column| quoted(column)).collect();
        let mut sql = String::new();
        for (event, line) in [
            (
                "INSERT".to_owned(),
                format!("'i' || char(9) || '{name}' || char(9) || {new}"),
            ),
            (
                format!("UPDATE OF {}", shared.join(", ")),
                format!("'u' || char(9) || '{name}' || char(9) || {old_key} || char(9) || {new}"),
            ),
            (
                "DELETE".to_owned(),
                format!("'d' || char(9) || '{name}' || char(9) || {old_key}"),
            ),
        ] {
            let kind = &event[..6];
            // Writing to a string cannot fail.
            let _ = write!(
                sql,
                "CREATE TEMP TRIGGER {} AFTER {event} ON main.{} BEGIN INSERT INTO captured (line) VALUES ({line}); END;",
                quoted(&format!("captures_{kind}_{name}")),
                quoted(name),
            );
        }
        sql
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns SQL for a value of the array that a parameter has.
fn value(parameter: &str, at: usize) -> String {
    format!("json_extract({parameter}, '$[{at}]')")
}

fn values(parameter: &str, count: usize) -> String {
    let values: Vec<String> = (0..count).map(|at| value(parameter, at)).collect();
    values.join(", ")
}
