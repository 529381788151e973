//! What must hold after a power cut: the pool opens, its check finds nothing, no extent has two owners, and every block has what was synced, or something later.

use super::hosts::{BLOCK, Reported, SECTOR, Volume, version};
use apparatus::admin::check::{Problem, check};
use apparatus::admin::import::{self, Accepted};
use apparatus::controller::pool::open_store;
use apparatus::controller::{Controller, Wait};
use apparatus::model::dir::PoolDir;
use apparatus::model::records::{Segment, Snapshot};
use apparatus::model::units::VolumeId;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(100);
pub(crate) const DATABASE: &str = "pool/pool.db";
pub(crate) const LOG: &str = "pool/pool.db-wal";

/// A machine after a power cut: a pool's directory and its disks.
pub(crate) struct Machine {
    pub(crate) root: PathBuf,
    pub(crate) images: Vec<String>,
}

impl Machine {
    pub(crate) fn pool(&self) -> PoolDir {
        PoolDir::new(self.root.join("pool"))
    }

    /// Writes what a cut has left. `names` says which recorded file is which.
    pub(crate) fn put(&self, names: &BTreeMap<u64, String>, files: &BTreeMap<u64, Vec<u8>>) {
        let pool = self.pool();
        forget_shared_state(&pool);
        let _ = fs::remove_dir_all(pool.path());
        fs::create_dir_all(pool.path()).unwrap();
        for (file, bytes) in files {
            write_sparse(&self.root.join(&names[file]), bytes);
        }
    }

    /// Tells the database what is not as it was, though a power cut does not change it: the boot, which is that of the record, and the inode of the directory, which is a new one.
    pub(crate) fn relocate(&self, seen_at: &Path) {
        let db = Connection::open(self.root.join(DATABASE)).unwrap();
        db.pragma_update(None, "synchronous", "off").unwrap();
        db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        let dir = seen_at.join("pool");
        let (device, inode) = identity(&dir);
        let tx = db.unchecked_transaction().unwrap();
        let place = "UPDATE pool SET home_device = ?1, home_inode = ?2";
        tx.execute(place, params![device, inode]).unwrap();
        let boot = Uuid::from_u128(7).to_string();
        for table in ["changes", "members"] {
            tx.execute(&format!("UPDATE {table} SET boot = ?1"), [&boot])
                .unwrap();
        }
        tx.commit().unwrap();
    }

    /// Opens the pool as the next command does, and checks everything.
    pub(crate) fn recovers(&self, reported: &Reported) -> Result<(), String> {
        recover(&self.pool())?;
        self.holds(&self.pool(), reported)
    }

    /// Makes the pool from its disks alone, and checks everything.
    pub(crate) fn imports(&self, reported: &Reported) -> Result<(), String> {
        let pool = self.pool();
        forget_shared_state(&pool);
        fs::remove_dir_all(pool.path()).unwrap();
        let disks: Vec<PathBuf> = self.images.iter().map(|image| self.root.join(image)).collect();
        import::import(&pool, &disks, Accepted::default(), Some(PATIENCE))
            .map_err(|why| format!("import: {why}"))?;
        self.holds(&pool, reported)
            .map_err(|why| format!("after an import: {why}"))
    }

    pub(crate) fn holds(&self, pool: &PoolDir, reported: &Reported) -> Result<(), String> {
        if let Some(problem) = problem_of(pool)? {
            return Err(format!("the check finds {}: {}", problem.subject, problem.why));
        }
        let mut store = open_store(pool).map_err(|why| why.to_string())?;
        let snapshot = store.snapshot().map_err(|why| why.to_string())?;
        self.has_volumes(&snapshot, reported)?;
        let unit = snapshot.header.extent_size.bytes();
        let images: BTreeMap<_, File> = snapshot
            .disks
            .iter()
            .map(|disk| {
                let image = format!("{}.img", disk.name);
                (disk.id, File::open(self.root.join(image)).unwrap())
            })
            .collect();
        for (volume, segment) in &snapshot.segments {
            let none = Volume::default();
            let id = u32::try_from(volume.0).unwrap();
            let reported = reported.volumes.get(&id).unwrap_or(&none);
            reads(&images[&segment.placement.disk], unit, (id, segment), reported)?;
        }
        Ok(())
    }

