//! Images that may ask more of their file system than it has left.

use super::view::PoolView;
use crate::disk::Room;
use crate::pool::model::DiskRecord;
use crate::pool::names::Name;
use crate::pool::size::Human;
use crate::units::ByteCount;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How long a look at an image may take: it is not what was asked for.
const GLANCE: Duration = Duration::from_secs(2);
/// A file system with less than this part of it left is nearly full.
const NEARLY_FULL: u64 = 10;

/// A file system that has promised more than it has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// The disks whose images are on it.
    pub disks: Vec<Name>,
    /// Bytes that those may still ask for.
    pub promised: ByteCount,
    /// Bytes that it has left.
    pub free: ByteCount,
    /// Whether hardly any is left.
    pub nearly_full: bool,
}

impl Short {
    /// What there is to say.
    #[must_use]
    pub fn words(&self) -> String {
        format!(
            "the images on its file system may still ask for {}, and it has {} left: when that is used up, writes to them fail with ENOSPC",
            Human(self.promised),
            Human(self.free)
        )
    }
}

/// The file systems that are short of room for the images of these disks.
#[must_use]
pub fn short<'d>(disks: impl IntoIterator<Item = &'d DiskRecord>) -> Vec<Short> {
    let rooms = disks.into_iter().filter_map(|disk| {
        let room = Room::of(GLANCE, &disk.path, None).ok()??;
        Some((disk.name.clone(), room))
    });
    add_up(rooms)
}

/// Whether the file system of an image at `path` is short of room once that is `len` bytes long.
#[must_use]
pub fn short_with(view: &PoolView, name: &Name, path: &Path, len: ByteCount) -> Option<Short> {
    let room = Room::of(GLANCE, path, Some(len.0)).ok()??;
    let others = view.disks.iter().map(|disk| &disk.record);
    let others = others.filter(|disk| disk.path != path).filter_map(|disk| {
        let other = Room::of(GLANCE, &disk.path, None).ok()??;
        (other.file_system == room.file_system).then(|| (disk.name.clone(), other))
    });
    let all: Vec<_> = others.chain([(name.clone(), room)]).collect();
    add_up(all).pop()
}

fn add_up(rooms: impl IntoIterator<Item = (Name, Room)>) -> Vec<Short> {
    let mut systems: BTreeMap<u64, (Room, Vec<Name>)> = BTreeMap::new();
    for (name, room) in rooms {
        let found = systems
            .entry(room.file_system)
            .or_insert((Room { promised: 0, ..room }, Vec::new()));
        found.0.promised = found.0.promised.saturating_add(room.promised);
        found.1.push(name);
    }
    let short = systems
        .into_values()
        .filter(|(room, _)| room.promised > room.free);
    short
        .map(|(room, disks)| Short {
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
        let room = |file_system, promised| Room {
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
