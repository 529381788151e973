//! Copies of a pool's database: written while the pool is in use, inspected, and restored.

use crate::blockdev::Disk;
use crate::cluster::{self, Claimed, Role, WaitLimit};
use crate::controller::{Controller, Wait, archive, pool};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::records::{NewPool, PoolHeader, Snapshot};
use crate::rpc::client;
use crate::rpc::message::{Answer, Request};
use crate::store::{self, Store};
use crate::supervisor;
use serde::Serialize;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// How long an apparatus may take to answer, and to copy the database.
const PATIENCE: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(600);
/// How long all disks together may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Writes a copy of the database to a new file. Returns the header of the copied pool.
///
/// # Errors
/// Fails when there is no pool, and when the file exists or cannot be written.
pub fn backup(pool: &PoolDir, file: &Path) -> Result<PoolHeader> {
    match pool::open(pool) {
        Ok(mut store) => store.back_up(file)?,
        Err(error) => by_an_apparatus(pool, file).ok_or(error)??,
    }
    Ok(look(file)?.header)
}

/// Has a running apparatus write the copy, because the database cannot be opened and may have been deleted: an apparatus still has it
/// open. `None` when none runs.
fn by_an_apparatus(pool: &PoolDir, file: &Path) -> Option<Result<()>> {
    let Claimed::Named(name) = cluster::open(pool).ok()?.any_claimed().ok()?? else {
        return None;
    };
    let name = Name::new("apparatus", &name).ok()?;
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

/// Checks that a backup can be written to this file.
///
/// # Errors
/// Fails when the path exists.
pub fn check_target(file: &Path) -> Result<()> {
    match file.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => Err(
            Error::failed(format!("backup {}", file.display()), "the file exists already")
                .hint("name a file that does not exist"),
        ),
    }
}

/// What a backup would restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The pool's UUID.
    pub uuid: Uuid,
    /// Its layout number in the backup.
    pub layout: u64,
    /// The highest layout number of a disk's label.
    pub labels_layout: u64,
    /// Its generation in the backup.
    pub generation: u64,
    /// Disks in the backup.
    pub disks: usize,
    /// Volumes in the backup.
    pub volumes: usize,
    /// Disks whose labels could not be read.
    pub unread: Vec<String>,
    /// Whether it replaces an existing database.
    pub replaces: bool,
}

