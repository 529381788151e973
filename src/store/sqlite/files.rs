//! The database's files: made whole or not at all, opened with what the store relies on, backed up, put back.
//!
//! Nothing here or elsewhere opens `pool.db` but SQLite itself: closing any other descriptor of it would drop the locks
//! that SQLite has on it in this process.

use super::convert::{DATABASE, Word};
use super::holder::nudge;
use super::home::{Home, settle};
use super::schema::{APPLICATION_ID, MIGRATIONS, migrate};
use crate::error::{Error, Kind, Result};
use crate::member::anybody_lives;
use crate::pool::dir::PoolDir;
use crate::units::ExtentSize;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Longest wait for another process's transaction.
const PATIENCE: Duration = Duration::from_secs(5);
/// A transaction that lasts so long may be that of a process that was stopped.
const SUSPICIOUS: Duration = Duration::from_millis(100);
/// Statements kept prepared: more than there are.
const STATEMENTS: usize = 256;

/// Opens an existing pool's database, and brings it to the current format.
pub(super) fn open(dir: &PoolDir) -> Result<Connection> {
    let file = dir.database();
    let there = file
        .try_exists()
        .map_err(|error| Error::because(name(dir), error))?;
    if !there {
        return Err(no_pool(dir));
    }
    let opened = connect(&file).and_then(|mut connection| {
        connection.busy_handler(Some(patience(&file)))?;
        is_a_pools(&connection)?;
        settings(&connection)?;
        migrate(&mut connection, MIGRATIONS)?;
        Ok(connection)
    });
    opened.map_err(|error| of_pool(dir, error))
}

fn name(dir: &PoolDir) -> String {
    format!("pool {}", dir.path().display())
}

/// The way out when the file is gone or another one, and somebody still has the right one open.
const RESCUE: &str = "save what they have open: vctl pool backup FILE; then vctl apparatus stop NAME for each, and vctl pool restore FILE";

fn no_pool(dir: &PoolDir) -> Error {
    let error = Error::new(Kind::NotFound, name(dir), "there is no pool here");
    if side(&dir.database(), OLD).exists() {
        return error.hint("a restore was interrupted: run it again, vctl pool restore FILE");
    }
    if matches!(anybody_lives(dir), Ok(true)) {
        let why = "its database was deleted, and apparatuses still serve by it";
        return Error::new(Kind::NotFound, name(dir), why).hint(RESCUE);
    }
    error.hint("make one with vctl pool create, or name another with --pool or $VCTL_POOL")
}

/// Says which pool it is about.
fn of_pool(dir: &PoolDir, error: Error) -> Error {
    let why = if error.what() == DATABASE {
        "the database"
    } else {
        error.what()
    };
    let named = Error::new(error.kind(), name(dir), format!("{why} {}", error.why()));
    if error.why() == NOT_A_POOLS {
        return named.hint(match anybody_lives(dir) {
            Ok(true) => RESCUE,
            _ => "put the newest backup in its place: vctl pool restore FILE",
        });
    }
    match error.way_out() {
        Some(hint) => named.hint(hint),
        None => named,
    }
}

fn connect(file: &Path) -> Result<Connection> {
    // An absolute path is never taken for a URI.
    let file = std::path::absolute(file).map_err(|error| Error::because(DATABASE, error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(file, flags)?)
}

/// Commits are visible without a sync; the store syncs the log itself, when it has to, and without SQLite's write lock.
/// Checkpoints are asked for, never automatic. No mapping of the database, so that no disk error is a SIGBUS.
fn settings(connection: &Connection) -> Result<()> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Error::failed(
            DATABASE,
            "the file system does not allow a write-ahead log (shared memory)",
        )
        .hint("keep the pool's directory on a local file system"));
    }
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "mmap_size", 0, |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // Else SQLite with statistics (STAT4) prepares a statement anew when a value in a comparison changes: 60 % of the time that a
    // volume of many segments took to make.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

/// Transactions last microseconds, so the first tries follow at once; SQLite has no queue to wait in.
fn patience(database: &Path) -> impl FnMut(i32) -> bool + Send + 'static {
    let database = database.to_owned();
    let (mut since, mut nudges) = (Instant::now(), 0);
    move |tries| {
        if tries == 0 {
            (since, nudges) = (Instant::now(), 0);
        }
        let waited = since.elapsed();
        if waited > SUSPICIOUS * (nudges + 1) {
            nudges += 1;
            nudge(&database);
        }
        if waited < Duration::from_millis(1) {
            std::thread::yield_now();
        } else {
            std::thread::park_timeout(Duration::from_micros(500));
        }
        waited < PATIENCE
    }
}

const NOT_A_POOLS: &str = "is not a pool's database";

fn is_a_pools(connection: &Connection) -> Result<()> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id == APPLICATION_ID {
        Ok(())
    } else {
        Err(Error::failed(DATABASE, NOT_A_POOLS))
    }
}

/// Makes a pool's directories and database. Durable when it returns; refuses a pool that is there.
pub(super) fn create(dir: &PoolDir, extent_size: ExtentSize) -> Result<()> {
    let failed = |error: io::Error| Error::because(name(dir), error);
    private_dir(dir.path()).map_err(failed)?;
    private_dir(&dir.run()).map_err(failed)?;
    let file = dir.database();
    if file.try_exists().map_err(failed)? {
        return Err(there_already(dir));
    }
    let draft = side(&file, &format!("{}.new", Uuid::new_v4()));
    let made = fill(&draft, extent_size, &Home::of(dir)?).and_then(|()| publish(dir, &draft));
    // Its content, if there was any, is linked under its proper name by now.
    let tidied = fs::remove_file(&draft);
    made?;
    tidied.map_err(failed)?;
    sync_dirs(dir.path()).map_err(failed)
}

