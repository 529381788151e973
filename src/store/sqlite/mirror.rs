//! Keeps this database a prefix of a log that several machines share: see [`crate::store::journal`].

mod derived;

use super::capture::{Capture, POSITION};
use super::convert::damaged;
use super::schema::MIGRATIONS;
use super::table::raise_layout;
use crate::model::error::{Error, ErrorKind, Result};
use crate::store::journal::{Appended, DerivedKey, Entry, Journal, Missing, Position};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How often a transaction is computed again because the log has gone on.
const ATTEMPTS: u32 = 16;
/// How long reads use the mirror as it is, after the log could not be reached.
const REST: Duration = Duration::from_secs(1);

/// The log of this database, and what leads from one to the other.
pub(super) struct Mirror {
    journal: Box<dyn Journal>,
    capture: Capture,
    unreachable: Option<Instant>,
}

impl Mirror {
    /// Makes the database of this connection a mirror of the log. A log without an entry begins with the rows of this database.
    ///
    /// # Errors
    /// Fails if the log cannot be reached, and if the database is not a prefix of it.
    pub(super) fn of(db: &mut Connection, journal: Box<dyn Journal>) -> Result<Self> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {POSITION}
             (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL, chain INTEGER NOT NULL) STRICT"
        );
        db.execute_batch(&sql)?;
        let capture = Capture::of(db)?;
        Ok(Self {
            journal,
            capture,
            unreachable: None,
        })
    }

    /// Appends all rows of this database as the first entry of the log.
    ///
    /// # Errors
    /// Fails if the log has entries already, or cannot be reached.
    pub(super) fn found(&mut self, db: &mut Connection) -> Result<()> {
        let tx = begin(db)?;
        let entry = entry(position(&tx)?, self.capture.all(&tx)?);
        match self.append(&entry, &derived::keys(&tx, &entry.rows)?)? {
            Appended::Accepted => {}
            Appended::Outdated => {
                return Err(Error::failed("log of the pool", "has entries of a pool already"));
            }
        }
        set_position(&tx, entry.position())?;
        Ok(tx.commit()?)
    }

    /// Raises the layout number of this database, and appends all its rows as the first entry of the log. An entry that an interrupted attempt has appended is
    /// taken for it, and followed to the end of the log.
    ///
    /// # Errors
    /// Fails if the log has entries of another database, or cannot be reached.
    pub(super) fn enter(&mut self, db: &mut Connection) -> Result<()> {
        let tx = begin(db)?;
        if position(&tx)? == Position::default() {
            raise_layout(&tx)?;
            let entry = entry(Position::default(), self.capture.all(&tx)?);
            let first = match self.append(&entry, &derived::keys(&tx, &entry.rows)?)? {
                Appended::Accepted => entry,
                Appended::Outdated => self.first_like(&entry)?,
            };
            set_position(&tx, first.position())?;
        }
        tx.commit()?;
        self.catch_up(db)
    }

    /// Returns the first entry of the log if it has the same rows as this one.
    fn first_like(&mut self, entry: &Entry) -> Result<Entry> {
        let missing = self.journal.after(Position::default())?;
        let first = missing.entries.into_iter().next();
        let same = first.filter(|first| missing.base.is_none() && first.rows == entry.rows);
        same.ok_or_else(|| Error::failed("log of the pool", "has entries of a pool already"))
    }

    /// Fills a new database that has no row yet.
    ///
    /// # Errors
    /// Fails if the log has no entry, or cannot be reached.
    pub(super) fn fill(&mut self, db: &mut Connection) -> Result<()> {
        self.catch_up(db)?;
        match position(db)?.number {
            0 => Err(Error::new(
                ErrorKind::NotFound,
                "log of the pool",
                "has no entry: there is no such pool",
            )),
            _ => Ok(()),
        }
    }

    /// Brings the database up to the end of the log before it is read. If the log cannot be reached, it stays the prefix that it is.
    ///
    /// # Errors
    /// Fails if the entries do not fit the database.
    pub(super) fn before_reading(&mut self, db: &mut Connection) -> Result<()> {
        if self.unreachable.is_some_and(|since| since.elapsed() < REST) {
            return Ok(());
        }
        let caught_up = self.journal.head().and_then(|head| {
            let behind = position(db)? != head;
            if behind { self.catch_up(db) } else { Ok(()) }
        });
        match caught_up {
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                log::warn!("{error}; the copy of the pool's metadata on this machine is read as it is");
                self.unreachable = Some(Instant::now());
                Ok(())
            }
            other => {
                self.unreachable = None;
                other
            }
        }
    }

    /// Runs one transaction that writes. It is in the log when this returns.
    ///
    /// # Errors
    /// Fails if `work` fails on the newest state; nothing has changed then. Fails with `TimedOut` if the log cannot be reached.
    pub(super) fn write<T>(
        &mut self,
        db: &mut Connection,
        work: &mut impl FnMut(&Connection) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            if let Some(answer) = self.attempt(db, work)? {
                return Ok(answer);
            }
            self.catch_up(db)?;
        }
        let why = format!("other machines were faster {ATTEMPTS} times");
        Err(Error::new(ErrorKind::Busy, "log of the pool", why).hint("try again"))
    }

    /// Computes the transaction on this database and appends it. Returns `None` if the log has gone on.
    fn attempt<T>(
        &mut self,
        db: &mut Connection,
        work: &mut impl FnMut(&Connection) -> Result<T>,
    ) -> Result<Option<T>> {
        let tx = begin(db)?;
        Capture::begin(&tx)?;
        let at = position(&tx)?;
        let answer = match work(&tx) {
            Ok(answer) => answer,
            // The refusal may rest on an old state.
            Err(refusal) => {
                return match self.journal.head() {
                    Ok(head) if head != at => Ok(None),
                    _ => Err(refusal),
                };
            }
        };
        let rows = Capture::rows(&tx)?;
        if rows.is_empty() {
            if self.journal.head()? != at {
                return Ok(None);
            }
            tx.commit()?;
            return Ok(Some(answer));
        }
        let entry = entry(at, rows);
        if self.append(&entry, &derived::keys(&tx, &entry.rows)?)? == Appended::Outdated {
            return Ok(None);
        }
        // If this machine cannot write it, the entry is applied by the next transaction.
        set_position(&tx, entry.position())
            .and_then(|()| Ok(tx.commit()?))
            .map_err(Error::but_done)?;
        Ok(Some(answer))
    }

    /// Appends an entry; finds out whether it was appended if there was no answer.
    fn append(&mut self, entry: &Entry, derived: &[DerivedKey]) -> Result<Appended> {
        let lost = match self.journal.append(entry, derived) {
            Err(error) if error.kind() == ErrorKind::TimedOut => error,
            other => return other,
        };
        match self.journal.after(entry.after) {
            Ok(Missing { base: None, entries }) => match entries.first() {
                Some(first) if first.nonce == entry.nonce => Ok(Appended::Accepted),
                Some(_) => Ok(Appended::Outdated),
                None => Err(unknown(&lost)),
            },
            // A base may have replaced the entry, or another one in its place.
            Ok(_) | Err(_) => Err(unknown(&lost)),
        }
    }

    /// Applies the entries that are missing.
    ///
    /// # Errors
    /// Fails if the log cannot be reached, or does not continue this database.
    pub(super) fn catch_up(&mut self, db: &mut Connection) -> Result<()> {
        // Another process of this machine may have applied some meanwhile.
        let tx = begin(db)?;
        let mut at = position(&tx)?;
        let missing = self.journal.after(at)?;
        if let Some((base, rows)) = missing.base {
            self.capture.replace(&tx, &rows)?;
            at = base;
        }
        for entry in missing.entries {
            if entry.after != at {
                return Err(damaged("it is not a copy of this log of the pool"));
            }
            if usize::try_from(entry.format) != Ok(MIGRATIONS.len()) {
                let why = format!(
                    "has entries of format {}, and this program writes format {}",
                    entry.format,
                    MIGRATIONS.len()
                );
                return Err(
                    Error::failed("log of the pool", why).hint("use the same version on all machines")
                );
            }
            self.capture.apply(&tx, &entry.rows)?;
            at = entry.position();
        }
        set_position(&tx, at)?;
        Capture::begin(&tx)?;
        Ok(tx.commit()?)
    }

    /// Lets the log replace its old entries by the rows of this database, if it has become long.
    ///
    /// # Errors
    /// Fails if the log cannot be reached.
    pub(super) fn trim(&mut self, db: &mut Connection) -> Result<()> {
        let tx = db.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let at = position(&tx)?;
        self.journal.trim(at, &mut || self.capture.all(&tx))?;
        Ok(tx.commit()?)
    }
}

