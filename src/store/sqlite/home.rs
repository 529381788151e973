//! The directory that a database belongs to: tells the database from its copies.
//!
//! The database records the path and the inode of its directory. The same path is the same pool, also when the directory is another one
//! (it was restored there from an archive); the same inode at another path is the same pool too (the directory was renamed). A directory
//! that is neither holds a copy, whose disks belong to the database that it was copied from until it adopts them.
//!
//! A directory restored in its old place gets a new instance: the directory that it replaces may still exist under another name.

use super::convert::Word;
use crate::error::{Error, Result};
use crate::pool::dir::PoolDir;
use rusqlite::{Connection, params};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use uuid::Uuid;

/// A directory, by path and by inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Home {
    path: String,
    device: String,
    inode: String,
}

/// What the directory is to the database in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The one that it was last used in.
    Same,
    /// The one that it was last used in, under a new path or device number.
    Renamed,
    /// Another one in the same place; or the first.
    Replaced,
    /// Another one, and this is where the database was last used.
    Copy(PathBuf),
}

impl Home {
    pub(super) fn of(dir: &PoolDir) -> Result<Self> {
        Self::at(dir.path()).map_err(|why| Error::because(format!("pool {}", dir.path().display()), why))
    }

    fn at(dir: &Path) -> std::io::Result<Self> {
        let path = fs::canonicalize(dir)?;
        let found = fs::metadata(&path)?;
        Ok(Self {
            path: path.to_string_lossy().into_owned(),
            device: found.dev().to_string(),
            inode: inode_of(&found),
        })
    }

    fn is_inode_of(&self, other: &Self) -> bool {
        (&self.device, &self.inode) == (&other.device, &other.inode)
    }
}

/// The inode's number and, where the file system tells it, its time of birth: numbers are given again.
fn inode_of(found: &Metadata) -> String {
    let born = found
        .created()
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    born.map_or_else(
        || found.ino().to_string(),
        |born| format!("{}-{}", found.ino(), born.as_nanos()),
    )
}

/// Device numbers change with each boot on some file systems, so at the same path the inode alone counts. `there` is what the recorded
/// path leads to now: where that is the same directory, it has two paths, and the recorded one stays.
fn judge(recorded: &Home, here: &Home, there: Option<&Home>) -> Found {
    if recorded.path.is_empty() {
        Found::Replaced
    } else if recorded == here {
        Found::Same
    } else if recorded.path == here.path {
        if recorded.inode == here.inode {
            Found::Renamed
        } else {
            Found::Replaced
        }
    } else if there.is_some_and(|there| there.is_inode_of(here)) {
        Found::Same
    } else if recorded.is_inode_of(here) {
        Found::Renamed
    } else {
        Found::Copy(recorded.path.clone().into())
    }
}

/// What `here` is to the database.
pub(super) fn find(db: &Connection, here: &Home) -> Result<Found> {
    let sql = "SELECT home, home_device, home_inode FROM pool";
    let recorded = db.prepare_cached(sql)?.query_row([], |row| {
        Ok(Home {
            path: row.get(0)?,
            device: row.get(1)?,
            inode: row.get(2)?,
        })
    })?;
    let there = Home::at(Path::new(&recorded.path)).ok();
    Ok(judge(&recorded, here, there.as_ref()))
}

/// Records that the database is at home here, under a new instance where one is given.
pub(super) fn settle(db: &Connection, here: &Home, instance: Option<Uuid>) -> Result<()> {
    db.prepare_cached("UPDATE pool SET home = ?1, home_device = ?2, home_inode = ?3")?
        .execute(params![here.path, here.device, here.inode])?;
    if let Some(instance) = instance {
        db.prepare_cached("UPDATE pool SET former = instance, instance = ?1")?
            .execute([Word(instance)])?;
    }
    Ok(())
}

pub(super) fn refusal(dir: &PoolDir, of: &Path) -> Error {
    let (here, of) = (dir.path().display(), of.display());
    let why = format!("is a copy of the pool at {of}, which owns the disks");
    Error::failed(format!("pool {here}"), why).hint(format!(
        "use that one: --pool {of}; if it is gone or shall not be used again, make this one the owner: vctl --pool {here} pool adopt"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(path: &str, device: u64, inode: u64) -> Home {
        Home {
            path: path.into(),
            device: device.to_string(),
            inode: inode.to_string(),
        }
    }

    #[test]
    fn the_same_path_or_the_same_inode_is_the_same_pool() {
        let recorded = home("/a", 1, 10);
        let judged = |here: Home, there: Option<Home>| judge(&recorded, &here, there.as_ref());
        let a = || Some(home("/a", 1, 10));
        assert_eq!(judged(home("/a", 1, 10), a()), Found::Same);
        assert_eq!(
            judged(home("/a", 2, 10), Some(home("/a", 2, 10))),
            Found::Renamed,
            "another boot"
        );
        assert_eq!(
            judged(home("/a", 1, 11), Some(home("/a", 1, 11))),
            Found::Replaced,
            "restored in place"
        );
        assert_eq!(judged(home("/b", 1, 10), None), Found::Renamed);
        assert_eq!(judged(home("/b", 1, 10), a()), Found::Same, "mounted twice");
        assert_eq!(judged(home("/b", 1, 11), a()), Found::Copy("/a".into()));
        assert_eq!(judged(home("/b", 1, 11), None), Found::Copy("/a".into()));
        assert_eq!(
            judged(home("/b", 2, 10), a()),
            Found::Copy("/a".into()),
            "a snapshot has the same inodes"
        );
        assert_eq!(judge(&home("", 0, 0), &home("/b", 1, 10), None), Found::Replaced);
    }
}
