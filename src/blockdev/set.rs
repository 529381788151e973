//! Open disks of a process, in a map that is replaced and never mutated, so that a lookup takes no lock.

use super::Disk;
use crate::model::records::DiskRecord;
use crate::model::units::DiskId;
use arc_swap::{ArcSwap, Guard};
use std::collections::BTreeMap;
use std::sync::Arc;

type Map = BTreeMap<DiskId, Arc<Disk>>;

/// Open disks of an apparatus or controller, by id.
#[derive(Default)]
pub struct Disks {
    map: ArcSwap<Map>,
}

/// Snapshot of the open disks, for the duration of one request: it keeps its disks open.
pub struct OpenDisks {
    map: Guard<Arc<Map>>,
}

impl Disks {
    /// Makes an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a snapshot without writing a word that another thread writes: for the data path.
    #[must_use]
    pub fn view(&self) -> OpenDisks {
        OpenDisks { map: self.map.load() }
    }

    /// Returns one disk, counting a reference, so the data path uses [`Disks::view`] instead.
    #[must_use]
    pub fn get(&self, id: DiskId) -> Option<Arc<Disk>> {
        self.view().get(id).cloned()
    }

    /// Returns the name of a disk.
    #[must_use]
    pub fn name_of(&self, id: DiskId) -> Option<String> {
        Some(self.view().get(id)?.name().to_owned())
    }

    /// Returns whether this disk is open with the size in its record: the end of a disk that has shrunk may be cut off, and come back with other content.
    #[must_use]
    pub fn has(&self, record: &DiskRecord) -> bool {
        self.view()
            .get(record.id)
            .is_some_and(|disk| disk.extents() == record.extents)
    }

    /// Returns all disks, by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Disk>> {
        self.view().map.values().cloned().collect()
    }

    /// Adds or replaces a disk.
    pub fn insert(&self, disk: Arc<Disk>) {
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            map.insert(disk.id(), Arc::clone(&disk));
            map
        });
    }

    /// Removes a disk; requests that use it continue to do so.
    pub fn remove(&self, id: DiskId) {
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            map.remove(&id);
            map
        });
    }
}

impl OpenDisks {
    /// Returns one disk.
    #[must_use]
    pub fn get(&self, id: DiskId) -> Option<&Arc<Disk>> {
        self.map.get(&id)
    }
}