    fn has_volumes(&self, snapshot: &Snapshot, reported: &Reported) -> Result<(), String> {
        for (id, reported) in &reported.volumes {
            let exists = snapshot
                .volumes
                .iter()
                .any(|volume| volume.id == VolumeId((*id).into()));
            if reported.created && !reported.being_removed && !exists {
                return Err(format!("volume {id} was created and is gone"));
            }
            if reported.removed && exists {
                return Err(format!("volume {id} was removed and is there"));
            }
        }
        Ok(())
    }
}

/// Returns the first problem that the check finds. A job whose process is gone is none: it waits for `job resume`.
pub(crate) fn problem_of(pool: &PoolDir) -> Result<Option<Problem>, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let problems = check(pool).map_err(|why| format!("cannot be checked: {why}"))?;
        let is_job = |problem: &Problem| problem.subject.starts_with("job ");
        let problem = problems.into_iter().find(|problem| !is_job(problem));
        // A crowded machine may take longer to open a disk than the check waits.
        let is_late = |problem: &Problem| problem.why == "does not answer" && Instant::now() < until;
        if !problem.as_ref().is_some_and(is_late) {
            return Ok(problem);
        }
    }
}

/// Takes the controller lock, and thereby recovers.
pub(crate) fn recover(pool: &PoolDir) -> Result<(), String> {
    let patience = Wait::For(Some(PATIENCE));
    let controller = Controller::acquire(pool, "after a power cut", patience);
    controller
        .map(drop)
        .map_err(|why| format!("does not open: {why}"))
}

/// Compares every sector of a segment with what was reported.
fn reads(
    image: &File,
    unit: u64,
    (volume, segment): (u32, &Segment),
    reported: &Volume,
) -> Result<(), String> {
    let len = usize::try_from(segment.placement.len * unit).unwrap();
    let mut bytes = vec![0; len];
    let at = segment.placement.start.0 * unit;
    image
        .read_exact_at(&mut bytes, at)
        .map_err(|why| why.to_string())?;
    let per_block = usize::try_from(BLOCK).unwrap() / SECTOR;
    let first = usize::try_from(segment.start.0 * unit).unwrap() / SECTOR;
    for (index, sector) in (first..).zip(bytes.chunks_exact(SECTOR)) {
        let block = u32::try_from(index / per_block).unwrap();
        let index = u32::try_from(index % per_block).unwrap();
        let place = || {
            format!(
                "volume {volume}, block {block}, sector {index}, on disk {} at extent {}",
                segment.placement.disk, segment.placement.start
            )
        };
        let found = version(sector, volume, block, index).map_err(|why| format!("{}: {why}", place()))?;
        let (least, latest) = reported.blocks.get(&block).copied().unwrap_or_default();
        if !(least..=latest).contains(&found) {
            let expected = format!("version {least} was synced, and {latest} was the last one begun");
            return Err(format!("{} has version {found}; {expected}", place()));
        }
    }
    Ok(())
}

/// Removes the member table of a pool whose processes have ended.
pub(crate) fn forget_shared_state(pool: &PoolDir) {
    if let Ok(table) = fs::read_link(pool.run().join("members")) {
        let _ = fs::remove_file(table);
    }
}

/// Returns how a database records a directory.
fn identity(dir: &Path) -> (String, String) {
    let found = fs::metadata(dir).unwrap();
    let born = found
        .created()
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let inode = born.map_or_else(
        || found.ino().to_string(),
        |born| format!("{}-{}", found.ino(), born.as_nanos()),
    );
    (found.dev().to_string(), inode)
}

/// Writes a file anew, without its pages of zeroes.
pub(crate) fn write_sparse(path: &Path, bytes: &[u8]) {
    const PIECE: usize = 16 << 10;
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (index, piece) in (0_u64..).zip(bytes.chunks(PIECE)) {
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(piece, index * PIECE as u64).unwrap();
        }
    }
}
