//! Finds the pools that processes of this machine use, through the files that they have open.

use super::place::{MEMORY, PREFIX};
use crate::model::dir::DATABASE;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the directories of the pools that other processes use, as far as this user may see them. Links are read, and never followed: a
/// directory may not answer.
#[must_use]
pub fn pools_in_use() -> BTreeSet<PathBuf> {
    let me = std::process::id();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != me).flat_map(opened_by).collect()
}

/// Returns the pool's directory that a process has open, if it is a process of a pool.
fn opened_by(pid: u32) -> BTreeSet<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let open: BTreeSet<PathBuf> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
    if !open.iter().any(|file| is_table(file)) {
        return BTreeSet::new();
    }
    // A process of a pool has the database and its directory open.
    let of_database = |file: &PathBuf| {
        let dir = file.parent()?;
        (file.file_name()? == DATABASE && open.contains(dir)).then(|| dir.to_owned())
    };
    open.iter().filter_map(of_database).collect()
}

fn is_table(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default();
    file.starts_with(MEMORY) && name.to_string_lossy().starts_with(PREFIX)
}
