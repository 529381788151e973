//! Copies of a pool's database: written while all goes on, looked at, and put back.

use crate::control::client;
use crate::disk::Disk;
use crate::error::{Error, Kind, Result};
use crate::member::{ArbitrationLock, LifeLock, anybody_lives};
use crate::pool::dir::PoolDir;
use crate::pool::model::{PoolHeader, Snapshot};
use crate::pool::names::Name;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;
use crate::units::ExtentSize;
use crate::wire::message::{Answer, Request};
use serde::Serialize;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// How long an apparatus may take to answer, and to copy the database.
const PATIENCE: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(600);
/// How long all disks together may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Writes a copy of the database to a new file. Answers what it is a copy of.
///
/// # Errors
/// When there is no pool, or the file is there already or cannot be written.
pub fn backup(pool: &PoolDir, file: &Path) -> Result<PoolHeader> {
    match SqliteStore::open(pool) {
        Ok(mut store) => store.backup_to(file)?,
        Err(error) => by_an_apparatus(pool, file).ok_or(error)??,
    }
    Ok(look(file)?.header)
}

/// The database cannot be opened, and may have been deleted: who serves by it still has it open. `None` when nobody does.
fn by_an_apparatus(pool: &PoolDir, file: &Path) -> Option<Result<()>> {
    let name = Name::new("apparatus", &living(pool).ok()??).ok()?;
    let ask = || {
        let uuid = client::pool_of(pool, &name, PATIENCE)?;
        let request = Request::Backup {
            file: file.to_owned(),
        };
        match client::ask(pool, uuid, &name, request, LONG)? {
            Answer::Accepted => Ok(()),
            other => Err(Error::failed(
                format!("apparatus {name}"),
                format!("answered {other:?} when asked for a copy of the database"),
            )),
        }
    };
    Some(ask())
}

/// That a backup could be written to this file.
///
/// # Errors
/// When there is something already.
pub fn check_target(file: &Path) -> Result<()> {
    match file.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => Err(
            Error::failed(format!("backup {}", file.display()), "the file is there already")
                .hint("name a file that does not exist"),
        ),
    }
}

/// What a backup would bring back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The pool.
    pub uuid: Uuid,
    /// Its layout number in the backup.
    pub layout: u64,
    /// The highest that a disk's label has.
    pub labels_layout: u64,
    /// Its generation in the backup.
    pub generation: u64,
    /// Disks in the backup.
    pub disks: usize,
    /// Volumes in the backup.
    pub volumes: usize,
    /// Disks whose labels could not be read.
    pub unread: Vec<String>,
    /// There is a database in the way.
    pub replaces: bool,
}

/// Looks at a backup, and holds it against the disks that it names and the pool that is there.
///
/// # Errors
/// When it is none, is of another pool, or is older than the disks and that is not `accepted`.
pub fn inspect(pool: &PoolDir, file: &Path, accept_older: bool) -> Result<Restored> {
    let what = format!("backup {}", file.display());
    let snapshot = look(file)?;
    let present = SqliteStore::open(pool).and_then(|mut store| store.header()).ok();
    if let Some(present) = present.filter(|present| present.uuid != snapshot.header.uuid) {
        let why = format!(
            "is of pool {}, and this is pool {}",
            snapshot.header.uuid, present.uuid
        );
        return Err(Error::failed(what, why).hint("name the directory of the right pool with --pool"));
    }
    let (labels_layout, unread) = read_labels(&snapshot);
    let layout = snapshot.header.layout;
    if labels_layout > layout && !accept_older {
        let why = format!("is older than the disks: its layout is {layout}, theirs {labels_layout}");
        return Err(Error::failed(what, why).hint(
            "use the newest backup; with --accept-older-layout, what was changed or moved since then will read as wrong data",
        ));
    }
    Ok(Restored {
        uuid: snapshot.header.uuid,
        layout,
        labels_layout,
        generation: snapshot.header.generation.0,
        disks: snapshot.disks.len(),
        volumes: snapshot.volumes.len(),
        unread,
        replaces: pool.database().exists(),
    })
}

