//! The tables, and the migrations from older formats.

use super::convert::DATABASE;
use crate::model::error::{Error, Result};
use rusqlite::{Connection, TransactionBehavior};

/// "Vapp" in SQLite's header: it distinguishes a pool's database from other files.
pub(super) const APPLICATION_ID: i32 = 0x5661_7070;

/// Migration `n` leads from version `n` to `n + 1`. A released migration is never changed; new ones are added.
pub(super) const MIGRATIONS: &[&str] = &[V1, V2, V3, V4, V5, V6, V7, V8, V9, V10];

/// Ranges are in extents. `changes` has only the unfinished ones, so that it stays small whatever the pool's age.
const V1: &str = "
CREATE TABLE pool (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    uuid TEXT NOT NULL,
    extent_size INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    layout INTEGER NOT NULL,
    membership INTEGER NOT NULL,
    term INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    disk INTEGER NOT NULL,
    volume INTEGER NOT NULL,
    checkpoints INTEGER NOT NULL
) STRICT;
CREATE TABLE disks (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    uuid TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    extents INTEGER NOT NULL CHECK (extents > 0),
    tags TEXT NOT NULL,
    allocate INTEGER NOT NULL CHECK (allocate IN (0, 1))
) STRICT;
CREATE TABLE volumes (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL CHECK (size >= 0),
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    read_only INTEGER NOT NULL CHECK (read_only IN (0, 1))
) STRICT;
CREATE TABLE segments (
    volume INTEGER NOT NULL,
    start INTEGER NOT NULL CHECK (start >= 0),
    disk INTEGER NOT NULL,
    home INTEGER NOT NULL CHECK (home > 0),
    len INTEGER NOT NULL CHECK (len > 0),
    PRIMARY KEY (volume, start)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX homes ON segments (disk, home);
CREATE TABLE claims (
    disk INTEGER NOT NULL,
    start INTEGER NOT NULL CHECK (start > 0),
    len INTEGER NOT NULL CHECK (len > 0),
    kind TEXT NOT NULL CHECK (kind IN ('change', 'job')),
    owner INTEGER NOT NULL,
    PRIMARY KEY (disk, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE quarantine (
    disk INTEGER NOT NULL,
    start INTEGER NOT NULL CHECK (start > 0),
    len INTEGER NOT NULL CHECK (len > 0),
    change INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (disk, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE changes (
    id INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('prepared', 'committed', 'hardening')),
    term INTEGER NOT NULL,
    boot TEXT NOT NULL,
    generation INTEGER,
    job INTEGER,
    title TEXT NOT NULL,
    mode TEXT NOT NULL,
    spans TEXT NOT NULL,
    difference TEXT NOT NULL,
    undo TEXT
) STRICT;
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('hardened', 'cancelled', 'undone')),
    term INTEGER NOT NULL,
    boot TEXT NOT NULL,
    generation INTEGER,
    job INTEGER,
    title TEXT NOT NULL,
    mode TEXT NOT NULL,
    spans TEXT NOT NULL,
    difference TEXT NOT NULL,
    undo TEXT
) STRICT;
CREATE TABLE members (
    slot INTEGER PRIMARY KEY CHECK (slot >= 0),
    name TEXT NOT NULL UNIQUE,
    incarnation INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('joined', 'fenced', 'left')),
    pid INTEGER NOT NULL,
    mount TEXT NOT NULL,
    joined_at INTEGER NOT NULL,
    since INTEGER NOT NULL,
    boot TEXT NOT NULL
) STRICT;
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('running', 'paused', 'cancelled', 'rolling back', 'done', 'failed')),
    limits TEXT NOT NULL,
    back INTEGER NOT NULL CHECK (back IN (0, 1)),
    title TEXT NOT NULL,
    created INTEGER NOT NULL,
    ended INTEGER,
    copied INTEGER NOT NULL,
    longest_hold_us INTEGER NOT NULL,
    held INTEGER NOT NULL,
    why TEXT NOT NULL
) STRICT;
CREATE TABLE steps (
    job INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    volume INTEGER NOT NULL,
    start INTEGER NOT NULL CHECK (start >= 0),
    from_disk INTEGER NOT NULL,
    from_start INTEGER NOT NULL CHECK (from_start > 0),
    len INTEGER NOT NULL CHECK (len > 0),
    to_disk INTEGER NOT NULL,
    to_start INTEGER NOT NULL CHECK (to_start > 0),
    done INTEGER NOT NULL CHECK (done BETWEEN 0 AND len),
    PRIMARY KEY (job, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX places ON steps (job, volume, start);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    severity TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'error')),
    subject TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