fn begin(db: &mut Connection) -> Result<Transaction<'_>> {
    Ok(db.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

fn entry(after: Position, rows: Vec<u8>) -> Entry {
    Entry {
        after,
        format: u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX),
        nonce: Uuid::new_v4().as_u128(),
        rows,
    }
}

fn unknown(lost: &Error) -> Error {
    let why = format!("{}, so it is unknown whether the change was made", lost.why());
    Error::new(ErrorKind::TimedOut, lost.what(), why).hint("vctl status shows the pool as it is")
}

fn position(db: &Connection) -> Result<Position> {
    let sql = format!("SELECT number, chain FROM main.{POSITION}");
    let found = db
        .prepare_cached(&sql)?
        .query_row([], |row| {
            Ok(Position {
                number: row.get(0)?,
                chain: row.get(1)?,
            })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

fn set_position(db: &Connection, position: Position) -> Result<()> {
    let sql = format!("INSERT OR REPLACE INTO main.{POSITION} (one, number, chain) VALUES (1, ?1, ?2)");
    db.prepare_cached(&sql)?
        .execute(params![position.number, position.chain])?;
    Ok(())
}

/// Makes the database one that mirrors no log.
pub(super) fn forget_position(db: &Connection) -> Result<()> {
    Ok(db.execute_batch(&format!("DROP TABLE IF EXISTS main.{POSITION}"))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests;
