//! The database's files: created completely or not at all, opened with the settings that the store relies on, backed up,
//! restored.
//!
//! Only SQLite itself opens `pool.db`: closing any other descriptor of it would drop the locks that SQLite has on it in this
//! process.

use super::convert::{DATABASE, Word};
use super::directory::{Directory, settle};
use super::import::{Imported, fill};
use super::metadata::{begin_lineage, overtake};
use super::mirror::Mirror;
use super::schema::{APPLICATION_ID, MIGRATIONS, is_migrated, is_older, migrate};
use super::stalled::{Held, resume_if_stopped};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::NewPool;
use crate::store::journal::Journal;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Longest wait for another process's transaction.
const PATIENCE: Duration = Duration::from_secs(5);
/// Age from which a transaction may be that of a stopped process.
const SUSPICIOUS: Duration = Duration::from_millis(100);
/// Size in bytes to which a log is cut when it restarts.
const LOG: u64 = 8 << 20;
/// Cache of a connection that fills a draft; SQLite takes a negative number for KiB. An index of a million segments is sorted in it.
const DRAFT_CACHE_KIB: i32 = -(64 << 10);
/// Number of prepared statements that are kept: more than there are statements.
const STATEMENTS: usize = 256;

/// Opens an existing pool's database, and migrates it to the current format, unless `may_migrate` refuses that.
pub(super) fn open(dir: &PoolDir, may_migrate: impl FnOnce() -> Result<()>) -> Result<Connection> {
    open_with(dir, |mut connection| {
        if is_older(&connection, MIGRATIONS)? {
            may_migrate()?;
        }
        migrate(&mut connection, MIGRATIONS)?;
        Ok(connection)
    })
}

/// Returns whether an existing pool's database has the current format.
pub(super) fn has_present_format(dir: &PoolDir) -> Result<bool> {
    open_with(dir, |connection| is_migrated(&connection, MIGRATIONS))
}

fn open_with<T>(dir: &PoolDir, use_it: impl FnOnce(Connection) -> Result<T>) -> Result<T> {
    let file = dir.database();
    match fs::metadata(&file) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(no_file(dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_pool(dir)),
        Err(error) => return Err(Error::because(name(dir), error)),
    }
    let opened = connect(&file).and_then(|mut connection| {
        connection.busy_handler(Some(busy_handler(&file)))?;
        is_a_pools(&connection)?;
        is_still_there(&connection, &file)?;
        settings(&connection)?;
        use_it(connection)
    });
    opened.map_err(|error| of_pool(dir, error))
}

fn name(dir: &PoolDir) -> String {
    format!("pool {}", dir.display())
}

/// Why a pool without a database cannot be opened.
pub const NO_POOL: &str = "there is no pool here";
/// Why a pool that has lost its database cannot be opened.
pub const DATABASE_GONE: &str = "its database is gone";

fn no_pool(dir: &PoolDir) -> Error {
    let error = Error::new(ErrorKind::NotFound, name(dir), NO_POOL);
    if side(&dir.database(), OLD).exists() {
        return error.hint("a restore was interrupted: run it again, vctl pool restore FILE");
    }
    if [dir.times(), dir.archive(), log_of(&dir.database())]
        .iter()
        .any(|left| left.exists())
    {
        return Error::new(ErrorKind::NotFound, name(dir), DATABASE_GONE).hint(
            "make it again from the pool's disks: vctl pool import DISK...; or put a backup in its place: vctl pool restore FILE",
        );
    }
    error.hint("make one with vctl pool create, name another with --pool or $VCTL_POOL, or make one whose directory is lost again from its disks with vctl pool import DISK...")
}

/// Why a database cannot be opened in whose place something else is, such as a directory.
fn no_file(dir: &PoolDir) -> Error {
    let why = format!(
        "its database, {}, is not a file",
        dir.name_of(&dir.database()).display()
    );
    Error::failed(name(dir), why).hint(
        "move that away, and put the newest backup in its place: vctl pool restore FILE; or make the pool again from its disks: vctl pool import DISK...",
    )
}

