//! The archive: copies of the database that a pool makes by itself, after each operation that changed its table.
//!
//! They are in the directory `archive` of the pool's directory, one file each. They help where an operator has removed the wrong
//! volume, or where the database is damaged. Copies are bounded in number, in age and in how often a large database is copied.

use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::units::{Generation, Timestamp};
use crate::store::Store;
use serde::Serialize;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most copies that are kept, and the number of the newest that are kept at any age.
const MOST: usize = 32;
const ALWAYS: usize = 8;
/// Age, in days, from which other copies are deleted.
const DAYS: u64 = 30;
/// Size of a copy, in bytes, from which the next one has to wait for [`PAUSE`], so that a large pool spends little on its archive.
const LARGE: u64 = 32 << 20;
const PAUSE: Duration = Duration::from_secs(600);
/// Room in the file system of the pool's directory below which no copy is made, in bytes.
const LEAST_ROOM: u64 = 64 << 20;

/// A copy of the database in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Archived {
    /// Path of the copy.
    pub file: PathBuf,
    /// Time of the copy.
    pub taken: Timestamp,
    /// Layout number of the database at that time.
    pub layout: u64,
    /// Number of the table at that time.
    pub generation: Generation,
    /// Size of the copy, in bytes.
    pub bytes: u64,
}

impl Archived {
    /// Returns the name of the file of a copy, without its directory. Names sort by time.
    fn name(taken: Timestamp, layout: u64, generation: Generation) -> String {
        format!("{:016}-layout-{layout}-generation-{}.db", taken.0, generation.0)
    }

    /// Parses the name of a file; `None` when it is not that of a copy.
    fn parse(file: PathBuf, bytes: u64) -> Option<Self> {
        let name = file.file_name()?.to_str()?.strip_suffix(".db")?;
        let (taken, rest) = name.split_once("-layout-")?;
        let (layout, generation) = rest.split_once("-generation-")?;
        Some(Self {
            taken: Timestamp(taken.parse().ok()?),
            layout: layout.parse().ok()?,
            generation: Generation(generation.parse().ok()?),
            file,
            bytes,
        })
    }
}

/// Returns the copies in the archive, oldest first; none when there is no archive.
///
/// # Errors
/// Fails when the directory cannot be read.
pub fn list(pool: &PoolDir) -> Result<Vec<Archived>> {
    let dir = pool.archive();
    let failed = |error| Error::because(pool.name_of(&dir).display().to_string(), error);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // A copy that another process has just deleted is none.
        let size = entry.metadata().map(|metadata| metadata.len());
        found.extend(size.ok().and_then(|bytes| Archived::parse(entry.path(), bytes)));
    }
    found.sort_by_key(|copy| (copy.taken, copy.generation));
    Ok(found)
}

/// Makes a copy if the table has changed since the last one, and deletes copies that are too many or too old. Where the file system has
/// little room, which the database itself may need, it makes none and keeps only the newest. Returns the path of the new copy.
///
/// # Errors
/// Fails when the store cannot be read, or the copy cannot be written.
pub fn keep(pool: &PoolDir, store: &mut dyn Store) -> Result<Option<PathBuf>> {
    let (header, now) = (store.header()?, Timestamp::now());
    let present = list(pool)?;
    if !is_due(present.last(), header.generation, now) {
        return Ok(None);
    }
    let dir = pool.archive();
    let failed = |error| Error::because(pool.name_of(&dir).display().to_string(), error);
    if room(pool.path()).map_err(failed)? < LEAST_ROOM {
        let kept = present.len().saturating_sub(ALWAYS);
        present[..kept].iter().try_for_each(|copy| remove(&copy.file))?;
        return Ok(None);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(failed)?;
    let file = dir.join(Archived::name(now, header.layout, header.generation));
    store.back_up(&file)?;
    for copy in excess(&present, now) {
        remove(&copy.file)?;
    }
    Ok(Some(file))
}

/// Returns the bytes that this process can still write in a directory's file system.
fn room(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::because(file.display().to_string(), error))
        }
        _ => Ok(()),
    }
}

