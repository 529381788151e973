//! Opens a pool's store, and adds the way out to the error where that fails.

use super::environment::{Environment, ProcessEnvironment};
use super::history::user_name;
use super::{archive, directory, node};
use crate::cluster::{self, Cluster, Owner};
use crate::model::dir::{DATABASE, PoolDir};
use crate::model::error::{Error, ErrorKind, Result};
use crate::store::{self, DATABASE_GONE, NO_POOL, NOT_A_POOLS, OpenStore, OwnNode, Store};
use crate::sys::hold;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::process;
use std::sync::Arc;

/// The way out when the database is gone or is another one, and an apparatus still has the right one open.
const RESCUE: &str = "save what they have open: vctl pool backup FILE; then vctl apparatus stop NAME for each, and vctl pool restore FILE";

/// A pool as a process uses it. The creator of this value decides which cluster, which store and which environment it has; nothing else knows.
#[derive(Clone)]
pub struct PoolHandle {
    /// The pool's directory.
    pub dir: PoolDir,
    /// The pool's processes.
    pub cluster: Arc<dyn Cluster>,
    /// Opens the pool's store.
    pub open_store: OpenStore,
    /// The machine on which its controllers run.
    pub environment: Arc<dyn Environment>,
    /// That machine as a node of the pool, if the pool knows its machines by name.
    pub node: Option<OwnNode>,
}

impl PoolHandle {
    /// Makes the handle of the pool in this directory, which stays the same directory even if it is renamed.
    ///
    /// # Errors
    /// Fails when the directory cannot be opened, or its cluster cannot be determined.
    pub fn of(dir: &PoolDir) -> Result<Self> {
        let dir = hold(dir)?;
        refuse_users_pool(&dir)?;
        let open_in = dir.clone();
        let own = node::own(&dir)?;
        Ok(Self {
            cluster: cluster::open(&dir)?,
            open_store: Arc::new(move || open_store(&open_in)),
            environment: Arc::new(ProcessEnvironment { node: own.clone() }),
            node: own,
            dir,
        })
    }

    /// Checks that this directory may change and serve the pool, and records this machine as it is now, before the first change.
    ///
    /// # Errors
    /// Fails for a copy, and when another machine has this one's name; returns the errors of the store.
    pub fn own(&self, store: &mut dyn Store) -> Result<()> {
        store.own()?;
        node::announce(self.node.as_ref(), self.cluster.epoch()?, store)
    }
}

/// Refuses to work as root on a pool of another user, who could not use the files that root creates there. The permissions of the files refuse all
/// others.
///
/// # Errors
/// Fails with the name of the owner.
pub fn refuse_users_pool(pool: &PoolDir) -> Result<()> {
    let owner = match fs::metadata(pool.database()) {
        Ok(meta) if rustix::process::geteuid().is_root() && meta.uid() != 0 => meta.uid(),
        _ => return Ok(()),
    };
    let owner = user_name(owner).unwrap_or_else(|| owner.to_string());
    let why = format!("belongs to user {owner}, and all processes of a pool are of one user");
    let hint = format!(
        "run this as that user: sudo -u {owner} vctl --pool {} …",
        pool.display()
    );
    Err(Error::failed(format!("pool {}", pool.display()), why).hint(hint))
}

/// Opens a pool's store, unless the file system that it is on does not answer: opening it would wait for that without end.
///
/// # Errors
/// Fails with `NotFound` when there is no pool, and with `TimedOut` when the directory does not answer; returns the errors of the store.
pub fn open(pool: &PoolDir) -> Result<Box<dyn Store>> {
    directory::fault(pool)?;
    open_store(pool)
}

/// Opens a pool's store for a dry run: fails where the change itself would because the database is a copy.
///
/// # Errors
/// Fails with `NotFound` when there is no pool, and when the database is a copy; returns the errors of the store.
pub fn open_to_rehearse(pool: &PoolDir) -> Result<Box<dyn Store>> {
    let mut store = open(pool)?;
    store.refuse_copy()?;
    Ok(store)
}

