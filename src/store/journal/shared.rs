//! A log in memory, which loses answers on request. For tests.

use super::{Appended, DerivedKey, Entry, Journal, Missing, Position};
use crate::model::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the log does with the next append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trouble {
    #[default]
    None,
    /// The entry is appended, and the answer is lost.
    LosesAnswer,
    /// The entry arrives only when the next one has been asked for.
    Delays,
    /// Another machine is faster with an entry of the same rows, and the answer is lost.
    Overtakes,
    /// The log cannot be reached.
    Away,
}

#[derive(Default)]
struct Log {
    base: Option<(Position, Vec<u8>)>,
    entries: Vec<Entry>,
    late: Vec<Entry>,
    trouble: Trouble,
    keys: BTreeMap<String, String>,
    /// Number of entries after which the log is trimmed.
    most: Option<usize>,
}

impl Log {
    fn head(&self) -> Position {
        let base = self.base.as_ref().map(|(position, _)| *position);
        let last = self.entries.last().map(Entry::position);
        last.or(base).unwrap_or_default()
    }

    fn accept(&mut self, entry: Entry) -> Appended {
        if entry.after != self.head() {
            return Appended::Outdated;
        }
        self.entries.push(entry);
        Appended::Accepted
    }
}

/// A handle on the log.
#[derive(Clone, Default)]
pub(crate) struct SharedLog(Arc<Mutex<Log>>);

impl SharedLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what the log does with the next append; `Away` stays.
    pub(crate) fn plan(&self, trouble: Trouble) {
        self.lock().trouble = trouble;
    }

    /// Sets the number of entries after which the log is trimmed.
    pub(crate) fn keep(&self, most: usize) {
        self.lock().most = Some(most);
    }

    /// Returns a derived key.
    pub(crate) fn key(&self, key: &str) -> Option<String> {
        self.lock().keys.get(key).cloned()
    }

    /// Returns the number of entries that the log has.
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Removes the last entries, as a log that was restored from an older copy.
    pub(crate) fn forget(&self, entries: usize) {
        let mut log = self.lock();
        let left = log.entries.len() - entries;
        log.entries.truncate(left);
    }
}

fn away() -> Error {
    Error::new(ErrorKind::TimedOut, "log of the pool", "does not answer")
}

impl Journal for SharedLog {
    fn head(&mut self) -> Result<Position> {
        let log = self.lock();
        match log.trouble {
            Trouble::Away => Err(away()),
            _ => Ok(log.head()),
        }
    }

    fn after(&mut self, position: Position) -> Result<Missing> {
        let log = self.lock();
        if log.trouble == Trouble::Away {
            return Err(away());
        }
        let base = log.base.clone().filter(|(base, _)| base.number > position.number);
        let from = base.as_ref().map_or(position, |(base, _)| *base);
        let entries: Vec<Entry> = log
            .entries
            .iter()
            .filter(|entry| entry.after.number >= from.number)
            .cloned()
            .collect();
        Ok(Missing { base, entries })
    }

    fn append(&mut self, entry: &Entry, derived: &[DerivedKey]) -> Result<Appended> {
        let mut log = self.lock();
        let trouble = log.trouble;
        if trouble == Trouble::Away {
            return Err(away());
        }
        log.trouble = Trouble::None;
        if trouble == Trouble::Delays {
            log.late.push(entry.clone());
            return Err(away());
        }
        if trouble == Trouble::Overtakes {
            let nonce = !entry.nonce;
            log.accept(Entry {
                nonce,
                ..entry.clone()
            });
        }
        let answer = log.accept(entry.clone());
        if answer == Appended::Accepted {
            let keys = derived
                .iter()
                .map(|derived| (derived.key.clone(), derived.value.clone()));
            log.keys.extend(keys);
        }
        // What was late arrives behind it, and finds that the log has gone on.
        for late in std::mem::take(&mut log.late) {
            log.accept(late);
        }
        match trouble {
            Trouble::LosesAnswer | Trouble::Overtakes => Err(away()),
            _ => Ok(answer),
        }
    }

    fn trim(&mut self, position: Position, rows: &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<()> {
        let due = {
            let log = self.lock();
            log.most.is_some_and(|most| log.entries.len() > most)
        };
        if due {
            let rows = rows()?;
            let mut log = self.lock();
            log.entries.retain(|entry| entry.after.number >= position.number);
            log.base = Some((position, rows));
        }
        Ok(())
    }

    fn destroy(&mut self) -> Result<()> {
        *self.lock() = Log::default();
        Ok(())
    }
}