fn there_already(dir: &PoolDir) -> Error {
    Error::failed(name(dir), "there is a pool here already").hint("look at it with vctl pool show")
}

fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn fill(file: &Path, extent_size: ExtentSize, home: &Home) -> Result<()> {
    empty_file(file)?;
    let mut connection = connect(file)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrate(&mut connection, MIGRATIONS)?;
    connection.execute(
        "INSERT INTO pool (one, uuid, extent_size, generation, layout, membership, term, incarnation, disk, volume,
         checkpoints) VALUES (1, ?1, ?2, 0, 0, 0, 0, 0, 0, 0, 0)",
        params![Word(Uuid::new_v4()), extent_size.bytes()],
    )?;
    settle(&connection, home, Some(Uuid::new_v4()))?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    sync_file(file)
}

fn empty_file(file: &Path) -> Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    made.map(drop)
        .map_err(|error| Error::because(file.display().to_string(), error))
}

fn sync_file(file: &Path) -> Result<()> {
    let synced = File::open(file).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::because(file.display().to_string(), error))
}

/// A link, not a rename, so that of two who create the same pool one is told.
fn publish(dir: &PoolDir, draft: &Path) -> Result<()> {
    fs::hard_link(draft, dir.database()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => there_already(dir),
        _ => Error::because(name(dir), error),
    })
}

/// The directory and all above it, any of which may be new.
fn sync_dirs(dir: &Path) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    for dir in dir.ancestors() {
        match File::open(dir).and_then(|dir| dir.sync_all()) {
            // Those that we may not read were not made by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// A file beside the database.
fn side(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending_with_dot(ending));
    name.into()
}

fn ending_with_dot(ending: &str) -> String {
    if ending.starts_with('-') {
        ending.to_owned()
    } else {
        format!(".{ending}")
    }
}

const OLD: &str = "old";

/// SQLite's log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    side(database, "-wal")
}

/// The memory that SQLite's connections to a database share, and its locks.
pub(super) fn shared_of(database: &Path) -> PathBuf {
    side(database, "-shm")
}

/// A copy of the database in one file, from one transaction. Durable when it returns; refuses a file that is there.
pub(super) fn backup(connection: &Connection, to: &Path) -> Result<()> {
    let what = format!("backup {}", to.display());
    if to
        .try_exists()
        .map_err(|error| Error::because(what.clone(), error))?
    {
        return Err(Error::failed(what, "the file is there already").hint("name a file that does not exist"));
    }
    let draft = side(to, &format!("{}.new", Uuid::new_v4()));
    let made = copy_into(connection, &draft).and_then(|()| {
        let parent = to
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let published = fs::hard_link(&draft, to).and_then(|()| File::open(parent)?.sync_all());
        published.map_err(|error| Error::because(what.clone(), error))
    });
    let tidied = fs::remove_file(&draft);
    made?;
    tidied.map_err(|error| Error::because(what, error))
}

fn copy_into(connection: &Connection, file: &Path) -> Result<()> {
    empty_file(file)?;
    let text = file
        .to_str()
        .ok_or_else(|| Error::usage(format!("{file:?}"), "is not UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [text])?;
    sync_file(file)
}

/// Puts a backup in the database's place; what was there is kept as `pool.db.old`. At every instant the pool has its old
/// database, none, or the backup: never a database with another one's log. The caller has made sure that no process
/// uses the pool.
pub(super) fn restore(dir: &PoolDir, from: &Path) -> Result<()> {
    let what = format!("backup {}", from.display());
    let failed = |error: io::Error| Error::because(name(dir), error);
    let source = read_only(from).map_err(|error| Error::because(what.clone(), error))?;
    is_a_pools(&source)
        .and_then(|()| sound(&source))
        .map_err(|error| {
            Error::new(error.kind(), what.clone(), error.why().to_owned())
                .hint("name a file that vctl pool backup wrote")
        })?;
    private_dir(dir.path())
        .and_then(|()| private_dir(&dir.run()))
        .map_err(failed)?;
    let database = dir.database();
    let draft = side(&database, &format!("{}.new", Uuid::new_v4()));
    copy_into(&source, &draft)?;
    drop(source);
    set_aside(&database)
        .and_then(|()| sync_dirs(dir.path()))
        .map_err(failed)?;
    fs::rename(&draft, &database)
        .and_then(|()| sync_dirs(dir.path()))
        .map_err(failed)
}

fn read_only(file: &Path) -> Result<Connection> {
    let file = std::path::absolute(file).map_err(|error| Error::because(DATABASE, error))?;
    fs::metadata(&file).map_err(|error| Error::because(DATABASE, error))?;
    Ok(Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?)
}

fn sound(connection: &Connection) -> Result<()> {
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        Ok(())
    } else {
        Err(Error::failed(DATABASE, format!("is damaged: {found}")))
    }
}

/// The database first: without it nobody takes its log for another one's. What an interrupted restore has set aside stays.
fn set_aside(database: &Path) -> io::Result<()> {
    let old = side(database, OLD);
    if database.try_exists()? {
        remove_if_there(&log_of(&old))?;
        fs::rename(database, &old)?;
    }
    let log = log_of(database);
    if log.try_exists()? {
        fs::rename(&log, log_of(&old))?;
    }
    remove_if_there(&shared_of(database))
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