/// Opens the pool's store, in the epoch of its cluster.
///
/// # Errors
/// Fails with `NotFound` when there is no pool; returns the errors of the store.
pub fn open_store(pool: &PoolDir) -> Result<Box<dyn Store>> {
    refuse_file(pool)?;
    let cluster = cluster::open(pool)?;
    let may_convert = || refuse_conversion_in_use(pool, &*cluster);
    store::open_unless(pool, cluster.epoch()?, &may_convert).map_err(|error| {
        match directory::try_writing(pool.path()) {
            Err(why) if error.kind() == ErrorKind::Failed && !error.why().ends_with(NOT_A_POOLS) => {
                not_writable(pool, &why)
            }
            _ => with_rescue(pool, error),
        }
    })
}

/// Refuses to convert the database while apparatuses serve, other than this process and its supervisor: their program is an older one, which could not open
/// the database again.
fn refuse_conversion_in_use(pool: &PoolDir, cluster: &dyn Cluster) -> Result<()> {
    if cluster.any_claimed()?.is_none() {
        return Ok(());
    }
    let own = [process::id(), parent_id()];
    let owners = cluster::owners(pool);
    let others: Vec<String> = owners
        .iter()
        .filter(|owner| !own.contains(&owner.pid))
        .map(Owner::to_string)
        .collect();
    if others.is_empty() && !owners.is_empty() {
        return Ok(());
    }
    let why = format!(
        "has an older format than this program's, and an older program serves the pool: {}",
        match others.is_empty() {
            true => "another user's".to_owned(),
            false => others.join("; "),
        }
    );
    Err(Error::new(ErrorKind::Busy, DATABASE, why).hint(
        "stop it by its own vctl, or by kill -TERM PROCESS once no host uses it, and start it with this program",
    ))
}

/// Explains that the directory accepts no change: SQLite needs space even to read a database that is not open elsewhere.
fn not_writable(pool: &PoolDir, why: &std::io::Error) -> Error {
    let what = format!("pool directory {}", pool.display());
    let why = format!("accepts no change ({why}), and without that the database cannot be read");
    Error::failed(what, why).hint(format!(
        "free space in its file system, or make it writable again: df -h {}",
        pool.display()
    ))
}

/// Refuses a file in the place of a pool's directory.
///
/// # Errors
/// Fails when the path leads to something that is no directory; the way out names the directory where the file is a pool's database.
pub fn refuse_file(pool: &PoolDir) -> Result<()> {
    match fs::metadata(pool.path()) {
        Ok(meta) if !meta.is_dir() => {}
        _ => return Ok(()),
    }
    let above = pool
        .named()
        .parent()
        .filter(|dir| dir.join(DATABASE) == pool.named());
    let way_out = match above {
        Some(dir) => format!("name the directory that it is in: --pool {}", dir.display()),
        None => "name the pool's directory with --pool DIR or $VCTL_POOL".to_owned(),
    };
    let what = format!("pool {}", pool.display());
    Err(Error::usage(what, "is a file, and a pool is a directory").hint(way_out))
}

/// Replaces the way out where the apparatuses use another database than the one that is in the directory, and where the archive has a
/// copy of the database that is gone or damaged.
fn with_rescue(pool: &PoolDir, error: Error) -> Error {
    let is_gone = [NO_POOL, DATABASE_GONE].contains(&error.why());
    if is_gone && let Err(deleted) = refuse_deleted(pool, ErrorKind::NotFound) {
        return deleted;
    }
    let is_damaged = error.why().ends_with(NOT_A_POOLS) || error.why().contains("the database is damaged");
    if !(is_gone || is_damaged) {
        return error;
    }
    if !matches!(any_claimed(pool), Ok(true)) {
        return with_archive(pool, error);
    }
    if is_gone {
        let why = "its database was deleted, and apparatuses still use it";
        return Error::new(ErrorKind::NotFound, error.what(), why).hint(RESCUE);
    }
    error.hint(RESCUE)
}

