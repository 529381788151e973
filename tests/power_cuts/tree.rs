//! What a power cut leaves of names: those of directories that were flushed, and of each other directory the first of the changes since.

use super::cut::Leaves;
use super::record::{Entry, Kind};
use crate::support::Random;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The inode of the directory that is recorded.
pub(crate) const ROOT: u64 = 1;

/// The names in each directory.
type Names = BTreeMap<u64, BTreeMap<String, (u64, Kind)>>;

/// The recorded names, at some point of the record.
#[derive(Default)]
pub(crate) struct Tree<'a> {
    durable: Names,
    pending: Vec<&'a Entry>,
}

impl<'a> Tree<'a> {
    /// Lets an entry happen.
    pub(crate) fn step(&mut self, entry: &'a Entry) {
        match entry {
            Entry::FlushNames { dir } => {
                let (flushed, pending) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|entry| concerns(entry, *dir));
                self.pending = pending;
                let flushed: Vec<&Entry> = flushed;
                flushed
                    .into_iter()
                    .for_each(|entry| apply(&mut self.durable, entry));
            }
            Entry::Name { .. } | Entry::Unname { .. } | Entry::Rename { .. } => self.pending.push(entry),
            _ => {}
        }
    }

    /// Returns what a cut leaves. The changes of one directory happen in their order on every file system.
    pub(crate) fn cut(&self, leaves: Leaves, random: &mut Random) -> Names {
        let mut names = self.durable.clone();
        let all = random.below(self.pending.len() as u64 + 1);
        let mut of_each: BTreeMap<u64, u64> = BTreeMap::new();
        for (index, entry) in (0..).zip(&self.pending) {
            let dir = dir_of(entry);
            let left = of_each.entry(dir).or_insert_with(|| {
                let changes = self.pending.iter().filter(|other| dir_of(other) == dir);
                random.below(changes.count() as u64 + 1)
            });
            let stays = match leaves {
                Leaves::None => false,
                Leaves::All => true,
                Leaves::First => index < all,
                Leaves::Any => *left > 0,
            };
            *left = left.saturating_sub(1);
            if stays {
                apply(&mut names, entry);
            }
        }
        names
    }
}

fn dir_of(entry: &Entry) -> u64 {
    match entry {
        Entry::Name { dir, .. } | Entry::Unname { dir, .. } => *dir,
        Entry::Rename { from, .. } => from.0,
        _ => 0,
    }
}

fn concerns(entry: &Entry, dir: u64) -> bool {
    dir_of(entry) == dir || matches!(entry, Entry::Rename { to, .. } if to.0 == dir)
}

fn apply(names: &mut Names, entry: &Entry) {
    match entry {
        Entry::Name {
            dir,
            name,
            file,
            kind,
        } => {
            let names = names.entry(*dir).or_default();
            names.insert(name.clone(), (*file, *kind));
        }
        Entry::Unname { dir, name } => {
            names.entry(*dir).or_default().remove(name);
        }
        Entry::Rename { from, to } => {
            let moved = names.entry(from.0).or_default().remove(&from.1);
            if let Some(moved) = moved {
                names.entry(to.0).or_default().insert(to.1.clone(), moved);
            }
        }
        _ => {}
    }
}

/// Makes the files and directories that have these names, with these contents.
pub(crate) fn put(names: &Names, contents: &BTreeMap<u64, Vec<u8>>, dir: u64, at: &Path) {
    for (name, (file, kind)) in names.get(&dir).into_iter().flatten() {
        let path = at.join(name);
        match kind {
            Kind::File => super::after::write_sparse(&path, &contents[file]),
            Kind::Directory => {
                fs::create_dir(&path).unwrap();
                put(names, contents, *file, &path);
            }
            Kind::Other => {}
        }
    }
}