/// Makes an error name the pool.
fn of_pool(dir: &PoolDir, error: Error) -> Error {
    let why = if error.what() == DATABASE {
        "the database"
    } else {
        error.what()
    };
    let named = Error::new(error.kind(), name(dir), format!("{why} {}", error.why()));
    if error.why() == NOT_A_POOLS {
        return named.hint("put the newest backup in its place: vctl pool restore FILE");
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

/// Sets the connection's options. Commits are visible without a sync; the store syncs the log itself when it has to, outside
/// SQLite's write lock. Checkpoints run only on request. The database is not mapped, so that no disk error becomes a SIGBUS.
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
    connection.pragma_update_and_check(None, "journal_size_limit", LOG, |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // SQLite would not report a failed sync of that checkpoint, and would delete the log by a path that the directory may no
    // longer have.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Without this, SQLite with statistics (STAT4) prepares a statement again when a value in a comparison changes: that took
    // 60 % of the time to create a volume of many segments.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

/// Runs `work` with a connection that does not wait for other processes.
pub(super) fn without_waiting<T>(
    connection: &mut Connection,
    database: &Path,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.busy_timeout(Duration::ZERO)?;
    let done = work(connection);
    connection.busy_handler(Some(busy_handler(database)))?;
    done
}

/// Returns the busy handler. Transactions last microseconds, so the first tries follow at once; SQLite has no queue to wait in.
fn busy_handler(database: &Path) -> impl FnMut(i32) -> bool + Send + 'static {
    let database = database.to_owned();
    let (mut since, mut resumes) = (Instant::now(), 0);
    move |tries| {
        if tries == 0 {
            (since, resumes) = (Instant::now(), 0);
        }
        let waited = since.elapsed();
        if waited > SUSPICIOUS * (resumes + 1) {
            resumes += 1;
            resume_if_stopped(&database, Held::Write);
        }
        if waited < Duration::from_millis(1) {
            std::thread::yield_now();
        } else {
            std::thread::park_timeout(Duration::from_micros(500));
        }
        waited < PATIENCE
    }
}

/// Checks that the opened file is still the one at this path: SQLite opens files by the path that the directory had a moment
/// before, which may lead to another pool after a rename.
fn is_still_there(connection: &Connection, file: &Path) -> Result<()> {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let opened = connection.path().map(Path::new).and_then(identity);
    if opened.is_some() && opened == identity(file) {
        return Ok(());
    }
    Err(Error::failed(DATABASE, "was renamed while it was opened").hint("try again"))
}

/// Why a file in the database's place is refused.
pub const NOT_A_POOLS: &str = "is not a pool's database";

pub(super) fn is_a_pools(connection: &Connection) -> Result<()> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id == APPLICATION_ID {
        Ok(())
    } else {
        Err(Error::failed(DATABASE, NOT_A_POOLS))
    }
}

/// Creates a pool's directories and database. It is durable when this returns; an existing pool is refused.
pub(super) fn create(dir: &PoolDir, new: NewPool) -> Result<()> {
    publish_new(dir, Some(Uuid::new_v4()), |db| first_row(db, new))
}

/// Creates a pool's directories and a database with this content and this instance. One that another process creates meanwhile stays.
fn publish_new(
    dir: &PoolDir,
    instance: Option<Uuid>,
    fill: impl FnOnce(&mut Connection) -> Result<()>,
) -> Result<()> {
    let failed = |error: io::Error| Error::because(name(dir), error);
    private_dir(dir.path()).map_err(failed)?;
    private_dir(&dir.run()).map_err(failed)?;
    let file = dir.database();
    if file.try_exists().map_err(failed)? {
        return Err(exists_already(dir));
    }
    let draft = side(&file, &draft_end());
    let made = new_database(&draft, &Directory::of(dir)?, instance, fill).and_then(|()| publish(dir, &draft));
    // The content, if there was any, is linked under its final name by now.
    let tidied = fs::remove_file(&draft);
    made?;
    tidied.map_err(failed)?;
    sync_dirs(dir.path()).map_err(failed)
}

/// Creates a pool's directories on another machine, and its database from a log.
pub(super) fn join(dir: &PoolDir, journal: Box<dyn Journal>) -> Result<()> {
    publish_new(dir, None, |db| Mirror::of(db, journal)?.fill(db))
}

fn exists_already(dir: &PoolDir) -> Error {
    Error::failed(name(dir), "there is a pool here already").hint("look at it with vctl pool show")
}

fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes a pool's database from a table that was found elsewhere. A log that stands there without its database is set aside.
pub(super) fn import(dir: &PoolDir, imported: &Imported<'_>) -> Result<()> {
    publish_new(dir, Some(Uuid::new_v4()), |db| {
        fill(db, imported)?;
        rename_to_old(&dir.database()).map_err(|error| Error::because(name(dir), error))
    })
}

fn first_row(db: &Connection, new: NewPool) -> Result<()> {
    db.execute(
        "INSERT INTO pool (one, uuid, extent_size, generation, layout, membership, term, incarnation, disk, volume,
         checkpoints, access) VALUES (1, ?1, ?2, 0, 0, 0, 0, 0, 0, 0, 0, ?3)",
        params![Word(Uuid::new_v4()), new.extent_size.bytes(), Word(new.access)],
    )?;
    Ok(())
}

/// Creates a database under another name. It is durable when this returns.
fn new_database(
    file: &Path,
    here: &Directory,
    instance: Option<Uuid>,
    fill: impl FnOnce(&mut Connection) -> Result<()>,
) -> Result<()> {
    empty_file(file)?;
    let mut connection = connect(file)?;
    draft_settings(&connection)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrate(&mut connection, MIGRATIONS)?;
    fill(&mut connection)?;
    settle(&connection, here, instance)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    sync_file(file)
}

/// Sets the options of a connection that fills a draft, which nobody else uses and which is removed if it is not completed: it is synced once, at the end.
fn draft_settings(connection: &Connection) -> Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "off", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "off")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cache_size", DRAFT_CACHE_KIB)?;
    Ok(())
}