/// Refuses a pool whose directory was deleted while its apparatuses serve: they go on, and have its disks.
///
/// # Errors
/// Fails with an error of this kind when there is one that lives; the error names the way back.
pub fn refuse_deleted(pool: &PoolDir, kind: ErrorKind) -> Result<()> {
    let mut left = cluster::owners(pool);
    left.retain(|owner| owner.is_deleted);
    if left.is_empty() {
        return Ok(());
    }
    let serve = if left.len() == 1 { "serves" } else { "serve" };
    let who: Vec<String> = left.iter().map(ToString::to_string).collect();
    let why = format!(
        "its directory was deleted, and {} still {serve} its volumes: hosts go on, and nothing can be changed",
        who.join(" and ")
    );
    let stop = |owner: &Owner| match &owner.name {
        Some(name) => format!("vctl apparatus stop {name}"),
        None => format!("kill {}", owner.pid),
    };
    let stops: Vec<String> = left.iter().map(stop).collect();
    let disks = match disks_of(&left, false) {
        disks if disks.is_empty() => "DISK...".to_owned(),
        disks => disks.join(" "),
    };
    let to_save = to_save(&left);
    let without = if to_save.is_empty() {
        ""
    } else {
        " --accept-missing-disks"
    };
    let hint = format!(
        "{to_save}once their hosts have ended: {}; then make the pool again from its disks: vctl pool import {disks}{without}",
        stops.join("; ")
    );
    Err(Error::new(kind, format!("pool {}", pool.display()), why).hint(hint))
}

/// Returns the paths of the disks that these processes have open: of those that were deleted, or of the others.
fn disks_of(owners: &[Owner], deleted: bool) -> Vec<String> {
    let all = owners.iter().flat_map(|owner| &owner.disks);
    let wanted = all.filter(|disk| disk.is_deleted == deleted);
    let paths: BTreeSet<String> = wanted.map(|disk| disk.path.display().to_string()).collect();
    paths.into_iter().collect()
}

/// Returns the first part of the way out where images were deleted too: these processes have their only copies.
fn to_save(owners: &[Owner]) -> String {
    let lost = disks_of(owners, true);
    if lost.is_empty() {
        return String::new();
    }
    let mounts: BTreeSet<String> = owners
        .iter()
        .filter(|owner| owner.disks.iter().any(|disk| disk.is_deleted))
        .filter_map(|owner| owner.mount.as_ref())
        .map(|mount| mount.display().to_string())
        .collect();
    let from = match mounts.is_empty() {
        true => "the mounts".to_owned(),
        false => mounts.into_iter().collect::<Vec<_>>().join(" or "),
    };
    let was = if lost.len() == 1 { "was" } else { "were" };
    format!(
        "{} {was} deleted too and cannot be imported, because only these processes have it open: first copy the volumes on it from {from} to another place; ",
        lost.join(" and ")
    )
}

/// Replaces the way out by the newest copy in the archive, if there is one.
fn with_archive(pool: &PoolDir, error: Error) -> Error {
    let Some(newest) = archive::list(pool).ok().and_then(|mut copies| copies.pop()) else {
        return error;
    };
    let file = pool.name_of(&newest.file);
    let restore = format!("the newest copy of it: vctl pool restore {}", file.display());
    if [NO_POOL, DATABASE_GONE].contains(&error.why()) {
        let hint =
            format!("make it again from the pool's disks: vctl pool import DISK...; or put back {restore}");
        return Error::new(ErrorKind::NotFound, error.what(), DATABASE_GONE).hint(hint);
    }
    error.hint(restore)
}

/// Whether an apparatus of the pool lives.
fn any_claimed(pool: &PoolDir) -> Result<bool> {
    Ok(cluster::open(pool)?.any_claimed()?.is_some())
}
