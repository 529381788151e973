//! The history of a pool: which operations were run, and by whom. An operation is recorded when it begins and when it has ended; then
//! the archive gets a copy of the database if the operation has changed the table.
//!
//! No operation fails or hangs because it cannot be recorded or archived: each attempt to record takes at most a second, and a copy
//! five.

use super::pool::PoolHandle;
use super::{archive, node};
use crate::blockdev::with_timeout;
use crate::cluster::{self, Cluster, Presence};
use crate::model::audit::{End, Entry, KEPT, Recorded};
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::names::Name;
use crate::model::units::Timestamp;
use crate::store::{EventStore, OpenStore};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long recording may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a copy for the archive may take.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(5);
/// Greatest length of a word, of a command line, and of a reason, in bytes.
const WORD: usize = 512;
const LINE: usize = 2048;
const WHY: usize = 1024;
/// Entries read at a time.
const BATCH: usize = 1000;

/// An operation that is under way.
pub struct Operation {
    pool: PoolDir,
    open_store: OpenStore,
    entry: Entry,
    /// Recording the beginning took too long, so the end is not recorded.
    given_up: bool,
}

impl Operation {
    /// Records that `by` (a program) begins the operation described by `words`. The pool need not exist yet.
    #[must_use]
    pub fn begin(pool: &PoolDir, by: &str, words: impl IntoIterator<Item = String>) -> Self {
        let node = node::own(pool).ok().flatten().map(|own| own.name);
        let entry = Entry {
            node,
            ..entry(cluster::open(pool).ok().as_deref(), by, words)
        };
        let in_dir = pool.clone();
        Self::record(pool, Arc::new(move || super::pool::open(&in_dir)), entry)
    }

    /// Records the same in the store of this pool.
    #[must_use]
    pub fn begin_in(pool: &PoolHandle, by: &str, words: impl IntoIterator<Item = String>) -> Self {
        let node = pool.node.as_ref().map(|own| own.name.clone());
        let entry = Entry {
            node,
            ..entry(Some(&*pool.cluster), by, words)
        };
        Self::record(&pool.dir, Arc::clone(&pool.open_store), entry)
    }

    fn record(pool: &PoolDir, open_store: OpenStore, entry: Entry) -> Self {
        let mut operation = Self {
            pool: pool.clone(),
            open_store,
            entry,
            given_up: false,
        };
        operation.write();
        operation
    }

    /// Records the end with this exit status; `why` is empty when the operation did not fail.
    pub fn end(mut self, status: u8, why: &str) {
        self.entry.end = Some(ending(status, why));
        self.write();
        self.archive();
    }

    fn archive(&self) {
        if self.given_up {
            return;
        }
        let (pool, open_store) = (self.pool.clone(), Arc::clone(&self.open_store));
        let kept = with_timeout::ask(&self.pool.database(), ARCHIVE_PATIENCE, move || {
            archive::keep(&pool, &mut *open_store()?)
        });
        match kept {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => log::info!("the archive has no copy of the database after this operation: {why}"),
            Err(why) => log::info!("the archive has no copy of the database after this operation: {why}"),
        }
    }

    fn write(&mut self) {
        if self.given_up {
            return;
        }
        let (open_store, entry) = (Arc::clone(&self.open_store), self.entry.clone());
        let database = self.pool.database();
        let written = with_timeout::ask(&database, PATIENCE, move || open_store()?.record(&entry));
        match written {
            Ok(Ok(())) => {}
            Ok(Err(why)) => log::info!("the operation is not in the history: {why}"),
            Err(why) => {
                self.given_up = why.kind() == io::ErrorKind::TimedOut;
                log::info!("the operation is not in the history: {why}");
            }
        }
    }
}

/// Records what `by` has done without a command of its own.
///
/// # Errors
/// Returns the errors of the store.
pub fn note(
    store: &mut dyn EventStore,
    cluster: &dyn Cluster,
    by: &str,
    words: impl IntoIterator<Item = String>,
) -> Result<()> {
    let mut entry = entry(Some(cluster), by, words);
    entry.end = Some(ending(0, ""));
    store.record(&entry)
}

