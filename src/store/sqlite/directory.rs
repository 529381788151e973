//! The directory that a database belongs to, which distinguishes the database from its copies.
//!
//! The database records the path and the inode of its directory. The same path means the same pool, even if the directory is a
//! different one (it was restored there from an archive); the same inode at another path means the same pool too (the directory
//! was renamed). In any other directory there is a copy, whose disks belong to the database that it was copied from until it
//! adopts them.
//!
//! A directory restored in its old place gets a new instance, because the directory that it replaces may still exist under
//! another name.

use super::convert::Word;
use super::metadata::begin_lineage;
use super::removed;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use rusqlite::{Connection, params};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use uuid::Uuid;

/// A directory, identified by path and inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directory {
    path: String,
    device: String,
    inode: String,
}

/// Relation of a directory to the database in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is the directory in which the database was last used.
    Same,
    /// It is that directory, under a new path or device number.
    Renamed,
    /// It is a different directory in the same place; or the first one.
    Replaced,
    /// It is a different directory; this is where the database was last used.
    Copy(PathBuf),
}

impl Directory {
    pub(super) fn of(dir: &PoolDir) -> Result<Self> {
        Self::at(dir.path()).map_err(|why| Error::because(format!("pool {}", dir.display()), why))
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

/// Returns the inode's number and, if the file system reports it, its time of birth, because inode numbers are reused.
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

/// Compares the directories. Device numbers change with each boot on some file systems, so at the same path the inode alone
/// counts. `there` is the directory at the recorded path now: if it is the same directory, it has two paths, and the recorded
/// one stays.
fn judge(recorded: &Directory, here: &Directory, there: Option<&Directory>) -> Found {
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

/// Returns the relation of `here` to the database.
pub(super) fn find(db: &Connection, here: &Directory) -> Result<Found> {
    let sql = "SELECT home, home_device, home_inode FROM pool";
    let recorded = db.prepare_cached(sql)?.query_row([], |row| {
        Ok(Directory {
            path: row.get(0)?,
            device: row.get(1)?,
            inode: row.get(2)?,
        })
    })?;
    let there = Directory::at(Path::new(&recorded.path)).ok();
    Ok(judge(&recorded, here, there.as_ref()))
}

/// Records that the database belongs here, under a new instance if one is given.
pub(super) fn settle(db: &Connection, here: &Directory, instance: Option<Uuid>) -> Result<()> {
    db.prepare_cached("UPDATE pool SET home = ?1, home_device = ?2, home_inode = ?3")?
        .execute(params![here.path, here.device, here.inode])?;
    if let Some(instance) = instance {
        db.prepare_cached("UPDATE pool SET former = instance, instance = ?1")?
            .execute([Word(instance)])?;
        removed::clear(db)?;
        begin_lineage(db)?;
    }
    Ok(())
}

pub(super) fn refusal(dir: &PoolDir, of: &Path) -> Error {
    let (here, of) = (dir.display(), of.display());
    let why = format!("is a copy of the pool at {of}, which owns the disks");
    Error::failed(format!("pool {here}"), why).hint(format!(
        "use that one: --pool {of}; if it is gone or shall not be used again, make this one the owner: vctl --pool {here} pool adopt"
    ))
}

/// The refusal of a copy of a database that mirrors a log.
pub(super) fn refusal_of_mirror(dir: &PoolDir, of: &Path) -> Error {
    let (here, of) = (dir.display(), of.display());
    let why = format!("is a copy of the pool at {of}, and a node has one directory");
    Error::failed(format!("pool {here}"), why).hint(format!(
        "use that one: --pool {of}; on another machine, or if it is gone, make a new directory: vctl pool join"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &str, device: u64, inode: u64) -> Directory {
        Directory {
            path: path.into(),
            device: device.to_string(),
            inode: inode.to_string(),
        }
    }

    #[test]
    fn the_same_path_or_the_same_inode_means_the_same_pool() {
        let recorded = directory("/a", 1, 10);
        let judged = |here: Directory, there: Option<Directory>| judge(&recorded, &here, there.as_ref());
        let a = || Some(directory("/a", 1, 10));
        assert_eq!(judged(directory("/a", 1, 10), a()), Found::Same);
        assert_eq!(
            judged(directory("/a", 2, 10), Some(directory("/a", 2, 10))),
            Found::Renamed,
            "another boot"
        );
        assert_eq!(
            judged(directory("/a", 1, 11), Some(directory("/a", 1, 11))),
            Found::Replaced,
            "restored in place"
        );
        assert_eq!(judged(directory("/b", 1, 10), None), Found::Renamed);
        assert_eq!(judged(directory("/b", 1, 10), a()), Found::Same, "mounted twice");
        assert_eq!(judged(directory("/b", 1, 11), a()), Found::Copy("/a".into()));
        assert_eq!(judged(directory("/b", 1, 11), None), Found::Copy("/a".into()));
        assert_eq!(
            judged(directory("/b", 2, 10), a()),
            Found::Copy("/a".into()),
            "a snapshot has the same inodes"
        );
        assert_eq!(
            judge(&directory("", 0, 0), &directory("/b", 1, 10), None),
            Found::Replaced
        );
    }
}