/// The highest layout of the labels, and the disks whose labels could not be read.
fn read_labels(snapshot: &Snapshot) -> (u64, Vec<String>) {
    let (mut highest, mut unread) = (0, Vec::new());
    for read in Disk::with_all_within(ANSWER, &snapshot.disks, &snapshot.header, Disk::read_label) {
        match read {
            Ok(label) => highest = highest.max(label.layout),
            Err(error) => unread.push(error.to_string()),
        }
    }
    (highest, unread)
}

/// Puts a backup in the place of the pool's database.
///
/// # Errors
/// When another controller acts, an apparatus runs, or a file cannot be written.
pub fn restore(pool: &PoolDir, file: &Path, found: &Restored, within: Option<Duration>) -> Result<()> {
    let _arbitration = ArbitrationLock::take(pool, "pool restore", within)?;
    check_nobody_lives(pool, "by the table that would be replaced")?;
    SqliteStore::restore(pool, file)?;
    SqliteStore::open(pool)?.raise_layout_to(found.labels_layout)
}

/// That no apparatus runs, whatever the database says: it may be damaged, or gone.
///
/// # Errors
/// When one does; `how` says by what it serves.
pub(super) fn check_nobody_lives(pool: &PoolDir, how: &str) -> Result<()> {
    if let Some(name) = living(pool)? {
        return Err(
            Error::new(Kind::Busy, format!("apparatus {name}"), format!("runs, {how}"))
                .hint(format!("stop it: vctl apparatus stop {name}")),
        );
    }
    if anybody_lives(pool)? {
        let what = format!("pool {}", pool.path().display());
        return Err(Error::new(
            Kind::Busy,
            what,
            format!("an apparatus of it runs, {how}, and its files in the run directory were deleted"),
        )
        .hint("it makes them again in a moment: try again; else end its process"));
    }
    Ok(())
}

fn living(pool: &PoolDir) -> Result<Option<String>> {
    let run = pool.run();
    let entries = match fs::read_dir(&run) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| Error::because(run.display().to_string(), error))?,
    };
    for entry in entries.flatten() {
        let file = PathBuf::from(entry.file_name());
        if file.extension().is_none_or(|extension| extension != "life") {
            continue;
        }
        let name = file
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if LifeLock::alive(pool, &name)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// What a backup says.
fn look(file: &Path) -> Result<Snapshot> {
    Copy::of_backup(file)?.open()?.snapshot()
}

/// A database of its own, made of another one for a look or a rehearsal. It goes when this is dropped.
pub(super) struct Copy {
    dir: PathBuf,
}

impl Copy {
    /// Of a backup: a store may have to bring it up to its format before it can be read.
    pub(super) fn of_backup(file: &Path) -> Result<Self> {
        let what = format!("backup {}", file.display());
        let found = fs::metadata(file).map_err(|error| Error::because(&what, error))?;
        crate::config::check_regular(&found, &what)?;
        let copy = Self::empty()?;
        SqliteStore::restore(&copy.pool(), file)?;
        Ok(copy)
    }

    /// Of a pool as it is now.
    pub(super) fn of_pool(pool: &PoolDir) -> Result<Self> {
        let copy = Self::empty()?;
        let file = copy.dir.join("backup");
        SqliteStore::open(pool)?.backup_to(&file)?;
        SqliteStore::restore(&copy.pool(), &file)?;
        Ok(copy)
    }

    /// A pool that is new.
    pub(super) fn of_nothing(extent_size: ExtentSize) -> Result<Self> {
        let copy = Self::empty()?;
        SqliteStore::create(&copy.pool(), extent_size)?;
        Ok(copy)
    }

    fn open(&self) -> Result<SqliteStore> {
        SqliteStore::open(&self.pool())
    }

    /// Its files have no names any more, and are gone when the store is dropped, however the process ends.
    pub(super) fn into_store(self) -> Result<SqliteStore> {
        self.open()
    }

    fn empty() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("vctl-{}", Uuid::new_v4().simple()));
        let made = DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| Error::because(dir.display().to_string(), error))?;
        Ok(Self { dir })
    }

    fn pool(&self) -> PoolDir {
        PoolDir::new(self.dir.join("pool"))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            log::warn!("{}: {error}", self.dir.display());
        }
    }
}
