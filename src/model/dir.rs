//! Paths of a pool's files.

use crate::model::names::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::hash::{Hash, Hasher};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Display, Path, PathBuf};
use std::sync::Arc;

/// Name of the database in a pool's directory.
pub const DATABASE: &str = "pool.db";

/// A pool's directory.
///
/// ```text
/// DIR/pool.db        the database (with -wal and -shm beside it)
/// DIR/archive/       copies of the database that the pool makes by itself
/// DIR/times/NAME     write times of volumes, as the apparatus knows them
/// DIR/run/           mode 0700
///     log-failed     exists if the database could not be made durable: epoch and reason
///     locks/ID       hosts' file locks on volume ID, for all apparatuses
///     NAME.sock      an apparatus's control socket, mode 0600
///     NAME.log       log of a detached apparatus
///     NAME.supervisor    process id of the supervisor of an apparatus, which locks it
/// ```
///
/// The other files of the run directory belong to the cluster.
///
/// It is named by a path, or by an open descriptor: then it stays the same directory even if it is renamed. Two are equal if
/// they were named alike.
#[derive(Clone, Debug, Default)]
pub struct PoolDir {
    dir: PathBuf,
    held: Option<OpenedDir>,
}

/// An open directory and its name in messages.
#[derive(Clone, Debug)]
struct OpenedDir {
    _directory: Arc<OwnedFd>,
    named: PathBuf,
}

impl PoolDir {
    /// Returns the pool directory at this path, which need not exist yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self { dir, held: None }
    }

    /// Returns the pool directory behind this descriptor; messages call it `named`. Paths that it returns stay valid as long as
    /// it or a clone of it exists.
    #[must_use]
    pub fn held(directory: OwnedFd, named: &Path) -> Self {
        let dir = format!("/proc/self/fd/{}", directory.as_raw_fd()).into();
        let held = OpenedDir {
            _directory: Arc::new(directory),
            named: named.to_owned(),
        };
        Self {
            dir,
            held: Some(held),
        }
    }

    /// Returns whether it is accessed through a descriptor.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Returns the path for access to the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory's name for messages.
    #[must_use]
    pub fn named(&self) -> &Path {
        self.held.as_ref().map_or(&self.dir, |held| &held.named)
    }

    /// Returns the directory's name, for formatting.
    #[must_use]
    pub fn display(&self) -> Display<'_> {
        self.named().display()
    }

    /// Returns the name of a file in it for messages.
    #[must_use]
    pub fn name_of(&self, file: &Path) -> PathBuf {
        file.strip_prefix(&self.dir)
            .map_or_else(|_| file.to_owned(), |rest| self.named().join(rest))
    }

    /// Returns the path of the database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    /// Returns the path of the directory for copies of the database that the pool makes by itself.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        self.dir.join("archive")
    }

    /// Returns the path of the directory with the write times of volumes, one file for each apparatus.
    #[must_use]
    pub fn times(&self) -> PathBuf {
        self.dir.join("times")
    }

    /// Returns the path of the directory for files that live only until the machine stops.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Returns the path of an apparatus's control socket.
    #[must_use]
    pub fn socket(&self, apparatus: &Name) -> PathBuf {
        self.run().join(format!("{apparatus}.sock"))
    }

    /// Returns the path of an apparatus's log, for one that runs detached.
    #[must_use]
    pub fn log(&self, apparatus: &Name) -> PathBuf {
        self.run().join(format!("{apparatus}.log"))
    }
}

impl PartialEq for PoolDir {
    fn eq(&self, other: &Self) -> bool {
        self.named() == other.named()
    }
}

impl Eq for PoolDir {}

impl Hash for PoolDir {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.named().hash(state);
    }
}

impl Serialize for PoolDir {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.named().serialize(to)
    }
}

impl<'a> Deserialize<'a> for PoolDir {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(from).map(Self::new)
    }
}