fn entry(cluster: Option<&dyn Cluster>, by: &str, words: impl IntoIterator<Item = String>) -> Entry {
    let uid = rustix::process::getuid().as_raw();
    Entry {
        id: Uuid::new_v4(),
        by: by.to_owned(),
        node: None,
        uid,
        user: user_name(uid).unwrap_or_default(),
        pid: std::process::id(),
        process: cluster.and_then(|cluster| cluster.this_process().ok()),
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

/// Returns as many of the words as fit; where some do not, the last is `…`.
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

/// Returns at most `most` bytes of the text, and `…` where something is left out.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most);
    format!("{}…", &text[..end])
}

/// Returns a user's name from the first MiB of the system's user table.
pub(crate) fn user_name(uid: u32) -> Option<String> {
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

/// The state of a recorded operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// It ended successfully.
    Done,
    /// It failed.
    Failed,
    /// Its process is running.
    Running,
    /// Its process was killed before it could record the end.
    Unfinished,
    /// No end is recorded, and its process cannot be seen from here.
    Unknown,
}

/// Returns the state of a recorded operation, as this machine knows it, which is the node `own` of the pool if that knows its nodes.
#[must_use]
pub fn state_of(entry: &Entry, presence: &dyn Presence, own: Option<&Name>) -> OperationState {
    /// Exit statuses of operations that succeeded, some with a remark: an apparatus was fenced; problems remain.
    const DONE_WITH_REMARK: [u8; 3] = [0, 5, 7];
    if let Some(end) = &entry.end {
        return match DONE_WITH_REMARK.contains(&end.status) {
            true => OperationState::Done,
            false => OperationState::Failed,
        };
    }
    if entry.node.is_some() && entry.node.as_ref() != own {
        return OperationState::Unknown;
    }
    let lives = entry
        .process
        .map(|process| presence.process_lives(process, entry.pid));
    match lives {
        Some(Ok(Some(true))) => OperationState::Running,
        Some(Ok(Some(false))) => OperationState::Unfinished,
        _ => OperationState::Unknown,
    }
}

/// Returns at most `most` of the latest entries that began at `since` or later, oldest first, and the mark to continue from.
///
/// # Errors
/// Returns the errors of the store.
pub fn latest(
    store: &mut dyn EventStore,
    since: Option<Timestamp>,
    most: usize,
) -> Result<(Vec<Recorded>, u64)> {
    let mut last = 0;
    let mut latest = BTreeMap::new();
    // The store never has more entries at once; the bound keeps concurrent writers from holding a reader for ever.
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
    use crate::model::units::ExtentSize;
    use crate::store;

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
    fn an_unfinished_record_is_judged_by_its_process() {
        let cluster = cluster::open(&PoolDir::default()).unwrap();
        let state_of = |entry: &Entry| state_of(entry, &*cluster, None);
        let mut entry = entry(Some(&*cluster), "test", ["x".to_owned()]);
        assert_eq!(state_of(&entry), OperationState::Running);
        entry.pid = 1;
        assert_eq!(state_of(&entry), OperationState::Unfinished);
        entry.process = None;
        assert_eq!(state_of(&entry), OperationState::Unknown);
        for (status, expected) in [
            (0, OperationState::Done),
            (5, OperationState::Done),
            (4, OperationState::Failed),
        ] {
            entry.end = Some(ending(status, ""));
            assert_eq!(state_of(&entry), expected);
        }
    }

    #[test]
    fn the_operation_that_creates_a_pool_is_in_its_history() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path().join("pool"));
        let operation = Operation::begin(&pool, "test", ["pool".into(), "create".into()]);
        assert!(!pool.path().exists());
        store::create(&pool, ExtentSize::DEFAULT).unwrap();
        let mut store = crate::controller::pool::open_store(&pool).unwrap();
        operation.end(0, "");
        for n in 0..5 {
            note(
                &mut *store,
                &*cluster::open(&pool).unwrap(),
                "test",
                [n.to_string()],
            )
            .unwrap();
        }
        let (all, mark) = latest(&mut *store, None, 9).unwrap();
        let words: Vec<_> = all.iter().map(|each| each.entry.command.join(" ")).collect();
        assert_eq!(words, ["pool create", "0", "1", "2", "3", "4"]);
        assert_eq!(mark, 6);
        let (two, _) = latest(&mut *store, None, 2).unwrap();
        assert_eq!(two, all[4..]);
        let (since, _) = latest(&mut *store, Some(all[3].entry.began), 9).unwrap();
        assert_eq!(since, all[3..]);
    }
}
