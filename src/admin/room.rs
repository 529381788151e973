//! Finds images that may need more space than their file system has left.

use super::view::PoolView;
use crate::blockdev::ImageSpace;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::records::DiskRecord;
use crate::model::size::HumanSize;
use crate::model::units::ByteCount;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How long an inspection of an image may take: it is never the main purpose of a command.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A file system with less than one part in this many free is nearly full.
const NEARLY_FULL: u64 = 10;

/// A file system that has less free space than its images may still need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// The disks whose images are on it.
    pub disks: Vec<Name>,
    /// Bytes that those may still need.
    pub promised: ByteCount,
    /// Free bytes of the file system.
    pub free: ByteCount,
    /// Whether the file system is nearly full.
    pub nearly_full: bool,
}

impl Shortfall {
    /// Describes the shortfall.
    #[must_use]
    pub fn words(&self) -> String {
        format!(
            "the images on its file system may still need {}, and it has {} left: when that is used up, writes to them fail with ENOSPC",
            HumanSize(self.promised),
            HumanSize(self.free)
        )
    }
}

/// Returns the file systems that are short of space for the images of these disks.
#[must_use]
pub fn short<'d>(disks: impl IntoIterator<Item = &'d DiskRecord>) -> Vec<Shortfall> {
    let rooms = disks.into_iter().filter_map(|disk| {
        let room = ImageSpace::of(INSPECT_TIMEOUT, &disk.path, None).ok()??;
        Some((disk.name.clone(), room))
    });
    add_up(rooms)
}

/// Returns whether the file system of an image at `path` is short of space once that is `len` bytes long.
#[must_use]
pub fn short_with(view: &PoolView, name: &Name, path: &Path, len: ByteCount) -> Option<Shortfall> {
    let room = ImageSpace::of(INSPECT_TIMEOUT, path, Some(len.0)).ok()??;
    let others = view.disks.iter().map(|disk| &disk.record);
    let others = others.filter(|disk| disk.path != path).filter_map(|disk| {
        let other = ImageSpace::of(INSPECT_TIMEOUT, &disk.path, None).ok()??;
        (other.file_system == room.file_system).then(|| (disk.name.clone(), other))
    });
    let all: Vec<_> = others.chain([(name.clone(), room)]).collect();
    add_up(all).pop()
}

/// The way out where all space of an image cannot be allocated at once.
pub(super) const SMALLER: &str = "choose a smaller size or another file system, or leave out --preallocate";

/// Checks that the file system of a new image at `path` has room for all of it at once.
///
/// # Errors
/// Fails when it is known to have less.
pub(super) fn refuse_if_short(path: &Path, len: ByteCount) -> Result<()> {
    let room = ImageSpace::of(INSPECT_TIMEOUT, path, Some(len.0));
    let room = room.ok().flatten().filter(|room| room.promised > room.free);
    let Some(room) = room else {
        return Ok(());
    };
    let what = format!("{}: allocating all its space", path.display());
    let why = format!("its file system has {} left", HumanSize(ByteCount(room.free)));
    Err(Error::failed(what, why).hint(SMALLER))
}

fn add_up(rooms: impl IntoIterator<Item = (Name, ImageSpace)>) -> Vec<Shortfall> {
    let mut systems: BTreeMap<u64, (ImageSpace, Vec<Name>)> = BTreeMap::new();
    for (name, room) in rooms {
        let found = systems
            .entry(room.file_system)
            .or_insert((ImageSpace { promised: 0, ..room }, Vec::new()));
        found.0.promised = found.0.promised.saturating_add(room.promised);
        found.1.push(name);
    }
    let short = systems
        .into_values()
        .filter(|(room, _)| room.promised > room.free);
    short
        .map(|(room, disks)| Shortfall {
            disks,
            promised: ByteCount(room.promised),
            free: ByteCount(room.free),
            nearly_full: room.free < room.size / NEARLY_FULL,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_on_one_file_system_are_added_up() {
        let room = |file_system, promised| ImageSpace {
            file_system,
            promised,
            free: 100,
            size: 900,
        };
        let name = |name: &str| Name::new("disk", name).unwrap();
        let rooms = [
            ("a", room(1, 60)),
            ("b", room(1, 50)),
            ("c", room(2, 100)),
            ("d", room(3, 2000)),
        ];
        let short = add_up(rooms.map(|(disk, room)| (name(disk), room)));
        let found: Vec<_> = short
            .iter()
            .map(|short| (short.disks.len(), short.promised.0))
            .collect();
        assert_eq!(found, [(2, 110), (1, 2000)]);
        assert!(!short[0].nearly_full);
    }
}