fn empty_file(file: &Path) -> Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    made.map(drop)
        .map_err(|error| Error::because(of_draft(file), error))
}

/// Returns what is appended to the name of a file while it is being written.
fn draft_end() -> String {
    format!("{}.new", Uuid::new_v4())
}

/// Returns the name for messages of the file that a draft becomes: the draft's own name is none that the operator knows.
fn of_draft(file: &Path) -> String {
    let name = file.display().to_string();
    let added = side(Path::new(""), &draft_end()).as_os_str().len();
    let end = name.len().saturating_sub(added);
    match name.get(end..) {
        Some(last) if last.ends_with(".new") => name[..end].to_owned(),
        _ => name,
    }
}

fn sync_file(file: &Path) -> Result<()> {
    let synced = File::open(file).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::because(of_draft(file), error))
}

/// Links the draft to its final name. A link and not a rename, so that of two processes that create the same pool one fails.
fn publish(dir: &PoolDir, draft: &Path) -> Result<()> {
    fs::hard_link(draft, dir.database()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists_already(dir),
        _ => Error::because(name(dir), error),
    })
}

/// Syncs the directory and all of its ancestors, any of which may be new.
fn sync_dirs(dir: &Path) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    for dir in dir.ancestors() {
        match File::open(dir).and_then(|dir| dir.sync_all()) {
            // Directories that we may not read were not created by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// Returns the path of a file beside the database.
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

/// Returns the path of SQLite's log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    side(database, "-wal")
}

/// Returns the path of the shared memory file of SQLite's connections to a database, which also has its locks.
pub(super) fn shared_of(database: &Path) -> PathBuf {
    side(database, "-shm")
}

/// Copies the database to one file, in one transaction. It is durable when this returns; an existing file is refused.
pub(super) fn backup(connection: &Connection, to: &Path) -> Result<()> {
    let what = format!("backup {}", to.display());
    if to
        .try_exists()
        .map_err(|error| Error::because(what.clone(), error))?
    {
        return Err(Error::failed(what, "the file is there already").hint("name a file that does not exist"));
    }
    let draft = side(to, &draft_end());
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

/// Replaces the database by a backup; the replaced one is kept as `pool.db.old`. At every moment the pool has its old database,
/// none, or the backup, but never a database with another one's log. The caller has made sure that no process uses the pool. With `seen`, the highest layout number that a disk has seen, the backup
/// counts as newer than the disks from the moment on at which it takes its place.
pub(super) fn restore(dir: &PoolDir, from: &Path, seen: Option<u64>) -> Result<()> {
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
    let draft = side(&database, &draft_end());
    copy_into(&source, &draft)?;
    drop(source);
    restart_lineage(&draft, seen).inspect_err(|_| drop(fs::remove_file(&draft)))?;
    rename_to_old(&database)
        .and_then(|()| sync_dirs(dir.path()))
        .map_err(failed)?;
    fs::rename(&draft, &database)
        .and_then(|()| sync_dirs(dir.path()))
        .map_err(failed)
}

/// Begins another history in the draft: what is on the disks may be of a later past than the backup.
fn restart_lineage(draft: &Path, seen: Option<u64>) -> Result<()> {
    let mut connection = connect(draft)?;
    migrate(&mut connection, MIGRATIONS)?;
    begin_lineage(&connection)?;
    if let Some(seen) = seen {
        overtake(&connection, seen)?;
    }
    connection.close().map_err(|(_, error)| error)?;
    sync_file(draft)
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

/// Renames the database to `pool.db.old`, with its log. The database goes first: without it no process takes its log for that
/// of another one. Files that an interrupted restore has set aside stay.
fn rename_to_old(database: &Path) -> io::Result<()> {
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

/// Removes a pool's database and the files that earlier ones left. The database goes first: without it no process takes its log
/// for that of another one.
pub(super) fn destroy(dir: &PoolDir) -> io::Result<()> {
    let database = dir.database();
    let old = side(&database, OLD);
    remove_if_there(&database)?;
    sync_dirs(dir.path())?;
    [log_of(&database), shared_of(&database), log_of(&old), old]
        .iter()
        .try_for_each(|file| remove_if_there(file))
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;
    use crate::model::units::ExtentSize;

    #[test]
    fn a_pool_that_another_process_creates_meanwhile_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = PoolDir::new(scratch.path().join("pool"));
        let late = publish_new(&dir, Some(Uuid::new_v4()), |db| {
            create(&dir, ExtentSize::MIN.into())?;
            first_row(db, ExtentSize::DEFAULT.into())
        });
        assert!(late.unwrap_err().why().contains("there is a pool here already"));
        let stored: u64 = open(&dir, || Ok(()))
            .unwrap()
            .query_row("SELECT extent_size FROM pool", [], |row| row.get(0))
            .unwrap();
        assert_eq!(stored, ExtentSize::MIN.bytes());
        assert!(!side(&dir.database(), OLD).exists());
    }
}