";

/// Adds the reserve, the policy, and the thresholds of a nearly full and a full pool, in percent.
const V2: &str = "
ALTER TABLE disks ADD COLUMN reserve INTEGER NOT NULL DEFAULT 0 CHECK (reserve >= 0);
ALTER TABLE pool ADD COLUMN policy TEXT NOT NULL DEFAULT 'order';
ALTER TABLE pool ADD COLUMN nearfull INTEGER NOT NULL DEFAULT 85;
ALTER TABLE pool ADD COLUMN full INTEGER NOT NULL DEFAULT 95;
ALTER TABLE pool ADD COLUMN fullness TEXT NOT NULL DEFAULT 'room';
";

/// Adds where the process of an apparatus was started, which tells what proves its end.
const V3: &str = "
ALTER TABLE members ADD COLUMN origin TEXT;
";

/// Adds the identity of this database among those of the pool, the directory that it was last used in, and each label's
/// sequence number.
const V4: &str = "
ALTER TABLE disks ADD COLUMN label INTEGER NOT NULL DEFAULT 0 CHECK (label >= 0);
ALTER TABLE pool ADD COLUMN instance TEXT NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
ALTER TABLE pool ADD COLUMN former TEXT NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
ALTER TABLE pool ADD COLUMN home TEXT NOT NULL DEFAULT '';
ALTER TABLE pool ADD COLUMN home_device TEXT NOT NULL DEFAULT '';
ALTER TABLE pool ADD COLUMN home_inode TEXT NOT NULL DEFAULT '';
";

/// Adds the hold times of a job and its progress. A job that has ended owns nothing: claims that older programs left are freed.
const V5: &str = "
ALTER TABLE jobs ADD COLUMN holds TEXT NOT NULL DEFAULT '{}';
ALTER TABLE jobs ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN extents INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET moved = (SELECT ifnull(sum(done), 0) FROM steps WHERE job = jobs.id),
                extents = (SELECT ifnull(sum(len), 0) FROM steps WHERE job = jobs.id);
DELETE FROM claims WHERE kind = 'job' AND owner NOT IN (SELECT id FROM jobs WHERE state IN ('running', 'paused', 'rolling back'));
";

/// Adds the audit log: `who` is the entry as it was begun.
const V6: &str = "
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    mark INTEGER NOT NULL UNIQUE,
    id TEXT NOT NULL UNIQUE,
    who TEXT NOT NULL,
    began INTEGER NOT NULL,
    ended INTEGER,
    status INTEGER,
    why TEXT
) STRICT;
";

/// The history that the database goes on with; the disks that carry a copy of the pool's metadata: where it lies, in bytes, what it is known to cover, and why it is left
/// behind; and the extents that these copies own.
const V7: &str = "
ALTER TABLE pool ADD COLUMN lineage TEXT NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
UPDATE pool SET lineage = lower(hex(randomblob(16)));
CREATE TABLE copies (
    disk INTEGER PRIMARY KEY,
    start INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    layout INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    lag TEXT
) STRICT;
CREATE TABLE copy_extents (
    disk INTEGER NOT NULL,
    start INTEGER NOT NULL CHECK (start > 0),
    len INTEGER NOT NULL CHECK (len > 0),
    PRIMARY KEY (disk, start)
) STRICT, WITHOUT ROWID;
";

