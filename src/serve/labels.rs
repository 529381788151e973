//! A new sequence number in every label, once an apparatus serves: copies of a disk that were made before are told from it.

use crate::control::Runtime;
use crate::control::server::OpenStore;
use crate::disk::Disk;
use crate::error::Result;
use crate::member::MemberTable;
use crate::store::Store;
use std::sync::Arc;
use std::thread;

/// Writes the labels of the open disks in a thread of its own: nobody waits for a disk that does not answer.
pub(super) fn renew(runtime: Arc<dyn Runtime>, members: Arc<MemberTable>, open_store: OpenStore) {
    let work = move || {
        let renewed = open_store().map(|mut store| {
            for disk in runtime.disks().all().iter().filter(|disk| !disk.is_read_only()) {
                if let Err(why) = one(disk, &members, &mut *store) {
                    log::warn!("disk {}: its label: {why}", disk.name());
                }
            }
        });
        if let Err(why) = renewed {
            log::warn!("labels: {why}");
        }
    };
    if let Err(why) = thread::Builder::new().name("labels".into()).spawn(work) {
        log::warn!("labels: {why}");
    }
}

fn one(disk: &Disk, members: &Arc<MemberTable>, store: &mut dyn Store) -> Result<()> {
    let label = disk.take_over(0, &members.marks(disk.id()))?;
    store.label_written(disk.id(), label.sequence)
}
