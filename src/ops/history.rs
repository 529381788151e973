//! What was done to a pool, by whom: written when it begins and when it has ended, and read again.
//!
//! Nothing that is done fails or hangs because it cannot be written down: each attempt has a second.

use crate::disk::aside;
use crate::error::Result;
use crate::pool::dir::PoolDir;
use crate::store::Store;
use crate::store::audit::{End, Entry, KEPT, Process, Recorded};
use crate::units::Timestamp;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;
use uuid::Uuid;

/// How long writing may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is kept of one word, of a command line, and of a reason, in bytes.
const WORD: usize = 512;
const LINE: usize = 2048;
const WHY: usize = 1024;
/// Read at a time.
const BATCH: usize = 1000;

/// Something that is being done.
pub struct Deed {
    pool: PoolDir,
    entry: Entry,
    /// Writing that it began took too long: no more time is spent on it.
    given_up: bool,
}

impl Deed {
    /// `by` (a program) begins what these words say. The pool need not exist yet.
    #[must_use]
    pub fn begin(pool: &PoolDir, by: &str, words: impl IntoIterator<Item = String>) -> Self {
        let mut deed = Self {
            pool: pool.clone(),
            entry: entry(by, words),
            given_up: false,
        };
        deed.write();
        deed
    }

    /// It has ended with this exit status; `why` is empty when it did not fail.
    pub fn end(mut self, status: u8, why: &str) {
        self.entry.end = Some(ending(status, why));
        self.write();
    }

    fn write(&mut self) {
        if self.given_up {
            return;
        }
        let (pool, entry) = (self.pool.clone(), self.entry.clone());
        let written = aside::ask(&self.pool.database(), PATIENCE, move || {
            super::open(&pool)?.record(&entry)
        });
        match written {
            Ok(Ok(())) => {}
            Ok(Err(why)) => log::info!("not in the history: {why}"),
            Err(why) => {
                self.given_up = why.kind() == io::ErrorKind::TimedOut;
                log::info!("not in the history: {why}");
            }
        }
    }
}

/// Writes down what `by` has done without a command of its own.
///
/// # Errors
/// The store's.
pub fn note(store: &mut dyn Store, by: &str, words: impl IntoIterator<Item = String>) -> Result<()> {
    let mut entry = entry(by, words);
    entry.end = Some(ending(0, ""));
    store.record(&entry)
}

fn entry(by: &str, words: impl IntoIterator<Item = String>) -> Entry {
    let uid = rustix::process::getuid().as_raw();
    Entry {
        id: Uuid::new_v4(),
        by: by.to_owned(),
        uid,
        user: user_name(uid).unwrap_or_default(),
        pid: std::process::id(),
        process: Process::this().ok(),
        command: bounded(words),
        began: Timestamp::now(),
        end: None,
    }
}

fn ending(status: u8, why: &str) -> End {
    End {
        at: Timestamp::now(),
        status,
        why: cut(why, WHY),
    }
}

/// The words, as many as fit; where some do not, the last is `…`.
fn bounded(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut left = LINE;
    for word in words {
        let word = cut(&word, WORD);
        let Some(rest) = left.checked_sub(word.len() + 1) else {
            kept.push("…".into());
            break;
        };
        left = rest;
        kept.push(word);
    }
    kept
}

/// At most `most` bytes of it, and `…` where something is left out.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most);
    format!("{}…", &text[..end])
}

/// From the system's table of users, as far as it is no longer than a table may reasonably be.
fn user_name(uid: u32) -> Option<String> {
    const LONGEST: u64 = 1 << 20;
    let mut table = Vec::new();
    File::open("/etc/passwd")
        .ok()?
        .take(LONGEST)
        .read_to_end(&mut table)
        .ok()?;
    let table = String::from_utf8_lossy(&table);
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| cut(name, WORD))
    })
}