/// Volumes that were removed and may be had back: as they were, the change that removed them, the one that has brought them back until
/// that is persisted, and what nothing else has been given of their extents.
const V8: &str = "
CREATE TABLE removed (
    change INTEGER NOT NULL,
    volume INTEGER NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    read_only INTEGER NOT NULL,
    at INTEGER NOT NULL,
    back INTEGER,
    PRIMARY KEY (change, volume)
) STRICT, WITHOUT ROWID;
CREATE TABLE removed_segments (
    change INTEGER NOT NULL,
    volume INTEGER NOT NULL,
    start INTEGER NOT NULL CHECK (start >= 0),
    disk INTEGER NOT NULL,
    extent INTEGER NOT NULL CHECK (extent > 0),
    len INTEGER NOT NULL CHECK (len > 0),
    PRIMARY KEY (change, volume, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_extents ON removed_segments (disk, extent);
";

/// Adds how the disks are read and written: older programs, which know one way, refuse the pool.
const V9: &str = "
ALTER TABLE pool ADD COLUMN access TEXT NOT NULL DEFAULT 'cached' CHECK (access IN ('cached', 'direct'));
";

/// Adds the nodes of a pool that spans machines, and where its members can be reached.
const V10: &str = "
CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    machine TEXT NOT NULL,
    boot TEXT NOT NULL,
    certificate TEXT NOT NULL,
    address TEXT,
    program TEXT NOT NULL,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
ALTER TABLE members ADD COLUMN node TEXT;
ALTER TABLE members ADD COLUMN port INTEGER;
";

/// Migrates the database to the last of `migrations`, in one transaction.
pub(super) fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<()> {
    if is_migrated(connection, migrations)? {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some(done) = version(&tx)?.filter(|&version| version <= migrations.len()) else {
        return Err(newer(&tx, migrations.len()));
    };
    for step in &migrations[done..] {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "user_version", migrations.len())?;
    Ok(tx.commit()?)
}

/// Returns whether the database has an older format than that which the last of `migrations` leads to.
pub(super) fn is_older(connection: &Connection, migrations: &[&str]) -> Result<bool> {
    Ok(version(connection)?.is_some_and(|version| version < migrations.len()))
}

/// Returns whether the database has the format that the last of `migrations` leads to.
pub(super) fn is_migrated(connection: &Connection, migrations: &[&str]) -> Result<bool> {
    Ok(version(connection)? == Some(migrations.len()))
}

fn version(connection: &Connection) -> Result<Option<usize>> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(usize::try_from(version).ok())
}

fn newer(connection: &Connection, known: usize) -> Error {
    let found = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let found = found.map_or_else(|_| "unknown".to_owned(), |version| version.to_string());
    Error::failed(
        DATABASE,
        format!("has format {found}, but this program knows formats up to {known}"),
    )
    .hint("use the newer version of the programs that wrote it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_version(connection: &Connection) -> Option<usize> {
        version(connection).unwrap()
    }

    #[test]
    fn older_databases_become_current_and_newer_ones_are_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        let first = ["CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (7);"];
        migrate(&mut connection, &first).unwrap();
        assert_eq!(user_version(&connection), Some(1));

        let both = [first[0], "ALTER TABLE a ADD COLUMN y INTEGER NOT NULL DEFAULT 5;"];
        migrate(&mut connection, &both).unwrap();
        migrate(&mut connection, &both).unwrap();
        let row: (i64, i64) = connection
            .query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!((row, user_version(&connection)), ((7, 5), Some(2)));

        let error = migrate(&mut connection, &first).unwrap_err();
        assert!(
            error.why().contains("format 2") && error.why().contains("up to 1"),
            "{error}"
        );
        connection.pragma_update(None, "user_version", -1).unwrap();
        assert!(migrate(&mut connection, &both).is_err());
    }

    #[test]
    fn the_first_format_gets_default_settings() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &[V1]).unwrap();
        let rows = "INSERT INTO pool VALUES (1, 'u', 65536, 0, 0, 0, 0, 0, 1, 0, 0);
                    INSERT INTO disks VALUES (1, 'd', 'u', '/d', 9, '[]', 1);";
        connection.execute_batch(rows).unwrap();
        migrate(&mut connection, MIGRATIONS).unwrap();
        let row: (i64, String, i64, i64, String) = connection
            .query_row(
                "SELECT reserve, policy, nearfull, full, fullness || access FROM pool, disks",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
            )
            .unwrap();
        assert_eq!(row, (0, "order".into(), 85, 95, "roomcached".into()));
    }

    #[test]
    fn a_failed_migration_leaves_the_older_database() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &["CREATE TABLE a (x INTEGER);"]).unwrap();
        let bad = ["", "CREATE TABLE b (x INTEGER); CREATE TABLE a (x INTEGER);"];
        assert!(migrate(&mut connection, &bad).is_err());
        assert_eq!(user_version(&connection), Some(1));
        assert!(connection.prepare("SELECT * FROM b").is_err());
    }
}
