//! Names of the objects of a pool, for a shell's completion. Reading them takes no lock that others would wait for, does not
//! migrate the database to the current format, and creates no file.

use super::convert::{Ron, Word};
use super::files::{self, log_of, shared_of};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use rusqlite::{Connection, OpenFlags, Row};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// Longest wait for another process's transaction. Readers hardly ever wait.
const PATIENCE: Duration = Duration::from_millis(200);

/// A name, and a detail that identifies the object to the user.
pub type Named = (String, String);

/// Names of the objects of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The pool's UUID; `None` if nothing has been read.
    pub uuid: Option<Uuid>,
    /// Disks, each with its path.
    pub disks: Vec<Named>,
    /// The tags of the disks.
    pub tags: BTreeSet<String>,
    /// Volumes, each with its size in bytes.
    pub volumes: Vec<(String, u64)>,
    /// Removed volumes that are remembered, each with its size in bytes.
    pub removed: Vec<(String, u64)>,
    /// Apparatuses that have not left, each with its mount point.
    pub apparatuses: Vec<Named>,
    /// Apparatuses that have left, each with its last mount point.
    pub former: Vec<Named>,
    /// Nodes, each with its address.
    pub nodes: Vec<Named>,
    /// Jobs, each with its state and title.
    pub jobs: Vec<JobName>,
}

/// A job, as completions show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobName {
    /// Its number.
    pub id: u64,
    /// Its state, as a word.
    pub state: String,
    /// Its title, in the form of the command that does the same.
    pub title: String,
}

/// Reads the names. The columns of the first format of the database are enough.
///
/// # Errors
/// Fails if there is no pool, or its database cannot be read now.
pub fn names(dir: &PoolDir) -> Result<Names> {
    let connection = open(&dir.database())?;
    let Word(uuid): Word<Uuid> = connection.query_row("SELECT uuid FROM pool", [], |row| row.get(0))?;
    let mut found = Names {
        uuid: Some(uuid),
        ..Names::default()
    };
    let disks = all(
        &connection,
        "SELECT name, path, tags FROM disks ORDER BY name",
        |row| {
            let Ron(tags): Ron<BTreeSet<String>> = row.get(2)?;
            Ok(((row.get(0)?, row.get(1)?), tags))
        },
    )?;
    for (disk, tags) in disks {
        found.disks.push(disk);
        found.tags.extend(tags);
    }
    let volumes = "SELECT name, size FROM volumes WHERE name NOT LIKE '.%' ORDER BY name";
    found.volumes = all(&connection, volumes, |row| Ok((row.get(0)?, row.get(1)?)))?;
    // Databases before format 8 remember none.
    let removed = "SELECT name, size FROM removed WHERE back IS NULL ORDER BY name";
    found.removed = all(&connection, removed, |row| Ok((row.get(0)?, row.get(1)?))).unwrap_or_default();
    let members = "SELECT name, mount, state = 'left' FROM members ORDER BY name";
    for (apparatus, has_left) in all(&connection, members, |row| {
        Ok(((row.get(0)?, row.get(1)?), row.get::<_, bool>(2)?))
    })? {
        let list = if has_left {
            &mut found.former
        } else {
            &mut found.apparatuses
        };
        list.push(apparatus);
    }
    // Databases before format 10 have none.
    let nodes = "SELECT name, coalesce(address, '') FROM nodes ORDER BY name";
    found.nodes = all(&connection, nodes, |row| Ok((row.get(0)?, row.get(1)?))).unwrap_or_default();
    found.jobs = all(
        &connection,
        "SELECT id, state, title FROM jobs ORDER BY id",
        |row| {
            Ok(JobName {
                id: row.get(0)?,
                state: row.get(1)?,
                title: row.get(2)?,
            })
        },
    )?;
    Ok(found)
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], row)?.collect::<rusqlite::Result<_>>();
    Ok(rows?)
}

/// Opens the database for reading only: at most the shared memory of SQLite's connections is written, if a log exists that no
/// process has open. If there is no log, none is made: the database itself has everything.
fn open(file: &Path) -> Result<Connection> {
    let used = log_of(file).exists() && shared_of(file).exists();
    let mode = if used { "mode=ro" } else { "mode=ro&immutable=1" };
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(file, mode)?, flags)?;
    connection.busy_timeout(PATIENCE)?;
    files::is_a_pools(&connection)?;
    Ok(connection)
}

/// Returns `file:PATH?MODE`, with all but plain letters escaped by number.
fn uri(file: &Path, mode: &str) -> Result<String> {
    let file = std::path::absolute(file).map_err(|error| Error::because("pool", error))?;
    let mut text = String::from("file:");
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                text.push(char::from(*byte))
            }
            _ => {
                let _ = write!(text, "%{byte:02x}");
            }
        }
    }
    text.push('?');
    text.push_str(mode);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::units::CacheEpoch;
    use crate::model::units::ExtentSize;
    use crate::store::sqlite::SqliteStore;
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    /// Returns every file of a directory, with its length and modification time, except for the shared memory of SQLite's
    /// connections.
    fn files(dir: &Path) -> BTreeMap<std::path::PathBuf, (u64, SystemTime)> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| {
                let meta = entry.metadata().unwrap();
                let shared = entry.file_name().to_string_lossy().ends_with("-shm");
                let written = if shared {
                    SystemTime::UNIX_EPOCH
                } else {
                    meta.modified().unwrap()
                };
                (entry.path(), (meta.len(), written))
            })
            .collect()
    }

    #[test]
    fn names_are_read_without_a_trace_whether_the_database_is_open_or_not() {
        let dir = tempfile::tempdir().unwrap();
        // The path contains characters with a meaning in a URI.
        let path = dir.path().join("a pool?mode=rw#x");
        let pool = PoolDir::new(path.clone());
        SqliteStore::create(&pool, ExtentSize::DEFAULT).unwrap();
        let store = SqliteStore::open(&pool, CacheEpoch(Uuid::nil())).unwrap();
        store
            .connection
            .execute_batch(
                "INSERT INTO disks (id, name, uuid, path, extents, tags, allocate) VALUES (1, 'd1', 'u', '/d1', 9, '[\"fast\"]', 1);
                 INSERT INTO volumes VALUES (1, 'v', 512, 384, 0, 0, 0), (2, '.2', 512, 384, 0, 0, 0);",
            )
            .unwrap();
        let expected = Names {
            uuid: names(&pool).unwrap().uuid,
            disks: vec![("d1".into(), "/d1".into())],
            tags: BTreeSet::from(["fast".into()]),
            volumes: vec![("v".into(), 512)],
            ..Names::default()
        };
        let open = files(&path);
        assert!(open.len() > 2, "{open:?}");
        assert_eq!(names(&pool).unwrap(), expected);
        assert_eq!(files(&path), open);

        drop(store);
        let closed = files(&path);
        assert_eq!(names(&pool).unwrap(), expected);
        assert_eq!(files(&path), closed);

        assert!(names(&PoolDir::new(dir.path().join("none"))).is_err());
        assert!(!dir.path().join("none").exists());
    }
}
