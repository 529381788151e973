//! The open disks of a process: a map that is replaced, never mutated, so that a look takes no lock.

use super::Disk;
use crate::pool::model::DiskRecord;
use crate::units::DiskId;
use arc_swap::{ArcSwap, Guard};
use std::collections::BTreeMap;
use std::sync::Arc;

type Map = BTreeMap<DiskId, Arc<Disk>>;

/// The open disks of an apparatus or controller, by id. Looked up without a lock.
#[derive(Default)]
pub struct Disks {
    map: ArcSwap<Map>,
}

/// The open disks as they are now. For the length of one request: it keeps what it shows open.
pub struct View {
    map: Guard<Arc<Map>>,
}

impl Disks {
    /// None open.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All of them, without touching anything that another thread writes: for the data path.
    #[must_use]
    pub fn view(&self) -> View {
        View { map: self.map.load() }
    }

    /// One of them, to keep. Counts references, so the data path takes [`Disks::view`].
    #[must_use]
    pub fn get(&self, id: DiskId) -> Option<Arc<Disk>> {
        self.view().get(id).cloned()
    }

    /// Whether this disk is open, with at least the size that its record gives it.
    #[must_use]
    pub fn has(&self, record: &DiskRecord) -> bool {
        self.view()
            .get(record.id)
            .is_some_and(|disk| disk.extents() >= record.extents)
    }

    /// All of them, by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Disk>> {
        self.view().map.values().cloned().collect()
    }

    /// Adds or replaces one.
    pub fn insert(&self, disk: Arc<Disk>) {
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            map.insert(disk.id(), Arc::clone(&disk));
            map
        });
    }

    /// Takes one away; requests that have it go on with it.
    pub fn remove(&self, id: DiskId) {
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            map.remove(&id);
            map
        });
    }
}

impl View {
    /// One of them.
    #[must_use]
    pub fn get(&self, id: DiskId) -> Option<&Arc<Disk>> {
        self.map.get(&id)
    }
}