/// How something that was done stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It did what was asked.
    Done,
    /// It ended otherwise.
    Failed,
    /// Its process is at it.
    Running,
    /// Its process was killed before it could say how it ended.
    Unfinished,
    /// It has not said how it ended, and its process cannot be seen from here.
    Unknown,
}

/// How this stands.
#[must_use]
pub fn standing(entry: &Entry) -> Standing {
    /// Statuses of what was done though something is to be said about it: an apparatus was fenced; problems remain.
    const DONE_BUT: [u8; 3] = [0, 5, 7];
    if let Some(end) = &entry.end {
        return match DONE_BUT.contains(&end.status) {
            true => Standing::Done,
            false => Standing::Failed,
        };
    }
    let lives = entry.process.map(|process| process.lives(entry.pid));
    match lives {
        Some(Ok(Some(true))) => Standing::Running,
        Some(Ok(Some(false))) => Standing::Unfinished,
        _ => Standing::Unknown,
    }
}

/// At most `most` of the latest that began at `since` or later, oldest first, and the mark to go on after.
///
/// # Errors
/// The store's.
pub fn latest(store: &mut dyn Store, since: Option<Timestamp>, most: usize) -> Result<(Vec<Recorded>, u64)> {
    let mut last = 0;
    let mut latest = BTreeMap::new();
    // More are never there at once; who writes meanwhile does not keep a reader for ever.
    for _ in 0..KEPT.div_ceil(BATCH as u64) + 1 {
        let batch = store.recorded(last, BATCH)?;
        let Some(end) = batch.last() else { break };
        last = end.mark;
        let wanted = batch
            .into_iter()
            .filter(|each| since.is_none_or(|since| each.entry.began >= since));
        for each in wanted {
            latest.insert(each.seq, each);
            if latest.len() > most {
                latest.pop_first();
            }
        }
    }
    Ok((latest.into_values().collect(), last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::SqliteStore;
    use crate::units::ExtentSize;

    #[test]
    fn command_lines_and_reasons_are_bounded() {
        let long = || "ä".repeat(10_000);
        let line = bounded(std::iter::repeat_with(long).take(10_000));
        assert!(
            line.iter().map(String::len).sum::<usize>() <= LINE + 8,
            "{line:?}"
        );
        assert_eq!(line.last().map(String::as_str), Some("…"));
        assert_eq!(bounded(["a b".into(), String::new()]), ["a b", ""]);
        assert!(ending(1, &long()).why.len() <= WHY + "…".len());
    }

    #[test]
    fn what_is_not_ended_is_told_by_its_process() {
        let mut entry = entry("test", ["x".to_owned()]);
        assert_eq!(standing(&entry), Standing::Running);
        entry.pid = 1;
        assert_eq!(standing(&entry), Standing::Unfinished);
        entry.process = None;
        assert_eq!(standing(&entry), Standing::Unknown);
        for (status, expected) in [(0, Standing::Done), (5, Standing::Done), (4, Standing::Failed)] {
            entry.end = Some(ending(status, ""));
            assert_eq!(standing(&entry), expected);
        }
    }

    #[test]
    fn a_pool_that_is_made_by_a_deed_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path().join("pool"));
        let deed = Deed::begin(&pool, "test", ["pool".into(), "create".into()]);
        assert!(!pool.path().exists());
        let mut store = SqliteStore::create(&pool, ExtentSize::DEFAULT).unwrap();
        deed.end(0, "");
        for n in 0..5 {
            note(&mut store, "test", [n.to_string()]).unwrap();
        }
        let (all, mark) = latest(&mut store, None, 9).unwrap();
        let words: Vec<_> = all.iter().map(|each| each.entry.command.join(" ")).collect();
        assert_eq!(words, ["pool create", "0", "1", "2", "3", "4"]);
        assert_eq!(mark, 6);
        let (two, _) = latest(&mut store, None, 2).unwrap();
        assert_eq!(two, all[4..]);
        let (since, _) = latest(&mut store, Some(all[3].entry.began), 9).unwrap();
        assert_eq!(since, all[3..]);
    }
}