/// Returns whether a table of this generation is to be copied, when `last` is the newest copy.
fn is_due(last: Option<&Archived>, generation: Generation, now: Timestamp) -> bool {
    last.is_none_or(|last| {
        let pause = i64::try_from(PAUSE.as_micros()).unwrap_or(i64::MAX);
        let paused = last.bytes < LARGE || now.0.saturating_sub(last.taken.0).saturating_abs() >= pause;
        last.generation != generation && paused
    })
}

/// Returns those of the copies (oldest first) that are to be deleted once there is one more.
fn excess(present: &[Archived], now: Timestamp) -> &[Archived] {
    let age = i64::try_from(Duration::from_hours(DAYS * 24).as_micros()).unwrap_or(i64::MAX);
    let old = present
        .iter()
        .take_while(|copy| copy.taken.0.saturating_add(age) < now.0)
        .count();
    let most_old = (present.len() + 1).saturating_sub(ALWAYS);
    let too_many = (present.len() + 1).saturating_sub(MOST);
    &present[..old.min(most_old).max(too_many)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::units::ExtentSize;
    use crate::store;

    const DAY: i64 = 24 * 3600 * 1_000_000;

    fn copies(taken: impl IntoIterator<Item = i64>) -> Vec<Archived> {
        let copy = |taken: i64| {
            let generation = Generation(u64::try_from(taken).unwrap());
            let name = Archived::name(Timestamp(taken), 7, generation);
            Archived::parse(Path::new("/a").join(name), 5).unwrap()
        };
        taken.into_iter().map(copy).collect()
    }

    #[test]
    fn a_name_says_what_the_copy_contains() {
        let copy = &copies([12])[0];
        assert_eq!(
            (copy.taken, copy.layout, copy.generation),
            (Timestamp(12), 7, Generation(12))
        );
        for other in [
            "x.db",
            "1-layout-2-generation-.db",
            "1-layout-2.db",
            "1-layout-2-generation-3.db.new",
        ] {
            assert_eq!(Archived::parse(other.into(), 1), None, "{other}");
        }
    }

    #[test]
    fn copies_are_bounded_in_number_and_age() {
        let now = Timestamp(100 * DAY);
        let recent = |n: i64| copies((0..n).map(|n| 99 * DAY + n));
        assert_eq!(excess(&recent(31), now), &[]);
        assert_eq!(excess(&recent(33), now), &recent(33)[..2]);
        let old = |n: i64| copies((0..n).map(|n| 9 * DAY + n));
        assert_eq!(excess(&old(7), now), &[], "the newest are kept at any age");
        assert_eq!(excess(&old(9), now), &old(9)[..2]);
        let mixed = [old(3), recent(20)].concat();
        assert_eq!(excess(&mixed, now), &mixed[..3]);
    }

    #[test]
    fn a_large_database_is_copied_seldom_and_an_unchanged_one_never() {
        let mut last = copies([50]).remove(0);
        let at = |micros: i64| Timestamp(50 + micros);
        assert!(is_due(None, Generation(0), at(0)));
        assert!(!is_due(Some(&last), Generation(50), at(DAY)));
        assert!(is_due(Some(&last), Generation(51), at(0)));
        last.bytes = LARGE;
        assert!(!is_due(Some(&last), Generation(51), at(0)));
        assert!(is_due(Some(&last), Generation(51), at(600_000_000)));
        assert!(
            is_due(Some(&last), Generation(51), at(-600_000_000)),
            "the clock was set back"
        );
    }

    #[test]
    fn a_copy_can_be_restored() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path().join("pool"));
        assert_eq!(list(&pool).unwrap(), []);
        store::create(&pool, ExtentSize::DEFAULT).unwrap();
        let mut opened = crate::controller::pool::open_store(&pool).unwrap();
        let file = keep(&pool, &mut *opened).unwrap().unwrap();
        assert_eq!(keep(&pool, &mut *opened).unwrap(), None, "nothing has changed");
        let header = opened.header().unwrap();
        drop(opened);
        let listed = list(&pool).unwrap();
        assert_eq!(listed[0].file, file);
        store::restore(&pool, &file, None).unwrap();
        let restored = crate::controller::pool::open_store(&pool)
            .unwrap()
            .header()
            .unwrap();
        assert_eq!(restored.uuid, header.uuid);
    }
}
