//! Finds the pools that processes of this machine use, through the files that they have open.

use super::place::{MEMORY, PREFIX};
use crate::model::dir::DATABASE;
use crate::sys::proc;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Returns the directories of the pools that other processes use, as far as this user may see them. Links are read, and never followed: a
/// directory may not answer.
#[must_use]
pub fn pools_in_use() -> BTreeSet<PathBuf> {
    let me = std::process::id();
    proc::processes()
        .filter(|pid| *pid != me)
        .flat_map(opened_by)
        .collect()
}

/// Returns the pool's directory that a process has open, if it is a process of a pool.
fn opened_by(pid: u32) -> BTreeSet<PathBuf> {
    let open: BTreeSet<PathBuf> = proc::descriptors(pid).filter_map(|open| open.target()).collect();
    if !open.iter().any(|file| is_table(file)) {
        return BTreeSet::new();
    }
    // A process of a pool has the database and its directory open, though both may be deleted by now.
    let of_database = |file: &PathBuf| {
        let dir = file.parent()?;
        let is_open = open.contains(dir) || open.contains(&deleted(dir));
        let is_database = [Path::new(DATABASE).to_owned(), deleted(Path::new(DATABASE))]
            .iter()
            .any(|name| file.file_name() == Some(name.as_os_str()));
        (is_database && is_open).then(|| dir.to_owned())
    };
    open.iter().filter_map(of_database).collect()
}

/// Returns the name that the kernel shows for a deleted file.
fn deleted(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(" (deleted)");
    name.into()
}

fn is_table(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default();
    file.starts_with(MEMORY) && name.to_string_lossy().starts_with(PREFIX)
}