/// Inspects a backup, and compares it with the disks that it names and the existing pool.
///
/// # Errors
/// Fails when it is no backup, belongs to another pool, or is older than the disks and that is not `accepted`.
pub fn inspect(pool: &PoolDir, file: &Path, accept_older: bool) -> Result<Restored> {
    let what = format!("backup {}", file.display());
    let snapshot = look(file)?;
    let present = pool::open(pool).and_then(|mut store| store.header()).ok();
    if let Some(present) = present.filter(|present| present.uuid != snapshot.header.uuid) {
        let why = format!(
            "belongs to pool {}, and this is pool {}",
            snapshot.header.uuid, present.uuid
        );
        return Err(Error::failed(what, why).hint("name the directory of the right pool with --pool"));
    }
    let (labels_layout, unread) = read_labels(&snapshot);
    let layout = snapshot.header.layout;
    if labels_layout > layout && !accept_older {
        let why = format!("is older than the disks: its layout is {layout}, theirs {labels_layout}");
        return Err(Error::failed(what, why).hint(
            "use the newest backup; with --accept-older-layout, data that was written or moved since then will read wrong",
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

/// Returns the highest layout number of the labels, and the disks whose labels could not be read.
pub(super) fn read_labels(snapshot: &Snapshot) -> (u64, Vec<String>) {
    let (mut highest, mut unread) = (0, Vec::new());
    for read in Disk::with_all_within(ANSWER, &snapshot.disks, &snapshot.header, Disk::read_layout) {
        match read {
            Ok(layout) => highest = highest.max(layout),
            Err(error) => unread.push(error.to_string()),
        }
    }
    (highest, unread)
}

/// Replaces the pool's database by a backup, and has the copies of the metadata on the disks written. Returns why they could not be
/// written: the pool is restored all the same, and its next change writes them.
///
/// # Errors
/// Fails when another controller holds the lock, an apparatus runs, or a file cannot be written.
pub fn restore(
    pool: &PoolDir,
    file: &Path,
    found: &Restored,
    within: Option<Duration>,
) -> Result<Option<Error>> {
    let cluster = cluster::open(pool)?;
    let leadership = cluster.lead(Role::Command, "pool restore", WaitLimit::of(within))?;
    check_no_job_runs(pool)?;
    check_nobody_lives(pool, "by the table that would be replaced")?;
    // Copies in the archive may be newer than the labels, which are written later.
    let archived = archive::list(pool)?.into_iter().map(|copy| copy.layout).max();
    let seen = found.labels_layout.max(archived.unwrap_or(0));
    store::restore(pool, file, Some(seen))?;
    drop(leadership);
    let written = Controller::acquire(pool, "pool restore", Wait::For(within))
        .and_then(|mut controller| controller.persist());
    Ok(written.err())
}

/// Checks that no process works on a job: such a process yields the controller lock in its gaps, and keeps the database open.
///
/// # Errors
/// Fails with `ErrorKind::Busy` when a process does.
pub(super) fn check_no_job_runs(pool: &PoolDir) -> Result<()> {
    if !cluster::open(pool)?.any_job_claimed()? {
        return Ok(());
    }
    Err(
        Error::new(ErrorKind::Busy, "pool", "a process works on a job of this pool")
            .hint("find the job (vctl job list), and wait for its end or pause it"),
    )
}

/// Checks that no apparatus runs or is started again, whatever the database contains: it may be damaged, or gone.
///
/// # Errors
/// Fails when one runs, or has a supervisor; `how` describes what it uses.
pub(super) fn check_nobody_lives(pool: &PoolDir, how: &str) -> Result<()> {
    pool::refuse_deleted(pool, ErrorKind::Busy)?;
    match cluster::open(pool)?.any_claimed()? {
        None => check_no_supervisor(pool, how),
        Some(Claimed::Named(name)) => Err(Error::new(
            ErrorKind::Busy,
            format!("apparatus {name}"),
            format!("runs, {how}"),
        )
        .hint(format!("stop it: vctl apparatus stop {name}"))),
        Some(Claimed::Nameless) => Err(Error::new(
            ErrorKind::Busy,
            format!("pool {}", pool.display()),
            format!("an apparatus of it runs, {how}, and its files in the run directory were deleted"),
        )
        .hint("it makes them again in a moment: try again; else end its process")),
    }
}

/// Checks that no supervisor starts the server of an apparatus again.
fn check_no_supervisor(pool: &PoolDir, how: &str) -> Result<()> {
    let what = || format!("pool {}", pool.display());
    let supervisors = supervisor::supervisors(pool).map_err(|error| Error::because(what(), error))?;
    supervisors.into_iter().next().map_or(Ok(()), |(name, process)| {
        let why = format!(
            "has no server now, but a supervisor, process {process}, which holds its mount and starts the server again, {how}"
        );
        Err(
            Error::new(ErrorKind::Busy, format!("apparatus {name}"), why).hint(format!(
                "repair what its log names, or give its hosts up: vctl apparatus stop {name} --cut-off-users"
            )),
        )
    })
}

/// Returns the content of a backup.
fn look(file: &Path) -> Result<Snapshot> {
    Copy::of_backup(file)?.open()?.snapshot()
}

/// A temporary copy of a database, to inspect it or for a dry run. It is deleted when this is dropped.
pub(super) struct Copy {
    dir: PathBuf,
}

impl Copy {
    /// Copies a backup: the store may have to convert it to the current format before it can be read.
    pub(super) fn of_backup(file: &Path) -> Result<Self> {
        let what = format!("backup {}", file.display());
        let found = fs::metadata(file).map_err(|error| Error::of_named_file(&what, error))?;
        crate::sys::text::check_regular(&found, &what)?;
        let copy = Self::empty()?;
        store::restore(&copy.pool(), file, None)?;
        Ok(copy)
    }

    /// Copies a pool as it is now.
    pub(super) fn of_pool(pool: &PoolDir) -> Result<Self> {
        let copy = Self::empty()?;
        let file = copy.dir.join("backup");
        pool::open(pool)?.back_up(&file)?;
        store::restore(&copy.pool(), &file, None)?;
        Ok(copy)
    }

    /// Creates a new pool.
    pub(super) fn of_nothing(new: NewPool) -> Result<Self> {
        let copy = Self::empty()?;
        store::create(&copy.pool(), new)?;
        Ok(copy)
    }

    fn open(&self) -> Result<Box<dyn Store>> {
        pool::open(&self.pool())
    }

    /// Opens the copy and unlinks its files, which are gone when the store is dropped, however the process ends.
    pub(super) fn into_store(self) -> Result<Box<dyn Store>> {
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
